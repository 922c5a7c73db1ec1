"""Turn the probabilities of the two outputs into masks: apply thresholds, drop islands, fill holes.

Probabilities and masks are (..., 2, H, W), in the order of petseg.params.OUTPUTS.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from petseg.params import OUTPUTS, Edge

Thresholds = Mapping[Edge, float]  # the probability from which a pixel belongs to the mask

UNDECIDED: Thresholds = {"whole": 0.5, "tight": 0.5}  # if infer has not chosen any
# Chosen on validation photos, and on composed ones with a second, smaller pet: python -m benchmarks.cleaning.
ISLAND = 0.02  # components smaller than this share of the largest one are dropped
HOLE = 0.05  # holes smaller than this share of the mask are filled
_EIGHT_NEIGHBOURS = np.ones((3, 3), np.uint8)


def cut(probability: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.bool_]:
    """Return the masks of both outputs; the tight one lies within the whole one."""
    masks = np.empty(probability.shape, bool)
    for place, edge in enumerate(OUTPUTS):
        np.greater_equal(probability[..., place, :, :], thresholds[edge], out=masks[..., place, :, :])
    masks[..., 1, :, :] &= masks[..., 0, :, :]
    return masks


def cleaned(
    probability: NDArray[np.float32], thresholds: Thresholds, island: float = ISLAND, hole: float = HOLE
) -> NDArray[np.float32]:
    """Drop small islands and fill small holes of one photo's masks.

    Args:
        probability: (2, H, W).
        thresholds: the thresholds that will be applied to it.
        island: components smaller than this share of the largest one are dropped.
        hole: holes smaller than this share of the mask are filled.

    Returns:
        The probability, with 0 in the islands that are dropped and 1 in the holes that are filled.
    """
    clean = probability.copy()
    for place in range(len(OUTPUTS)):  # an island of the whole mask is dropped from the tight one too
        clean[place:, _islands(cut(clean, thresholds)[place], island)] = 0
    for place, mask in enumerate(cut(clean, thresholds)):
        clean[: place + 1, _holes(mask, hole)] = 1  # a hole of the tight mask is filled in the whole one too
    return clean


def _islands(mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Return the components of a mask that are smaller than this share of its largest one."""
    from scipy.ndimage import label  # here, because a command that only identifies a model does not need it

    components, count = label(mask, _EIGHT_NEIGHBOURS)
    if count < 2:
        return np.zeros_like(mask)
    sizes = np.bincount(components.ravel())
    sizes[0] = sizes.max()  # the background
    found: NDArray[np.bool_] = (sizes < share * sizes[1:].max())[components]
    return found


def _holes(mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Return the holes of a mask that are smaller than this share of it; a hole does not touch the frame."""
    from scipy.ndimage import label  # here, as above

    components, _ = label(~mask)
    sizes = np.bincount(components.ravel())
    filled = sizes < share * mask.sum()
    frame = (components[0], components[-1], components[:, 0], components[:, -1])
    filled[np.concatenate(frame)] = False
    filled[0] = False  # the mask itself
    found: NDArray[np.bool_] = filled[components]
    return found
