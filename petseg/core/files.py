"""Files: their hashes, and ways to write them that a crash does not leave half done."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_atomically(path: Path, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write a file so that after any crash the old content or the new is there, and nothing else.

    The bytes go to a temporary file beside ``path``, are flushed to the disk, and are renamed
    into place; then the folder's entry is flushed too. On an error the temporary file is removed.

    Args:
        path: the file; its folder is made.
        durable: whether it must outlast a power cut; if not, nothing waits for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def copy_atomically(source: Path, target: Path) -> None:
    """Copy a file's bytes so that after any crash the old content of ``target`` or the new is there."""
    with source.open("rb") as file, written_atomically(target) as copy:
        shutil.copyfileobj(file, copy)


@contextmanager
def published_folder(target: Path) -> Iterator[Path]:
    """Make a folder that is there whole, with files that nobody writes to, or not at all.

    Yields a draft beside ``target`` to be filled with files. At the end it is renamed into place; where
    another process was faster, its folder stays. On an error the draft is removed.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.iterdir():
            path.chmod(0o444)
        try:
            draft.replace(target)
        except OSError:
            if not target.is_dir():
                raise
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it outlasts a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
