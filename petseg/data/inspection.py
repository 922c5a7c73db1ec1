"""A look at a data set before anything is made of it: what it has, and which pairs are suspicious.

Nothing is written, and no picture is kept but the few of the sheet.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petseg.core.parallel import in_order
from petseg.core.progress import progress
from petseg.data.archives import ANNOTATIONS, PHOTOS
from petseg.data.download import redact
from petseg.data.encodings import mask_values, to_trimap
from petseg.data.images import BACKGROUND, PET, decode_photo, decode_trimap, resize_photo
from petseg.data.listing import LeftOut, Listed
from petseg.data.own_folder import Pair, find_own, read_own
from petseg.data.preprocess import duplicates, photo_files, read_lists, trimap_files
from petseg.data.splitting import divided_groups, split_photos
from petseg.errors import BadImage, DataError, DownloadError
from petseg.params import Masks, SplitParams

SHEET_PAIRS = 24
_SHEET_SUSPICIOUS = 8  # in place of others, so many that something is odd with
_SHEET_PX = 320  # the longer side of a photo there
_FRAME = 0.02  # of the shorter side: the strip along a photo's edges

Size = tuple[int, int]  # width and height, px
T = TypeVar("T")
Verdict = Literal["stops", "refused", "look"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Files = Callable[[], Iterator[tuple[str, bytes]]]


@dataclass(frozen=True)
class Source:
    """A data set that is on this machine.

    Attributes:
        where: its folder.
        kind: what is read.
        masks: how its masks are encoded.
        listed: its photos, sorted by name.
        left_out: photos that can't be used, and files that are not.
        mask_files: yields the name and the file of each mask, in any order; photo_files of each photo.
        trimap_of: of a mask's file and its stored values; raises BadImage.
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
    """What is kept of a mask.

    Attributes:
        size: None where it can't be decoded.
        coverage: share of pet, its border counted; None where a value is not of the encoding.
        wrong: why preprocess would refuse it.
        doubt: what else is odd.
        small: (h, w) uint8, the trimap made small for the sheet.
    """

    size: Size | None = None
    coverage: float | None = None
    wrong: str | None = None
    doubt: str | None = None
    small: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class PhotoSeen:
    """What is kept of a photo: its upright size, a hash of its packed pixels, a small one for the sheet."""

    size: Size | None = None
    digest: bytes = b""
    wrong: str | None = None
    small: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Suspicion:
    """What is wrong with a photo, its mask or a group.

    Attributes:
        name: of the photo or the group.
        reason: what is wrong.
        verdict: preprocess would leave the photo out (refused), or stop (stops); or only look at it (look).
    """

    name: str
    reason: str
    verdict: Verdict


@dataclass(frozen=True)
class SheetPair:
    """A pair of the sheet: the photo, (h, w, 3) uint8, and its trimap, (h, w) uint8, both made small."""

    name: str
    photo: NDArray[np.uint8]
    trimap: NDArray[np.uint8]
    coverage: float
    reason: str | None


@dataclass(frozen=True)
class Inspection:
    """All that was seen.

    Attributes:
        source: what was looked at.
        photos: how many photos there are; so masks.
        pairs: so many can be used.
        parts: of the pairs that can be used, how many would be in train, val and test.
        drawn: which of these parts no list names, so that split decides.
        groups: photos of each group.
        breeds: photos of each breed; so species.
        sizes: of all photos that can be decoded.
        values: pixels of all masks by stored value.
        coverages: share of pet of each mask.
        suspicions: in the order of VERDICTS, each kind by name.
        ignored: files that are not used, by reason.
        sheet: pairs to show.
    """

    source: Source
    photos: int
    masks: int
    pairs: int
    parts: dict[str, int]
    drawn: list[str]
    groups: Counter[str]
    breeds: Counter[str]
    species: Counter[str]
    sizes: list[Size]
    values: Counter[int]
    coverages: list[float]
    suspicions: list[Suspicion]
    ignored: Counter[str]
    sheet: list[SheetPair]

    @property
    def refused(self) -> int:
        """How many photos preprocess would refuse."""
        return sum(suspicion.verdict == "refused" for suspicion in self.suspicions)


def is_remote(source: str) -> bool:
    """Whether a source is on a server."""
    return source == "oxford" or "://" in source


def open_source(source: str, masks: Masks, sample: Path, root: Path) -> Source:
    """Open a data set that is on this machine.

    Args:
        source: as data.source.
        masks: how the masks of an own folder are encoded.
        sample: folder of the photos that come with the repository.
        root: the main repository.

    Raises:
        DownloadError: it is not on this machine, or is no data set.
        DataError: its lists are wrong.
    """
    if is_remote(source):
        raise DownloadError(
            f"data.source: {redact(source)} is not on this machine; run dvc repro download, or give a folder"
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
    try:
        folder = sample if source == "sample" else root / Path(source).expanduser()
    except RuntimeError as error:  # of a ~user
        raise DownloadError(f"data.source: {source}: {error}") from None
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


def inspect(source: Source, image_size: int, split: SplitParams) -> Inspection:
    """Look at every photo and mask, on all cores.

    Args:
        source: the data set.
        image_size: side of the packed photos, by whose pixels copies are found as preprocess finds them.
        split: how photos are drawn where no list has them.
    """
    shown = set(_evenly([photo.name for photo in source.listed], SHEET_PAIRS))
    with (
        warnings.catch_warnings(),
        progress("look at photos and masks", 2 * len(source.listed), transient=True) as advance,
    ):
        warnings.filterwarnings("ignore", module="PIL")  # of odd metadata, in whatever thread
        masks: dict[str, MaskSeen] = {}
        values = Counter[int]()
        for (name, _), mask in in_order(partial(_look_at_mask, source=source), source.mask_files()):
            masks[name], counted = mask.result()
            values.update(counted)
            if masks[name].doubt and len(shown) < SHEET_PAIRS + _SHEET_SUSPICIOUS:
                shown.add(name)
            elif name not in shown:
                masks[name] = replace(masks[name], small=None)
            advance(1)
        photos: dict[str, PhotoSeen] = {}
        look = partial(_look_at_photo, image_size=image_size, shown=shown)
        for (name, _), photo in in_order(look, source.photo_files()):
            photos[name] = photo.result()
            advance(1)
    suspicions, good = _judge(source, masks, photos)
    parts, drawn = {"train": 0, "val": 0, "test": 0}, []
    try:
        parts |= Counter(split_photos(good, split))
        given = {photo.part for photo in good}
        drawn = ["test"] * ("" in given) + ["val"] * bool(given & {"", "trainval"})
        left = [part for part, n in parts.items() if not n] if good else []
        suspicions += [Suspicion(part, f"no photo would be left for {part}", "stops") for part in left]
    except DataError as error:
        suspicions.append(Suspicion("split", str(error), "stops"))
    return Inspection(
        source=source,
        photos=len(photos),
        masks=len(masks),
        pairs=len(good),
        parts=parts,
        drawn=drawn,
        groups=Counter(photo.group for photo in source.listed if photo.group),
        breeds=Counter(photo.breed for photo in source.listed),
        species=Counter(photo.species for photo in source.listed),
        sizes=[photo.size for photo in photos.values() if photo.size],
        values=values,
        coverages=[mask.coverage for mask in masks.values() if mask.coverage is not None],
        suspicions=sorted(suspicions, key=lambda s: (VERDICTS.index(s.verdict), s.name)),
        ignored=Counter(row.reason for row in source.left_out if row.verdict == "ignored"),
        sheet=_sheet(shown, masks, photos, suspicions),
    )


def doubt_of(trimap: NDArray[np.uint8]) -> str | None:
    """Say what is odd about a mask: empty, full, or pet and background exchanged.

    They are taken for exchanged where most of the photo's frame is pet while most of its middle is not.

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
        yield pair.listed.name, (pair.mask if part == "mask" else pair.photo).read_bytes()


def _look_at_mask(file: tuple[str, bytes], source: Source) -> tuple[MaskSeen, Counter[int]]:
    """Return what is kept of a mask, and its pixels by stored value."""
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


def _look_at_photo(file: tuple[str, bytes], image_size: int, shown: set[str]) -> PhotoSeen:
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


def _judge(
    source: Source, masks: dict[str, MaskSeen], photos: dict[str, PhotoSeen]
) -> tuple[list[Suspicion], list[Listed]]:
    """Return what is suspicious, and the photos that can be used."""
    refused = (row for row in source.left_out if row.verdict == "rejected")
    suspicions = [Suspicion(row.name, row.reason, "refused") for row in refused]
    hashes: dict[int, bytes] = {}
    for row, listed in enumerate(source.listed):
        mask, photo = masks.get(listed.name), photos.get(listed.name)
        wrong = _why_unusable(mask, photo)
        if wrong is None and photo is not None and mask is not None:
            hashes[row] = photo.digest
            if mask.doubt:
                suspicions.append(Suspicion(listed.name, mask.doubt, "look"))
        elif wrong is not None:
            suspicions.append(Suspicion(listed.name, wrong, "refused"))
    copies = duplicates(source.listed, hashes)
    for row, original in copies.items():
        copy, kept = source.listed[row], source.listed[original]
        where = f", and in {copy.part} where that one is in {kept.part}" if copy.part != kept.part else ""
        suspicions.append(Suspicion(copy.name, f"the same photo as {kept.name}{where}", "refused"))
    for group, (one, other) in divided_groups(source.listed).items():
        reason = f"{one.name} is in {one.part}, {other.name} in {other.part}: a group must be on one side"
        suspicions.append(Suspicion(f"group {group}", reason, "stops"))
    return suspicions, [source.listed[row] for row in sorted(hashes.keys() - copies.keys())]


def _why_unusable(mask: MaskSeen | None, photo: PhotoSeen | None) -> str | None:
    if mask is None:
        return f"its mask is absent from {ANNOTATIONS}"
    if photo is None:
        return f"listed, but absent from {PHOTOS}"
    if photo.wrong or mask.wrong:
        return photo.wrong or mask.wrong
    if mask.size != photo.size and mask.size and photo.size:
        turned = " (was it drawn before the photo was turned?)" if mask.size == photo.size[::-1] else ""
        return "its mask is {}x{}, the photo {}x{}".format(*mask.size, *photo.size) + turned
    return None


def _sheet(
    shown: set[str], masks: dict[str, MaskSeen], photos: dict[str, PhotoSeen], suspicions: list[Suspicion]
) -> list[SheetPair]:
    """Return the pairs that can be shown: those that something is odd with, and others, by name."""
    reasons = {suspicion.name: suspicion.reason for suspicion in suspicions}
    odd: list[SheetPair] = []
    fine: list[SheetPair] = []
    for name in sorted(shown):
        mask, photo = masks.get(name, MaskSeen()), photos.get(name, PhotoSeen())
        if mask.small is not None and photo.small is not None:
            pair = SheetPair(name, photo.small, mask.small, mask.coverage or 0.0, reasons.get(name))
            (odd if pair.reason else fine).append(pair)
    odd = _evenly(odd, SHEET_PAIRS)
    return sorted(odd + _evenly(fine, SHEET_PAIRS - len(odd)), key=lambda pair: pair.name)


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most so many of the items, from all over."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
