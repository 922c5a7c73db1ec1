"""The lists of a data source: its photos, the facts about each, and what was left out.

An annotations archive holds the two lists of the official data set, ``trainval.txt`` and ``test.txt``. If it
was made from a folder of your own, it holds ``index.csv`` (name, breed, species, group, split) and
``left_out.csv`` (name, verdict, reason) instead.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from petseg.errors import DataError

LISTS = {"annotations/trainval.txt": "trainval", "annotations/test.txt": "test"}
INDEX, LEFT_OUT = "annotations/index.csv", "annotations/left_out.csv"
UNKNOWN = "unknown"
# "" means that no list names the part; validation photos are still to be taken from trainval.
PARTS = ("", "trainval", "train", "val", "test")
VERDICTS = ("rejected", "ignored")

_INDEX_COLUMNS = ["name", "breed", "species", "group", "split"]
_LEFT_OUT_COLUMNS = ["name", "verdict", "reason"]
_OFFICIAL_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
# Characters that other systems refuse in file names, that a figure takes for a formula, or that have
# a meaning in a Markdown table or a spreadsheet.
_NEVER, _NOT_FIRST = frozenset('\\/:*?"<>|$`'), frozenset(" .=+-@")


@dataclass(frozen=True)
class Listed:
    """A photo that a source lists.

    Attributes:
        name: the name of its files, without folder and suffix.
        breed: its breed, or another label.
        species: cat, dog, or another.
        group: all photos of a group stay in one part; empty if it has no group.
        part: one of PARTS.
    """

    name: str
    breed: str
    species: str
    group: str
    part: str


class LeftOut(NamedTuple):
    """A photo that can't be used (rejected), or a file that is not used (ignored)."""

    name: str
    verdict: str
    reason: str


def why_no_name(name: str) -> str | None:
    """Return why a text can't be the name of a photo, a breed or a group; None if it can."""
    if not name:
        return "is empty"
    if not name.isprintable():
        return "holds a character that can't be shown"
    if found := sorted(_NEVER & set(name)):
        return f"holds {found[0]}"
    if name[0] in _NOT_FIRST:
        return f"begins with {name[0]!r}"
    if name[-1] == " ":
        return "ends with a blank"
    return None


def why_ignored(member: str) -> str:
    """Return why a file is ignored that a source does not need."""
    name = PurePosixPath(member).name
    if name.startswith("._"):
        return "AppleDouble file of a Mac"
    return f"not used: {PurePosixPath(name).suffix or 'no suffix'}"


def read_listing(archive: str, texts: Mapping[str, str]) -> tuple[list[Listed], list[LeftOut]]:
    """Read the lists of an annotations archive.

    Args:
        archive: its name, for messages.
        texts: its members among LISTS, INDEX and LEFT_OUT, by name.

    Returns:
        The photos, sorted by name, and what was left out.

    Raises:
        DataError: a list is missing or can't be read, or no photo is listed.
    """
    if INDEX in texts:
        listed, left_out = _of_index(archive, texts)
    else:
        listed, left_out = _of_lists(archive, texts)
    if not listed and not any(row.verdict == "rejected" for row in left_out):
        raise DataError(f"{archive}: the lists name no photo")
    return sorted(listed, key=lambda photo: photo.name), left_out


def index_csv(listed: Iterable[Listed]) -> bytes:
    """Return the content of INDEX."""
    return _to_csv(_INDEX_COLUMNS, map(astuple, listed))


def left_out_csv(left_out: Iterable[LeftOut]) -> bytes:
    """Return the content of LEFT_OUT: rejected photos first, each kind by name."""

    def place(row: LeftOut) -> tuple[bool, str, str]:
        return row.verdict != "rejected", row.name, row.reason

    rows: list[LeftOut] = sorted(left_out, key=place)
    return _to_csv(_LEFT_OUT_COLUMNS, rows)


def _of_lists(archive: str, texts: Mapping[str, str]) -> tuple[list[Listed], list[LeftOut]]:
    if absent := LISTS.keys() - texts.keys():
        raise DataError(f"{archive}: {' and '.join(sorted(absent))} missing")
    listed: dict[str, Listed] = {}
    left_out = []
    for member in ("annotations/test.txt", "annotations/trainval.txt"):
        for number, line in enumerate(texts[member].splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split()
            if len(fields) != 4 or fields[2] not in ("1", "2") or not _OFFICIAL_NAME.fullmatch(fields[0]):
                raise DataError(
                    f"{archive}: {member}, line {number}: {line!r:.80} is not "
                    "'NAME CLASS SPECIES BREED' with species 1 (cat) or 2 (dog)"
                )
            name, species = fields[0], {"1": "cat", "2": "dog"}[fields[2]]
            if name in listed:
                reason = f"listed again in {member}; the first listing counts"
                left_out.append(LeftOut(name, "rejected", reason))
            else:
                # ``american_bulldog`` from ``american_bulldog_12``; a name without ``_`` holds no breed.
                breed = name.rpartition("_")[0] or UNKNOWN
                listed[name] = Listed(name, breed, species, "", LISTS[member])
    return list(listed.values()), left_out


def _of_index(archive: str, texts: Mapping[str, str]) -> tuple[list[Listed], list[LeftOut]]:
    listed: dict[str, Listed] = {}
    for number, row in _rows(archive, INDEX, texts[INDEX], _INDEX_COLUMNS):
        photo = Listed(*row)
        wrong = [f"{text!r:.80} {why}" for text in row[:3] if (why := why_no_name(text))]
        if photo.part not in PARTS:
            wrong.append(f"{photo.part!r:.80} is no split")
        if photo.name in listed:
            wrong.append(f"{photo.name!r} is there twice")
        if wrong:
            raise DataError(f"{archive}: {INDEX}, line {number}: {wrong[0]}")
        listed[photo.name] = photo
    left_out = []
    for number, row in _rows(archive, LEFT_OUT, texts.get(LEFT_OUT, ""), _LEFT_OUT_COLUMNS):
        name, verdict, reason = row
        if verdict not in VERDICTS:
            raise DataError(f"{archive}: {LEFT_OUT}, line {number}: {verdict!r:.80} is no verdict")
        left_out.append(LeftOut(name, verdict, reason))
    return list(listed.values()), left_out


def _rows(archive: str, member: str, text: str, columns: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV that must have exactly these columns, with their line numbers."""
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        if next(lines, columns) != columns:
            raise DataError(f"{archive}: {member}: its columns are not {', '.join(columns)}")
        for row in lines:
            if len(row) != len(columns):
                raise DataError(f"{archive}: {member}, line {lines.line_num}: not {len(columns)} columns")
            yield lines.line_num, row
    except csv.Error as error:
        raise DataError(f"{archive}: {member}, line {lines.line_num}: {error}") from None


def _to_csv(columns: list[str], rows: Iterable[tuple[str, ...]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
