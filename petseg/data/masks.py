"""Read and write masks in an .npz file, with eight pixels in a byte."""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petseg.core.files import read_file, written_atomically
from petseg.errors import DataError

# Raised by numpy and zipfile for files of another format.
_UNREADABLE = (
    *(FileNotFoundError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(OverflowError, MemoryError, zipfile.BadZipFile, zlib.error),
)


def save_masks(path: Path, masks: NDArray[np.bool_], **beside: NDArray[Any]) -> None:
    """Write masks, and small arrays that belong to them.

    Args:
        path: an .npz file.
        masks: (..., S, S) bool.
        beside: the other arrays, by name.
    """
    packed = np.packbits(masks, axis=-1)
    with written_atomically(path) as file:
        np.savez_compressed(file, allow_pickle=False, packed=packed, shape=np.array(masks.shape), **beside)


def load_masks(path: Path, *axes: str) -> tuple[NDArray[np.bool_], dict[str, NDArray[Any]]]:
    """Read what ``save_masks`` wrote: the masks, and the arrays beside them.

    Args:
        path: an .npz file.
        axes: names of the masks' axes before the last two. If given, the file must hold an array of whole
            numbers for each name, as long as the axis. It may hold one for a further axis, outputs.

    Raises:
        DataError: the file is missing or has another format.
        OSError: it can't be read.
    """
    try:
        with np.load(io.BytesIO(read_file(path)), allow_pickle=False) as file:
            beside = {name: file[name] for name in file.files}
        packed, shape = beside.pop("packed"), tuple(beside.pop("shape").tolist())
        if packed.shape != (*shape[:-1], -(-shape[-1] // 8)) or not packed.size:
            raise ValueError(f"{packed.shape} bytes are no masks of shape {shape}")
        masks = np.unpackbits(packed, axis=-1, count=shape[-1]).astype(bool)
        axes += ("outputs",) if axes and "outputs" in beside else ()
        for name, count in zip(axes, shape[:-2], strict=True) if axes else ():
            if beside[name].shape != (count,) or beside[name].dtype.kind not in "iu":
                raise ValueError(f"{name} are not {count} whole numbers")
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: can't be read as packed masks ({reason}); run dvc repro, or dvc pull"
        ) from None
    return masks, beside
