"""A run as a folder for use elsewhere: petseg.load takes it, and the wheel carries one."""

from pathlib import Path

from petseg.core.textfiles import write_json
from petseg.errors import StoreError
from petseg.store.card import write_card
from petseg.store.layout import ABOUT, CARD, DECISION, WEIGHTS
from petseg.store.run import StoredRun

FILES = (WEIGHTS, ABOUT, DECISION, CARD)


def export_folder(run: StoredRun, folder: Path) -> None:
    """Write a run's weights, their description, infer's decision and the card into a folder.

    Raises:
        StoreError: the run is not finished, or infer has not chosen its thresholds.
        DamagedFile: its files differ from the record.
    """
    evaluation = run.proved_evaluation() if run.usable else None
    if evaluation is None:
        raise StoreError(f"run {run.key} has no thresholds, which infer chooses; dvc repro infer does")
    run.export({name: folder / name for name in (WEIGHTS, ABOUT)})
    write_card(run, folder / CARD)
    thresholds, flip_average = evaluation.thresholds, evaluation.flip_average
    write_json(folder / DECISION, {"thresholds": thresholds, "flip_average": flip_average})
