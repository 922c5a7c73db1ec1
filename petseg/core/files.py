"""Files: their hashes, ways to write them that a crash does not leave half done, and why one can't be had."""

import errno
import hashlib
import os
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

import psutil

from petseg.errors import DamagedFile

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK_BYTES = 1 << 20
_LEFTOVER = ".*.tmp"  # what a killed process leaves of the writing below


def read_file(path: Path, most: int = -1) -> bytes:
    """Return a file's bytes, or the first ``most`` of them; an error of the system names the path."""
    check_regular(path)
    with naming(path), path.open("rb") as file:
        return file.read(most)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    check_regular(path)
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular(path: Path, most: int | None = None) -> None:
    """Refuse what has no end, or waits for a writer, as the system refuses a folder.

    Raises:
        OSError: it is no regular file, or has more than ``most`` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EISDIR, "is no regular file", str(path))
    if most is not None and status.st_size > most:
        raise OSError(errno.ENOMEM, f"has more than {most >> 20} MB", str(path))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of the system the path that it is of; writing, flushing and closing name none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:  # else it is of a library
            error.filename = str(path)
        raise


def why_not(error: Exception) -> str:
    """Return an error in one line; of what the system refused it begins with the path."""
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or " ".join(str(error).split())
    if error.errno in _DISK_FULL:
        reason = f"disk full ({reason})"
    return f"{error.filename}: {reason}" if error.filename is not None else reason


@contextmanager
def written_atomically(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write a file so that after any crash the old content or the new is there, and nothing else.

    The bytes go to a temporary file beside ``path``, are flushed to the disk, and are renamed
    into place; then the folder's entry is flushed too. On an error the temporary file is removed.

    Args:
        path: the file; its folder is made.
        durable: whether it must outlast a power cut; if not, nothing waits for the disk.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with temporary.open("wb") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
            if durable:
                fsync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def written_together(paths: Sequence[Path]) -> Iterator[Sequence[IO[bytes]]]:
    """Write files of which all are new in the end, or none is, whatever fails on the way.

    A crash between two renames, and it alone, can leave some of them new.

    Args:
        paths: the files; their folders are made.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths}
    placed: list[Path] = []
    try:
        with ExitStack() as stack:
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            files = [stack.enter_context(temporary[path].open("wb")) for path in paths]
            yield files
            for path, file in zip(paths, files, strict=True):
                with naming(path):
                    file.flush()
                    os.fsync(file.fileno())
        before = {path: read_file(path) for path in paths if path.exists()}
        try:
            for path in paths:
                temporary[path].replace(path)
                placed.append(path)
        except BaseException:
            for path in placed:
                _put_back(path, before.get(path))
            raise
        for folder in {path.parent for path in paths}:
            fsync_folder(folder)
    finally:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _put_back(path: Path, content: bytes | None) -> None:
    """Bring a file to what it was before; None stands for no file."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    with written_atomically(path) as file:
        file.write(content)


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what lies in a folder, sorted; nothing where there is no folder.

    Unlike ``Path.glob`` it does not take a folder that can't be read for an empty one.

    Raises:
        OSError: the folder can't be read.
    """
    try:
        with naming(folder):
            names = os.listdir(folder)  # noqa: PTH208  (as ``Path.iterdir``, but whole or not at all)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folder / name for name in names if fnmatchcase(name, pattern))


def below(folder: Path) -> Iterator[Path]:
    """Yield all below a folder, sorted by folder; ``Path.rglob`` passes over what can't be read.

    Raises:
        OSError: a folder can't be read.
    """
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders.sort()
        yield from (Path(parent, name) for name in sorted((*folders, *files)))


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # it went meanwhile
        raise error


def copy_atomically(source: Path, target: Path, sha256: str | None = None) -> None:
    """Copy a file's bytes so that after any crash the old content of ``target`` or the new is there.

    Args:
        source: a file.
        target: where its copy goes.
        sha256: what its bytes must have; they are hashed while they are copied.

    Raises:
        DamagedFile: they have another; ``target`` is as it was.
    """
    with written_atomically(target) as copy:
        copy_bytes(source, copy, sha256)


def copy_bytes(source: Path, copy: IO[bytes], sha256: str | None = None) -> None:
    """Copy a file's bytes to an open file.

    Raises:
        DamagedFile: they have another hash than ``sha256``.
    """
    digest = hashlib.sha256()
    with source.open("rb") as file:
        while block := _read(file, source):
            digest.update(block)
            copy.write(block)
    if sha256 is not None and digest.hexdigest() != sha256:
        raise DamagedFile(f"{source}: differs from its recorded hash")


def _read(file: IO[bytes], path: Path) -> bytes:
    with naming(path):
        return file.read(_BLOCK_BYTES)


def remove_leftovers(folder: Path, deep: bool = False) -> list[Path]:
    """Remove what killed processes left of files and folders that they were writing.

    Args:
        folder: where; whoever calls holds what keeps others from writing there.
        deep: in its folders too, but for what a process that lives may be writing.

    Returns:
        What was removed.
    """
    inner = (path for path in below(folder) if fnmatchcase(path.name, _LEFTOVER))
    found = sorted(inner) if deep else listed(folder, _LEFTOVER)
    gone = [path for path in found if not (deep and _is_alive(path))]
    for path in gone:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return gone


def remove_leftovers_of(targets: Iterable[Path]) -> None:
    """Remove what killed processes left of writing these very files, as far as the system lets it."""
    names: dict[Path, set[str]] = defaultdict(set)
    for target in targets:
        names[target.parent].add(target.name)
    for folder, written in names.items():
        with suppress(OSError):
            for path in listed(folder, _LEFTOVER):
                name, _, pid = path.name[1:].removesuffix(".tmp").rpartition(".")
                if name in written and pid.isdecimal() and not _is_alive(path) and not path.is_dir():
                    path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    """Tell whether the process that a temporary file names is alive."""
    pid = path.name.split(".")[-2]
    return pid.isdecimal() and psutil.pid_exists(int(pid))


@contextmanager
def published_folder(target: Path) -> Iterator[Path]:
    """Make a folder that is there whole, with files that nobody writes to, or not at all.

    Yields a draft beside ``target`` to be filled with files. At the end it is renamed into place. On an
    error the draft is removed.

    Raises:
        OSError: there is a folder with files already, or the system refuses to write.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    _make_folder(target.parent)
    draft.mkdir()
    try:
        yield draft
        for path in draft.iterdir():
            path.chmod(0o444)
        draft.replace(target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def withdraw_folder(folder: Path) -> None:
    """Remove a folder that was published, so that after any crash it is there whole or not at all."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    folder.replace(gone)
    fsync_folder(folder.parent)
    shutil.rmtree(gone, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they outlast a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it outlasts a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(folder: str) -> int:
    """Return how many bytes the files below a folder have."""
    with os.scandir(folder) as entries:
        return sum(
            folder_bytes(entry.path) if entry.is_dir(follow_symlinks=False) else entry.stat().st_size
            for entry in entries
        )
