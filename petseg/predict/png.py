"""Writes PNG files of masks and cut-outs fast.

Pillow tries five filters on each row of a PNG, and blocks other Python threads meanwhile. One filter, Sub,
takes little more than half as long, for a seventh more bytes (benchmarks/predicting.py). Pillow still reads
all pictures, and writes the others.

Source: Portable Network Graphics, https://www.w3.org/TR/png-3/
"""

import struct
import zlib
from typing import IO, Protocol

import numpy as np
from PIL import Image

_COLOUR_TYPES = {"L": 0, "RGBA": 6}  # by mode; a mode has a letter for each channel
_SUB = 1  # the filter that stores each byte as the difference to the byte of the pixel on its left
_BAND_ROWS = 64  # rows at once, so that a large picture is not in memory twice


class Picture(Protocol):
    """A picture that a PNG can be written of: Pillow's, or an object that draws itself part by part."""

    @property
    def mode(self) -> str: ...
    @property
    def size(self) -> tuple[int, int]: ...
    def crop(self, box: tuple[int, int, int, int]) -> Image.Image: ...


def write_png(file: IO[bytes], picture: Picture, profile: bytes | None = None) -> None:
    """Write a picture with 8 bits a channel as PNG.

    Args:
        file: the file to write to.
        picture: the picture, with mode L or RGBA.
        profile: its ICC colour profile, if it has one.
    """
    width, height, channels = *picture.size, len(picture.mode)
    file.write(b"\x89PNG\r\n\x1a\n")
    _write_chunk(file, b"IHDR", struct.pack(">2I5B", width, height, 8, _COLOUR_TYPES[picture.mode], 0, 0, 0))
    if profile:
        _write_chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    # Level 1 and only runs: a search for other repetitions is slower, and filtered rows have few.
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    for top in range(0, height, _BAND_ROWS):
        band = np.asarray(picture.crop((0, top, width, min(top + _BAND_ROWS, height))))
        rows = band.reshape(len(band), width * channels)
        filtered = np.empty((len(rows), 1 + width * channels), np.uint8)
        filtered[:, 0] = _SUB
        filtered[:, 1 : 1 + channels] = rows[:, :channels]
        np.subtract(rows[:, channels:], rows[:, :-channels], out=filtered[:, 1 + channels :])
        if ready := deflate.compress(filtered.data):
            _write_chunk(file, b"IDAT", ready)
    _write_chunk(file, b"IDAT", deflate.flush())
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: IO[bytes], kind: bytes, content: bytes) -> None:
    file.write(len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4))
