"""A photo and its probability as pictures: mask, overlay, cut-out, contact sheet."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import label

from petseg.core.colours import VERMILION, rgb
from petseg.models.masking import Thresholds
from petseg.params import OUTPUTS, Edge

SOFTNESS = 0.2  # alpha goes from 0 to 1 over this much probability
JPEG = {"quality": 90}
_OUTLINE_PX = 400  # one pixel of outline for so many of the photo's longer side
_THUMBNAIL_PX, _CAPTION_PX, _GAP_PX, _COLUMNS = 240, 20, 12, 6  # of the contact sheet


def mask_picture(pet: NDArray[np.bool_]) -> Image.Image:
    """Return a mask, (H, W), as a picture: 255 is pet."""
    return Image.fromarray(pet.view(np.uint8) * np.uint8(255))


def overlay_picture(photo: Image.Image, pet: NDArray[np.bool_]) -> Image.Image:
    """Fade what is not pet, by the mask (H, W), and draw an outline around what is."""
    faded = photo.convert("L").point([192 + shade // 4 for shade in range(256)]).convert("RGB")
    picture = Image.composite(photo, faded, Image.fromarray(pet))
    width_px = 1 + max(photo.size) // _OUTLINE_PX
    picture.paste(rgb(VERMILION), mask=Image.fromarray(_outline(pet, width_px)))
    return picture


def alpha_of(
    probability: NDArray[np.float32], masks: NDArray[np.bool_], thresholds: Thresholds, edge: Edge
) -> NDArray[np.uint8]:
    """Return how opaque each pixel of a cut-out is, (H, W).

    The tight mask alone is opaque, 255. From its edge alpha falls over the border strip, to 0 midway to the
    edge of the whole mask, by how near the two probabilities are to their thresholds: beyond, the strip is
    more background than hair, and would show as a rim. Around a whole mask that is wanted, and where there is
    no strip, as of a network with one output, it falls over the network's doubt; 128 or more is of the mask.

    Args:
        probability: (2, H, W), of OUTPUTS.
        masks: (2, H, W), of the same.
        thresholds: by which they were cut.
        edge: which mask is wanted.
    """
    whole, tight = masks
    if edge == "whole" or np.array_equal(whole, tight):
        wanted = OUTPUTS.index(edge)
        return _alpha_of_doubt(probability[wanted], masks[wanted], thresholds[edge])
    strip = whole & ~tight
    within = probability[0][strip] - np.float32(thresholds["whole"])
    outside = np.maximum(np.float32(thresholds["tight"]) - probability[1][strip], 0)
    alpha: NDArray[np.uint8] = tight.astype(np.uint8) * np.uint8(255)
    nearer = np.maximum(within - outside, 0) / np.maximum(within + outside, np.finfo(np.float32).tiny)
    alpha[strip] = 254 * nearer
    return _beside(alpha, tight)


def _alpha_of_doubt(
    probability: NDArray[np.float32], mask: NDArray[np.bool_], threshold: float
) -> NDArray[np.uint8]:
    """Return an alpha that falls around a mask, (H, W), over SOFTNESS."""
    doubt = probability - np.float32(threshold)
    doubt *= 255 / SOFTNESS
    doubt += 128
    alpha: NDArray[np.uint8] = np.clip(doubt, 0, 255, out=doubt).astype(np.uint8)
    del doubt  # 4 bytes a pixel
    np.minimum(alpha, 127, out=alpha, where=~mask)  # also where rounding made it 128
    return _beside(alpha, mask)


def _beside(alpha: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Make transparent, in place, what fades apart from the mask, as around an island that was dropped."""
    parts, count = label(alpha > 0, np.ones((3, 3), np.uint8))
    belongs = np.zeros(count + 1, np.uint8)
    belongs[parts[mask]] = 1
    alpha *= belongs[parts]
    return alpha


def cutout_picture(photo: Image.Image, alpha: NDArray[np.uint8]) -> Image.Image:
    """Cut the pet out, by its alpha, (H, W). What has none is black, so that nothing is hidden below it."""
    picture = Image.composite(photo, Image.new("RGB", photo.size), Image.fromarray(alpha > 0))
    picture.putalpha(Image.fromarray(alpha))
    return picture


def _outline(pet: NDArray[np.bool_], width_px: int) -> NDArray[np.bool_]:
    """Return the pixels of pet, (H, W), that have others up to a distance above, below, or beside them."""
    inner = pet.copy()
    for step in range(1, width_px + 1):
        inner[step:] &= pet[:-step]
        inner[:-step] &= pet[step:]
        inner[:, step:] &= pet[:, :-step]
        inner[:, :-step] &= pet[:, step:]
    return pet & ~inner


def colour_profile(photo: Image.Image) -> bytes | None:
    """Return the RGB colour profile that a photo's overlay and cut-out need too, if it has one."""
    profile: bytes = photo.info.get("icc_profile") or b""
    return profile if profile[16:20] == b"RGB " else None


def thumbnail(picture: Image.Image) -> Image.Image:
    """Return a picture small, as a contact sheet has it."""
    return ImageOps.contain(picture, (_THUMBNAIL_PX, _THUMBNAIL_PX))


def contact_sheet(cells: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Lay small pictures out in rows, each with its name below."""
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
