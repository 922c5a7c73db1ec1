"""Turn two archives into the three files of the packed data set (see petseg.data.arrays)."""

import hashlib
import re
import warnings
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from petseg.core.progress import progress
from petseg.core.project import usable_cores
from petseg.data.archives import ANNOTATIONS, PHOTOS, read_members
from petseg.data.arrays import COLUMNS, IMAGES, INDEX, TRIMAPS, RowWriter
from petseg.data.images import decode_pair, decode_photo, decode_trimap
from petseg.data.listing import LeftOut, Listed, left_out_csv, read_listing, why_ignored
from petseg.data.splitting import check_groups, split_photos
from petseg.errors import ArchiveError, BadImage, DataError
from petseg.params import SplitParams

_NAME = r"[^./][^/]*"
_LIST = re.compile(r"annotations/(?:(?:trainval|test)\.txt|(?:index|left_out)\.csv)")
_TRIMAP = re.compile(rf"annotations/trimaps/{_NAME}\.png")
_ANNOTATION = re.compile(rf"{_LIST.pattern}|{_TRIMAP.pattern}")
_PHOTO = re.compile(rf"images/{_NAME}\.jpg")
_KNOWN_BUT_UNUSED = re.compile(rf"annotations/(?:README|list\.txt|xmls/{_NAME}\.xml)")

Decoded = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int]]


@dataclass
class Report:
    """Which photos were kept, and which photos and files were left out and why."""

    listed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def reject(self, name: str, reason: str) -> None:
        """Record that a listed photo can't be used."""
        self.left_out.append(LeftOut(name, "rejected", reason))

    def ignore(self, name: str, reason: str) -> None:
        """Record that a file is not used."""
        self.left_out.append(LeftOut(name, "ignored", reason))

    @property
    def rejected(self) -> list[tuple[str, str]]:
        """Names and reasons of the photos that can't be used."""
        return [(row.name, row.reason) for row in self.left_out if row.verdict == "rejected"]

    @property
    def ignored(self) -> list[tuple[str, str]]:
        """Names and reasons of the files that are not used."""
        return [(row.name, row.reason) for row in self.left_out if row.verdict == "ignored"]

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
        """Write a row for each photo or file that was left out: name, rejected or ignored, reason."""
        path.write_bytes(left_out_csv(self.left_out))


def pack(
    archives: Path, arrays: Path, rejected: Path, image_size: int, max_rejected: float, split: SplitParams
) -> Report:
    """Stream the two archives into the packed arrays.

    All cores decode; at most a few photos per core are in memory at a time. The same archives and
    params give the same bytes.

    Args:
        archives: folder that holds images.tar.gz and annotations.tar.gz.
        arrays: folder to write the three files to; created if missing.
        rejected: CSV of the rejected photos and ignored files, with reasons; written on failure too.
        image_size: side of the square photos, in pixels.
        max_rejected: the largest fraction of the listed photos that may be rejected.
        split: how the photos are split.

    Raises:
        ArchiveError: an archive is missing, damaged or hostile.
        DataError: more photos were rejected than ``max_rejected`` allows, or none is left.
    """
    for name in (PHOTOS, ANNOTATIONS):
        if not (archives / name).is_file():
            raise ArchiveError(f"{archives / name}: no such file; run dvc repro download")
    report = Report()
    listed, trimaps = _read_annotations(archives / ANNOTATIONS, report)
    report.listed = len({photo.name for photo in listed} | {name for name, _ in report.rejected})
    rejected.parent.mkdir(parents=True, exist_ok=True)
    report.write(rejected)
    _check_rejected(report, rejected, max_rejected)  # of a folder, many may be by now
    check_groups(listed)
    arrays.mkdir(parents=True, exist_ok=True)
    (arrays / INDEX).unlink(missing_ok=True)  # it is written last: without it the arrays are not complete

    sizes = _pack_photos(archives / PHOTOS, arrays, listed, trimaps, image_size, report)
    photos = [listed[row] for row in sizes]
    parts = split_photos(photos, split)
    rows = [
        (photo.name, photo.breed, photo.species, part, *size)
        for photo, part, size in zip(photos, parts, sizes.values(), strict=True)
    ]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(arrays / INDEX, index=False, lineterminator="\n")
    report.counts = {part: parts.count(part) for part in ("train", "val", "test")}
    report.write(rejected)
    _check_rejected(report, rejected, max_rejected)
    for part, n in report.counts.items():
        if n == 0:
            raise DataError(f"no photo is left for {part} ({report.summary()}); see {rejected}")
    return report


def _pack_photos(
    archive: Path, arrays: Path, listed: list[Listed], trimaps: dict[str, bytes], size_px: int, report: Report
) -> dict[int, tuple[int, int]]:
    """Write the usable photos and trimaps; return the kept rows of ``listed`` with the photos' sizes."""
    images_out = RowWriter(arrays / IMAGES, len(listed), (size_px, size_px, 3))
    trimaps_out = RowWriter(arrays / TRIMAPS, len(listed), (size_px, size_px))
    row_of = {photo.name: row for row, photo in enumerate(listed)}
    seen: set[str] = set()
    sizes: dict[int, tuple[int, int]] = {}
    hashes: dict[int, bytes] = {}
    with warnings.catch_warnings(), progress("preprocess", len(listed)) as advance:
        warnings.filterwarnings("ignore", module="PIL")  # about odd metadata, in all threads
        for name, pair in _decode(archive, row_of, trimaps, size_px, report):
            advance(1)
            seen.add(name)
            if pair is not None:
                row, (image, trimap, sizes[row_of[name]]) = row_of[name], pair
                images_out.write(row, image)
                trimaps_out.write(row, trimap)
                hashes[row] = hashlib.sha256(image.data).digest()
    for photo in listed:
        if photo.name not in seen:
            report.reject(photo.name, f"listed, but absent from {PHOTOS}")
    copies = duplicates(listed, hashes)
    for row, original in copies.items():
        report.reject(listed[row].name, f"the same photo as {listed[original].name}")
    kept = sorted(hashes.keys() - copies.keys())
    images_out.close(kept)
    trimaps_out.close(kept)
    return {row: sizes[row] for row in kept}


def first_originals(
    archives: Path, names: Collection[str], count: int
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Decode the first photos in the archive that have one of these names, at their own size.

    Returns:
        At most ``count`` pairs of a name and an (H, W, 3) uint8 RGB photo.
    """
    files = islice(photo_files(archives, names), count)
    return [(name, np.asarray(decode_photo(content))) for name, content in files]


def original_trimaps(archives: Path, names: Collection[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Decode the trimaps of these photos at their own size, in the order of the archive.

    Yields:
        A name and its (H, W) uint8 trimap.

    Raises:
        DataError: the archive lacks one of them.
    """
    missing = set(names)
    for name, content in trimap_files(archives, names):
        missing.remove(name)
        yield name, np.asarray(decode_trimap(content))
    if missing:
        raise DataError(f"{archives / ANNOTATIONS}: no trimap of {min(missing)}; run dvc repro preprocess")


def photo_files(archives: Path, names: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of these photos, in the order of the archive."""
    return _files(archives / PHOTOS, _PHOTO, names)


def trimap_files(archives: Path, names: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the names of these photos and the contents of their trimaps, in the order of the archive."""
    return _files(archives / ANNOTATIONS, _TRIMAP, names)


def read_lists(archives: Path) -> tuple[list[Listed], list[LeftOut]]:
    """Return the photos that the archives list, sorted by name, and the photos and files left out.

    Raises:
        DataError: a list is missing or can't be read, or no photo is listed.
    """
    members = read_members(archives / ANNOTATIONS, _LIST)
    texts = {
        name: content.decode("utf-8", errors="replace") for name, content in members if content is not None
    }
    return read_listing(ANNOTATIONS, texts)


def duplicates(listed: Sequence[Listed], hashes: Mapping[int, bytes]) -> dict[int, int]:
    """Return the rows of duplicate photos, each with the row of the photo to keep.

    Photos are compared by their packed pixels, so copies with other names or other metadata are found
    too. A test photo is kept before a validation photo, and that before the others.
    """
    first: dict[bytes, int] = {}
    rank = {"test": 0, "val": 1}
    order = sorted(hashes, key=lambda row: (rank.get(listed[row].part, 2), row))
    return {row: original for row in order if (original := first.setdefault(hashes[row], row)) != row}


def _files(archive: Path, wanted: re.Pattern[str], names: Container[str]) -> Iterator[tuple[str, bytes]]:
    for member, content in read_members(archive, wanted):
        name = PurePosixPath(member).stem
        if content is not None and name in names:
            yield name, content


def _read_annotations(path: Path, report: Report) -> tuple[list[Listed], dict[str, bytes]]:
    """Return the listed photos, sorted by name, and the PNG files of their trimaps by name."""
    texts: dict[str, str] = {}
    trimaps: dict[str, bytes] = {}
    for member, content in read_members(path, _ANNOTATION):
        if content is None:
            if not _KNOWN_BUT_UNUSED.fullmatch(member):
                report.ignore(member, why_ignored(member))
        elif _TRIMAP.fullmatch(member):
            trimaps[PurePosixPath(member).stem] = content
        else:
            texts[member] = content.decode("utf-8", errors="replace")
    listed, left_out = read_listing(path.name, texts)
    report.left_out += left_out
    for name in sorted(trimaps.keys() - {photo.name for photo in listed}):
        report.ignore(f"annotations/trimaps/{name}.png", "trimap of no listed photo")
    return listed, trimaps


def _decode(
    path: Path, wanted: dict[str, int], trimaps: dict[str, bytes], size_px: int, report: Report
) -> Iterator[tuple[str, Decoded | None]]:
    """Decode the listed photos on all cores, and yield each as soon as it is done.

    Threads are enough, because Pillow releases Python's lock while it decodes and resizes. At most
    four photos per core are waiting or being processed.
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
                report.ignore(member, why_ignored(member))
            elif name not in wanted:
                report.ignore(member, "in no list")
            elif name not in trimaps:
                report.reject(name, f"its trimap is absent from {ANNOTATIONS}")
                yield name, None
            else:
                running[pool.submit(decode_pair, content, trimaps.pop(name), size_px)] = name
            while len(running) >= 4 * workers:
                yield from finished()
        while running:
            yield from finished()


def _check_rejected(report: Report, report_file: Path, max_rejected: float) -> None:
    rejected = len(report.rejected)
    if rejected > max_rejected * report.listed:
        name, reason = min(report.rejected)
        raise DataError(
            f"{rejected} of {report.listed} listed photos were rejected, more than "
            f"data.max_rejected ({max_rejected:g}) allows; the first: {name}: {reason}; "
            f"all: {report_file}"
        )
