"""Losses, by the name that train.loss gives them.

Each takes logits and masks, (N, C, H, W) float: C outputs for each of N photos. Each returns a scalar, the
mean over photos and outputs.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from petseg.errors import ShapeMismatch

Loss = Callable[[Tensor, Tensor], Tensor]

FOCAL_GAMMA = 2
TVERSKY_FALSE, TVERSKY_MISSED = 0.3, 0.7


def bce_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross entropy, averaged over all pixels.

    Returns:
        Scalar, at least 0.

    Raises:
        ShapeMismatch: the shapes differ.
    """
    _check_shapes(logits, masks)
    return F.binary_cross_entropy_with_logits(logits, masks)


def soft_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus soft Dice, averaged over photos.

    Returns:
        Scalar in [0, 1]. The sums are raised by one pixel, so that an empty mask has a gradient.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Milletari et al. 2016 (arXiv:1606.04797), without the squares.
    """
    _check_shapes(logits, masks)
    probability = logits.sigmoid()
    both = (probability * masks).sum((2, 3))
    either = probability.sum((2, 3)) + masks.sum((2, 3))
    return (1 - (2 * both + 1) / (either + 1)).mean()


def bce_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """The sum of ``bce_loss`` and ``soft_dice_loss``."""
    return bce_loss(logits, masks) + soft_dice_loss(logits, masks)


def focal_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy in which confident and correct pixels hardly count, averaged as ``bce_loss``.

    Returns:
        Scalar, at least 0.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Lin et al. 2017 (arXiv:1708.02002), gamma 2; no alpha, because pet and background are balanced.
    """
    _check_shapes(logits, masks)
    per_pixel = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    wrong = (logits.sigmoid() - masks).abs()
    return (wrong**FOCAL_GAMMA * per_pixel).mean()


def tversky_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus soft Tversky index, averaged over photos: like Dice, but a missed pixel costs more.

    Returns:
        Scalar in [0, 1]. The sums are raised by one pixel, so that an empty mask has a gradient.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Salehi et al. 2017 (arXiv:1706.05721), with its alpha 0.3 and beta 0.7.
    """
    _check_shapes(logits, masks)
    probability = logits.sigmoid()
    both = (probability * masks).sum((2, 3))
    false = probability.sum((2, 3)) - both
    missed = masks.sum((2, 3)) - both
    return (1 - (both + 1) / (both + TVERSKY_FALSE * false + TVERSKY_MISSED * missed + 1)).mean()


LOSSES: dict[str, Loss] = {
    "bce": bce_loss,
    "dice": soft_dice_loss,
    "bce_dice": bce_dice_loss,
    "focal": focal_loss,
    "tversky": tversky_loss,
}


def _check_shapes(logits: Tensor, masks: Tensor) -> None:
    if logits.shape != masks.shape:
        raise ShapeMismatch("logits and masks", logits.shape, masks.shape)
