"""Losses, by the name that train.loss gives them.

Each takes logits and mask, (N, 1, H, W) float, and valid, of the same shape with 0 where a pixel
does not count, or None where all do. Each returns a scalar: the mean over photos.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from petseg.errors import ShapeMismatch

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


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
    per_pixel = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    pixels = valid.flatten(1).sum(1).clamp(min=1)
    return ((per_pixel * valid).flatten(1).sum(1) / pixels).mean()


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


LOSSES: dict[str, Loss] = {"bce": bce_loss, "dice": soft_dice_loss, "bce_dice": bce_dice_loss}


def _check_shapes(logits: Tensor, mask: Tensor, valid: Tensor | None) -> None:
    if logits.shape != mask.shape:
        raise ShapeMismatch("logits and mask", logits.shape, mask.shape)
    if valid is not None and valid.shape != mask.shape:
        raise ShapeMismatch("valid and mask", valid.shape, mask.shape)
