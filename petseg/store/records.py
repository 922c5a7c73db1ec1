"""Records of the store, in JSON: each proves itself by a hash of what it says, and its files by theirs."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petseg.core.files import copy_atomically, sha256_file
from petseg.core.textfiles import without_nan
from petseg.errors import DamagedFile, StoreError
from petseg.store.layout import FORMAT, MANIFEST


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a run's manifest; empty where there is none.

    Raises:
        StoreError: it can't be read, or is of a later format.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    manifest: dict[str, Any] = read_json(path)
    try:
        if manifest["format"] != FORMAT:
            raise StoreError(f"{path}: has format {manifest['format']}, this petseg knows {FORMAT}")
        manifest["status"]  # which every manifest has
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path}: can't be read ({error})") from None
    return manifest


def read_json(path: Path) -> Any:
    """Read a JSON file of the store.

    Raises:
        StoreError: it can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: can't be read ({error})") from None


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with a hash of all that it says, so that it proves itself as it proves its files."""
    return {**record, "sha256": seal_of(record)}


def seal_of(record: Mapping[str, Any]) -> str:
    """Return the hash of all that a record says, but for the hash that it holds."""
    said = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(without_nan(said), sort_keys=True).encode()).hexdigest()


def export_files(folder: Path, recorded: Mapping[str, str], files: Mapping[str, Path]) -> None:
    """Copy files out of a folder of the store, byte for byte, once all of them are as recorded.

    Args:
        folder: of the store.
        recorded: the sha256 of each of its files.
        files: by their name in the store, where they go.

    Raises:
        DamagedFile: one of them is gone, or differs from its recorded hash; nothing is copied then.
    """
    for damage in differing(folder, {name: recorded[name] for name in files}):
        raise DamagedFile(damage)
    for name, target in files.items():
        copy_atomically(folder / name, target)


def differing(folder: Path, recorded: Mapping[str, str]) -> Iterator[str]:
    """Say of each recorded file that is absent or differs from its hash."""
    for name, digest in recorded.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: is gone"
        elif sha256_file(path) != digest:
            yield f"{path}: differs from its hash in {folder.name}'s record"
