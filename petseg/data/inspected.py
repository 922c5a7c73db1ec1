"""Open a data set on this machine, and examine each of its photos and masks."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petseg.core.files import read_file
from petseg.core.project import expanded
from petseg.core.urls import without_secrets
from petseg.data.archives import ANNOTATIONS, MAX_MEMBER_BYTES, PHOTOS
from petseg.data.encodings import mask_values, to_trimap
from petseg.data.images import BACKGROUND, PET, decode_photo, decode_trimap, resize_photo
from petseg.data.listing import LeftOut, Listed
from petseg.data.own_folder import Pair, find_own, read_own
from petseg.data.preprocess import photo_files, read_lists, trimap_files
from petseg.errors import BadImage, DownloadError
from petseg.params import Masks

_SHEET_PX = 320  # longer side of a photo in the sheet
_FRAME = 0.02  # width of the strip along a photo's edges, as a share of its shorter side
Size = tuple[int, int]  # width and height, px
Files = Callable[[], Iterator[tuple[str, bytes]]]


@dataclass(frozen=True)
class Source:
    """A data set on this machine.

    Attributes:
        where: its folder, or its CSV of pairs.
        kind: archives, a folder, or pairs of a CSV; in words.
        masks: the encoding of its masks.
        listed: its photos, sorted by name.
        left_out: photos that can't be used, and files that are not used.
        mask_files: yields the name and the content of each mask, in any order.
        photo_files: yields the name and the content of each photo, in any order.
        trimap_of: returns the trimap for a mask's content and stored values; raises BadImage.
    """

    where: str
    kind: str
    masks: Masks
    listed: list[Listed]
    left_out: list[LeftOut]
    mask_files: Files
    photo_files: Files
    trimap_of: Callable[[bytes, NDArray[np.integer]], NDArray[np.uint8]]


@dataclass(frozen=True)
class MaskSeen:
    """The facts about a mask.

    Attributes:
        size: None if it can't be decoded.
        coverage: share of pixels that are pet or border; None if a value does not belong to the encoding.
        wrong: why preprocess would refuse it.
        doubt: what else is odd.
        small: (h, w) uint8, a small copy of the trimap for the sheet.
    """

    size: Size | None = None
    coverage: float | None = None
    wrong: str | None = None
    doubt: str | None = None
    small: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class PhotoSeen:
    """The facts about a photo: its upright size, a hash of its packed pixels, a small copy for the sheet."""

    size: Size | None = None
    digest: bytes = b""
    wrong: str | None = None
    small: NDArray[np.uint8] | None = None


def is_remote(source: str) -> bool:
    """Return whether a source is on a server."""
    return source == "oxford" or "://" in source


def open_source(source: str, masks: Masks, sample: Path, root: Path) -> Source:
    """Open a data set on this machine.

    Args:
        source: a value of data.source.
        masks: the encoding of the masks, if the source is a folder of photos and masks.
        sample: folder of the photos that come with the repository.
        root: the main repository.

    Raises:
        DownloadError: it is not on this machine, or is not a data set.
        DataError: its lists are wrong.
    """
    if is_remote(source):
        raise DownloadError(
            f"data.source: {without_secrets(source)} is not on this machine; "
            "run dvc repro download, or give a folder"
        )
    own = find_own(source, root)
    if own is not None:
        found = read_own(own)
        return Source(
            where=str(own),
            kind="pairs of a CSV" if own.is_file() else "a folder of photos and masks",
            masks=masks,
            listed=[pair.listed for pair in found.pairs],
            left_out=found.left_out,
            mask_files=lambda: _pair_files(found.pairs, "mask"),
            photo_files=lambda: _pair_files(found.pairs, "photo"),
            trimap_of=lambda _, values: to_trimap(values, masks),
        )
    folder = sample if source == "sample" else root / expanded(source)
    if not folder.is_dir():
        raise DownloadError(f"data.source: {source}: no such folder")
    for name in (PHOTOS, ANNOTATIONS):
        if not (folder / name).is_file():
            raise DownloadError(f"{folder}: has neither {name}, nor images/ and masks/, nor pairs.csv")
    listed, left_out = read_lists(folder)
    names = {photo.name for photo in listed}
    return Source(
        where=str(folder),
        kind="archives",
        masks="trimap",
        listed=listed,
        left_out=left_out,
        mask_files=lambda: trimap_files(folder, names),
        photo_files=lambda: photo_files(folder, names),
        trimap_of=lambda data, _: np.asarray(decode_trimap(data)),
    )


def doubt_of(trimap: NDArray[np.uint8]) -> str | None:
    """Return what is odd about a mask: it is empty, full, or looks inverted; None if nothing is.

    It looks inverted if most of the photo's frame is pet while most of its middle is not.

    Args:
        trimap: (H, W) uint8.
    """
    pet = trimap != BACKGROUND
    if not (trimap == PET).any():
        return "its mask is empty: no pixel is pet"
    if pet.all():
        return "its mask is full: every pixel is pet"
    height, width = pet.shape
    edge = max(1, round(_FRAME * min(height, width)))
    frame = np.ones_like(pet)
    frame[edge:-edge, edge:-edge] = False
    middle = pet[height // 4 : height - height // 4, width // 4 : width - width // 4]
    if pet[frame].mean() > 0.5 > middle.mean():
        return "its mask looks inverted: most of the frame is pet, most of the middle is not"
    return None


def _pair_files(pairs: Sequence[Pair], part: str) -> Iterator[tuple[str, bytes]]:
    for pair in pairs:
        yield pair.listed.name, read_file(pair.mask if part == "mask" else pair.photo, MAX_MEMBER_BYTES)


def look_at_mask(file: tuple[str, bytes], source: Source) -> tuple[MaskSeen, Counter[int]]:
    """Return the facts about a mask, and its number of pixels by stored value."""
    try:
        values = mask_values(file[1], source.masks)
    except BadImage as refusal:
        return MaskSeen(wrong=f"its mask {refusal}"), Counter()
    size = values.shape[1], values.shape[0]
    found, counts = np.unique(values, return_counts=True)
    counted = Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    try:
        trimap = source.trimap_of(file[1], values)
    except BadImage as refusal:
        return MaskSeen(size, wrong=f"its mask {refusal}".replace("mask trimap", "trimap")), counted
    small = _small(Image.fromarray(trimap), Image.Resampling.NEAREST)
    return MaskSeen(size, float((trimap != BACKGROUND).mean()), doubt=doubt_of(trimap), small=small), counted


def look_at_photo(file: tuple[str, bytes], image_size: int, shown: set[str]) -> PhotoSeen:
    name, data = file
    try:
        photo = decode_photo(data)
    except BadImage as refusal:
        return PhotoSeen(wrong=str(refusal))
    digest = hashlib.sha256(resize_photo(photo, image_size).data).digest()
    small = _small(photo, Image.Resampling.BILINEAR) if name in shown else None
    return PhotoSeen(photo.size, digest, small=small)


def _small(picture: Image.Image, how: Image.Resampling) -> NDArray[np.uint8]:
    factor = min(1.0, _SHEET_PX / max(picture.size))
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return np.asarray(picture.resize((width, height), how))
