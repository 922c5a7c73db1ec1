"""Reads and checks the files of train and infer that are shown; a bad file is named in one line."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypeVar

import pandas as pd
from typing_extensions import TypedDict

from petseg.core.checked import MOST_BYTES, Count, checked, parsed, read_bounded
from petseg.core.files import open_file
from petseg.data.tables import Kind, read_table
from petseg.errors import BrokenRecord, DataError
from petseg.store.typed import Headlines

T = TypeVar("T")
Columns = dict[str, Kind]


def _scores(*names: str) -> Columns:
    return dict.fromkeys(names, Kind.SCORE)


_DICE = ("dice_per_image", "dice_per_image_low", "dice_per_image_high")
_AT_A_THRESHOLD = [f"{part}_{name}" for part in ("val", "test") for name in (_DICE[0], "precision", "recall")]
_EPOCHS = {"epoch": Kind.WHOLE} | _scores("train_loss", "val_loss", "train_dice", "val_dice")
_OF_OUTPUTS = _scores("val_dice_whole", "val_dice_tight")  # absent for networks with one output
PHOTOS = dict.fromkeys(("name", "breed", "species"), Kind.TEXT) | _scores("dice", "iou")
BREEDS = {"breed": Kind.TEXT, "photos": Kind.WHOLE} | _scores(*_DICE)
THRESHOLDS = {"threshold": Kind.NUMBER} | _scores(*_AT_A_THRESHOLD)
CALIBRATION = {"low": Kind.NUMBER, "high": Kind.NUMBER} | _scores("mean_probability", "pet_share")
CALIBRATION |= {"pixels": Kind.WHOLE}
_MOST_BYTES = 256 << 20  # of a table; enough for a million photos
# Entries that the page and the summary show, and that old evaluations do not have.
_SHOWN = ("photos", "boundary", "own_resolution", "mean_mask", "all_foreground")


class Best(TypedDict):
    """The content of metrics/train.json."""

    best_epoch: Count
    epochs: Count
    val_dice: float | None


class _RunKey(TypedDict):
    run_key: NotRequired[str | None]


def table(path: Path, columns: Columns) -> pd.DataFrame:
    """Read a table that must have these columns.

    Raises:
        DataError: the file is absent, or not as the stages write it; likewise in the other functions here.
    """
    return _read(path, lambda: read_table(path, columns))


def history(path: Path) -> pd.DataFrame:
    """Read a training's history; at least one epoch must have a validation Dice."""
    found = _read(path, lambda: _epochs(path))
    if found["val_dice"].isna().all():
        raise DataError(f"{path}: no epoch has a validation Dice; run dvc repro, or dvc pull")
    return found


def _epochs(path: Path) -> pd.DataFrame:
    columns = pd.read_csv(path, nrows=0).columns
    return read_table(path, _EPOCHS | {name: kind for name, kind in _OF_OUTPUTS.items() if name in columns})


def headlines(path: Path) -> dict[str, Any]:
    """Read the headline scores; NaN is undefined."""
    return _with_nan(_read(path, lambda: _complete(_json(path, Headlines))))


def _complete(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check that scores have every entry that is shown, and return them.

    Raises:
        ValueError: an entry is absent.
    """
    inner = Headlines.__annotations__.keys() - {"thresholds", "answers"}
    parts = {f"{name}.": part for name, part in scores.items() if name in inner and isinstance(part, dict)}
    absent = [name for name in _SHOWN if name not in scores]
    absent += [
        f"{part}{name}"
        for part, found in ({"": scores} | parts).items()
        for name in _DICE
        if name not in found
    ]
    if absent:
        raise ValueError(f"no entry {absent[0]}")
    return scores


def best(path: Path) -> Best:
    """Read the best epoch and its score."""
    return _read(path, lambda: _json(path, Best))


def run_key(path: Path) -> str | None:
    """Read the key of the run that a file of scores, or the description of weights, names, if any."""
    return _read(path, lambda: _json(path, _RunKey)).get("run_key")


def _json(path: Path, form: type[T]) -> T:
    return checked(parsed(read_bounded(path, MOST_BYTES), path.name), form, path.name)


def _with_nan(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores, and the scores within them, with NaN in place of JSON's null."""
    return {
        name: math.nan if value is None else _with_nan(value) if isinstance(value, dict) else value
        for name, value in scores.items()
    }


def _read(path: Path, reader: Callable[[], T]) -> T:
    try:
        open_file(path, _MOST_BYTES).close()
        return reader()
    except (OSError, ValueError, OverflowError, BrokenRecord) as error:  # Overflow: pandas, for 400 digits
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: can't be read ({reason}); run dvc repro, or dvc pull") from None
