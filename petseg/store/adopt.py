"""Weights that were trained elsewhere, or laid down by hand, taken into the store."""

from pathlib import Path
from typing import Any

from petseg.core.files import copy_atomically, published_folder, sha256_file
from petseg.core.project import now
from petseg.core.textfiles import write_json
from petseg.errors import DamagedFile
from petseg.models.weights import save_tensors
from petseg.store.identify import Weights
from petseg.store.layout import ABOUT, FORMAT, KEY_LENGTH, MANIFEST, WEIGHTS
from petseg.store.records import sealed
from petseg.store.run import StoredRun, holder_of, run_of

ORIGINAL = "original"  # the file as it was found, byte for byte


def adopt_if_unknown(file: Path, store: Path) -> None:
    """Take what lies at an output's path into the store before it is replaced, unless a run has it."""
    if not file.exists() or holder_of(store, file):
        return
    kept = adopt(file, store, "lay where training puts its weights")
    print(f"{file}: holds what no run has; kept as run {kept.key}", flush=True)


def adopt(file: Path, store: Path, note: str) -> StoredRun:
    """Take a file of weights into the store, as a finished run of unknown making.

    It is kept byte for byte, whatever it is; what can be read as weights is kept as safetensors too.
    What lies beside it under the same name, ending in .json, is kept as its description.

    Args:
        file: anything.
        store: folder of the runs.
        note: what is known of it.

    Returns:
        The run; the one that has it already, where there is one.
    """
    folder = store / sha256_file(file)[:KEY_LENGTH]
    if known := holder_of(store, file) or run_of(store, folder.name):
        return known
    with published_folder(folder) as draft:
        copy_atomically(file, draft / f"{ORIGINAL}{file.suffix}")
        manifest: dict[str, Any] = {"format": FORMAT, "status": "finished", "created": now()}
        manifest["adopted"] = {"file": str(file.resolve()), "note": note}
        try:
            weights = Weights.read(file)
            about = {"run_key": folder.name}
            manifest["tensors_sha256"] = save_tensors(draft / WEIGHTS, weights.tensors, about)
            if (claimed := weights.about.get("run_key")) is not None:
                manifest["adopted"]["claims"] = claimed
        except DamagedFile as error:
            manifest["adopted"]["unreadable"] = str(error)
        if (description := file.with_suffix(".json")).is_file():
            copy_atomically(description, draft / ABOUT)
        manifest["files"] = {path.name: sha256_file(path) for path in sorted(draft.iterdir())}
        write_json(draft / MANIFEST, sealed(manifest))
    return StoredRun.open(folder)
