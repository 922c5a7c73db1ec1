"""Masks in a file: eight pixels a byte, in an .npz."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petseg.core.files import naming, written_atomically
from petseg.errors import DataError


def save_masks(path: Path, masks: NDArray[np.bool_], **beside: NDArray[Any]) -> None:
    """Write masks and small arrays that belong to them.

    Args:
        path: an .npz file.
        masks: (..., S, S) bool.
        beside: other arrays, by name.
    """
    packed = np.packbits(masks, axis=-1)
    with written_atomically(path) as file:
        np.savez_compressed(file, allow_pickle=False, packed=packed, shape=np.array(masks.shape), **beside)


def load_masks(path: Path) -> tuple[NDArray[np.bool_], dict[str, NDArray[Any]]]:
    """Read what ``save_masks`` wrote: the masks, and the arrays beside them.

    Raises:
        DataError: the file is absent or of another format.
        OSError: it can't be read.
    """
    try:
        with naming(path), path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            beside = {name: file[name] for name in file.files}
        packed, shape = beside.pop("packed"), beside.pop("shape")
    except (FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read as packed masks ({error})") from None
    return np.unpackbits(packed, axis=-1, count=int(shape[-1])).astype(bool), beside
