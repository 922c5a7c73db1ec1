"""Runs side by side: which is better, by how much, and is the difference more than chance.

Runs that differ in nothing but train.seed, or in which fold they validated, are one setting. A setting's
score for a photo is the mean over its runs, so seeds are averaged and folds are joined. Two settings are
compared photo by photo, on the photos that both have scored.
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
from petseg.metrics import bootstrap_interval

NOT_A_SETTING = ("train.seed", "train.device", "train.threads")
PARTS = ("val", "test")


@dataclass(frozen=True)
class Record:
    """What is known of one finished run.

    Attributes:
        key: its name in the store.
        params: flat, with data.image_size.
        photos: hash of the photos and trimaps, whatever their split; None in an early run.
        val_dice: of each epoch.
        elapsed_s: of each epoch, validation included.
        dice: by part, val or test, the Dice of each photo by name; no test where infer has not run.
        environment: what else its bits and its speed depend on.
    """

    key: str
    params: dict[str, Any]
    photos: str | None
    val_dice: list[float]
    elapsed_s: list[float]
    dice: dict[str, dict[str, float]]
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long all epochs took."""
        return sum(self.elapsed_s)

    @classmethod
    def of_run(cls, folder: Path, test: dict[str, float] | None) -> Self:
        """Read a finished run of the store.

        Args:
            folder: the run's.
            test: the Dice of each test photo, where infer has run.

        Raises:
            StoreError: the run is not finished, or a file of it can't be read.
        """
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if manifest["status"] != "finished":
                raise StoreError(f"run {folder.name} is not finished, so it can't be compared")
            about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
            table = pd.read_csv(folder / "validation.csv", dtype={"name": str}, keep_default_na=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{folder}: can't be read as a finished run ({error})") from None
        history = [json.loads(line) for line in lines]
        dice = {"val": dict(zip(table["name"], pd.to_numeric(table["dice"]).tolist(), strict=True))}
        return cls(
            key=folder.name,
            params={"data.image_size": about["image_size"], **manifest["params"]},
            photos=manifest.get("photos_sha256"),
            val_dice=[row["val_dice"] for row in history],
            elapsed_s=[row["elapsed_s"] for row in history],
            dice=dice | ({"test": test} if test else {}),
            environment=manifest.get("environment", {}),
        )


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
        """Return each photo's Dice by name, averaged over the runs that scored it; empty where none did."""
        return self._dice[part]

    def mean(self, part: str) -> float:
        """Return the mean over photos; NaN where no photo was scored."""
        return float(self.dice(part).mean())

    def interval(self, part: str) -> tuple[float, float]:
        """Return the 95 % bootstrap interval of the mean, over photos."""
        return bootstrap_interval(np.array(self.dice(part), dtype=np.float64))

    def spread(self, part: str) -> float:
        """Return the standard deviation between runs that scored the same photos; NaN below two."""
        means = [float(pd.Series(run.dice[part]).mean()) for run in self.runs if part in run.dice]
        same = len({frozenset(run.dice[part]) for run in self.runs if part in run.dice}) == 1
        return float(np.std(means, ddof=1)) if same and len(means) > 1 else float("nan")

    @property
    def seconds(self) -> float:
        """How long a run took, on average."""
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
        mean: of the photos' differences in Dice.
        low: end of the 95 % bootstrap interval of that mean.
        high: its other end.
        photos: how many both have scored.
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
    """Join runs of one setting, in the order of their first."""
    settings: dict[str, list[Record]] = {}
    for record in records:
        of_interest = {key: value for key, value in record.params.items() if key not in NOT_A_SETTING}
        identity = json.dumps([of_interest, record.photos], sort_keys=True)
        if record.key not in {other.key for other in settings.setdefault(identity, [])}:
            settings[identity].append(record)
    return [Setting(tuple(runs)) for runs in settings.values()]


def difference(one: Setting, other: Setting, part: str) -> Difference | None:
    """Compare photo by photo: ``one`` less ``other``. None where they have no photo in common."""
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
    """Say what is particular about a setting, ``loss=dice, epochs=60``."""
    told = {name.partition(".")[2]: setting.params[name] for name in names if name in setting.params}
    return ", ".join(f"{name}={_short(value)}" for name, value in told.items()) or setting.runs[0].key


def table(settings: Sequence[Setting]) -> pd.DataFrame:
    """Return a row a setting, the best by validation Dice first, and its differences from that one.

    Columns: setting, runs, keys, seconds, and for each part that was scored: NAME_dice, _low, _high,
    _spread (between seeds), _photos, and _less_best, _less_best_low, _less_best_high.

    Raises:
        UsageError: there is nothing to compare.
    """
    if not settings:
        raise UsageError("no run to compare")
    ranked = sorted(settings, key=lambda setting: -setting.mean("val"))
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
            row |= {
                f"{part}_dice": setting.mean(part),
                f"{part}_low": low,
                f"{part}_high": high,
                f"{part}_spread": setting.spread(part),
                f"{part}_photos": len(setting.dice(part)),
            }
            against = difference(setting, ranked[0], part) if setting is not ranked[0] else None
            row |= {
                f"{part}_less_best": against.mean if against else float("nan"),
                f"{part}_less_best_low": against.low if against else float("nan"),
                f"{part}_less_best_high": against.high if against else float("nan"),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
