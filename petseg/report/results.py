"""The results of a training and its evaluation: curves, masks of every epoch, scored test photos.

A file is read when its content is first used, so that a view reads only what it shows. The figures, the
report page and the command ``petseg evaluate`` all use this module.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from petseg.data.arrays import PetArrays
from petseg.data.batches import mask_of_rule
from petseg.data.masks import load_masks
from petseg.errors import DamagedFile, DataError, StoreError
from petseg.evaluation.metrics import PixelCounts, count_against
from petseg.evaluation.outputs import (
    BREEDS,
    CALIBRATION,
    HEADLINES,
    PER_IMAGE,
    PREDICTIONS,
    SCORES,
    THRESHOLDS,
)
from petseg.evaluation.scores import LEARNT
from petseg.params import OUTPUTS, Boundary, Edge
from petseg.report import reading
from petseg.report.mask_figures import Example
from petseg.store.layout import CURVES, EVOLUTION_MASKS
from petseg.store.run import StoredRun
from petseg.store.score_rows import title


@dataclass(frozen=True)
class Evolution:
    """The masks of K fixed validation photos over E epochs.

    Attributes:
        names: the photos' names, (K,).
        images: the photos, (K, S, S, 3) uint8.
        truths: their true masks, (K, S, S) bool.
        epochs: the numbers of the epochs, (E,).
        masks: the predicted masks, (E, K, S, S) bool.
        dices: the Dice of each mask, (E, K) float.
    """

    names: list[str]
    images: NDArray[np.uint8]
    truths: NDArray[np.bool_]
    epochs: list[int]
    masks: NDArray[np.bool_]
    dices: NDArray[np.float64]

    def of(self, name: str) -> "Evolution":
        """Return the evolution of one photo."""
        row = [self.names.index(name)]
        return Evolution(
            [name], self.images[row], self.truths[row], self.epochs, self.masks[:, row], self.dices[:, row]
        )

    def at(self, wanted: Sequence[int]) -> "Evolution":
        """Return the wanted epochs, as far as the training has them, and always the last one."""
        places = [i for i, epoch in enumerate(self.epochs) if epoch in wanted or epoch == self.epochs[-1]]
        return replace(
            self, epochs=[self.epochs[i] for i in places], masks=self.masks[places], dices=self.dices[places]
        )


@dataclass(frozen=True)
class Results:
    """The results of a training and its evaluation, from DVC's outs or the store, which have the same files.

    A test photo is named by its place: its row in ``table`` and in ``masks``.

    Attributes:
        arrays_folder: the folder of the packed photos.
        evolution_file: the file with the masks of every epoch.
        history_file: the table with a row for each epoch.
        folder: the folder with infer's files.
    """

    arrays_folder: Path
    evolution_file: Path
    history_file: Path
    folder: Path

    @classmethod
    def of_run(cls, run: StoredRun, arrays: Path, shown: Mapping[str, Any] | None = None) -> Self:
        """Check that a run's files are as recorded, and return its results.

        Args:
            run: a run of the store.
            arrays: the folder of the packed photos, which must be those of the run.
            shown: scores that choose one of the run's whole evaluations; without a match, the newest is used.

        Raises:
            StoreError: the run was edited or damaged, was never scored, or has no masks.
            DataError: the packed photos are not those of the run, or are absent.
        """
        run.check_whole(CURVES, EVOLUTION_MASKS)
        evaluation = run.proved_evaluation(shown)
        if evaluation is None and run.scored:
            raise DamagedFile(
                f"run {run.key} has no whole scores; petseg runs verify --heal looks for copies"
            )
        if evaluation is None:
            raise StoreError(f"run {run.key} has not been scored; dvc repro with its params scores it")
        if not {CURVES, EVOLUTION_MASKS, PREDICTIONS} <= {
            *run.manifest["files"],
            *evaluation.manifest["files"],
        }:
            raise StoreError(
                f"run {run.key} has no masks to look at: it was adopted, or made by an earlier petseg"
            )
        if PetArrays.open(arrays).digest != run.manifest["data_sha256"]:
            raise DataError(
                f"{arrays}: holds other photos than those of run {run.key}; dvc repro preprocess, with the "
                "run's data and split in params.yaml, packs them"
            )
        return cls(arrays, run.folder / EVOLUTION_MASKS, run.folder / CURVES, evaluation.folder)

    @property
    def boundary(self) -> Boundary:
        """The rule for the border by which the headline is scored."""
        rule: Boundary = self.headlines["boundary"]
        return rule

    @property
    def edge(self) -> Edge | None:
        """The output whose masks are shown, which answers the headline's rule; None if there is only one."""
        edge: Edge | None = self.headlines.get("answers", {}).get(self.boundary)
        return edge

    @property
    def title(self) -> str:
        """Which masks are shown, and by which rule they are scored."""
        return title(self.headlines)

    @cached_property
    def arrays(self) -> PetArrays:
        """The packed photos and trimaps."""
        return PetArrays.open(self.arrays_folder)

    @cached_property
    def run_key(self) -> str | None:
        """The key of the run that trained the model; None if it is not known."""
        return reading.run_key(self.folder / SCORES)

    @cached_property
    def history(self) -> pd.DataFrame:
        """A table with a row for each epoch."""
        return reading.history(self.history_file)

    @property
    def best(self) -> pd.Series:
        """The epoch whose weights were kept: the first with the highest validation Dice."""
        return self.history.iloc[int(self.history["val_dice"].argmax())]

    @cached_property
    def headlines(self) -> dict[str, Any]:
        """The headline scores, with the threshold and the scores of trivial answers; NaN is undefined."""
        return reading.headlines(self.folder / HEADLINES)

    @cached_property
    def breeds(self) -> pd.DataFrame:
        """The mean Dice of each breed with its interval, the lowest first."""
        return reading.table(self.folder / BREEDS, reading.BREEDS)

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """The scores at each threshold, for validation and test photos."""
        return reading.table(self.folder / THRESHOLDS, reading.THRESHOLDS)

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """How well the probabilities agree with the share of the test photos' pixels that are pet."""
        return reading.table(self.folder / CALIBRATION, reading.CALIBRATION)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A table with a row for each test photo: its name, breed, species and scores.

        Raises:
            DataError: the table can't be read, or has other photos than those that were predicted.
        """
        table = reading.table(self.folder / PER_IMAGE, reading.PHOTOS)
        if table["name"].to_list() != self.arrays.index["name"][self.rows].to_list():
            raise DataError(
                f"{self.folder}: {PER_IMAGE} and {PREDICTIONS} are not of the same photos; "
                "run dvc repro infer"
            )
        return table

    @property
    def masks(self) -> NDArray[np.bool_]:
        """The predicted masks of the N test photos, (N, S, S) bool."""
        return self._predictions[0]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows of the N test photos in the arrays."""
        return self._predictions[1]

    @cached_property
    def truths(self) -> NDArray[np.bool_]:
        """The true masks of the N test photos, (N, S, S) bool, by the rule that the shown output learnt."""
        return true_masks(self.arrays, self.rows, self._learnt)

    @cached_property
    def counts(self) -> PixelCounts:
        """The counts of right and wrong pixels of each test photo."""
        return count_against(
            torch.from_numpy(self.masks), torch.from_numpy(self.arrays.trimaps[self.rows]), self.boundary
        )

    @cached_property
    def evolution(self) -> Evolution:
        """The masks of the fixed photos after each epoch.

        Raises:
            DataError: the masks can't be read, or are of other photos.
        """
        masks, beside = load_masks(self.evolution_file, "epochs", "rows")
        rows = self._of_these(masks, beside["rows"], self.evolution_file)
        trimaps = torch.from_numpy(self.arrays.trimaps[rows])
        if "outputs" in beside:
            masks = masks[:, :, OUTPUTS.index(self.edge or "whole")]
        dices = [count_against(torch.from_numpy(each), trimaps, self.boundary).dice() for each in masks]
        return Evolution(
            self.arrays.index["name"][rows].to_list(),
            self.arrays.images[rows],
            true_masks(self.arrays, rows, self._learnt),
            beside["epochs"].tolist(),
            masks,
            torch.stack(dices).numpy(),
        )

    def ranked(self) -> list[int]:
        """Return the places of the test photos whose Dice is defined, the best first."""
        return list(self.table["dice"].dropna().sort_values(ascending=False, kind="stable").index)

    def best_photos(self, n: int) -> list[int]:
        """Return the places of the n best, the best first."""
        return self.ranked()[:n]

    def median_photos(self, n: int) -> list[int]:
        """Return the places of the n photos around the median, the better first."""
        order = self.ranked()
        start = max(0, (len(order) - n) // 2)
        return order[start : start + n]

    def worst_photos(self, n: int) -> list[int]:
        """Return the places of the n worst, the worst last."""
        return self.ranked()[-n:]

    def random_photos(self, n: int, seed: int) -> list[int]:
        """Return the places of n photos that are drawn at random."""
        count = len(self.table)
        return sorted(np.random.default_rng(seed).choice(count, min(n, count), replace=False).tolist())

    def photo(self, name: str) -> int:
        """Return the place of the test photo with this name.

        Raises:
            DataError: there is no such photo.
        """
        names = self.table["name"].to_list()
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise DataError(f"{name}: no such test photo" + (f"; did you mean {close[0]}?" if close else ""))
        return names.index(name)

    def example(self, place: int) -> Example:
        """Return a test photo with its true and its predicted mask."""
        row = self.table.loc[place]
        title = f"{row['name']}, Dice {row['dice']:.3f}"
        image = self.arrays.images[self.rows[place]]
        return Example(title, image, self.truths[place], self.masks[place])

    @property
    def _learnt(self) -> Boundary:
        """The rule for the border by which the output that is shown has learnt."""
        return LEARNT[self.edge] if self.edge else self.boundary

    @cached_property
    def _predictions(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        masks, beside = load_masks(self.folder / PREDICTIONS, "rows")
        return masks, self._of_these(masks, beside["rows"], self.folder / PREDICTIONS)

    def _of_these(self, masks: NDArray[np.bool_], rows: NDArray[np.int64], file: Path) -> NDArray[np.int64]:
        size = self.arrays.size_px
        if masks.shape[-2:] != (size, size) or rows.min() < 0 or rows.max() >= len(self.arrays.index):
            raise DataError(f"{file}: is of other photos than {self.arrays_folder}; run dvc repro")
        return rows


def true_masks(arrays: PetArrays, rows: NDArray[np.int64], boundary: Boundary) -> NDArray[np.bool_]:
    """Return the true masks of some rows by a rule for the border, (N, S, S) bool."""
    mask, _ = mask_of_rule(torch.from_numpy(arrays.trimaps[rows]), boundary)
    result: NDArray[np.bool_] = mask.squeeze(1).bool().numpy()
    return result
