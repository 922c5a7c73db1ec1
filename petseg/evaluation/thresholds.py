"""Scores at each threshold, the choice of thresholds on validation, and the calibration of probabilities."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from petseg.data.batches import mask_of_rule
from petseg.errors import ShapeMismatch
from petseg.evaluation.metrics import PixelCounts, mean, mean_dice
from petseg.evaluation.scores import Answers
from petseg.params import OUTPUTS, Boundary

THRESHOLDS = tuple(n / 100 for n in range(5, 100, 5))
GRID = tuple(n / 100 for n in range(1, 100))
BINS = 20
_PHOTOS_AT_ONCE = 128  # which take 50 bytes per pixel


def threshold_scores(probability: Tensor, trimaps: Tensor, boundary: Boundary) -> pd.DataFrame:
    """Score the masks that each threshold of a fine grid would give.

    A histogram of each photo's probabilities, summed up from above, has the counts for every threshold.

    Args:
        probability: (N, S, S) float in [0, 1].
        trimaps: (N, S, S) uint8.
        boundary: how the border counts.

    Returns:
        One row per threshold, which is the index: dice_per_image and iou_per_image are means over photos;
        precision and recall are of all pixels together. Undefined scores are NaN.

    Raises:
        ShapeMismatch: the two shapes differ.
    """
    steps = torch.tensor(GRID)
    width = len(GRID) + 1
    pet: list[Tensor] = []
    counted: list[Tensor] = []
    for values, truth, valid in _in_parts(probability, trimaps, boundary):
        reached = torch.bucketize(values, steps, right=True)  # how many thresholds call the pixel pet
        place = reached + width * torch.arange(len(values))[:, None]
        for kept, histograms in ((truth & valid, pet), (valid, counted)):
            histograms.append(torch.bincount(place[kept], minlength=width * len(values)).view(-1, width))
    # [n, k]: pixels of photo n that are pet by the threshold k - 1; all of them at k = 0.
    right, predicted = (torch.cat(parts).flip(1).cumsum(1).flip(1) for parts in (pet, counted))
    true, everything = right[:, 0], predicted[:, 0]
    rows = []
    for k in range(1, width):
        tp, fp = right[:, k], predicted[:, k] - right[:, k]
        counts = PixelCounts(tp, fp, true - tp, everything - true - fp)
        total = counts.total()
        rows.append({
            "dice_per_image": mean(counts.dice().numpy()),
            "iou_per_image": mean(counts.iou().numpy()),
            "precision": float(total.precision()),
            "recall": float(total.recall()),
        })  # fmt: skip
    return pd.DataFrame(rows, index=pd.Index(GRID, name="threshold"))


def calibration(probability: Tensor, trimaps: Tensor, boundary: Boundary) -> pd.DataFrame:
    """Compare probabilities with the share of pet; the arguments are those of ``threshold_scores``.

    Returns:
        One row per bin of equal width: low, high, mean_probability, pet_share and pixels. Pixels that the
        boundary rule ignores are left out; mean and share of a bin without pixels are NaN.

    Raises:
        ShapeMismatch: the two shapes differ.

    Source: Niculescu-Mizil and Caruana 2005, doi:10.1145/1102351.1102430.
    """
    pixels, pet, sums = (torch.zeros(BINS, dtype=torch.float64) for _ in range(3))
    for values, truth, valid in _in_parts(probability, trimaps, boundary):
        kept, true = values[valid].double(), truth[valid]
        place = (kept * BINS).long().clamp(max=BINS - 1)
        pixels += torch.bincount(place, minlength=BINS)
        pet += torch.bincount(place[true], minlength=BINS)
        sums += torch.bincount(place, weights=kept, minlength=BINS)
    return pd.DataFrame({
        "low": [n / BINS for n in range(BINS)],
        "high": [(n + 1) / BINS for n in range(BINS)],
        "mean_probability": (sums / pixels).numpy(),
        "pet_share": (pet / pixels).numpy(),
        "pixels": pixels.long().numpy(),
    })  # fmt: skip


def calibration_error(table: pd.DataFrame) -> float:
    """Return how far probabilities are from the share of pet, averaged over pixels, from ``calibration``.

    Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI.
    """
    apart = (table["mean_probability"] - table["pet_share"]).abs()
    pixels = int(table["pixels"].sum())
    return float((apart * table["pixels"]).sum() / pixels) if pixels else float("nan")


def _in_parts(
    probability: Tensor, trimaps: Tensor, boundary: Boundary
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield probability, truth and whether a pixel counts, (n, S * S) each, for some photos at a time."""
    if probability.shape != trimaps.shape:
        raise ShapeMismatch("probability and trimaps", probability.shape, trimaps.shape)
    for start in range(0, len(trimaps), _PHOTOS_AT_ONCE):
        values, labels = (part[start : start + _PHOTOS_AT_ONCE] for part in (probability, trimaps))
        truth, valid = mask_of_rule(labels, boundary)
        counts = torch.ones_like(truth) if valid is None else valid
        yield values.flatten(1).contiguous(), truth.flatten(1).bool(), counts.flatten(1).bool()


def choose_threshold(probability: Tensor, trimaps: Tensor, boundary: Boundary) -> float:
    """Return the threshold with the highest mean Dice; of several, the one nearest to 0.5.

    Args:
        probability: (N, S, S) float, of the validation photos.
        trimaps: (N, S, S) uint8, of the same photos.
        boundary: how the border counts.
    """
    return max(
        THRESHOLDS,
        key=lambda t: (mean_dice(probability >= t, trimaps, boundary), -abs(t - 0.5)),
    )


def choose_answers(masks: NDArray[np.bool_], trimaps: Tensor) -> Answers:
    """Return which output answers each boundary rule; for ignore, the better one on validation.

    Args:
        masks: (N, 2, S, S), of the validation photos.
        trimaps: (N, S, S) uint8, of the same photos.
    """
    dice = (mean_dice(torch.from_numpy(masks[:, place]), trimaps, "ignore") for place in range(len(OUTPUTS)))
    of_edge = dict(zip(OUTPUTS, dice, strict=True))
    return {"foreground": "whole", "background": "tight", "ignore": max(OUTPUTS, key=lambda e: of_edge[e])}
