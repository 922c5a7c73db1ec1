"""One photo, one trimap: from the bytes of a file to an array of the network's size."""

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from petseg.errors import BadImage

PET, BACKGROUND, BORDER = 1, 2, 3

_REDUCING_GAP = 2.0
MAX_PIXELS = 64_000_000  # as RGB 192 MB; a phone's largest photos pass
# All that Pillow decodes itself: for PostScript it would start Ghostscript, on anybody's program.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX"),
    *("SGI", "PSD"),
)
_HEIF = b"ftyp"  # how a file of an iPhone goes on after four bytes; so does AVIF
# By which a file in a folder is known as a photo, whatever is in it then.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
        *(".heic", ".heif", ".hif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
        *(".pcx", ".sgi", ".psd"),
    )
)
_16_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def decode_photo(data: bytes) -> Image.Image:
    """Decode a picture of any kind that Pillow decodes itself, or HEIC, to 8-bit RGB, upright by its EXIF.

    An alpha channel is dropped, and of an animation the first frame is taken.

    Raises:
        BadImage: it is not a picture, is cut short, or has more than MAX_PIXELS.
    """
    image = open_picture(data)
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # noqa: BLE001  (of metadata that can't be read; the photo can be)
        image = open_picture(data)
    return _to_rgb(image)


def decode_trimap(data: bytes) -> Image.Image:
    """Decode a trimap of one byte a pixel: 1 pet, 2 background, 3 the border between them.

    Raises:
        BadImage: it is not a picture of one channel, or holds another value.
    """
    image = open_picture(data)
    if image.mode not in ("L", "P"):
        raise BadImage(f"trimap has mode {image.mode}, expected one 8-bit channel")
    values = np.asarray(image)
    for value in (values.min(), values.max()):
        if not PET <= value <= BORDER:
            raise BadImage(f"trimap holds the value {value}, expected only 1, 2 and 3")
    return Image.fromarray(values)


def decode_pair(
    photo: bytes, trimap: bytes, size_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int]]:
    """Decode a photo and its trimap and resize both to a square.

    Returns:
        The photo, (size_px, size_px, 3) uint8 RGB; the trimap, (size_px, size_px) uint8 in
        {1, 2, 3}; and the photo's own (width, height).

    Raises:
        BadImage: one of them can't be used, or their sizes differ.
    """
    image, labels = decode_photo(photo), decode_trimap(trimap)
    if image.size != labels.size:
        raise BadImage("trimap is {}x{}, its photo {}x{}".format(*labels.size, *image.size))
    return resize_photo(image, size_px), resize_trimap(labels, size_px), image.size


def resize_photo(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Resize to a (size_px, size_px, 3) square, bilinear with antialiasing.

    A photo of many times that size is first shrunk by a whole factor, to at least twice it, which is faster.
    """
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP))


def resize_trimap(trimap: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Resize to a (size_px, size_px) square by the nearest pixel, which keeps labels labels."""
    return np.asarray(trimap.resize((size_px, size_px), Image.Resampling.NEAREST))


def open_picture(data: bytes) -> Image.Image:
    """Open and decode a picture as it is stored.

    Raises:
        BadImage: it is not a picture, is cut short, or has more than MAX_PIXELS; whatever Pillow raises.
    """
    if not data:
        raise BadImage("file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats(data))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
    except Image.DecompressionBombError:  # Pillow's own limit is higher
        raise BadImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels") from None
    except UnidentifiedImageError:
        raise BadImage("not a picture of a known format") from None
    except Exception as error:  # noqa: BLE001  (Pillow's decoders raise anything, SyntaxError to struct.error)
        raise BadImage(f"can't be decoded: {error}") from None
    return image


def _formats(data: bytes) -> tuple[str, ...]:
    return (*_FORMATS, *_heif()) if data[4:8] == _HEIF else _FORMATS


@cache
def _heif() -> tuple[str, ...]:
    import pi_heif  # not above: few need it

    pi_heif.register_heif_opener()
    return ("HEIF",)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _16_BIT:  # convert() would clip to 255, which makes such a photo white
        shades = np.asarray(image, dtype=np.int64)
        if shades.min() < 0 or shades.max() > 0xFFFF:
            raise BadImage("holds more than 16 bits a pixel, whose range is not known")
        return Image.fromarray((shades >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImage("holds floating-point pixels, whose range is not known")
    if image.mode == "RGB":
        return image
    return image.convert("RGBA" if "transparency" in image.info else "RGB").convert("RGB")
