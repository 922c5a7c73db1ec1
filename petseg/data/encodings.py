"""The encodings of masks: which values mean pet. The encoding is a param; it is never guessed."""

import numpy as np
from numpy.typing import NDArray

from petseg.data.images import BACKGROUND, BORDER, PET, open_picture
from petseg.errors import BadImage
from petseg.params import Masks

# The meaning of each value that an encoding allows.
ENCODINGS: dict[Masks, dict[int, int]] = {
    "trimap": {PET: PET, BACKGROUND: BACKGROUND, BORDER: BORDER},
    "binary_255": {0: BACKGROUND, 255: PET},
    "binary_1": {0: BACKGROUND, 1: PET},
}
_ONE_CHANNEL = ("L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
_BLURRED = 4  # a mask with more values than this was smoothed or compressed


def mask_values(data: bytes, masks: Masks) -> NDArray[np.integer]:
    """Decode a mask to its stored values: the indices of a palette, or one of three equal channels.

    Args:
        data: the content of a picture file.
        masks: the encoding, which defines the two values of a picture with 1 bit per pixel.

    Returns:
        (H, W) integers.

    Raises:
        BadImage: it is not a picture, or it is unclear which of its channels is the mask.
    """
    image = open_picture(data)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * np.uint8(255 if masks == "binary_255" else 1)
    if image.mode in _ONE_CHANNEL:
        return np.asarray(image)
    if image.mode not in ("LA", "RGB", "RGBA"):
        raise BadImage(f"has mode {image.mode}; a mask has one channel")
    channels = np.asarray(image)
    if image.mode != "RGB":
        if (channels[..., -1] != 255).any():
            raise BadImage("is partly transparent, so that one may see another mask; save it without alpha")
        channels = channels[..., :-1]
    if (channels != channels[..., :1]).any():
        raise BadImage("is coloured; a mask has one channel, or three equal ones")
    return channels[..., 0]


def to_trimap(values: NDArray[np.integer], masks: Masks) -> NDArray[np.uint8]:
    """Turn the values of a mask into 1 pet, 2 background, 3 border.

    Args:
        values: (H, W) integers, from ``mask_values``.
        masks: the encoding.

    Returns:
        (H, W) uint8.

    Raises:
        BadImage: a value does not belong to the encoding.
    """
    meanings = ENCODINGS[masks]
    trimap = np.zeros(values.shape, np.uint8)
    for value, meaning in meanings.items():
        trimap[values == value] = meaning
    if not trimap.all():
        raise BadImage(_why_not(np.unique(values), masks))
    return trimap


def fitting(values: NDArray[np.integer]) -> list[Masks]:
    """Return the encodings that allow all of these values."""
    return [masks for masks, meanings in ENCODINGS.items() if set(values.tolist()) <= meanings.keys()]


def _why_not(values: NDArray[np.integer], masks: Masks) -> str:
    strange = [value for value in values.tolist() if value not in ENCODINGS[masks]]
    message = f"holds {strange[0]}, which data.masks: {masks} does not allow"
    if close := fitting(values):
        return f"{message}; did you mean {' or '.join(close)}?"
    if len(values) > _BLURRED:
        return (
            f"holds {len(values)} values, such as {strange[0]}: its edges are smoothed, or it was saved as "
            "JPEG; save masks as PNG, without smoothing"
        )
    return f"{message}; it holds {', '.join(map(str, values.tolist()))}"
