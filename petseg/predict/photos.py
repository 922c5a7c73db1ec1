"""Anybody's photos: found, cut out one by one on all cores, and written; nothing is overwritten.

``OUT/masks/NAME.png``     8-bit grey, the photo's own size; 255 is pet, 0 is not
``OUT/overlays/NAME.jpg``  the photo, with what is not pet faded and an outline around what is
``OUT/cutouts/NAME.png``   the pet alone: alpha falls over the network's own doubt, 128 or more is pet

Each photo goes through the network alone, in one thread, so that the bits of its mask depend on nothing
else: not on its neighbours, the number of cores, or how many are worked on at once.
"""

import csv
import errno
import sys
import time
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from glob import glob
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps

from petseg.core.files import written_atomically
from petseg.core.parallel import in_order
from petseg.core.progress import progress
from petseg.core.textfiles import printable
from petseg.data.images import SUFFIXES, decode_photo
from petseg.errors import BadImage, DataError, UsageError
from petseg.models.predictor import at_own_size
from petseg.predict.load import Model
from petseg.predict.pictures import CELL_PX, contact_sheet, cutout, mask, overlay, profile_of
from petseg.predict.png import write_png

MASKS, OVERLAYS, CUTOUTS = "masks", "overlays", "cutouts"
_WRITTEN_AS = {MASKS: ".png", OVERLAYS: ".jpg", CUTOUTS: ".png"}
SHEET, SHEET_PHOTOS = "sheet.jpg", 24

_LARGE_PX = 20_000_000  # photos of more take turns: the largest that are decoded hold about 1 GB
_large = Lock()
_JPEG = {"quality": 90}


@dataclass(frozen=True)
class Photo:
    """A photo to be cut out: where it is, and what its pictures are called, with their folders."""

    path: Path
    name: str

    def outputs(self, out: Path) -> dict[str, Path]:
        """Return where its pictures go, by kind."""
        return {kind: out / kind / f"{self.name}{suffix}" for kind, suffix in _WRITTEN_AS.items()}

    def is_done(self, out: Path) -> bool:
        """Tell whether all its pictures are there."""
        return all(path.exists() for path in self.outputs(out).values())


@dataclass(frozen=True)
class CutOut:
    """What became of a photo.

    Attributes:
        width: of the photo, upright, in pixels.
        height: likewise.
        coverage: share of its pixels that are pet.
        confidence: mean probability, over its pixels, of what each was called.
        highest: the highest probability of pet.
        thumbnail: the overlay, small, where one was asked for.
    """

    width: int
    height: int
    coverage: float
    confidence: float
    highest: float
    thumbnail: Image.Image | None


def find_photos(wanted: Sequence[str], out: Path) -> list[Photo]:
    """Find the photos that files, folders and patterns name, sorted within each; none twice.

    A folder counts with all below it, but for ``out``: what is found in it by its suffix is a photo. A file
    that is named is a photo, whatever it is called.

    Raises:
        UsageError: something names no photo; or two photos' pictures would have one name.
    """
    names: dict[Path, str] = {}
    seen: set[Path] = set()
    for text in wanted:
        found = dict(_named(text, out.resolve()))
        if not found:
            raise UsageError(f"{text}: {_why_nothing(Path(text))}")
        names |= {path: name for path, name in found.items() if path.resolve() not in seen}
        seen |= {path.resolve() for path in found}
    twice = {name for name, count in Counter(map(_stem, names.values())).items() if count > 1}
    photos = [Photo(path, name if _stem(name) in twice else _stem(name)) for path, name in names.items()]
    taken: dict[str, Photo] = {}
    for photo in photos:
        if (other := taken.setdefault(photo.name, photo)) is not photo:
            both = f"{printable(other.path)} and {printable(photo.path)}"
            raise UsageError(f"{both} would have one name; give their folder, or one after the other")
    return photos


def _named(text: str, out: Path) -> Iterator[tuple[Path, str]]:
    """Yield the photos that one argument names, with their name below the folder that it names."""
    path, made = Path(text), {out / SHEET, *(out / kind for kind in _WRITTEN_AS)}
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            is_photo = file.suffix.lower() in SUFFIXES and (file.is_file() or file.is_symlink())
            if is_photo and made.isdisjoint({file.resolve(), *file.resolve().parents}):
                yield file, file.relative_to(path).as_posix()
    elif path.exists():
        yield path, path.name
    else:
        for file in sorted(map(Path, glob(text, recursive=True))):  # noqa: PTH207  (Path.glob takes no absolute pattern)
            if file.is_file() and file.suffix.lower() in SUFFIXES:
                yield file, file.name


def _why_nothing(path: Path) -> str:
    if path.is_dir():
        return f"no photo is in this folder ({' '.join(sorted(SUFFIXES))})"
    return "no such photo or folder, and no photo fits it as a pattern"


def _stem(name: str) -> str:
    return name.removesuffix(Path(name).suffix)


@dataclass(frozen=True)
class Row:
    """What a table says of a photo; as of CutOut, and what is wrong with it."""

    photo: str
    width: int | None = None
    height: int | None = None
    coverage: float | None = None
    confidence: float | None = None
    problem: str | None = None


class Table:
    """A CSV with a row a photo, each in the file as soon as it is known.

    Args:
        path: the file; its folder is made.
        coming: photos whose rows, if it has them, are left out; others stay where ``goes_on``.
        goes_on: whether the file is gone on with.
    """

    def __init__(self, path: Path, coming: Sequence[Photo], goes_on: bool) -> None:
        names = [field.name for field in fields(Row)]
        anew = {printable(photo.path) for photo in coming}
        kept: list[dict[str, str]] = []
        if goes_on and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if row.keys() == set(names)]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8", buffering=1)
        self._rows = csv.DictWriter(self._file, names, lineterminator="\n")
        self._rows.writeheader()
        self._rows.writerows(row for row in kept if row["photo"] not in anew)

    def add(self, row: Row) -> None:
        """Write a row."""
        self._rows.writerow(asdict(row))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


@dataclass
class Summary:
    """What became of all photos.

    Attributes:
        done: how many have their pictures.
        failed: why others have not, by their path.
        empty: paths of those in which no pixel was called pet.
        seconds: how long it took, the model's loading apart.
    """

    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    seconds: float = 0.0


def cut_out_all(
    photos: Sequence[Photo],
    model: Model,
    out: Path,
    at_once: int,
    *,
    strict: bool,
    replaces: bool,
    table: Table | None = None,
) -> Summary:
    """Cut photos out, with a contact sheet of the first ones; name on stderr what is bad or empty.

    Args:
        photos: of different names.
        model: by which.
        out: folder of the pictures.
        at_once: how many are worked on; more takes more memory, and changes no bit.
        strict: stop at the first bad file.
        replaces: whether a picture that is there is replaced, or left as it is.
        table: gets a row for each.

    Raises:
        DataError: a file is bad, and ``strict``; the photos before it have their pictures.
    """
    summary, started = Summary(), time.perf_counter()
    shown = set(photos[:SHEET_PHOTOS])
    cells = []
    work = partial(_cut_out, model=model, out=out, replaces=replaces, shown=shown)
    with warnings.catch_warnings(), progress("predict", len(photos)) as advance:
        warnings.filterwarnings("ignore", module="PIL")  # of odd metadata, in whatever thread
        for photo, future in in_order(work, photos, at_once):
            advance(1)
            name = printable(photo.path)
            try:
                cut = future.result()
            except BadImage as problem:
                if table:
                    table.add(Row(name, problem=str(problem)))
                if strict:
                    raise DataError(f"{name}: {problem}") from None
                summary.failed[name] = str(problem)
                print(f"petseg: {name}: {problem}; left out", file=sys.stderr)
                continue
            summary.done += 1
            if table:
                table.add(_row(name, cut))
            if not cut.coverage:
                summary.empty.append(name)
                why = why_empty(cut.highest, model.threshold)
                print(f"petseg: {name}: empty mask; {why}", file=sys.stderr)
            if cut.thumbnail:
                cells.append((printable(photo.name), cut.thumbnail))
    if cells and (replaces or not (out / SHEET).exists()):
        with written_atomically(out / SHEET, durable=False) as file:
            contact_sheet(cells).save(file, "JPEG", **_JPEG)
    summary.seconds = time.perf_counter() - started
    return summary


def _cut_out(photo: Photo, model: Model, out: Path, replaces: bool, shown: Collection[Photo]) -> CutOut:
    try:
        data = photo.path.read_bytes()
    except OSError as error:
        raise BadImage(f"can't be read: {error.strerror}") from None
    image = decode_photo(data)
    with _large if image.width * image.height > _LARGE_PX else nullcontext():
        small = model.predictor.probability_of(image)
        probability = at_own_size(small, (image.height, image.width))
        pet = probability >= model.threshold
        drawn = {
            MASKS: partial(mask, pet),
            OVERLAYS: partial(overlay, image, pet),
            CUTOUTS: partial(cutout, image, probability, model.threshold),
        }
        thumbnail = None
        for kind, path in photo.outputs(out).items():
            picture = drawn[kind]()
            if replaces or not path.exists():
                _save(picture, path, image)
            if kind == OVERLAYS and photo in shown:
                thumbnail = ImageOps.contain(picture, (CELL_PX, CELL_PX))
            del picture  # before the next one is drawn
    return CutOut(
        width=image.width,
        height=image.height,
        coverage=float(pet.mean()),
        confidence=float(np.where(pet, probability, 1 - probability).mean()),
        highest=float(probability.max()),
        thumbnail=thumbnail,
    )


def _save(picture: Image.Image, path: Path, photo: Image.Image) -> None:
    """Write a picture with the photo's colour profile, and none of its other metadata."""
    profile = None if picture.mode == "L" else profile_of(photo)
    try:
        with written_atomically(path, durable=False) as file:
            if path.suffix == ".png":
                write_png(file, picture, profile)
            else:
                picture.save(file, "JPEG", **_JPEG, icc_profile=profile)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise BadImage("its name is too long for its pictures") from None


def why_empty(highest: float, threshold: float) -> str:
    """Say why a photo may have got an empty mask."""
    if highest >= threshold / 2:
        return (
            f"the model is in doubt: its highest probability is {highest:.3g}, and pet is what has "
            f"{threshold:g} or more; a threshold of {highest * 0.9:.2g} would show something"
        )
    return (
        f"the model sees no cat or dog: its highest probability is {highest:.3g}; it knows photos of one "
        "pet that fills a good part of them, so cut a small one out before"
    )


def _row(name: str, cut: CutOut) -> Row:
    problem = None if cut.coverage else "empty mask"
    return Row(name, cut.width, cut.height, cut.coverage, cut.confidence, problem)
