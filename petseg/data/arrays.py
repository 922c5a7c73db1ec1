"""The packed data set: three files that are written once and read by memory map.

``images.npy``   (N, S, S, 3) uint8, RGB
``trimaps.npy``  (N, S, S) uint8; 1 pet, 2 background, 3 border
``index.csv``    one row per photo: name, breed, species, split, width, height

Rows are sorted by name, so that the arrays do not depend on the split or on the order in an archive.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.lib import format as npy
from numpy.typing import NDArray

from petseg.core.files import naming, sha256_file
from petseg.data.tables import Kind, read_table
from petseg.errors import DataError

IMAGES, TRIMAPS, INDEX = "images.npy", "trimaps.npy", "index.csv"
COLUMNS = ["name", "breed", "species", "split", "width", "height"]
_KINDS = dict.fromkeys(COLUMNS[:4], Kind.TEXT) | dict.fromkeys(COLUMNS[4:], Kind.WHOLE)
_UNREADABLE = (EOFError, ValueError, TypeError, OverflowError, MemoryError)  # for bytes that are not arrays


@dataclass(frozen=True)
class PetArrays:
    """The packed photos and trimaps, and the facts about each photo."""

    folder: Path
    images: NDArray[np.uint8]
    trimaps: NDArray[np.uint8]
    index: pd.DataFrame

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map the arrays of a folder into memory, without reading them.

        Raises:
            DataError: a file is missing or damaged, or the three do not belong together.
            OSError: a file can't be read.
        """
        try:
            with naming(folder / IMAGES):
                images = npy.open_memmap(folder / IMAGES, mode="r")
            with naming(folder / TRIMAPS):
                trimaps = npy.open_memmap(folder / TRIMAPS, mode="r")
            index = read_table(folder / INDEX, _KINDS)
            if {images.dtype, trimaps.dtype} != {np.dtype(np.uint8)}:
                raise ValueError(f"{IMAGES} and {TRIMAPS} are not of bytes")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, *_UNREADABLE) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{folder}: can't read the packed photos ({reason}); run dvc repro preprocess"
            ) from None
        n, size = images.shape[:2] if images.ndim == 4 else (-1, -1)
        if images.shape != (n, size, size, 3) or trimaps.shape != (n, size, size) or len(index) != n:
            raise DataError(
                f"{folder}: {IMAGES} {images.shape}, {TRIMAPS} {trimaps.shape} and the {len(index)} "
                f"rows of {INDEX} do not belong together; run dvc repro -f preprocess"
            )
        return cls(folder, images, trimaps, index)

    @property
    def size_px(self) -> int:
        """The side of the square photos."""
        return int(self.images.shape[1])

    @cached_property
    def digest(self) -> str:
        """One sha256 of all three files: the hash of the data."""
        return self._digest_of(IMAGES, TRIMAPS, INDEX)

    @cached_property
    def photos_digest(self) -> str:
        """One sha256 of the photos and trimaps, whatever their split."""
        return self._digest_of(IMAGES, TRIMAPS)

    def _digest_of(self, *names: str) -> str:
        digest = hashlib.sha256()
        for name in names:
            digest.update(sha256_file(self.folder / name).encode())
        return digest.hexdigest()

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of ``train``, ``val`` or ``test``.

        Raises:
            DataError: the split has no photo.
        """
        rows = np.flatnonzero(self.index["split"] == split)
        if not rows.size:
            raise DataError(f"{self.folder}: no photo is in the split {split!r}")
        return rows


class RowWriter:
    """Writes the rows of an .npy file in any order, and drops some of them at the end.

    It writes directly to the file and holds no row in memory; a memory map would count as memory.
    """

    def __init__(self, path: Path, n: int, row_shape: Sequence[int]) -> None:
        self._path, self._row_shape = path, tuple(row_shape)
        self._row_bytes = int(np.prod(row_shape))
        path.unlink(missing_ok=True)  # it may be a link into DVC's cache
        self._file = path.open("w+b")
        self._write_header(n)
        self._start = self._file.tell()

    def write(self, row: int, values: NDArray[np.uint8]) -> None:
        """Write one row."""
        self._file.seek(self._start + row * self._row_bytes)
        self._file.write(np.ascontiguousarray(values).data)

    def close(self, keep: Sequence[int]) -> None:
        """Keep only the given rows, in increasing order, and finish the file."""
        for target, source in enumerate(keep):
            if target != source:
                self._file.seek(self._start + source * self._row_bytes)
                row = self._file.read(self._row_bytes)
                self._file.seek(self._start + target * self._row_bytes)
                self._file.write(row)
        self._file.truncate(self._start + len(keep) * self._row_bytes)
        self._file.seek(0)
        self._write_header(len(keep))
        assert self._file.tell() == self._start  # numpy pads headers to whole 64 bytes
        self._file.close()

    def _write_header(self, n: int) -> None:
        npy.write_array_header_1_0(
            self._file, {"descr": "|u1", "fortran_order": False, "shape": (n, *self._row_shape)}
        )
