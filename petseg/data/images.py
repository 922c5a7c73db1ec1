"""Decode a photo or a trimap, and resize it to the network's size."""

import io
import re
import tempfile
from collections.abc import Callable
from functools import cache
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from petseg.errors import BadImage

PET, BACKGROUND, BORDER = 1, 2, 3

_REDUCING_GAP = 2.0
MAX_PIXELS = 52_000_000  # enough for what phones call 50 megapixels
MAX_SIDE = 20_000  # px
MAX_SCANNED_PIXELS = 1_000_000_000  # of a JPEG, over all its scans: each covers the whole picture
# Memory for decoding a photo and cutting it out: less than 1 GB with all that predict has loaded.
MAX_DECODING_BYTES = 300_000_000
MAX_PROFILE_BYTES = 1_000_000  # of a colour profile; a larger one is left out
# The most bytes per pixel that decoding takes, as measured; else _USUAL. For JPEG see _bytes_a_pixel.
DECODING = {"AVIF": 14, "HEIF": 13, "JPEG2000": 20, "PSD": 8, "TIFF": 10, "WEBP": 17}
_USUAL = 5  # 4 for Pillow's own picture, and 1 for a mask or an alpha channel
_LARGE_PX = 10_000_000  # a larger photo is never in memory twice
_BAND_PX = 1 << 18
# The formats that Pillow decodes itself. For PostScript it would start Ghostscript on an untrusted program;
# an icon is decoded as soon as it is opened, before its size is known.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "PCX"),
    *("SGI", "PSD"),
)
_HEIF = b"ftyp"  # bytes 5 to 8 of a photo from an iPhone, and of AVIF
# A file in a folder counts as a photo if it has one of these, whatever its content is.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
        *(".heic", ".heif", ".hif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx"),
        *(".sgi", ".psd"),
    )
)
_16_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 0x0112, 322, 323  # tags of EXIF and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]}
_FROM_THE_END = {_TURNS[3], _TURNS[4], _TURNS[7], _TURNS[8]}  # their first row is the last row or column
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def decode_photo(source: bytes | IO[bytes], before: Callable[[int], None] = lambda _: None) -> Image.Image:
    """Decode a picture of any format in ``_FORMATS``, or HEIC, to 8-bit RGB, turned upright by its EXIF.

    An alpha channel is dropped, and of an animation only the first frame is used. Of the metadata, only the
    colour profile is kept.

    Args:
        source: the file, or its content.
        before: called with the number of bytes that decoding takes, before it takes them.

    Raises:
        BadImage: it is not a picture, is cut short, or is too large.
    """
    image = open_picture(source, before)
    return _photo_of(image, _turn_of(image))


def to_photo(image: Image.Image) -> Image.Image:
    """Return a picture from memory as ``decode_photo`` returns a file; the given one stays as it is.

    Raises:
        BadImage: it can't be read to its end, or its pixels have a range that is not known.
    """
    try:
        copy = image.copy()
    except Exception as error:  # noqa: BLE001  (Pillow's decoders raise anything)
        raise BadImage(f"can't be decoded: {_reason(error)}") from None
    return _photo_of(copy, _turn_of(image))


def _photo_of(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    profile = image.info.get("icc_profile")
    try:
        photo = _upright(image, turn)
    except BadImage:
        raise
    except (OSError, ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise BadImage(f"can't be decoded: {_reason(error)}") from None
    kept = isinstance(profile, bytes) and len(profile) <= MAX_PROFILE_BYTES
    photo.info = {"icc_profile": profile} if kept else {}
    return photo


def decode_trimap(data: bytes) -> Image.Image:
    """Decode a trimap with one byte per pixel: 1 pet, 2 background, 3 the border between them.

    Raises:
        BadImage: it is not a picture with one channel, or holds another value.
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

    A much larger photo is first shrunk by a whole factor to at least twice the size, which is faster.
    """
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP))


def resize_trimap(trimap: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Resize to a (size_px, size_px) square by the nearest pixel, so that no new value appears."""
    return np.asarray(trimap.resize((size_px, size_px), Image.Resampling.NEAREST))


def open_picture(source: bytes | IO[bytes], before: Callable[[int], None] = lambda _: None) -> Image.Image:
    """Open and decode a picture as it is stored.

    Args:
        source: the file, or its content.
        before: as in ``decode_photo``.

    Raises:
        BadImage: it is not a picture, is cut short, or is too large, whatever error Pillow raises.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    head = file.read(12)
    file.seek(0)
    if not head:
        raise BadImage("file is empty")
    try:
        image = Image.open(file, formats=_formats(head))
        _check_size(image, bytes_a_pixel := _bytes_a_pixel(image, file))
        before(bytes_a_pixel * image.width * image.height)
        image.load()
    except BadImage:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit is higher
        raise BadImage(f"has more than {MAX_PIXELS / 1e6:.0f} megapixels") from None
    except UnidentifiedImageError:
        raise BadImage("not a picture of a known format") from None
    except Exception as error:  # noqa: BLE001  (Pillow's decoders raise anything, SyntaxError to struct.error)
        raise BadImage(f"can't be decoded: {_reason(error)}") from None
    return image


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_size(image: Image.Image, bytes_a_pixel: int) -> None:
    """Check the size of a picture before any of it is decoded.

    Raises:
        BadImage: it is too large.
    """
    if max(image.size) > MAX_SIDE:
        raise BadImage(f"is more than {MAX_SIDE:,} pixels wide or high")
    allowed = most_pixels(bytes_a_pixel)
    if image.width * image.height > allowed:
        kind = f", which a {image.format} photo may have" if allowed < MAX_PIXELS else ""
        raise BadImage(f"has more than {allowed / 1e6:.0f} megapixels{kind}")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, height = (image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
        if width * height > MAX_PIXELS:  # even if the picture is small
            raise BadImage(f"has tiles of more than {MAX_PIXELS / 1e6:.0f} megapixels")


def most_pixels(bytes_a_pixel: int) -> int:
    """Return how many pixels a photo may have, rounded down to whole megapixels."""
    return min(MAX_PIXELS, MAX_DECODING_BYTES // bytes_a_pixel // 1_000_000 * 1_000_000)


def _bytes_a_pixel(image: Image.Image, file: IO[bytes]) -> int:
    """Return the most bytes per pixel that decoding a picture and cutting it out takes."""
    if image.format in ("JPEG", "MPO"):
        scans = _scans(file)
        if scans * image.width * image.height > MAX_SCANNED_PIXELS:
            raise BadImage(f"has {scans} scans, too many for its size")
        if scans == 1 and not image.info.get("progressive"):
            return _USUAL
        layers: list[tuple[int, int]] = [(across, down) for _, across, down, _ in image.layer]  # type: ignore[attr-defined]
        whole = max(across for across, _ in layers) * max(down for _, down in layers)
        # All coefficients are kept in memory, 2 bytes each.
        return max(_USUAL, 4 + -(-2 * sum(across * down for across, down in layers) // whole))
    if image.format == "HEIF" and image.info.get("bit_depth") == 8:
        return 10
    return DECODING.get(image.format or "", _USUAL)


def _scans(file: IO[bytes]) -> int:
    """Return the number of scans in a JPEG that Pillow has read up to its first scan."""
    place = file.tell()
    content = file.read()
    file.seek(place)
    scans, place = 1, 0
    while (marker := _JPEG_MARKER.search(content, place)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return scans


def _formats(data: bytes) -> tuple[str, ...]:
    return (*_FORMATS, *_heif()) if data[4:8] == _HEIF else _FORMATS


@cache
def _heif() -> tuple[str, ...]:
    import pi_heif  # imported here, because few photos need it

    pi_heif.register_heif_opener()
    return ("HEIF",)


def _upright(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """Return a picture as RGB, turned upright; a large one is closed on the way."""
    _check_mode(image)
    if turn is None and image.mode == "RGB":
        return image
    if image.width * image.height <= _LARGE_PX:
        photo = _to_rgb(image)
        return photo if turn is None else photo.transpose(turn)
    sideways = turn in _SIDEWAYS
    width, height = image.size[::-1] if sideways else image.size
    rows = max(1, _BAND_PX // width)
    tops = range(0, height, rows)
    with tempfile.TemporaryFile() as file:
        for top in tops:
            start, end = top, min(top + rows, height)
            if turn in _FROM_THE_END:
                start, end = height - end, height - start
            band = _to_rgb(image.crop((start, 0, end, width) if sideways else (0, start, width, end)))
            file.write((band if turn is None else band.transpose(turn)).tobytes())
        image.close()
        file.seek(0)
        photo = Image.new("RGB", (width, height))
        for top in tops:
            size = width, min(rows, height - top)
            photo.paste(Image.frombytes("RGB", size, file.read(3 * size[0] * size[1])), (0, top))
    return photo


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how a picture must be turned; None if it is upright, or its metadata can't be read."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (broken metadata; the photo can be read)
        return None


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise BadImage("holds floating-point pixels, whose range is not known")
    if image.mode in _16_BIT:
        lowest, highest = np.ravel(image.getextrema())
        if lowest < 0 or highest > 0xFFFF:
            raise BadImage("holds more than 16 bits a pixel, whose range is not known")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _16_BIT:  # convert() would clip to 255, which makes such a photo white
        shades = np.asarray(image).astype(np.int32) >> 8
        return Image.fromarray(shades.astype(np.uint8)).convert("RGB")
    image.info.pop("transparency", None)  # alpha is dropped, and converting it can fail
    return image.convert("RGB")
