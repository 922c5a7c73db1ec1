"""Compare runs: which is better, by how much, and whether the difference is more than chance.

Runs that differ only in train.seed, or in the fold that they validated, are one setting. A setting's score
for a photo is the mean over its runs, so seeds are averaged and folds are joined. Two settings are compared
photo by photo, on the photos that both have scored. The intervals show the uncertainty from the choice of
photos; the spread between seeds shows what another seed may give.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from petseg.errors import StoreError, UsageError
from petseg.evaluation.metrics import bootstrap_interval
from petseg.evaluation.outputs import PER_IMAGE
from petseg.store.layout import HISTORY, VALIDATION
from petseg.store.run import StoredRun

# Params that do not make another setting: chance, a part of the data, and the machine.
NOT_A_SETTING = ("train.seed", "split.fold", "train.device", "train.threads")
PARTS = ("val", "test")


@dataclass(frozen=True)
class Record:
    """The facts about one finished run.

    Attributes:
        key: its name in the store.
        created: when it began, in UTC.
        params: its params, flat, with data.image_size and the params of the split.
        data: hash of the photos and their split.
        photos: hash of the photos and trimaps, whatever their split.
        val_dice: validation Dice of each epoch.
        elapsed_s: duration of each epoch, with validation, in seconds.
        dice: the Dice of each photo by name, for each part, val or test; no test if infer has not run.
        environment: versions and hardware, on which its bits and its speed depend.
        rules: the boundary rule of the Dice of each part.
    """

    key: str
    created: str
    params: dict[str, Any]
    data: str
    photos: str
    val_dice: list[float]
    elapsed_s: list[float]
    dice: dict[str, dict[str, float]]
    environment: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long all epochs took, in seconds."""
        return sum(self.elapsed_s)

    @classmethod
    def of_run(cls, run: StoredRun) -> Self:
        """Read a finished run of the store, and its newest whole evaluation if infer has run.

        Raises:
            StoreError: the run is not finished, or a file of it can't be read or differs from its record.
        """
        if not run.finished:
            raise StoreError(f"run {run.key} is not finished, so it can't be compared")
        try:
            run.check_whole(HISTORY, VALIDATION)
            history, manifest = run.rows(), run.manifest
            dice, rules = {"val": _dice_by_name(run.folder / VALIDATION)}, {"val": run.validated_by}
            if evaluation := run.proved_evaluation():
                dice["test"] = _dice_by_name(evaluation.folder / PER_IMAGE)
                rules["test"] = evaluation.headlines.get("boundary", run.validated_by)
            return cls(
                key=run.key,
                created=manifest["created"],
                params=run.params,
                data=manifest["data_sha256"],
                photos=manifest["photos_sha256"],
                val_dice=[row["val_dice"] for row in history],
                elapsed_s=[row["elapsed_s"] for row in history],
                dice=dice,
                environment=manifest["environment"],
                rules=rules,
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split()):.120}"
            raise StoreError(f"{run.folder}: can't be read as a finished run ({reason})") from None


def _dice_by_name(path: Path) -> dict[str, float]:
    table = pd.read_csv(path, dtype={"name": str}, keep_default_na=False)
    return dict(zip(table["name"], pd.to_numeric(table["dice"]).tolist(), strict=True))


@dataclass(frozen=True)
class Setting:
    """Runs of the same params, whatever their seed and fold."""

    runs: tuple[Record, ...]

    @property
    def params(self) -> dict[str, Any]:
        """The params that its runs share."""
        return {key: value for key, value in self.runs[0].params.items() if key not in NOT_A_SETTING}

    @cached_property
    def _dice(self) -> dict[str, "pd.Series[float]"]:
        return {part: self._mean_of_photos(part) for part in PARTS}

    def dice(self, part: str) -> "pd.Series[float]":
        """Return each photo's Dice by name, averaged over the runs that scored it; empty if none did."""
        return self._dice[part]

    def mean(self, part: str) -> float:
        """Return the mean over photos; NaN if no photo was scored."""
        return float(self.dice(part).mean())

    def interval(self, part: str) -> tuple[float, float]:
        """Return the 95 % bootstrap interval of the mean over photos."""
        return bootstrap_interval(np.array(self.dice(part), dtype=np.float64))

    def spread(self, part: str) -> float:
        """Return the standard deviation between seeds that scored the same photos; NaN for fewer than two.

        A seed that was trained for several folds counts with the mean over all their photos.
        """
        seeds: dict[Any, dict[str, float]] = {}
        for run in self.runs:
            seeds.setdefault(run.params.get("train.seed"), {}).update(run.dice.get(part, {}))
        scored = [photos for photos in seeds.values() if photos]
        if len(scored) < 2 or len({frozenset(photos) for photos in scored}) > 1:
            return float("nan")
        return float(np.std([pd.Series(photos).mean() for photos in scored], ddof=1))

    @property
    def seconds(self) -> float:
        """How long a run took on average, in seconds."""
        return sum(run.seconds for run in self.runs) / len(self.runs)

    def _mean_of_photos(self, part: str) -> "pd.Series[float]":
        scored = [pd.Series(run.dice[part], dtype=np.float64) for run in self.runs if part in run.dice]
        if not scored:
            return pd.Series(dtype=np.float64)
        return pd.concat(scored, axis=1).mean(axis=1)


@dataclass(frozen=True)
class Difference:
    """How much better one setting is than another, on the photos that both have scored.

    Attributes:
        mean: mean of the photos' differences in Dice.
        low: lower end of the 95 % bootstrap interval of that mean.
        high: upper end of that interval.
        photos: number of photos that both have scored.
    """

    mean: float
    low: float
    high: float
    photos: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def group(records: Sequence[Record]) -> list[Setting]:
    """Join the runs of each setting, in the order of their first run.

    If several runs have the same seed and data, only their code can differ: then the newest counts.
    """
    newest: dict[str, dict[str, Record]] = {}
    for record in records:
        of_interest = {key: value for key, value in record.params.items() if key not in NOT_A_SETTING}
        setting = newest.setdefault(json.dumps([of_interest, record.photos], sort_keys=True), {})
        seed = json.dumps([record.params.get("train.seed"), record.data])
        if seed not in setting or record.created > setting[seed].created:
            setting[seed] = record
    return [Setting(tuple(runs.values())) for runs in newest.values()]


def difference(one: Setting, other: Setting, part: str) -> Difference | None:
    """Compare photo by photo: ``one`` minus ``other``; None if they have no photo in common."""
    both = pd.concat([one.dice(part), other.dice(part)], axis=1, join="inner").dropna()
    if both.empty:
        return None
    differences: NDArray[np.float64] = (both[0] - both[1]).to_numpy()
    low, high = bootstrap_interval(differences)
    return Difference(float(differences.mean()), low, high, len(both))


def differing(settings: Sequence[Setting]) -> list[str]:
    """Return the params in which the settings differ, in the order of params.yaml."""
    names = list(dict.fromkeys(key for setting in settings for key in setting.params))
    return [name for name in names if len({json.dumps(s.params.get(name)) for s in settings}) > 1]


def label(setting: Setting, names: Sequence[str]) -> str:
    """Return the values of these params in a setting, ``loss=dice, epochs=60``."""
    values = {name.partition(".")[2]: setting.params[name] for name in names if name in setting.params}
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items()) or setting.runs[0].key


def table(settings: Sequence[Setting]) -> pd.DataFrame:
    """Return one row per setting, the best by validation Dice first, with its differences from the best.

    Columns: setting, runs, keys, seconds, and for each part: NAME_dice, _low, _high, _photos, _spread
    (between seeds), and _less_best, _less_best_low, _less_best_high, _clear (the interval leaves zero out).

    Raises:
        UsageError: there is nothing to compare, or the Dice of a part is by different boundary rules.
    """
    if not settings:
        raise UsageError("no run to compare")
    for part in PARTS:
        rules = sorted({run.rules[part] for setting in settings for run in setting.runs if part in run.rules})
        if len(rules) > 1:
            raise UsageError(
                f"{part} Dice by different rules for the border ({', '.join(rules)}) can't be compared"
            )
    ranked = sorted(settings, key=lambda setting: -_mean_of_common(setting, settings))
    names = differing(ranked)
    rows = []
    for setting in ranked:
        row: dict[str, Any] = {
            "setting": label(setting, names),
            "runs": len(setting.runs),
            "keys": [run.key for run in setting.runs],
            "seconds": setting.seconds,
        }
        for part in PARTS:
            low, high = setting.interval(part)
            against = difference(setting, ranked[0], part) if setting is not ranked[0] else None
            row |= {
                f"{part}_dice": setting.mean(part),
                f"{part}_low": low,
                f"{part}_high": high,
                f"{part}_photos": len(setting.dice(part)),
                f"{part}_spread": setting.spread(part),
                f"{part}_less_best": against.mean if against else float("nan"),
                f"{part}_less_best_low": against.low if against else float("nan"),
                f"{part}_less_best_high": against.high if against else float("nan"),
                f"{part}_clear": against is not None and against.is_clear,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _mean_of_common(setting: Setting, settings: Sequence[Setting]) -> float:
    """Return the mean validation Dice over the photos that all have scored, or else over its own photos."""
    common = set.intersection(*(set(other.dice("val").index) for other in settings))
    dice = setting.dice("val")
    return float(dice[sorted(common)].mean() if common else dice.mean())


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
