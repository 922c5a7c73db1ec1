"""Adopt weights that were trained elsewhere, or put in place by hand, into the store."""

import errno
from functools import partial
from pathlib import Path
from typing import Any

from petseg.core.checked import read_json
from petseg.core.files import copy_atomically, open_file, published_folder, sha256_file, withdraw_folder
from petseg.core.project import now
from petseg.core.terminal import print_lines
from petseg.core.textfiles import printable, write_json
from petseg.errors import BrokenRecord, DamagedFile, StoreError, UsageError
from petseg.models.weights import save_tensors
from petseg.store.chain import ADOPTED
from petseg.store.heal import heal
from petseg.store.identify import Weights
from petseg.store.layout import ABOUT, FORMAT, KEY_LENGTH, MANIFEST, ORIGINAL, WEIGHTS
from petseg.store.ledger import changing
from petseg.store.records import damage_in, sealed
from petseg.store.run import StoredRun
from petseg.store.runs import holder_of, places_of, run_of

MAX_BYTES = 16_000_000_000  # of an adopted file; one that is larger than weights may be is not read


def adopt_if_unknown(file: Path, store: Path) -> None:
    """Adopt the file at an output's path before it is replaced, unless a run has it."""
    if not file.exists() or holder_of(store, file):
        return
    kept, is_new = adopt(file, store, "lay where training puts its weights")
    if is_new:
        print_lines(f"{file}: is in no run of the store; kept as run {kept.key}")


def adopt(file: Path, store: Path, note: str) -> tuple[StoredRun, bool]:
    """Adopt a file of weights into the store, as a finished run of unknown origin.

    The file is stored byte for byte, whatever it holds; weights that can be read are stored as safetensors
    too. A file of the same name that ends in .json is stored as its description. If a run has the file
    already, its stored copy is verified, and restored from this file if it is damaged or gone.

    Args:
        file: a regular file with any content.
        store: folder of the runs.
        note: a text about its origin.

    Returns:
        The run that holds it now, and whether the run is new.

    Raises:
        UsageError: it is not a regular file, or has more than MAX_BYTES.
        StoreError: the store has a run with its key that can't be read.
    """
    try:
        open_file(file, MAX_BYTES).close()
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EOVERFLOW):
            raise
        raise UsageError(f"{printable(file)}: {error.strerror}") from None
    digest = sha256_file(file)
    folder = store / digest[:KEY_LENGTH]
    with changing(store) as changes:
        for run, name in places_of(store, digest):
            if damage_in(run.folder, name, digest) is None:
                return run, False
            if healed := heal(changes, run, run, {digest: file}):
                print_lines(*healed)
                return run, False
        if run_of(store, folder.name) is not None:  # raises if its record can't be read
            raise StoreError(f"{folder}: its record was edited; petseg runs verify {folder.name} says more")
        undo = partial(withdraw_folder, folder)
        with changes.noting(ADOPTED, folder.name, undo), published_folder(folder) as draft:
            copy_atomically(file, draft / f"{ORIGINAL}{file.suffix}", digest)
            manifest = _manifest(file, draft, note) | {"clone": changes.clone}
            manifest["files"] = {path.name: sha256_file(path) for path in sorted(draft.iterdir())}
            write_json(draft / MANIFEST, sealed(manifest))
    return StoredRun.open(folder), True


def _manifest(file: Path, draft: Path, note: str) -> dict[str, Any]:
    """Return the manifest of an adopted file, and write what can be read of it into the draft folder."""
    origin: dict[str, Any] = {"file": str(file.resolve()), "note": note}
    digest: str | None = None
    manifest = {"format": FORMAT, "status": "finished", "created": now(), "adopted": origin}
    try:
        weights = Weights.read(draft / f"{ORIGINAL}{file.suffix}")
        about = {"run_key": draft.name.split(".")[1]}
        digest = manifest["tensors_sha256"] = save_tensors(draft / WEIGHTS, weights.tensors, about)
        if (claimed := weights.about.get("run_key")) is not None:
            origin["claims"] = claimed
    except DamagedFile as error:
        origin["unreadable"] = str(error).replace(str(draft / ORIGINAL) + file.suffix, str(file))
    if _describes(file.with_suffix(".json"), digest):
        copy_atomically(file.with_suffix(".json"), draft / ABOUT)
    return manifest


def _describes(description: Path, tensors_sha256: str | None) -> bool:
    """Return whether there is a description beside the weights that does not belong to other weights."""
    if not description.is_file():  # such as a pipe or a device, which may have no end
        return False
    try:
        about = read_json(description)
    except BrokenRecord:
        return True  # it is stored byte for byte, like the weights
    return not isinstance(about, dict) or about.get("tensors_sha256") in (None, tensors_sha256)
