"""The history of a training: its epochs, the best of them (whose weights are kept), and early stopping."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from petseg.errors import TrainingError

_MEASURED = ("images_per_s", "elapsed_s")  # differ between trainings that give the same bits


@dataclass(frozen=True)
class EpochRecord:
    """The results of one epoch. Dice is averaged over photos, and over the network's two outputs.

    ``val_dice_whole`` and ``val_dice_tight`` are for one output each; NaN if a network has only one.
    """

    epoch: int
    size_px: int
    train_loss: float
    val_loss: float
    train_dice: float
    val_dice: float
    val_dice_whole: float
    val_dice_tight: float
    learning_rate: float
    images_per_s: float
    elapsed_s: float

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """Return the record for a row of JSON, in which null means NaN."""
        values: dict[str, Any] = {"val_dice_whole": math.nan, "val_dice_tight": math.nan}
        values |= {key: math.nan if value is None else value for key, value in row.items()}
        return cls(**values)

    def reproducible(self) -> dict[str, Any]:
        """Return the values that a repeated training gives again bit for bit: all but times and speeds."""
        return {key: value for key, value in asdict(self).items() if key not in _MEASURED}


def best_epoch(history: Sequence[EpochRecord]) -> EpochRecord:
    """Return the first epoch with the highest validation Dice; NaN is never the best.

    Raises:
        TrainingError: no epoch has a validation Dice.
    """
    defined = [record for record in history if not math.isnan(record.val_dice)]
    if not defined:
        raise TrainingError("no epoch has a validation Dice")
    return max(defined, key=lambda record: record.val_dice)


def is_stale(history: Sequence[EpochRecord], patience: int | None) -> bool:
    """Return whether ``patience`` epochs have passed without a better validation Dice."""
    if patience is None or len(history) <= patience:
        return False
    return history[-1].epoch - best_epoch(history).epoch >= patience


def summary(history: Sequence[EpochRecord]) -> dict[str, float | int]:
    """Return the best epoch's numbers, for metrics."""
    best = best_epoch(history)
    return {
        "best_epoch": best.epoch,
        "epochs": len(history),
        "train_dice": best.train_dice,
        "val_dice": best.val_dice,
        "train_loss": best.train_loss,
        "val_loss": best.val_loss,
    }
