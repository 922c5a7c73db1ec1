"""Read, hash and copy files, and write them so that a crash leaves none half written."""

import errno
import hashlib
import os
import shutil
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import IO

import psutil

from petseg.errors import DamagedFile

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK_BYTES = 1 << 20
_LEFTOVER = ".*.tmp"  # files and folders that a killed process was writing


def read_file(path: Path, most: int | None = None) -> bytes:
    """Return the content of a regular file; a system error names the path.

    Args:
        path: the file.
        most: how many bytes it may have.
    """
    with naming(path), open_file(path, most) as file:
        return file.read() if most is None else file.read(most)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with naming(path), open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_file(path: Path, most: int | None = None) -> BufferedReader:
    """Open a regular file for reading.

    Devices, pipes, sockets and the files of /proc and /sys are refused, as the system refuses a folder: they
    may have no end, or wait for a writer.

    Args:
        path: the file, or a link to it.
        most: how many bytes it may have.

    Raises:
        OSError: it is not a regular file, has more bytes, or can't be read; the error names the path.
    """
    _check_regular(path.stat(), path)  # before it is opened, because opening some devices has an effect
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: PTH123, SIM115
    try:
        found = os.fstat(file.fileno())
        _check_regular(found, path)  # it may have been replaced meanwhile
        if most is not None and found.st_size > most:
            raise OSError(errno.EOVERFLOW, f"has {found.st_size:,} bytes, more than {most:,}", str(path))
    except OSError:
        file.close()
        raise
    return file


def _check_regular(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_dev in _devices_of_the_system():
        raise OSError(errno.EISDIR, "is no regular file", str(path))


@cache
def _devices_of_the_system() -> set[int]:
    """Return the device numbers of /proc and /sys, whose files show the state of the system."""
    return {Path(folder).stat().st_dev for folder in ("/proc", "/sys") if Path(folder).is_mount()}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to a system error that has none, as those of writing, flushing and closing."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:  # without errno it comes from a library
            error.filename = str(path)
        raise


def why_not(error: Exception) -> str:
    """Return an error in one line; for a system error the line begins with the path."""
    if not isinstance(error, OSError):
        return str(error)
    reason = error.strerror or " ".join(str(error).split())
    if error.errno in _DISK_FULL:
        reason = f"disk full ({reason})"
    return f"{error.filename}: {reason}" if error.filename is not None else reason


@contextmanager
def written_atomically(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write a file so that after any crash it has either its old or its new content.

    The bytes go to a temporary file beside ``path``, are flushed to the disk, and are renamed
    into place; then the folder's entry is flushed too. On an error the temporary file is removed.

    Args:
        path: the file; its folder is created.
        durable: whether it must survive a power cut; if not, nothing waits for the disk.
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
    """Write several files so that in the end all of them are new, or none if anything fails.

    Only a crash between two renames can leave some new and some old.

    Args:
        paths: the files; their folders are created.
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
    """Restore the earlier content of a file; None means that there was no file."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    with written_atomically(path) as file:
        file.write(content)


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the entries of a folder, sorted; an empty list if there is no folder.

    Unlike ``Path.glob``, it does not treat a folder that can't be read as empty.

    Raises:
        OSError: the folder can't be read.
    """
    try:
        with naming(folder):
            names = os.listdir(folder)  # noqa: PTH208  (like ``Path.iterdir``, but all entries or none)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folder / name for name in names if fnmatchcase(name, pattern))


def below(folder: Path, refused: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield everything below a folder, sorted by folder; ``Path.rglob`` would skip what can't be read.

    Args:
        folder: where to begin.
        refused: called with the error of each folder that can't be read.

    Raises:
        OSError: a folder can't be read, and ``refused`` is not given.
    """
    for parent, folders, files in os.walk(folder, onerror=refused or _raise):
        folders.sort()
        yield from (Path(parent, name) for name in sorted((*folders, *files)))


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # removed meanwhile
        raise error


def copy_atomically(source: Path, target: Path, sha256: str | None = None) -> None:
    """Copy a file so that after any crash ``target`` has either its old or its new content.

    Args:
        source: a file.
        target: the copy.
        sha256: the hash that the file must have; it is computed during the copy.

    Raises:
        DamagedFile: the hash differs; ``target`` stays as it was.
    """
    with written_atomically(target) as copy:
        copy_bytes(source, copy, sha256)


def copy_bytes(source: Path, copy: IO[bytes], sha256: str | None = None) -> None:
    """Copy a file's bytes to an open file.

    Raises:
        DamagedFile: their hash differs from ``sha256``.
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
    """Remove files and folders that killed processes left half written.

    Args:
        folder: where to look; the caller must hold the lock for writing there.
        deep: look into its folders too, and keep what a running process may be writing.

    Returns:
        The paths that were removed.
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
    """Remove what killed processes left when they wrote these files, as far as the system allows."""
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
    """Return whether the process that a temporary file names is running."""
    pid = path.name.split(".")[-2]
    return pid.isdecimal() and psutil.pid_exists(int(pid))


@contextmanager
def published_folder(target: Path) -> Iterator[Path]:
    """Create a folder of read-only files, so that it exists complete or not at all.

    Yields a draft beside ``target``, which the caller fills with files. At the end the draft is renamed to
    ``target``. On an error it is removed.

    Raises:
        OSError: there already is a folder with files, or the system refuses to write.
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
    """Remove a published folder, so that after any crash it exists complete or not at all."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    folder.replace(gone)
    fsync_folder(folder.parent)
    shutil.rmtree(gone, ignore_errors=True)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, so that they survive a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(folder: str) -> int:
    """Return the total size of the files below a folder, in bytes."""
    with os.scandir(folder) as entries:
        return sum(
            folder_bytes(entry.path) if entry.is_dir(follow_symlinks=False) else entry.stat().st_size
            for entry in entries
        )
