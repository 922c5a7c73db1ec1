"""What each epoch gave, and which epoch is best."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave. Dice is that of a photo, averaged over photos."""

    epoch: int
    size_px: int
    train_loss: float
    val_loss: float
    train_dice: float
    val_dice: float
    learning_rate: float
    images_per_s: float
    elapsed_s: float


def best_epoch(history: list[EpochRecord]) -> EpochRecord | None:
    defined = [record for record in history if not math.isnan(record.val_dice)]
    return max(defined, key=lambda record: record.val_dice, default=None)


def record_of(row: dict[str, Any]) -> EpochRecord:
    values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
    return EpochRecord(**values)
