"""preprocess: two archives in, three files out (see petseg.data.arrays)."""

import csv
import hashlib
import re
import warnings
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from petseg.data.archives import ANNOTATIONS, PHOTOS, read_members
from petseg.data.arrays import COLUMNS, IMAGES, INDEX, TRIMAPS, RowWriter
from petseg.data.images import decode_pair, decode_photo, decode_trimap
from petseg.errors import ArchiveError, BadImage, DataError
from petseg.params import SplitParams
from petseg.progress import progress
from petseg.project import usable_cores

_LISTS = {"annotations/trainval.txt": "trainval", "annotations/test.txt": "test"}
_NAME = r"[A-Za-z0-9][\w.+-]*"
_ANNOTATION = re.compile(rf"annotations/(?:(?:trainval|test)\.txt|trimaps/{_NAME}\.png)", re.ASCII)
_PHOTO = re.compile(rf"images/{_NAME}\.jpg", re.ASCII)
_KNOWN_BUT_UNUSED = re.compile(rf"annotations/(?:README|list\.txt|xmls/{_NAME}\.xml)", re.ASCII)

Decoded = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int]]


@dataclass(frozen=True)
class Listed:
    """One line of trainval.txt or test.txt."""

    name: str
    species: str
    part: str

    @property
    def breed(self) -> str:
        """``american_bulldog`` of ``american_bulldog_12``; a name without ``_`` tells no breed."""
        return self.name.rpartition("_")[0] or "unknown"


@dataclass
class Report:
    """What became of the photos."""

    listed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)

    def reject(self, name: str, reason: str) -> None:
        """Note that a listed photo can't be used."""
        self.rejected.append((name, reason))

    def summary(self) -> dict[str, int]:
        """Return the counts as a flat dict, for metrics."""
        return {
            "listed": self.listed,
            "kept": sum(self.counts.values()),
            **self.counts,
            "rejected": len(self.rejected),
            "ignored_files": len(self.ignored),
        }

    def write(self, path: Path) -> None:
        """Write a row for everything that was not taken: what, rejected or ignored, why."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["name", "verdict", "reason"])
            writer.writerows((name, "rejected", why) for name, why in sorted(self.rejected))
            writer.writerows((name, "ignored", why) for name, why in sorted(self.ignored))


def pack(
    archives: Path,
    arrays: Path,
    report_file: Path,
    image_size: int,
    max_rejected: float,
    split: SplitParams,
) -> Report:
    """Stream the two archives into the packed arrays.

    All cores decode; at most a few photos for each are in memory at a time. The same archives
    and params give the same bytes.

    Args:
        archives: folder that holds images.tar.gz and annotations.tar.gz.
        arrays: folder to write the three files to; made if absent.
        report_file: CSV of what was rejected or ignored, and why; written on failure too.
        image_size: side of the square photos, in pixels.
        max_rejected: the largest fraction of the listed photos that may be refused.
        split: how validation is cut from trainval.

    Raises:
        ArchiveError: an archive is absent, damaged or hostile.
        DataError: more photos were rejected than ``max_rejected`` allows, or none is left.
    """
    for name in (PHOTOS, ANNOTATIONS):
        if not (archives / name).is_file():
            raise ArchiveError(f"{archives / name}: no such file; run dvc repro download")
    report = Report()
    listed, trimaps = _read_annotations(archives / ANNOTATIONS, report)
    report.listed = len(listed)
    arrays.mkdir(parents=True, exist_ok=True)
    (arrays / INDEX).unlink(missing_ok=True)  # written last: without it the arrays are not whole
    report_file.parent.mkdir(parents=True, exist_ok=True)

    images_out = RowWriter(arrays / IMAGES, len(listed), (image_size, image_size, 3))
    trimaps_out = RowWriter(arrays / TRIMAPS, len(listed), (image_size, image_size))
    row_of = {photo.name: row for row, photo in enumerate(listed)}
    seen: set[str] = set()
    sizes: dict[int, tuple[int, int]] = {}
    hashes: dict[int, bytes] = {}
    with warnings.catch_warnings(), progress("preprocess", len(listed)) as advance:
        warnings.filterwarnings("ignore", module="PIL")  # of odd metadata, in whatever thread
        for name, pair in _decode(archives / PHOTOS, row_of, trimaps, image_size, report):
            advance(1)
            seen.add(name)
            if pair is not None:
                row, (image, trimap, sizes[row_of[name]]) = row_of[name], pair
                images_out.write(row, image)
                trimaps_out.write(row, trimap)
                hashes[row] = hashlib.sha256(image.data).digest()

    for row in range(len(listed)):
        if listed[row].name not in seen:
            report.reject(listed[row].name, f"listed, but absent from {PHOTOS}")
    kept = _without_duplicates(listed, hashes, report)
    images_out.close(kept)
    trimaps_out.close(kept)

    index = pd.DataFrame(
        [(p.name, p.breed, p.species, p.part, *sizes[row]) for row in kept for p in [listed[row]]],
        columns=COLUMNS,
    )
    index.loc[_validation(index, split), "split"] = "val"
    index["split"] = index["split"].replace("trainval", "train")
    index.to_csv(arrays / INDEX, index=False, lineterminator="\n")
    report.counts = {part: int((index["split"] == part).sum()) for part in ("train", "val", "test")}
    report.write(report_file)
    _check_limits(report, report_file, max_rejected)
    return report


def first_originals(
    archives: Path, names: Collection[str], count: int
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Decode the first photos of the archive that have one of the given names, at their own size.

    Returns:
        At most ``count`` pairs of a name and an (H, W, 3) uint8 RGB photo.
    """
    found: list[tuple[str, NDArray[np.uint8]]] = []
    for member, content in read_members(archives / PHOTOS, _PHOTO):
        name = PurePosixPath(member).stem
        if content is not None and name in names:
            found.append((name, np.asarray(decode_photo(content))))
            if len(found) == count:
                break
    return found


def original_trimaps(archives: Path, names: Collection[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Decode the trimaps of the given photos at their own size, in the archive's order.

    Yields:
        A name and its (H, W) uint8 trimap.

    Raises:
        DataError: the archive lacks one of them.
    """
    missing = set(names)
    for member, content in read_members(archives / ANNOTATIONS, _ANNOTATION):
        name = PurePosixPath(member).stem
        if content is not None and member not in _LISTS and name in missing:
            missing.remove(name)
            yield name, np.asarray(decode_trimap(content))
    if missing:
        raise DataError(f"{archives / ANNOTATIONS}: no trimap of {min(missing)}; run dvc repro preprocess")


def _read_annotations(path: Path, report: Report) -> tuple[list[Listed], dict[str, bytes]]:
    """Return the listed photos, sorted by name, and the trimaps' PNG files by name."""
    lists: dict[str, str] = {}
    trimaps: dict[str, bytes] = {}
    for member, content in read_members(path, _ANNOTATION):
        if content is None:
            if not _KNOWN_BUT_UNUSED.fullmatch(member):
                report.ignored.append((member, _why_ignored(member)))
        elif member in _LISTS:
            lists[member] = content.decode("utf-8", errors="replace")
        else:
            trimaps[PurePosixPath(member).stem] = content
    if absent := _LISTS.keys() - lists.keys():
        raise DataError(f"{path.name}: {' and '.join(sorted(absent))} missing")

    listed: dict[str, Listed] = {}
    for member in ("annotations/test.txt", "annotations/trainval.txt"):
        for number, line in enumerate(lists[member].splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split()
            if (
                len(fields) != 4
                or fields[2] not in ("1", "2")
                or not re.fullmatch(_NAME, fields[0], re.ASCII)
            ):
                raise DataError(
                    f"{path.name}: {member}, line {number}: {line!r:.80} is not "
                    "'NAME CLASS SPECIES BREED' with species 1 (cat) or 2 (dog)"
                )
            photo = Listed(fields[0], {"1": "cat", "2": "dog"}[fields[2]], _LISTS[member])
            if photo.name in listed:
                report.reject(photo.name, f"listed again in {member}; the first listing counts")
            else:
                listed[photo.name] = photo
    if not listed:
        raise DataError(f"{path.name}: the lists name no photo")
    for name in sorted(trimaps.keys() - listed.keys()):
        report.ignored.append((f"annotations/trimaps/{name}.png", "trimap of no listed photo"))
    return [listed[name] for name in sorted(listed)], trimaps


def _decode(
    path: Path, wanted: dict[str, int], trimaps: dict[str, bytes], size_px: int, report: Report
) -> Iterator[tuple[str, Decoded | None]]:
    """Decode the listed photos on all cores, in whatever order they are done.

    Threads serve: Pillow lets go of Python's lock while it decodes and resizes. At most four
    photos a core wait or are worked on.
    """
    workers = usable_cores()
    running: dict[Future[Decoded], str] = {}

    def finished() -> Iterator[tuple[str, Decoded | None]]:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            name = running.pop(future)
            try:
                yield name, future.result()
            except BadImage as refusal:
                report.reject(name, str(refusal))
                yield name, None

    with ThreadPoolExecutor(workers) as pool:
        for member, content in read_members(path, _PHOTO):
            name = PurePosixPath(member).stem
            if content is None:
                report.ignored.append((member, _why_ignored(member)))
            elif name not in wanted:
                report.ignored.append((member, "in no list"))
            elif name not in trimaps:
                report.reject(name, f"its trimap is absent from {ANNOTATIONS}")
                yield name, None
            else:
                running[pool.submit(decode_pair, content, trimaps.pop(name), size_px)] = name
            while len(running) >= 4 * workers:
                yield from finished()
        while running:
            yield from finished()


def _why_ignored(member: str) -> str:
    name = PurePosixPath(member).name
    if name.startswith("._"):
        return "AppleDouble file of a Mac"
    return f"not used: {PurePosixPath(name).suffix or 'no suffix'}"


def _without_duplicates(listed: list[Listed], hashes: dict[int, bytes], report: Report) -> list[int]:
    """Return the rows to keep, so that no photo is there twice; a test photo goes before others.

    Photos are compared by their packed pixels, which finds copies under other names and copies
    whose metadata differ.
    """
    first: dict[bytes, int] = {}
    for row in sorted(hashes, key=lambda row: (listed[row].part != "test", row)):
        original = first.setdefault(hashes[row], row)
        if original != row:
            report.reject(listed[row].name, f"the same photo as {listed[original].name}")
    return sorted(first.values())


def _validation(index: pd.DataFrame, split: SplitParams) -> NDArray[np.int64]:
    """Return the rows of trainval that become validation, stratified by breed.

    The photos, shuffled within each breed, are laid out breed after breed. Taken at even
    distances along that line, validation has its exact share of all photos, and of each breed
    its share to within one photo. Cross-validation deals the same line out to the folds in turn.
    """
    trainval = np.flatnonzero(index["split"] == "trainval")
    random = np.random.default_rng(split.seed)
    shuffled = trainval[random.permutation(len(trainval))]
    line = shuffled[np.argsort(index["breed"].to_numpy()[shuffled], kind="stable")]
    place = np.arange(len(line))
    if split.folds is not None:
        taken = place % split.folds == split.fold
    else:
        taken = np.floor((place + 1) * split.val_fraction) > np.floor(place * split.val_fraction)
    validation: NDArray[np.int64] = line[taken]
    return validation


def _check_limits(report: Report, report_file: Path, max_rejected: float) -> None:
    rejected = len(report.rejected)
    if rejected > max_rejected * report.listed:
        name, reason = min(report.rejected)
        raise DataError(
            f"{rejected} of {report.listed} listed photos were rejected, more than "
            f"data.max_rejected ({max_rejected:g}) allows; the first: {name}: {reason}; "
            f"all: {report_file}"
        )
    for part, n in report.counts.items():
        if n == 0:
            raise DataError(f"no photo is left for {part} ({report.summary()}); see {report_file}")
