"""Pack a folder of photos and masks into the two archives that the later stages read.

The folder has ``images/`` and ``masks/``, and a mask has the name of its photo. ``train.txt``, ``val.txt``,
``test.txt`` (one name per line) and ``groups.csv`` (name, group) are optional. Or the folder has
``pairs.csv`` with the columns image and mask, and optionally label, species, group and split.
"""

import gzip
import io
import os
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from petseg.core.files import read_file, sha256_file, written_atomically
from petseg.core.parallel import in_order
from petseg.core.progress import progress
from petseg.core.project import expanded
from petseg.core.textfiles import printable
from petseg.data.archives import ANNOTATIONS, MAX_MEMBER_BYTES, PHOTOS
from petseg.data.download import Retrieved, fetch
from petseg.data.encodings import mask_values, to_trimap
from petseg.data.images import SUFFIXES
from petseg.data.listing import (
    INDEX,
    LEFT_OUT,
    UNKNOWN,
    LeftOut,
    Listed,
    index_csv,
    left_out_csv,
    why_ignored,
    why_no_name,
)
from petseg.data.own_lists import (
    IMAGES,
    SPLITS,
    decided,
    inside,
    name_of,
    read_groups,
    read_lists,
    read_table,
    refuse,
)
from petseg.data.splitting import check_groups
from petseg.errors import BadImage, DataError, ParamsError
from petseg.params import Masks

MASKS, PAIRS, GROUPS = "masks", "pairs.csv", "groups.csv"
_NEEDED, _WANTED = ("image", "mask"), ("label", "species", "group", "split")


@dataclass(frozen=True)
class Pair:
    """A photo, its mask, and the facts about them."""

    listed: Listed
    photo: Path
    mask: Path


@dataclass(frozen=True)
class OwnData:
    """The content of a folder, from its file names alone: no picture has been opened.

    Attributes:
        folder: the folder that holds everything.
        pairs: its pairs, sorted by name.
        left_out: photos that can't be used, and files that are not used.
    """

    folder: Path
    pairs: list[Pair]
    left_out: list[LeftOut]


def put_in_place(source: str, masks: Masks, sample: Path, into: Path, root: Path) -> list[Retrieved]:
    """Put the two archives of any source into a folder, verified.

    Args:
        source: the value of data.source.
        masks: the encoding of the masks, if the source is a folder of photos and masks.
        sample: folder of the photos that come with the repository.
        into: folder to put the archives into.
        root: the main repository.

    Raises:
        DownloadError: an archive can't be found or fetched.
        ArchiveError: it is damaged.
        ParamsError: data.masks is set, but the source holds archives.
        DataError: the lists of the folder are wrong, or it has no pair.
    """
    own = find_own(source, root)
    if own is None:
        check_archives_encoding(source, masks)
        return fetch(source, sample, into, root)
    return archive(read_own(own), masks, into)


def check_archives_encoding(source: str, masks: Masks) -> None:
    """Check that the encoding is trimap, as it always is in archives.

    Raises:
        ParamsError: it is another one.
    """
    if masks != "trimap":
        raise ParamsError(
            f"data.masks: {masks} is for a folder of photos and masks; "
            f"the archives of data.source: {source} hold trimaps: trimap"
        )


def find_own(source: str, root: Path) -> Path | None:
    """Return the folder or the CSV of pairs that a source names; None for any other kind of source."""
    if source in ("sample", "oxford") or "://" in source:
        return None
    try:
        path = root / expanded(source)
        if path.suffix == ".csv" and path.is_file():
            return path
        if (path / PHOTOS).exists():
            return None
        if (path / PAIRS).is_file():
            return path / PAIRS
        return path if (path / IMAGES).is_dir() else None
    except (ValueError, OSError):  # no file can have this name
        return None


def read_own(path: Path) -> OwnData:
    """Find the pairs in a folder, or in a CSV of pairs.

    Raises:
        DataError: a list or the CSV is wrong, or there is no pair.
    """
    own = _of_csv(path) if path.is_file() else _of_folder(path)
    if not own.pairs and not any(row.verdict == "rejected" for row in own.left_out):
        raise DataError(f"{path}: no pair of a photo and a mask")
    return own


def archive(own: OwnData, masks: Masks, into: Path) -> list[Retrieved]:
    """Write the photos and masks of a folder as the two archives.

    A photo's file is stored unchanged; a mask becomes a trimap. The same files give the same bytes.

    Raises:
        DataError: the lists divide a group.
    """
    check_groups([pair.listed for pair in own.pairs])
    into.mkdir(parents=True, exist_ok=True)
    kept: list[Pair] = []
    left_out = list(own.left_out)
    with (
        _tar(into / ANNOTATIONS) as annotations,
        warnings.catch_warnings(),
        progress("masks", len(own.pairs)) as advance,
    ):
        warnings.filterwarnings("ignore", module="PIL")  # about odd metadata, in all threads
        for pair, trimap in in_order(partial(_trimap, masks=masks), own.pairs):
            advance(1)
            try:
                _add(annotations, f"annotations/trimaps/{pair.listed.name}.png", trimap.result())
            except BadImage as refusal:
                reason = f"{printable(pair.mask.relative_to(own.folder))} {refusal}"
                left_out.append(LeftOut(pair.listed.name, "rejected", reason))
            else:
                kept.append(pair)
        _add(annotations, INDEX, index_csv(pair.listed for pair in kept))
        _add(annotations, LEFT_OUT, left_out_csv(left_out))
    with _tar(into / PHOTOS) as photos, progress("photos", len(kept)) as advance:
        for pair in kept:
            _add(photos, f"images/{pair.listed.name}.jpg", read_file(pair.photo, MAX_MEMBER_BYTES))
            advance(1)
    return [
        Retrieved(name, str(own.folder), (into / name).stat().st_size, sha256_file(into / name))
        for name in (PHOTOS, ANNOTATIONS)
    ]


def _trimap(pair: Pair, masks: Masks) -> bytes:
    try:
        content = read_file(pair.mask, MAX_MEMBER_BYTES)
    except OSError as error:
        raise BadImage(f"can't be read: {error.strerror}") from None
    trimap = to_trimap(mask_values(content, masks), masks)
    file = io.BytesIO()
    Image.fromarray(trimap).save(file, "PNG")
    return file.getvalue()


@contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Write a .tar.gz without times and users; photos and PNG files hardly compress any further."""
    with (
        written_atomically(path) as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.TarFile(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar,
    ):
        yield tar


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    tar.getmembers().clear()  # else this list would keep every header in memory to the end


def _of_folder(folder: Path) -> OwnData:
    if not (folder / MASKS).is_dir():
        raise DataError(f"{folder}: has {IMAGES}/ but no {MASKS}/ beside it")
    left_out: list[LeftOut] = []
    photos, masks = (_pictures(folder, part, left_out) for part in (IMAGES, MASKS))
    parts, groups = read_lists(folder, photos.keys()), read_groups(folder, GROUPS, photos.keys())
    pairs = []
    for name in sorted(photos):
        if name not in parts:
            left_out += [LeftOut(printable(path), "ignored", "in no list") for path in photos[name]]
            masks.pop(name, None)
            continue
        its_masks = masks.pop(name, [])
        if bad := why_no_name(name):
            reason = f"its name {bad}; rename it"
            left_out.append(LeftOut(printable(photos[name][0]), "rejected", reason))
        elif bad := _why_no_pair(photos[name], its_masks):
            left_out.append(LeftOut(name, "rejected", bad))
        else:
            listed = Listed(name, UNKNOWN, UNKNOWN, groups.get(name, ""), parts[name])
            pair = Pair(listed, folder / photos[name][0], folder / its_masks[0])
            if bad := _why_unusable(pair, folder):
                left_out.append(LeftOut(name, "rejected", bad))
            else:
                pairs.append(pair)
    alone = [printable(path) for name in sorted(masks) for path in masks[name]]
    if photos and not pairs and alone:
        raise DataError(
            f"{folder}: no photo has a mask of its own name: "
            f"{printable(photos[min(photos)][0])}, but {alone[0]}; rename the masks, or pair them in {PAIRS}"
        )
    left_out += [LeftOut(path, "ignored", "mask of no photo") for path in alone]
    return OwnData(folder, pairs, left_out)


def _why_no_pair(photos: list[PurePosixPath], masks: list[PurePosixPath]) -> str | None:
    """Return why the photos and masks of one name are not one photo and one mask; None if they are."""
    for files in (photos, masks):
        if len(files) > 1:
            return f"is there twice: {' and '.join(map(printable, files))}"
    return None if masks else f"no picture of this name in {MASKS}/"


def _pictures(folder: Path, part: str, left_out: list[LeftOut]) -> dict[str, list[PurePosixPath]]:
    """Return the pictures below a part of the folder, by photo name; add other files to ``left_out``."""

    def fail(error: OSError) -> None:
        raise error

    found: dict[str, list[PurePosixPath]] = {}
    for parent, folders, files in os.walk(folder / part, onerror=fail):
        here = PurePosixPath(Path(parent).relative_to(folder))
        folders.sort()
        for name in [name for name in folders if name.startswith(".") or (Path(parent) / name).is_symlink()]:
            folders.remove(name)
            left_out.append(LeftOut(printable(here / name), "ignored", "a hidden folder or a link to one"))
        for name in sorted(files):
            path = here / name
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                left_out.append(LeftOut(printable(path), "ignored", why_ignored(name)))
            else:
                found.setdefault(name_of(path.relative_to(part)), []).append(path)
    return found


def _of_csv(file: Path) -> OwnData:
    folder = file.parent
    pairs: dict[str, Pair] = {}
    parts: dict[str, str] = {}
    lines: dict[str, int] = {}
    left_out, mistakes = [], []
    for number, row in read_table(file, _NEEDED, _WANTED):
        photo, mask = (inside(row[column], folder) for column in _NEEDED)
        wrong = list(_mistakes_in(row, photo, mask))
        mistakes += [f"{file.name}, line {number}: {text}" for text in wrong]
        if wrong:
            continue
        name = name_of(photo.relative_to(IMAGES) if photo.is_relative_to(IMAGES) else photo)
        if name in parts:
            twice = f"{printable(photo)} is there already, in line {lines[name]}, or has the same name"
            mistakes.append(f"{file.name}, line {number}: {twice}")
            continue
        parts[name], lines[name] = row["split"], number
        listed = Listed(name, row["label"] or UNKNOWN, row["species"] or UNKNOWN, row["group"], "")
        pair = Pair(listed, folder / photo, folder / mask)
        if bad := _why_unusable(pair, folder):
            left_out.append(LeftOut(printable(photo), "rejected", bad))
        elif bad := why_no_name(name):
            left_out.append(LeftOut(printable(photo), "rejected", f"its name {bad}; rename it"))
        else:
            pairs[name] = pair
    refuse(mistakes)
    if any(parts.values()) and (empty := [name for name, part in parts.items() if not part]):
        raise DataError(
            f"{file.name}, line {lines[empty[0]]}: split is empty, but given in other lines; "
            "give it in all or in none"
        )
    parts = decided(parts, file.name)
    in_order_of_names = [
        replace(pair, listed=replace(pair.listed, part=parts[name])) for name, pair in sorted(pairs.items())
    ]
    return OwnData(folder, in_order_of_names, left_out)


def _mistakes_in(row: Mapping[str, str], photo: PurePosixPath, mask: PurePosixPath) -> Iterator[str]:
    for column, path in zip(_NEEDED, (photo, mask), strict=True):
        if not path.name:
            yield f"{column} is empty"
    for column in ("label", "species", "group"):
        if row[column] and (why := why_no_name(row[column])):
            yield f"{column} {row[column]!r:.80} {why}"
    if row["split"] not in ("", *SPLITS):
        yield f"split {row['split']!r:.80} is not {', '.join(SPLITS)} or empty"


def _why_unusable(pair: Pair, folder: Path) -> str | None:
    """Return why the file of a photo or of its mask must not be opened; None if both may be."""
    for path in (pair.photo, pair.mask):
        name = printable(path.relative_to(folder)) if path.is_relative_to(folder) else printable(path)
        try:
            real = path.resolve(strict=True)
            size = real.stat().st_size
        except (OSError, RuntimeError, ValueError):  # links in a circle, or an impossible name
            return f"{name}: no such file"
        if not real.is_relative_to(folder.resolve()):
            return f"{name} lies outside of the folder, or is a link that leads there"
        if not real.is_file():
            return f"{name} is no regular file"
        if not os.access(real, os.R_OK):
            return f"{name} may not be read"
        if size > MAX_MEMBER_BYTES:
            return f"{name} has {size:,} bytes, more than {MAX_MEMBER_BYTES:,}"
    return None
