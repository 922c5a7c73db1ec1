"""Score predicted masks against trimaps, under each boundary rule and at any resolution.

Each photo is compared with its trimap once, and all scores come from the counts and edges found there. If
neither mask nor truth has a pixel (or an edge), a score is undefined: it is NaN, and a mean leaves the photo
out. If only one of them has, the score is 0.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from petseg.data.batches import mask_of_rule
from petseg.errors import ShapeMismatch
from petseg.evaluation.metrics import PixelCounts, bootstrap_interval, count_pixels, mean, scores
from petseg.params import OUTPUTS, Boundary, Edge

RULES: tuple[Boundary, ...] = get_args(Boundary)
LEARNT: dict[Edge, Boundary] = {"whole": "foreground", "tight": "background"}  # what each output learns
EDGE_TOLERANCE = 0.0075  # share of the photo's diagonal, as in Csurka et al.
NAN = float("nan")

Answers = Mapping[Boundary, Edge]  # which of a network's outputs answers each rule

Mask = NDArray[np.bool_]
Trimap = NDArray[np.uint8]


@dataclass(frozen=True)
class Tally:
    """The counts from which a set of photos is scored under one boundary rule.

    Attributes:
        names: names of the N photos.
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


def tally(photos: Iterable[tuple[str, Mask, Trimap]], answers: Answers) -> Tallies:
    """Compare predicted masks with trimaps under every rule.

    Args:
        photos: the name, the masks, (2, H, W) bool, and the trimap, (H, W) uint8, of each; sizes may differ.
        answers: which of the masks is compared under each rule.

    Raises:
        ShapeMismatch: masks and their trimap differ in size.
    """
    return tally_each(((name, {"": masks}, trimap) for name, masks, trimap in photos), answers)[""]


def tally_each(
    photos: Iterable[tuple[str, Mapping[str, Mask], Trimap]], answers: Answers
) -> dict[str, Tallies]:
    """Do the same as ``tally`` for several named masks of each photo; the trimap's edges are found once."""
    names: list[str] = []
    counts: dict[tuple[str, Boundary], list[PixelCounts]] = defaultdict(list)
    edge_f: dict[tuple[str, Boundary], list[float]] = defaultdict(list)
    each: Mapping[str, Mask] = {}
    for photo, each, trimap in photos:
        names.append(photo)
        for rule in RULES:
            truth, valid = mask_of_rule(torch.tensor(trimap)[None], rule)
            # Under the ignore rule the edge itself is left out, so it has no score.
            edge = Contour.of(truth[0, 0].bool().numpy()) if valid is None else None
            for name, masks in each.items():
                mask = masks[OUTPUTS.index(answers[rule])]
                counts[name, rule].append(count_pixels(torch.tensor(mask)[None, None], truth, valid))
                edge_f[name, rule].append(Contour.of(mask).f_score(edge) if edge else NAN)
    return {
        name: {
            rule: Tally(names, _joined(counts[name, rule]), np.array(edge_f[name, rule])) for rule in RULES
        }
        for name in each
    }


def photo_scores(tally: Tally) -> pd.DataFrame:
    """Return the columns dice, iou and boundary_f, one row per photo, with the names as the index."""
    columns = {"dice": tally.counts.dice().numpy(), "iou": tally.counts.iou().numpy()}
    return pd.DataFrame(columns | {"boundary_f": tally.edge_f}, index=pd.Index(tally.names, name="name"))


@dataclass(frozen=True)
class Contour:
    """The outermost pixels of a mask, without the photo's frame.

    Attributes:
        pixels: (H, W) bool.
        distance_px: (H, W) float, from each pixel to the nearest edge pixel; infinite without an edge.
    """

    pixels: Mask
    distance_px: NDArray[np.float64]

    @classmethod
    def of(cls, mask: Mask) -> Self:
        """Find the edge of a mask, (H, W) bool."""
        pixels: Mask = mask & ~binary_erosion(mask, border_value=1)
        distance = distance_transform_edt(~pixels) if pixels.any() else np.full(mask.shape, np.inf)
        return cls(pixels, distance)

    def f_score(self, true: Self) -> float:
        """Return how much of each of two edges lies near the other: within 0.75 % of the photo's diagonal.

        Returns:
            In [0, 1]; NaN if neither has a pixel, 0 if only one has.

        Raises:
            ShapeMismatch: the masks' shapes differ.

        Source: Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", BMVC.
        """
        if self.pixels.shape != true.pixels.shape:
            raise ShapeMismatch("predicted and true", self.pixels.shape, true.pixels.shape)
        if not self.pixels.any() and not true.pixels.any():
            return NAN
        near_px = EDGE_TOLERANCE * float(np.hypot(*self.pixels.shape))
        right = int((true.distance_px[self.pixels] <= near_px).sum())
        found = int((self.distance_px[true.pixels] <= near_px).sum())
        if not right or not found:
            return 0.0
        precision, recall = right / int(self.pixels.sum()), found / int(true.pixels.sum())
        return 2 * precision * recall / (precision + recall)


def under_each_rule(tallies: Tallies, boundary: Boundary) -> dict[str, float | dict[str, float]]:
    """Return the scores under one rule, and those under each other rule as ``boundary_<rule>``."""
    own: dict[str, float | dict[str, float]] = dict(tallies[boundary].scores())
    return own | {f"boundary_{rule}": tallies[rule].scores() for rule in RULES if rule != boundary}


def by_group(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """Return the mean Dice of each group of photos, with its interval; the lowest first.

    Args:
        table: one row per photo, with the column ``dice`` and that of the group.
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
    """Return how often each pixel is pet: the baseline that never looks at the photo.

    Args:
        trimaps: (N, S, S) uint8, of the training photos.
        boundary: how the border counts; pixels that are ignored in every photo are never pet.

    Returns:
        (S, S) float in [0, 1].
    """
    truth, valid = mask_of_rule(trimaps, boundary)
    if valid is None:
        return truth.mean(dim=(0, 1))
    return (truth * valid).sum(dim=(0, 1)) / valid.sum(dim=(0, 1)).clamp(min=1)


def _joined(counts: list[PixelCounts]) -> PixelCounts:
    names = ("tp", "fp", "fn", "tn")
    return PixelCounts(*(torch.cat([getattr(count, name) for count in counts]) for name in names))
