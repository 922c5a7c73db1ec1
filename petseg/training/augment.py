"""Augment a whole batch of photos and trimaps at once, on its device.

Mirror, zoom, stretch, rotation and shift are one affine map per photo, so pixels are sampled only once, at
the size of training. Brightness, contrast and saturation are one 3x4 colour matrix per photo. The changes of
a photo are drawn from (seed, epoch, photo) alone, so they do not depend on workers or interruptions. Only
pasting uses another photo, the neighbour in the batch, and (seed, epoch) determine which one that is.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from petseg.data.images import BACKGROUND
from petseg.params import AugmentParams

_DRAWS = (
    *("flip", "scale", "aspect", "rotate", "shift_x", "shift_y"),
    *("brightness", "contrast", "saturation", "paste"),
)
AUGMENTATIONS = len(_DRAWS)  # random numbers that are drawn for a photo
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_AUGMENTATION_STREAM = 1  # separate from the stream that orders the photos


def draw(seed: int, epoch: int, n: int) -> Tensor:
    """Draw the random numbers of ``n`` photos for one epoch.

    Returns:
        (n, 10) float in [0, 1); row i is the same for every n > i.
    """
    random = np.random.default_rng((seed, epoch, _AUGMENTATION_STREAM))
    return torch.from_numpy(random.random((n, AUGMENTATIONS), dtype=np.float32))


def augment(
    photos: Tensor, trimaps: Tensor, draws: Tensor, params: AugmentParams, size_px: int
) -> tuple[Tensor, Tensor]:
    """Change each photo of a batch by its own draws, and its trimap in the same way.

    Args:
        photos: (N, H, W, 3) uint8.
        trimaps: (N, H, W) uint8.
        draws: (N, 10) float in [0, 1), from ``draw``.
        params: how strong each change may be; 0 turns it off.
        size_px: side of the new photos, S.

    Returns:
        photos: (N, 3, S, S) float in [0, 1].
        trimaps: (N, S, S), with the same labels.
    """
    images = photos.permute(0, 3, 1, 2).to(torch.float32) / 255
    chance = dict(zip(_DRAWS, draws.to(images.device).unbind(1), strict=True))
    moves = params.flip or params.scale or params.aspect or params.rotate_deg or params.translate
    if moves or images.shape[2:] != (size_px, size_px):
        shape = [*images.shape[:2], size_px, size_px]
        grid = F.affine_grid(_affine(chance, params), shape, align_corners=False)
        images = F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
        labels = trimaps.unsqueeze(1).to(torch.float32)
        trimaps = F.grid_sample(labels, grid, "nearest", "reflection", align_corners=False).squeeze(1)
    if params.brightness or params.contrast or params.saturation:
        images = _recolour(images, chance, params)
    if params.paste:
        images, trimaps = _paste(images, trimaps, chance["paste"] < params.paste)
    return images, trimaps


def _around(chance: Tensor, centre: float, strength: float) -> Tensor:
    """Map [0, 1) to the range from centre - strength to centre + strength."""
    return centre + strength * (2 * chance - 1)


def _affine(chance: dict[str, Tensor], params: AugmentParams) -> Tensor:
    """Return (N, 2, 3): maps from a place in the new photo to one in the old, both in [-1, 1]."""
    mirror = torch.where(chance["flip"] < params.flip, -1.0, 1.0)
    shrink = 1 / _around(chance["scale"], 1, params.scale)
    angle = torch.deg2rad(_around(chance["rotate"], 0, params.rotate_deg))
    stretch = (1 + params.aspect) ** _around(chance["aspect"], 0, 0.5)
    cos, sin = shrink * torch.cos(angle), shrink * torch.sin(angle)
    shift_x = _around(chance["shift_x"], 0, 2 * params.translate)
    shift_y = _around(chance["shift_y"], 0, 2 * params.translate)
    across = [mirror * cos / stretch, -mirror * sin / stretch, shift_x]
    rows = [*across, sin * stretch, cos * stretch, shift_y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def _paste(images: Tensor, trimaps: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the neighbour's pet out along its border, and paste it onto each of the chosen photos.

    Source: Ghiasi et al. 2021 (arXiv:2012.07177), without a further change of size.
    """
    other_trimaps = trimaps.roll(1, 0)
    pet = (other_trimaps != BACKGROUND) & chosen.view(-1, 1, 1)
    return (
        torch.where(pet.unsqueeze(1), images.roll(1, 0), images),
        torch.where(pet, other_trimaps, trimaps),
    )


def _recolour(images: Tensor, chance: dict[str, Tensor], params: AugmentParams) -> Tensor:
    """Scale brightness, then contrast about the mean grey, then saturation about each pixel's grey."""
    brightness, contrast, saturation = (
        _around(chance[name], 1, strength).view(-1, 1, 1)
        for name, strength in (
            ("brightness", params.brightness),
            ("contrast", params.contrast),
            ("saturation", params.saturation),
        )
    )
    luma = images.new_tensor(_LUMA)
    flat = images.flatten(2)
    mean_grey = (flat.mean(2) @ luma).view(-1, 1, 1)
    to_grey = luma.expand(3, 3)
    identity = torch.eye(3, device=images.device)
    matrix = brightness * contrast * (saturation * identity + (1 - saturation) * to_grey)
    offset = (1 - contrast) * brightness * mean_grey
    return torch.baddbmm(offset, matrix, flat).clamp_(0, 1).view_as(images)
