"""Losses, by the name that train.loss gives them.

Each takes logits and mask, (N, 1, H, W) float, and valid, of the same shape with 0 where a pixel
does not count, or None where all do. Each returns a scalar: the mean over photos.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from petseg.errors import ShapeMismatch

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

FOCAL_GAMMA = 2
TVERSKY_FALSE, TVERSKY_MISSED = 0.3, 0.7


def bce_loss(logits: Tensor, mask: Tensor, valid: Tensor | None) -> Tensor:
    """Binary cross entropy of a photo's valid pixels, averaged over photos.

    Returns:
        Scalar, at least 0. A photo without a valid pixel adds nothing.

    Raises:
        ShapeMismatch: the shapes differ.
    """
    _check_shapes(logits, mask, valid)
    if valid is None:
        return F.binary_cross_entropy_with_logits(logits, mask)
    return _mean_of_valid(F.binary_cross_entropy_with_logits(logits, mask, reduction="none"), valid)


def soft_dice_loss(logits: Tensor, mask: Tensor, valid: Tensor | None) -> Tensor:
    """One minus soft Dice, averaged over photos.

    Returns:
        Scalar in [0, 1]. The sums are raised by one pixel, so that an empty mask has a gradient.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Milletari et al. 2016 (arXiv:1606.04797), without the squares.
    """
    _check_shapes(logits, mask, valid)
    probability = logits.sigmoid()
    if valid is not None:
        probability, mask = probability * valid, mask * valid
    both = (probability * mask).flatten(1).sum(1)
    either = probability.flatten(1).sum(1) + mask.flatten(1).sum(1)
    return (1 - (2 * both + 1) / (either + 1)).mean()


def bce_dice_loss(logits: Tensor, mask: Tensor, valid: Tensor | None) -> Tensor:
    """The sum of ``bce_loss`` and ``soft_dice_loss``."""
    return bce_loss(logits, mask, valid) + soft_dice_loss(logits, mask, valid)


def focal_loss(logits: Tensor, mask: Tensor, valid: Tensor | None) -> Tensor:
    """Cross entropy that pixels which are sure and right hardly add to, averaged as ``bce_loss``.

    Returns:
        Scalar, at least 0. A photo without a valid pixel adds nothing.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Lin et al. 2017 (arXiv:1708.02002), gamma 2; without alpha, as pet and background are balanced.
    """
    _check_shapes(logits, mask, valid)
    per_pixel = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    wrong = (logits.sigmoid() - mask).abs()
    return _mean_of_valid(wrong**FOCAL_GAMMA * per_pixel, valid)


def tversky_loss(logits: Tensor, mask: Tensor, valid: Tensor | None) -> Tensor:
    """One minus soft Tversky index, averaged over photos: Dice in which a missed pixel costs more.

    Returns:
        Scalar in [0, 1]. The sums are raised by one pixel, so that an empty mask has a gradient.

    Raises:
        ShapeMismatch: the shapes differ.

    Source: Salehi et al. 2017 (arXiv:1706.05721), with its alpha 0.3 and beta 0.7.
    """
    _check_shapes(logits, mask, valid)
    probability = logits.sigmoid()
    if valid is not None:
        probability, mask = probability * valid, mask * valid
    both = (probability * mask).flatten(1).sum(1)
    false = probability.flatten(1).sum(1) - both
    missed = mask.flatten(1).sum(1) - both
    return (1 - (both + 1) / (both + TVERSKY_FALSE * false + TVERSKY_MISSED * missed + 1)).mean()


LOSSES: dict[str, Loss] = {
    "bce": bce_loss,
    "dice": soft_dice_loss,
    "bce_dice": bce_dice_loss,
    "focal": focal_loss,
    "tversky": tversky_loss,
}


def _mean_of_valid(per_pixel: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of a photo's valid pixels, averaged over photos."""
    if valid is None:
        return per_pixel.mean()
    pixels = valid.flatten(1).sum(1).clamp(min=1)
    return ((per_pixel * valid).flatten(1).sum(1) / pixels).mean()


def _check_shapes(logits: Tensor, mask: Tensor, valid: Tensor | None) -> None:
    if logits.shape != mask.shape:
        raise ShapeMismatch("logits and mask", logits.shape, mask.shape)
    if valid is not None and valid.shape != mask.shape:
        raise ShapeMismatch("valid and mask", valid.shape, mask.shape)
