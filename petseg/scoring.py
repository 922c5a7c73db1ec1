"""Scores of predicted masks against trimaps, under each rule for the border and at any resolution.

A photo is compared once, with its trimap; counts and edges follow from there. Where neither mask nor
truth has a pixel (or an edge), a score is undefined: NaN, and a mean leaves the photo out. Where only
one of them has, it is 0.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from petseg.data.batches import to_target
from petseg.errors import ShapeMismatch
from petseg.metrics import PixelCounts, bootstrap_interval, count_pixels, mean, scores
from petseg.params import Boundary

RULES: tuple[Boundary, ...] = get_args(Boundary)
EDGE_TOLERANCE = 0.0075  # of the photo's diagonal, as in Csurka et al.

Mask = NDArray[np.bool_]
Trimap = NDArray[np.uint8]


@dataclass(frozen=True)
class Tally:
    """What a set of photos is scored from, under one rule for the border.

    Attributes:
        names: of the N photos.
        counts: the pixels of each photo.
        edge_f: (N,) float, the boundary F-score of each.
    """

    names: list[str]
    counts: PixelCounts
    edge_f: NDArray[np.float64]

    def scores(self) -> dict[str, float]:
        """Return Dice, IoU, precision, recall and boundary F; means over photos with 95 % intervals."""
        low, high = bootstrap_interval(self.edge_f)
        edges = {"boundary_f_per_image": mean(self.edge_f)}
        edges |= {"boundary_f_per_image_low": low, "boundary_f_per_image_high": high}
        return scores(self.counts) | edges


Tallies = dict[Boundary, Tally]


def compare(photos: Iterable[tuple[str, Mask, Trimap]]) -> Tallies:
    """Compare predicted masks with trimaps under every rule.

    Args:
        photos: the name, the mask, (H, W) bool, and the trimap, (H, W) uint8, of each; sizes may differ.

    Raises:
        ShapeMismatch: a mask and its trimap differ in size.
    """
    names: list[str] = []
    counts: dict[Boundary, list[PixelCounts]] = {rule: [] for rule in RULES}
    edges: dict[Boundary, list[float]] = {rule: [] for rule in RULES}
    for name, mask, trimap in photos:
        names.append(name)
        predicted, labels = torch.tensor(mask)[None], torch.tensor(trimap)[None]
        for rule in RULES:
            truth, _ = to_target(labels, rule)
            counts[rule].append(count_against(predicted, labels, rule))
            true = truth[0, 0].bool().numpy()
            # What that rule ignores is where the edge is.
            edges[rule].append(float("nan") if rule == "ignore" else boundary_f(mask, true))
    return {rule: Tally(names, _joined(counts[rule]), np.array(edges[rule])) for rule in RULES}


def photo_scores(tally: Tally) -> pd.DataFrame:
    """Return the columns dice, iou and boundary_f, a row a photo, with the names as the index."""
    columns = {"dice": tally.counts.dice().numpy(), "iou": tally.counts.iou().numpy()}
    return pd.DataFrame(columns | {"boundary_f": tally.edge_f}, index=pd.Index(tally.names, name="name"))


def boundary_f(predicted: Mask, true: Mask) -> float:
    """Return the F-score of a mask's edge: how much of each edge lies near the other.

    An edge is the mask's outermost pixels, without the photo's frame. Near is within 0.75 % of the
    photo's diagonal.

    Args:
        predicted: (H, W) bool.
        true: (H, W) bool.

    Returns:
        In [0, 1]; NaN where neither has an edge, 0 where one has.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", BMVC.
    """
    if predicted.shape != true.shape:
        raise ShapeMismatch("predicted and true", predicted.shape, true.shape)
    said, real = _edge(predicted), _edge(true)
    if not said.any() or not real.any():
        return 0.0 if said.any() or real.any() else float("nan")
    tolerance_px = EDGE_TOLERANCE * float(np.hypot(*true.shape))
    precision = float((distance_transform_edt(~real)[said] <= tolerance_px).mean())
    recall = float((distance_transform_edt(~said)[real] <= tolerance_px).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def count_against(masks: Tensor, trimaps: Tensor, boundary: Boundary) -> PixelCounts:
    """Count each photo's pixels.

    Args:
        masks: (N, H, W) bool.
        trimaps: (N, H, W) uint8.
        boundary: what the border counts as.
    """
    truth, valid = to_target(trimaps, boundary)
    return count_pixels(masks.unsqueeze(1), truth, valid)


def mean_dice(masks: Tensor, trimaps: Tensor, boundary: Boundary) -> float:
    """Return the mean Dice over photos; arguments as ``count_against``."""
    return mean(count_against(masks, trimaps, boundary).dice().numpy())


def under_each_rule(tallies: Tallies, boundary: Boundary) -> dict[str, float | dict[str, float]]:
    """Return the scores under one rule, and under each other one as ``boundary_<rule>``."""
    own: dict[str, float | dict[str, float]] = dict(tallies[boundary].scores())
    return own | {f"boundary_{rule}": tallies[rule].scores() for rule in RULES if rule != boundary}


def by_group(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """Return the mean Dice of each group of photos, with its interval; the lowest first.

    Args:
        table: a row a photo, with the column ``dice`` and that of the group.
        group: ``breed`` or ``species``.

    Returns:
        Columns: the group, photos, dice_per_image, dice_per_image_low, dice_per_image_high.
    """
    rows = []
    for name, dice in table.groupby(group)["dice"]:
        values = dice.to_numpy()
        rows.append((name, len(values), mean(values), *bootstrap_interval(values)))
    names = ["dice_per_image", "dice_per_image_low", "dice_per_image_high"]
    return pd.DataFrame(rows, columns=[group, "photos", *names]).sort_values(names[0], ignore_index=True)


def mean_mask(trimaps: Tensor, boundary: Boundary) -> Tensor:
    """Return how often each place is pet, the answer of one who never looks at the photo.

    Args:
        trimaps: (N, S, S) uint8, of training.
        boundary: what the border counts as; places that are ignored in every photo are never pet.

    Returns:
        (S, S) float in [0, 1].
    """
    truth, valid = to_target(trimaps, boundary)
    if valid is None:
        return truth.mean(dim=(0, 1))
    return (truth * valid).sum(dim=(0, 1)) / valid.sum(dim=(0, 1)).clamp(min=1)


def _edge(mask: Mask) -> Mask:
    edge: Mask = mask & ~binary_erosion(mask, border_value=1)
    return edge


def _joined(counts: list[PixelCounts]) -> PixelCounts:
    names = ("tp", "fp", "fn", "tn")
    return PixelCounts(*(torch.cat([getattr(count, name) for count in counts]) for name in names))
