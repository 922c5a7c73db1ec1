"""Scores of predicted masks against trimaps, under each rule for the border."""

from typing import get_args

import torch
from torch import Tensor

from petseg.data.batches import to_target
from petseg.metrics import PixelCounts, count_pixels, mean, scores
from petseg.params import Boundary


def count_against(masks: Tensor, trimaps: Tensor, boundary: Boundary) -> PixelCounts:
    """Count each photo's pixels.

    Args:
        masks: (N, S, S) bool.
        trimaps: (N, S, S) uint8.
        boundary: what the border counts as.
    """
    truth, valid = to_target(trimaps, boundary)
    return count_pixels(masks.unsqueeze(1), truth, valid)


def mean_dice(masks: Tensor, trimaps: Tensor, boundary: Boundary) -> float:
    """Return the mean Dice over photos; arguments as ``count_against``."""
    return mean(count_against(masks, trimaps, boundary).dice().numpy())


def other_scores(masks: Tensor, trimaps: Tensor, boundary: Boundary) -> dict[str, dict[str, float]]:
    """Score the same masks under the other rules for the border, and the trivial answer beside them.

    Returns:
        ``boundary_<rule>`` for each other rule; ``all_foreground``, calling every pixel pet.
    """
    others: dict[str, dict[str, float]] = {
        f"boundary_{rule}": scores(count_against(masks, trimaps, rule))
        for rule in get_args(Boundary)
        if rule != boundary
    }
    others["all_foreground"] = scores(count_against(torch.ones_like(masks), trimaps, boundary))
    return others
