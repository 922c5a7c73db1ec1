"""Draws a photo's overlay and cut-out, and the contact sheet of several photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import label, minimum_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from petseg.core.colours import VERMILION, rgb
from petseg.models.masking import Thresholds
from petseg.models.predictor import OwnSize
from petseg.params import OUTPUTS, Edge

SOFTNESS = 0.2  # alpha goes from 0 to 1 over this much probability
JPEG = {"quality": 90}
_BAND_PX = 1 << 18  # how many pixels of a large picture are worked on at once
_OUTLINE_PX = 400  # the outline is one pixel wider for each of these on the photo's longer side
_THUMBNAIL_PX, _CAPTION_PX, _GAP_PX, _COLUMNS = 240, 20, 12, 6  # of the contact sheet


def draw_overlay(photo: Image.Image, pet: NDArray[np.uint8]) -> None:
    """Fade the background of a photo and draw an outline around the pet, in place.

    Args:
        photo: the photo, RGB.
        pet: the mask, (H, W); 255 is pet.
    """
    width_px = 1 + max(photo.size) // _OUTLINE_PX
    for rows in _bands(pet.shape, width_px):  # because the outline needs width_px rows above and below
        above = min(width_px, rows.start)
        band = photo.crop((0, rows.start, photo.width, rows.stop))
        faded = band.convert("L").point([192 + shade // 4 for shade in range(256)]).convert("RGB")
        faded.paste(band, mask=Image.fromarray(pet[rows]))
        near = pet[rows.start - above : rows.stop + width_px] > 0
        outline = _outline(near, width_px)[above : above + band.height]
        faded.paste(rgb(VERMILION), mask=Image.fromarray(outline))
        photo.paste(faded, (0, rows.start))


def alpha_of(own: OwnSize, edge: Edge) -> NDArray[np.uint8]:
    """Return how opaque each pixel of a cut-out is, (H, W), from 0 to 255.

    For the tight mask, only that mask is opaque. From its edge, alpha falls over the border strip to 0 midway
    to the edge of the whole mask, by how near the two probabilities are to their thresholds. Farther out, the
    strip is more background than hair, and would show as a rim.

    For the whole mask, and if there is no strip (as for a network with one output), alpha falls where the
    network is unsure; in the mask it is 128 or more.

    Args:
        own: both outputs for the photo.
        edge: the wanted mask.
    """
    falls = edge == "tight" and any((whole != tight).any() for _, _, (whole, tight) in own.strips())
    wanted, alpha = OUTPUTS.index(edge), np.empty(own.shape, np.uint8)
    for columns, probability, masks in own.strips():
        alpha[:, columns] = (
            _alpha_of_strip(probability, masks, own.thresholds)
            if falls
            else _alpha_of_doubt(probability[wanted], masks[wanted], own.thresholds[edge])
        )
    return _beside(alpha, 255 if falls else 128)


def _alpha_of_strip(
    probability: NDArray[np.float32], masks: NDArray[np.bool_], thresholds: Thresholds
) -> NDArray[np.uint8]:
    """Return an alpha that falls over the border strip, (H, W); both arguments are (2, H, W)."""
    whole, tight = masks
    strip = whole & ~tight
    within = probability[0][strip] - np.float32(thresholds["whole"])
    outside = np.maximum(np.float32(thresholds["tight"]) - probability[1][strip], 0)
    alpha: NDArray[np.uint8] = tight.astype(np.uint8) * np.uint8(255)
    nearer = np.maximum(within - outside, 0) / np.maximum(within + outside, np.finfo(np.float32).tiny)
    alpha[strip] = 254 * nearer
    return alpha


def _alpha_of_doubt(
    probability: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float
) -> NDArray[np.uint8]:
    """Return an alpha that falls at the edge of a mask, (H, W), over SOFTNESS of probability."""
    doubt = probability - np.float32(threshold)
    doubt *= 255 / SOFTNESS
    doubt += 128
    alpha: NDArray[np.uint8] = np.clip(doubt, 0, 255, out=doubt).astype(np.uint8)
    np.minimum(alpha, 127, out=alpha, where=~mask)  # rounding may have made it 128
    return alpha


def _beside(alpha: NDArray[np.uint8], opaque: int) -> NDArray[np.uint8]:
    """Make transparent, in place, the parts that do not touch the mask, such as around a dropped island.

    The picture is labelled in bands, because the labels of the whole would take 4 bytes a pixel. Parts that
    touch across the edge of two bands are joined.

    Args:
        alpha: how opaque each pixel is, (H, W).
        opaque: the alpha from which a pixel is in the mask.
    """
    bands = _bands(alpha.shape)

    @lru_cache(1)  # so that a photo with one band is labelled once
    def parts_of(band: int) -> tuple[NDArray[np.int32], int]:
        parts, count = label(alpha[bands[band]] > 0, np.ones((3, 3), np.uint8))
        return parts, count

    # For each band: how many parts come before it, which of its parts are in the mask, and which parts touch.
    first, within, touching = [0], [], []
    width, last_row = alpha.shape[1], np.zeros(alpha.shape[1], np.intp)
    for band, rows in enumerate(bands):
        parts, count = parts_of(band)
        ends = np.where(parts[[0, -1]] > 0, parts[[0, -1]] + np.intp(first[-1]), 0)
        within.append(np.unique(parts[alpha[rows] >= opaque]) + first[-1])
        for shift in (-1, 0, 1):
            above = last_row[max(0, shift) : width + min(0, shift)]
            pairs = np.stack([above, ends[0, max(0, -shift) : width - max(0, shift)]])
            touching.append(np.unique(pairs[:, pairs.all(axis=0)], axis=1))
        last_row = ends[1]
        first.append(first[-1] + count)
    one, other = np.concatenate(touching, axis=1)
    shape = (first[-1] + 1,) * 2
    _, whole = connected_components(coo_array((np.ones(len(one)), (one, other)), shape), directed=False)
    belongs = np.zeros(len(whole), np.uint8)
    belongs[whole[np.concatenate(within)]] = 1
    for band, rows in enumerate(bands):
        parts, count = parts_of(band)
        alpha[rows] *= belongs[whole[first[band] : first[band] + count + 1]][parts]
    return alpha


@dataclass(frozen=True)
class Cutout:
    """The pet alone, an RGBA picture that is drawn part by part while it is written.

    Attributes:
        photo: the photo, RGB.
        alpha: how opaque each pixel is, (H, W). Transparent pixels are black, so that they hide nothing.
    """

    photo: Image.Image
    alpha: NDArray[np.uint8]
    mode = "RGBA"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.photo.size

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """Draw a part of the picture: left, top, right, bottom."""
        left, top, right, bottom = box
        alpha = np.ascontiguousarray(self.alpha[top:bottom, left:right])
        photo = self.photo.crop(box)
        picture = Image.composite(photo, Image.new("RGB", photo.size), Image.fromarray(alpha > 0))
        picture.putalpha(Image.fromarray(alpha))
        return picture


def _bands(shape: tuple[int, ...], fewest: int = 1) -> list[slice]:
    """Return the rows of each band of a picture; a band has at least ``fewest`` rows, but for the last."""
    rows = max(fewest, _BAND_PX // shape[1])
    return [slice(top, min(top + rows, shape[0])) for top in range(0, shape[0], rows)]


def _outline(pet: NDArray[np.bool_], width_px: int) -> NDArray[np.bool_]:
    """Return the pet's pixels, (H, W), with background within a distance above, below or beside them."""
    inner = pet.copy()
    for axis in range(2):  # outside the picture counts as pet
        size = 2 * min(width_px, pet.shape[axis]) + 1
        inner &= minimum_filter1d(pet, size, axis, mode="constant", cval=1)
    return pet & ~inner


def colour_profile(photo: Image.Image) -> bytes | None:
    """Return a photo's RGB colour profile, which its overlay and cut-out need too; None if it has none."""
    profile: bytes = photo.info.get("icc_profile") or b""
    return profile if profile[16:20] == b"RGB " else None


def thumbnail(picture: Image.Image) -> Image.Image:
    """Return a picture in the size that a contact sheet has."""
    return ImageOps.contain(picture, (_THUMBNAIL_PX, _THUMBNAIL_PX))


def contact_sheet(cells: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Arrange small pictures in rows, each with its name below."""
    columns = min(_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    width, height = _THUMBNAIL_PX + _GAP_PX, _THUMBNAIL_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, (name, picture) in enumerate(cells):
        left, top = _GAP_PX + place % columns * width, _GAP_PX + place // columns * height
        sheet.paste(
            picture,
            (left + (_THUMBNAIL_PX - picture.width) // 2, top + (_THUMBNAIL_PX - picture.height) // 2),
        )
        while len(name) > 1 and pen.textlength(name, font) > _THUMBNAIL_PX:
            name = f"{name.rstrip('…')[:-1]}…"
        pen.text((left + _THUMBNAIL_PX / 2, top + _THUMBNAIL_PX + 3), name, "#333333", font, anchor="ma")
    return sheet
