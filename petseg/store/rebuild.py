"""Rebuild a finished run's weights from the checkpoints that a killed training has left."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from petseg.core.files import listed, sha256_file
from petseg.errors import DamagedFile
from petseg.models.weights import load_tensors, save_tensors, validated
from petseg.store.heal import heal_runs
from petseg.store.layout import CHECKPOINTS, weights_about
from petseg.store.run import StoredRun


def heal_from_checkpoints(run: StoredRun) -> list[str]:
    """Restore damaged weights of a finished run if its checkpoints give them again, byte for byte.

    Returns:
        A line for each file that was restored.
    """
    checkpoints = listed(run.folder / CHECKPOINTS, "epoch-*.safetensors")
    if not checkpoints:
        return []
    files: dict[str, Path] = {}
    with TemporaryDirectory(prefix="petseg-") as folder:
        for path in checkpoints:
            with suppress(DamagedFile, OSError, KeyError):  # then it is not used
                tensors, about = load_tensors(path)
                epoch = about["record"]["epoch"]
                is_best = epoch == run.manifest["best"]["epoch"]
                made = Path(folder, path.name)
                save_tensors(made, validated(tensors), weights_about(run.key, None if is_best else epoch))
                files[sha256_file(made)] = made
        healed = heal_runs([run], files)
        return [line.replace(folder, str(run.folder / CHECKPOINTS)) for line in healed]
