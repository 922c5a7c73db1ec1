"""Scores of masks: pixels are counted first, and divided last.

``*_per_image`` is a mean over photos; ``*_global`` is computed from the pixels of all photos together. An
undefined score, such as Dice if neither mask nor truth has a pixel, is NaN, and a mean leaves it out.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petseg.data.batches import mask_of_rule
from petseg.errors import ShapeMismatch
from petseg.params import Boundary

_BOOTSTRAP_SAMPLES = 2000
_SAMPLES_AT_ONCE = 20  # more of them would not fit into the processor's cache


@dataclass(frozen=True)
class PixelCounts:
    """True and false positives and negatives of each photo: four (N,) int64 tensors."""

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor

    def total(self) -> Self:
        """Return the counts of all photos together, as 0-d tensors."""
        return type(self)(self.tp.sum(), self.fp.sum(), self.fn.sum(), self.tn.sum())

    def dice(self) -> Tensor:
        """2 TP / (2 TP + FP + FN), float64; NaN for 0 / 0. The same as F1."""
        return 2 * self.tp.double() / (2 * self.tp + self.fp + self.fn)

    def iou(self) -> Tensor:
        """TP / (TP + FP + FN), float64; NaN for 0 / 0. The same as the Jaccard index."""
        return self.tp.double() / (self.tp + self.fp + self.fn)

    def precision(self) -> Tensor:
        """TP / (TP + FP), float64; NaN if no pixel was predicted."""
        return self.tp.double() / (self.tp + self.fp)

    def recall(self) -> Tensor:
        """TP / (TP + FN), float64; NaN if no pixel is true."""
        return self.tp.double() / (self.tp + self.fn)


def count_pixels(predicted: Tensor, mask: Tensor, valid: Tensor | None = None) -> PixelCounts:
    """Compare predicted masks with true ones.

    Args:
        predicted: (N, ...) bool.
        mask: the same shape, bool, or float in {0, 1}.
        valid: the same shape, zero where a pixel does not count; None if all pixels count.

    Raises:
        ShapeMismatch: the shapes differ.
    """
    if predicted.shape != mask.shape:
        raise ShapeMismatch("predicted and mask", predicted.shape, mask.shape)
    if valid is not None and valid.shape != mask.shape:
        raise ShapeMismatch("valid and mask", valid.shape, mask.shape)
    predicted, true = predicted.flatten(1).bool(), mask.flatten(1).bool()
    counted = torch.ones_like(true) if valid is None else valid.flatten(1).bool()
    tp = (predicted & true & counted).sum(1)
    positive, actual = (predicted & counted).sum(1), (true & counted).sum(1)
    return PixelCounts(tp, positive - tp, actual - tp, counted.sum(1) - positive - actual + tp)


def scores(counts: PixelCounts) -> dict[str, float]:
    """Return every score of a set of photos; means over photos come with 95 % intervals."""
    total = counts.total()
    result: dict[str, float] = {}
    for name, per_photo, together in (
        ("dice", counts.dice(), total.dice()),
        ("iou", counts.iou(), total.iou()),
    ):
        values = per_photo.cpu().numpy()
        low, high = bootstrap_interval(values)
        result[f"{name}_per_image"] = mean(values)
        result[f"{name}_per_image_low"], result[f"{name}_per_image_high"] = low, high
        result[f"{name}_global"] = float(together)
    result["precision"], result["recall"] = float(total.precision()), float(total.recall())
    return result


def mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean over photos.

    Args:
        values: (N,) float; NaN is left out.
        seed: seed of the resampling.

    Source: Efron 1979, doi:10.1214/aos/1176344552.
    """
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    means = np.concatenate([
        values[random.integers(0, len(values), (_SAMPLES_AT_ONCE, len(values)))].mean(axis=1)
        for _ in range(_BOOTSTRAP_SAMPLES // _SAMPLES_AT_ONCE)
    ])  # fmt: skip
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def count_against(masks: Tensor, trimaps: Tensor, boundary: Boundary) -> PixelCounts:
    """Count each photo's pixels.

    Args:
        masks: (N, H, W) bool.
        trimaps: (N, H, W) uint8.
        boundary: how the border counts.
    """
    truth, valid = mask_of_rule(trimaps, boundary)
    return count_pixels(masks.unsqueeze(1), truth, valid)


def mean_dice(masks: Tensor, trimaps: Tensor, boundary: Boundary) -> float:
    """Return the mean Dice over photos; the arguments are those of ``count_against``."""
    return mean(count_against(masks, trimaps, boundary).dice().numpy())
