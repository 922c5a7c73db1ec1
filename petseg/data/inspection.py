"""Examine a data set before it is used: what it contains, and which pairs are suspicious.

Nothing is written, and only the few pictures of the sheet are kept.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from petseg.core.parallel import in_order
from petseg.core.progress import progress
from petseg.data.archives import ANNOTATIONS, PHOTOS
from petseg.data.inspected import MaskSeen, PhotoSeen, Size, Source, look_at_mask, look_at_photo
from petseg.data.listing import Listed
from petseg.data.preprocess import duplicates
from petseg.data.splitting import divided_groups, split_photos
from petseg.errors import DataError
from petseg.params import SplitParams

SHEET_PAIRS = 24
_SHEET_SUSPICIOUS = 8  # so many odd pairs may take the place of others

T = TypeVar("T")
Verdict = Literal["stops", "refused", "look"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Suspicion:
    """What is wrong with a photo, its mask or a group.

    Attributes:
        name: name of the photo or the group.
        reason: what is wrong.
        verdict: stops: preprocess would stop; refused: it would leave the photo out; look: worth a look.
    """

    name: str
    reason: str
    verdict: Verdict


@dataclass(frozen=True)
class SheetPair:
    """A pair of the sheet: small copies of the photo, (h, w, 3) uint8, and of its trimap, (h, w) uint8."""

    name: str
    photo: NDArray[np.uint8]
    trimap: NDArray[np.uint8]
    coverage: float
    reason: str | None


@dataclass(frozen=True)
class Inspection:
    """Everything that was found.

    Attributes:
        source: the data set.
        photos: number of photos.
        masks: number of masks.
        pairs: number of pairs that can be used.
        parts: how many of these pairs would be in train, val and test.
        drawn: the parts that no list names, so that the params of split decide.
        groups: number of photos in each group.
        breeds: number of photos of each breed.
        species: number of photos of each species.
        sizes: sizes of all photos that can be decoded.
        values: number of pixels in all masks, by stored value.
        coverages: share of pet in each mask.
        suspicions: in the order of VERDICTS, each kind by name.
        ignored: number of files that are not used, by reason.
        sheet: the pairs to show.
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


def inspect(source: Source, image_size: int, split: SplitParams) -> Inspection:
    """Examine every photo and mask, on all cores.

    Args:
        source: the data set.
        image_size: side of the packed photos; duplicates are found by their pixels, as in preprocess.
        split: how photos are split that no list names.
    """
    shown = set(_evenly([photo.name for photo in source.listed], SHEET_PAIRS))
    with (
        warnings.catch_warnings(),
        progress("look at photos and masks", 2 * len(source.listed), transient=True) as advance,
    ):
        warnings.filterwarnings("ignore", module="PIL")  # about odd metadata, in all threads
        masks: dict[str, MaskSeen] = {}
        values = Counter[int]()
        for (name, _), mask in in_order(partial(look_at_mask, source=source), source.mask_files()):
            masks[name], counted = mask.result()
            values.update(counted)
            if masks[name].doubt and len(shown) < SHEET_PAIRS + _SHEET_SUSPICIOUS:
                shown.add(name)
            elif name not in shown:
                masks[name] = replace(masks[name], small=None)
            advance(1)
        photos: dict[str, PhotoSeen] = {}
        look = partial(look_at_photo, image_size=image_size, shown=shown)
        for (name, _), photo in in_order(look, source.photo_files()):
            photos[name] = photo.result()
            advance(1)
    suspicions, good = _judge(source, masks, photos)
    parts, drawn = {"train": 0, "val": 0, "test": 0}, []
    try:
        parts |= Counter(split_photos(good, split))
        given = {photo.part for photo in good}
        undecided = {"test": {""}, "val": {"", "trainval"}}
        drawn = [part for part, lists in undecided.items() if given & lists]
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


def _judge(
    source: Source, masks: dict[str, MaskSeen], photos: dict[str, PhotoSeen]
) -> tuple[list[Suspicion], list[Listed]]:
    """Return what is suspicious, and the usable photos."""
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
    """Return the pairs to show, sorted by name: odd ones, and others to fill up."""
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
    """Return at most ``count`` of the items, spread evenly over all of them."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
