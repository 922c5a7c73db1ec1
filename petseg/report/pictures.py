"""Photos and masks as data URIs, small enough that hundreds fit into one page."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST_PX = 256  # the longest side; larger photos are shrunk
_JPEG_QUALITY = 80


def photo_uri(photo: NDArray[np.uint8]) -> str:
    """Return a photo, (S, S, 3) uint8, as a JPEG in a data URI."""
    picture = _shrunk(Image.fromarray(photo), Image.Resampling.LANCZOS)
    return _uri(picture, "jpeg", quality=_JPEG_QUALITY, optimize=True)


def mask_uri(mask: NDArray[np.bool_]) -> str:
    """Return a mask, (S, S) bool, as a PNG in a data URI: one bit a pixel, opaque where the mask is."""
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 0, 0, 0])
    return _uri(_shrunk(picture, Image.Resampling.NEAREST), "png", bits=1, transparency=0, optimize=True)


def _shrunk(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    return picture if picture.width <= LARGEST_PX else picture.resize((LARGEST_PX, LARGEST_PX), how)


def _uri(picture: Image.Image, kind: str, **options: int) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
