"""Finds your photos, cuts them out on all cores, and lists them in a table; nothing is overwritten.

``OUT/masks/NAME.png``     8-bit grey, the photo's own size; 255 is pet, 0 is not
``OUT/overlays/NAME.jpg``  the photo with a faded background, and an outline around the pet
``OUT/cutouts/NAME.png``   the pet alone: the tight mask is opaque, and alpha falls over the border strip
                           (with --edge whole: alpha falls where the network is unsure; the mask has 128 or
                           more)
``OUT/sheet.jpg``          small overlays of the first photos
"""

import csv
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, fields
from glob import glob
from pathlib import Path
from typing import Self

from petseg.core.files import below, naming, written_atomically
from petseg.core.parallel import in_order
from petseg.core.progress import progress
from petseg.core.project import expanded
from petseg.core.terminal import print_lines
from petseg.core.textfiles import printable
from petseg.data.images import SUFFIXES
from petseg.errors import BadImage, DataError, UsageError
from petseg.predict.cutting import WRITTEN_AS, CutOut, cut_out, picture_paths
from petseg.predict.load import Model
from petseg.predict.pictures import JPEG, contact_sheet

SHEET, SHEET_PHOTOS = "sheet.jpg", 24


@dataclass(frozen=True)
class Photo:
    """A photo to cut out: its path, and the name of its pictures, with subfolders."""

    path: Path
    name: str

    def outputs(self, out: Path) -> dict[str, Path]:
        """Return the paths of its pictures, by kind."""
        return picture_paths(out, self.name)

    def is_done(self, out: Path) -> bool:
        """Return whether all its pictures exist."""
        return all(path.exists() for path in self.outputs(out).values())


def find_photos(wanted: Sequence[str], out: Path) -> list[Photo]:
    """Find the photos that files, folders and patterns name, each photo once.

    A folder is searched with its subfolders, except for ``out``; its photos are known by their suffix. A file
    that is named itself counts as a photo with any suffix. The photos of a folder or pattern are sorted.

    Raises:
        UsageError: a name has no photo, or the pictures of two photos would have the same name.
    """
    names: dict[Path, str] = {}
    seen: set[Path] = set()
    for text in wanted:
        if not text:  # for example, a shell variable that is not set; it would mean the current folder
            raise UsageError("an empty name is no photo and no folder")
        found = dict(_named(str(expanded(text)), _real(out)))
        if not found:
            raise UsageError(f"{text}: {_why_nothing(Path(text))}")
        names |= {path: name for path, name in found.items() if _real(path) not in seen}
        seen |= set(map(_real, found))
    twice = {name for name, count in Counter(map(_stem, names.values())).items() if count > 1}
    photos = [Photo(path, name if _stem(name) in twice else _stem(name)) for path, name in names.items()]
    _check_distinct(photos)
    return photos


def _check_distinct(photos: Sequence[Photo]) -> None:
    taken: dict[str, Photo] = {}
    for photo in photos:
        if (other := taken.setdefault(photo.name, photo)) is not photo:
            both = f"{printable(other.path)} and {printable(photo.path)}"
            raise UsageError(f"{both} would have the same name; give their folder, or one after the other")


def _named(text: str, out: Path) -> Iterator[tuple[Path, str]]:
    """Yield the photos that one argument names, each with its path below the argument's folder."""
    path, written = Path(text), {out / SHEET, *(out / kind for kind in WRITTEN_AS)}
    if path.is_dir():
        refused: list[OSError] = []
        for file in sorted(below(path, refused.append)):
            is_photo = file.suffix.lower() in SUFFIXES and (file.is_symlink() or not file.is_dir())
            if is_photo and written.isdisjoint({_real(file), *_real(file).parents}):
                yield file, file.relative_to(path).as_posix()
        for folder in (Path(error.filename) for error in refused):
            yield folder, folder.relative_to(path).as_posix()
    elif path.exists():
        yield path, path.name
    else:
        for file in sorted(map(Path, glob(text, recursive=True))):  # noqa: PTH207  (Path.glob takes no absolute pattern)
            if file.is_file() and file.suffix.lower() in SUFFIXES:
                yield file, file.name


def _real(path: Path) -> Path:
    """Return where a path leads; unlike Path.resolve, it does not fail for links in a circle."""
    return Path(os.path.realpath(path))


def _why_nothing(path: Path) -> str:
    if path.is_dir():
        return f"no photo is in this folder ({' '.join(sorted(SUFFIXES))})"
    return "no such photo or folder, and no photo matches it as a pattern"


def _stem(name: str) -> str:
    return name.removesuffix(Path(name).suffix)


@dataclass(frozen=True)
class Row:
    """A photo's row in the table: the values of CutOut, and the problem with the photo, if any."""

    photo: str
    width: int | None = None
    height: int | None = None
    coverage: float | None = None
    confidence: float | None = None
    problem: str | None = None

    @classmethod
    def of(cls, name: str, cut: CutOut | BadImage) -> Self:
        """Return the row of a photo that was cut out or refused."""
        if isinstance(cut, BadImage):
            return cls(name, problem=str(cut))
        problem = None if cut.coverage else "empty mask"
        return cls(name, cut.width, cut.height, cut.coverage, cut.confidence, problem)


_COLUMNS = [field.name for field in fields(Row)]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read the rows of a table that petseg wrote; none if the file is absent or empty.

    Raises:
        UsageError: the file is another table, or no table.
    """
    if not path.exists():
        return []
    try:
        with naming(path), path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            rows, columns = list(table), table.fieldnames
    except (UnicodeDecodeError, csv.Error):
        rows, columns = [], []
    if columns is not None and (columns != _COLUMNS or any(None in row for row in rows)):
        known = ", ".join(_COLUMNS)
        raise UsageError(f"{printable(path)}: is no table of petseg predict, whose columns are {known}")
    return rows


class Table:
    """A CSV file with a row for each photo, written as soon as the photo is done.

    Args:
        path: the file; its folder is created, and an existing file is replaced.
        coming: the photos whose rows will be added.
        known: earlier rows, as ``rows_of`` returns them; those of ``coming`` are left out.
    """

    def __init__(self, path: Path, coming: Sequence[Photo], known: Sequence[Mapping[str, str]] = ()) -> None:
        self._path = path
        replaced = {printable(photo.path) for photo in coming}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with naming(path):
                self._file = temporary.open("w", newline="", encoding="utf-8", buffering=1)
                self._rows = csv.DictWriter(self._file, _COLUMNS, lineterminator="\n")
                self._rows.writeheader()
                self._rows.writerows(row for row in known if row["photo"] not in replaced)
                temporary.replace(path)  # what a link or a second name leads to is left as it is
        finally:
            temporary.unlink(missing_ok=True)

    def add(self, row: Row) -> None:
        """Write a row to the file."""
        with naming(self._path):
            self._rows.writerow(asdict(row))

    def close(self) -> None:
        """Close the file."""
        with naming(self._path):
            self._file.close()


@dataclass
class Summary:
    """The results for all photos.

    Attributes:
        done: how many photos have their pictures.
        failed: why the other photos have none, by path.
        empty: the paths of the photos whose mask is empty.
        seconds: how long it took, without loading the model.
    """

    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add_failed(self, name: str, reason: str) -> None:
        """Count a photo that was left out, and name it on stderr."""
        self.failed[name] = reason
        print_lines(f"petseg: {name}: {reason}; left out", err=True)

    def add_done(self, name: str, cut: CutOut) -> None:
        """Count a photo that has its pictures; name it on stderr if its mask is empty."""
        self.done += 1
        if cut.why_empty:
            self.empty.append(name)
            print_lines(f"petseg: {name}: empty mask; {cut.why_empty}", err=True)


def cut_out_all(
    photos: Sequence[Photo],
    model: Model,
    out: Path,
    at_once: int,
    *,
    strict: bool,
    replaces: bool,
    clean: bool,
    table: Table | None = None,
) -> Summary:
    """Cut photos out, with a contact sheet of the first ones; name bad files and empty masks on stderr.

    Args:
        photos: the photos; their names differ.
        model: the network, and which of its two masks is wanted.
        out: the folder for the pictures.
        at_once: how many photos to work on at once; more need more memory, and change no bit.
        strict: whether to stop at the first bad file.
        replaces: whether existing pictures are replaced, or kept.
        clean: whether small islands and holes are removed from the masks.
        table: gets a row for each photo.

    Raises:
        DataError: a file is bad and ``strict`` is true; the photos before it have their pictures.
    """
    summary, started = Summary(), time.perf_counter()
    shown, thumbnails = set(photos[:SHEET_PHOTOS]), []

    def work(photo: Photo) -> CutOut:
        return cut_out(
            photo.path, photo.outputs(out), model, replaces=replaces, shown=photo in shown, clean=clean
        )

    with warnings.catch_warnings(), progress("predict", len(photos)) as advance:
        warnings.filterwarnings("ignore", module="PIL")  # warnings of odd metadata, in any thread
        for photo, future in in_order(work, photos, at_once):
            advance(1)
            name = printable(photo.path)
            cut = _result(future)
            if table:
                table.add(Row.of(name, cut))
            if isinstance(cut, CutOut):
                summary.add_done(name, cut)
                if cut.thumbnail:
                    thumbnails.append((printable(photo.name), cut.thumbnail))
            elif strict:
                raise DataError(f"{name}: {cut}")
            else:
                summary.add_failed(name, str(cut))
    if thumbnails and (replaces or not (out / SHEET).exists()):
        with written_atomically(out / SHEET, durable=False) as file:
            contact_sheet(thumbnails).save(file, "JPEG", **JPEG)
    summary.seconds = time.perf_counter() - started
    return summary


def _result(future: "Future[CutOut]") -> CutOut | BadImage:
    """Return the result for a photo, or the error that refused it."""
    try:
        return future.result()
    except BadImage as problem:
        return problem
