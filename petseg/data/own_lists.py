"""Read the lists and tables beside a folder's photos: train.txt and the like, groups.csv, pairs.csv."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from petseg.core.files import read_file
from petseg.core.project import expanded
from petseg.data.images import SUFFIXES
from petseg.data.listing import why_no_name
from petseg.errors import DataError

IMAGES = "images"
MAX_LIST_BYTES = 64 << 20  # of a list or table
SPLITS = ("train", "val", "test")
_SHOWN = 5  # mistakes of a list that a message names


def read_lists(folder: Path, known: Iterable[str]) -> dict[str, str]:
    """Return the part of each photo by the lists; if there is a train.txt, without photos in no list."""
    files = [folder / f"{part}.txt" for part in SPLITS if (folder / f"{part}.txt").is_file()]
    parts: dict[str, str] = {}
    mistakes = []
    known = set(known)
    for file in files:
        for number, line in enumerate(_text(file).splitlines(), 1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            name = _entry(entry, known, folder)
            if name is None:
                mistakes.append(f"{file.name}, line {number}: {entry!r:.80} is not in {IMAGES}/")
            elif parts.setdefault(name, file.stem) != file.stem:
                mistakes.append(f"{file.name}, line {number}: {entry!r:.80} is in {parts[name]}.txt too")
    refuse(mistakes)
    if "train" not in (file.stem for file in files):
        parts = dict.fromkeys(known, "train" if files else "") | parts
    return decided(parts, " and ".join(file.name for file in files))


def read_groups(folder: Path, table: str, known: Iterable[str]) -> dict[str, str]:
    file = folder / table
    if not file.is_file():
        return {}
    groups: dict[str, str] = {}
    mistakes = []
    known = set(known)
    for number, row in read_table(file, ("name", "group"), ()):
        name = _entry(row["name"], known, folder)
        if name is None:
            mistakes.append(f"{file.name}, line {number}: {row['name']!r:.80} is not in {IMAGES}/")
        elif why := why_no_name(row["group"]):
            mistakes.append(f"{file.name}, line {number}: group {row['group']!r:.80} {why}")
        elif groups.setdefault(name, row["group"]) != row["group"]:
            mistakes.append(f"{file.name}, line {number}: {row['name']!r:.80} is in two groups")
    refuse(mistakes)
    return groups


def decided(parts: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the parts for the index: train becomes trainval if no list names validation photos.

    Raises:
        DataError: some photos are named for training or validation, but none for test.
    """
    given = set(parts.values()) - {""}
    if given and "test" not in given:
        raise DataError(
            f"{where}: no photo is named for test, and which of the others would be is not guessed; "
            "name them, or name none at all (split.test_fraction)"
        )
    if "val" in given:
        return dict(parts)
    return {name: "trainval" if part == "train" else part for name, part in parts.items()}


def name_of(path: PurePosixPath) -> str:
    """Return the name of a photo from the path of its picture: ``dogs_rex 1`` for ``dogs/rex 1.jpg``."""
    text = unicodedata.normalize("NFC", path.with_suffix("").as_posix().replace("/", "_"))
    return "".join(" " if unicodedata.category(letter) == "Zs" else letter for letter in text)


def inside(text: str, folder: Path) -> PurePosixPath:
    """Return a path from a list, relative to the folder if it lies inside; ``~`` is the home folder."""
    path = PurePosixPath(expanded(text.replace("\\", "/")))
    for whole in (folder.absolute(), folder.resolve()):
        if path.is_relative_to(whole):
            return path.relative_to(whole)
    return path


def _entry(entry: str, known: set[str], folder: Path) -> str | None:
    """Return the photo that a line names, by its own name or by its file's; None if there is none."""
    path = inside(entry, folder)
    path = path.relative_to(IMAGES) if path.is_relative_to(IMAGES) and entry.startswith(("~", "/")) else path
    if not path.name:
        return None
    whole = name_of(path.with_name(path.name + ".jpg"))
    if whole in known:
        return whole
    return name if path.suffix.lower() in SUFFIXES and (name := name_of(path)) in known else None


def read_table(
    file: Path, needed: tuple[str, ...], wanted: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the stripped cells of each row of a CSV; missing columns are empty.

    Raises:
        DataError: a column is missing or unknown, or a row has more or fewer than the first line.
    """
    lines = csv.reader(io.StringIO(_text(file), newline=""))
    try:
        columns = [column.strip() for column in next(lines, [])]
        absent = [column for column in needed if column not in columns]
        unknown = [column for column in columns if column not in (*needed, *wanted)]
        if absent or unknown or len(set(columns)) < len(columns):
            found = [f"no column {column}" for column in absent]
            found += [f"unknown column {column!r:.80}" for column in unknown] + ["a column is there twice"]
            raise DataError(
                f"{file.name}: {found[0]}; the first line names the columns: "
                f"{', '.join(needed)}" + (f", and if you like {', '.join(wanted)}" if wanted else "")
            )
        for row in lines:
            if len(row) != len(columns) and row:
                raise DataError(f"{file.name}, line {lines.line_num}: {len(row)} columns, not {len(columns)}")
            if any(row):
                cells = dict(zip(columns, (cell.strip() for cell in row), strict=True))
                yield lines.line_num, dict.fromkeys(wanted, "") | cells
    except csv.Error as error:
        raise DataError(f"{file.name}, line {lines.line_num}: {error}") from None


def _text(file: Path) -> str:
    try:
        return read_file(file, MAX_LIST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason})") from None


def refuse(mistakes: list[str]) -> None:
    if mistakes:
        more = [f"and {len(mistakes) - _SHOWN} more such lines"] if len(mistakes) > _SHOWN else []
        raise DataError(*mistakes[:_SHOWN], *more)
