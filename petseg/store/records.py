"""Read, seal and verify the records of the store: JSON with a hash of itself and of each of its files."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from petseg.core.checked import MOST_BYTES_OF_LINES, checked, parsed, read_bounded, read_json
from petseg.core.files import copy_bytes, naming, sha256_file, written_together
from petseg.core.textfiles import without_nan
from petseg.errors import BrokenRecord, DamagedFile, StoreError
from petseg.store.layout import FORMAT, MANIFEST
from petseg.store.typed import Adopted, Begun, Trained

EDITED = "differs from the hash that it holds"
T = TypeVar("T")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a run's manifest; empty if there is none.

    Raises:
        BrokenRecord: it does not have the form of a manifest.
        StoreError: it has a later format.
        OSError: it can't be read.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        return {}
    if not isinstance(manifest, dict):
        raise BrokenRecord(f"{path}: is no record")
    if (known := manifest.get("format")) != FORMAT and isinstance(known, int):
        raise StoreError(f"{path}: has format {known}, this petseg knows {FORMAT}")
    form = Adopted if "adopted" in manifest else Trained if manifest.get("status") == "finished" else Begun
    checked(manifest, form, path)
    return manifest


def read_lines(path: Path, form: type[T], recorded: str | None = None) -> list[T]:
    """Read a file of the store with one record per line; an empty list if there is no such file.

    Args:
        path: the file.
        form: the form of each line.
        recorded: the sha256 that the file must have; None if none is recorded.

    Raises:
        BrokenRecord: a line does not have the form, or the file is too large.
        DamagedFile: it differs from its recorded hash, or a hash is recorded but the file is gone.
        OSError: it can't be read.
    """
    if recorded is None and not path.exists():
        return []
    lines = read_recorded(path, recorded).splitlines()
    places = (f"{path}, line {number}" for number in range(1, len(lines) + 1))
    return [checked(parsed(line, place), form, place) for line, place in zip(lines, places, strict=True)]


def read_recorded(path: Path, sha256: str | None) -> bytes:
    """Return a file's bytes after comparing them with the recorded hash; None stands for no hash.

    Raises:
        BrokenRecord: it is not a regular file, or is too large for a record.
        DamagedFile: it is gone, or differs.
        OSError: it can't be read.
    """
    try:
        content = read_bounded(path, MOST_BYTES_OF_LINES)
    except FileNotFoundError:
        raise DamagedFile(f"{path}: is gone") from None
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise DamagedFile(f"{path}: differs from its recorded hash")
    return content


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with a hash of its own content, its seal, so that edits of it are found."""
    return {**record, "sha256": seal_of(record)}


def is_as_sealed(record: Mapping[str, Any]) -> bool:
    """Return whether a record is unchanged since it was sealed; true for old records without a seal."""
    return bool(record.get("sha256", seal_of(record)) == seal_of(record))


def seal_of(record: Mapping[str, Any]) -> str:
    """Return the hash of a record's content, without the hash that it holds."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(without_nan(content), sort_keys=True).encode()).hexdigest()


def export_files(folder: Path, recorded: Mapping[str, str], files: Mapping[str, Path]) -> None:
    """Copy files out of a folder of the store, byte for byte, if all of them are as recorded.

    Args:
        folder: a folder of the store.
        recorded: the sha256 of each of its files.
        files: where each file is copied to, by its name in the store.

    Raises:
        DamagedFile: one of them is gone, or differs from its recorded hash; then nothing is copied.
    """
    check_files(folder, {name: recorded[name] for name in files})
    with written_together(list(files.values())) as copies:
        for (name, target), copy in zip(files.items(), copies, strict=True):
            with naming(target):
                copy_bytes(folder / name, copy, recorded[name])


def check_files(folder: Path, recorded: Mapping[str, str]) -> None:
    """Check that files in a folder of the store are as recorded.

    Raises:
        DamagedFile: one of them is gone, or differs from its recorded hash.
    """
    if damage := next(differing(folder, recorded), None):
        raise DamagedFile(f"{damage}; petseg runs verify --heal looks for a copy that is whole")


def differing(folder: Path, recorded: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each recorded file that is missing or differs from its hash."""
    for name, digest in recorded.items():
        if damage := damage_in(folder, name, digest):
            yield damage


def damage_in(folder: Path, name: str, digest: str) -> str | None:
    """Return what is wrong with a file of the store; None if nothing is.

    A link does not count as a file: its target may be replaced or deleted at any time.
    """
    link = link_to(folder, name)
    return f"{link}: is a link, and no file of the store" if link else damage_of(folder / name, digest)


def link_to(folder: Path, name: str) -> Path | None:
    """Return the first link on the way from a folder to a file in it; None if there is none."""
    way = (folder / name, *(folder / parent for parent in Path(name).parents[:-1]))
    return next((path for path in reversed(way) if path.is_symlink()), None)


def damage_of(path: Path, digest: str) -> str | None:
    """Return what is wrong with a file that must have this sha256; None if nothing is."""
    if not path.is_file():
        return f"{path}: is gone"
    if sha256_file(path) != digest:
        return f"{path}: differs from its recorded hash"
    return None
