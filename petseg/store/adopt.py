"""Weights that were trained elsewhere, or laid down by hand, taken into the store."""

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

MAX_BYTES = 16_000_000_000  # of a file that is adopted; what has more than weights may have is not read


def adopt_if_unknown(file: Path, store: Path) -> None:
    """Take what lies at an output's path into the store before it is replaced, unless a run has it."""
    if not file.exists() or holder_of(store, file):
        return
    kept, is_new = adopt(file, store, "lay where training puts its weights")
    if is_new:
        print_lines(f"{file}: holds what no run has; kept as run {kept.key}")


def adopt(file: Path, store: Path, note: str) -> tuple[StoredRun, bool]:
    """Take a file of weights into the store, as a finished run of unknown making.

    It is kept byte for byte, whatever it is; what can be read as weights is kept as safetensors too.
    What lies beside it under the same name, ending in .json, is kept as its description. Where a run has
    it already, the stored copy is hashed, and put back from this file if it is damaged or gone.

    Args:
        file: a regular file, with anything in it.
        store: folder of the runs.
        note: what is known of it.

    Returns:
        The run that has it now, and whether it is new.

    Raises:
        UsageError: it is no regular file, or has more than MAX_BYTES.
        StoreError: there is a run of its name that can't be read.
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
        if run_of(store, folder.name) is not None:  # which raises where its record can't be read
            raise StoreError(f"{folder}: its record was edited; petseg runs verify {folder.name} says more")
        undo = partial(withdraw_folder, folder)
        with changes.noting(ADOPTED, folder.name, undo), published_folder(folder) as draft:
            copy_atomically(file, draft / f"{ORIGINAL}{file.suffix}", digest)
            manifest = _manifest(file, draft, note) | {"clone": changes.clone}
            manifest["files"] = {path.name: sha256_file(path) for path in sorted(draft.iterdir())}
            write_json(draft / MANIFEST, sealed(manifest))
    return StoredRun.open(folder), True


def _manifest(file: Path, draft: Path, note: str) -> dict[str, Any]:
    """Describe what was adopted, and write what can be read of it into the draft of its folder."""
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
    """Tell whether there is a description beside weights, and it does not say that it is of others."""
    if not description.is_file():  # nor a pipe or a device, which may have no end
        return False
    try:
        about = read_json(description)
    except BrokenRecord:
        return True  # it is kept byte for byte, as the weights are
    return not isinstance(about, dict) or about.get("tensors_sha256") in (None, tensors_sha256)
