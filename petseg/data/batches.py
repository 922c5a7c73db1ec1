"""Turn packed photos and trimaps into a network's input, and into the masks that it should predict."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, device, float32, from_numpy, stack, tensor
from torch.nn import functional as F

from petseg.data.images import BACKGROUND, BORDER, PET
from petseg.params import Boundary

if TYPE_CHECKING:  # prediction needs no pandas
    from petseg.data.arrays import PetArrays

# Those of ImageNet, which all published encoder weights expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Photos:
    """The packed photos of a split, on a device.

    Attributes:
        images: (N, S, S, 3) uint8.
        trimaps: (N, S, S) uint8.
        rows: (N,), the rows of the photos in the arrays.
    """

    images: Tensor
    trimaps: Tensor
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


def load_photos(arrays: "PetArrays", split: str, where: device) -> Photos:
    """Load the photos of a split onto a device."""
    rows = arrays.rows(split)
    images, trimaps = from_numpy(arrays.images[rows]), from_numpy(arrays.trimaps[rows])
    return Photos(images.to(where), trimaps.to(where), rows)


def normalize(photos: Tensor) -> Tensor:
    """Standardize colours.

    Args:
        photos: (N, 3, H, W) float in [0, 1].

    Returns:
        The same shape and memory format.
    """
    mean, std = (tensor(v, device=photos.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (photos - mean) / std


def to_input(photos: Tensor) -> Tensor:
    """Turn packed photos into a network's input.

    Args:
        photos: (N, H, W, 3) uint8.

    Returns:
        (N, 3, H, W) float, channels_last in memory.
    """
    return normalize(photos.permute(0, 3, 1, 2).to(float32) / 255)


def masks_of_outputs(trimaps: Tensor) -> Tensor:
    """Turn trimaps into the masks for a network's two outputs, (N, 2, H, W) float in {0, 1}, as OUTPUTS."""
    return stack([trimaps != BACKGROUND, trimaps == PET], dim=1).to(float32)


def mask_of_rule(trimaps: Tensor, boundary: Boundary) -> tuple[Tensor, Tensor | None]:
    """Turn trimaps into masks, by the boundary rule.

    Args:
        trimaps: (N, H, W) uint8 or float; 1 pet, 2 background, 3 border.
        boundary: how the border counts.

    Returns:
        mask: (N, 1, H, W) float in {0, 1}; 1 is pet.
        valid: (N, 1, H, W) float, 0 where a pixel is ignored; None if all pixels count.
    """
    trimaps = trimaps.unsqueeze(1)
    pet, border = trimaps == PET, trimaps == BORDER
    if boundary == "foreground":
        pet = pet | border
    valid = (~border).to(float32) if boundary == "ignore" else None
    return pet.to(float32), valid


def mirrored(photos: Tensor) -> Tensor:
    """Return (N, C, H, W) photos or logits with left and right exchanged."""
    return photos.flip(-1)


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Resize (N, C, H, W) float maps, bilinear, with antialiasing if they shrink."""
    return F.interpolate(maps, (height, width), mode="bilinear", antialias=True)
