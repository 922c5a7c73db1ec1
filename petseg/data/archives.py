"""Read an untrusted .tar.gz: it is verified first, then streamed, and never extracted."""

import gzip
import hashlib
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from petseg.errors import ArchiveError

PHOTOS = "images.tar.gz"
ANNOTATIONS = "annotations.tar.gz"

MAX_MEMBER_BYTES = 64 << 20
# Photos hardly compress, and an annotations archive expands about twofold. An archive that expands
# more than this was made to fill a disk or the memory.
MAX_EXPANSION = 20
_SMALL_ARCHIVE_BYTES = 64 << 20

_CHUNK = 1 << 20
_BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError)


def verify(path: Path, sha256: str | None, advance: Callable[[int], None] = lambda _: None) -> str:
    """Check that an archive is complete and unchanged, before anything opens it as an archive.

    If the sha256 is known, it is compared. Otherwise the compressed stream is read to its last byte
    and checked against the CRC-32 and the length in its trailer, which ``tarfile`` does not do.

    Returns:
        The file's sha256, in hex.

    Raises:
        ArchiveError: the file is damaged, cut short, or not the expected one.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    found = digest.hexdigest()
    if sha256 is not None and found != sha256:
        raise ArchiveError(
            f"{path.name}: sha256 is {found}, expected {sha256}; "
            "the file is damaged or another one: fetch it again"
        )
    if sha256 is None:
        if not path.stat().st_size:  # gzip takes an empty file for a complete stream
            raise ArchiveError(f"{path.name}: is empty; fetch it again")
        limit = _expansion_limit(path)
        try:
            with gzip.open(path) as stream:
                _drain(stream, path, limit)
        except _BROKEN as error:
            raise ArchiveError(f"{path.name}: is damaged or cut short ({error}); fetch it again") from None
    return found


def read_members(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes | None]]:
    """Yield the name of every file in an archive, and the content of the files that are wanted.

    Args:
        path: a .tar.gz.
        wanted: pattern that the whole name of a file must match for its content to be read.

    Yields:
        (name, content), in the order of the archive; content is None if the name is not wanted.

    Raises:
        ArchiveError: the archive is damaged, or holds something that only a hostile one does: a link,
            a device, an absolute name, ``..``, a name twice, or more than MAX_EXPANSION allows.
    """
    seen: set[str] = set()
    limit = _expansion_limit(path)
    try:
        with _CappedReads(path) as stream, tarfile.TarFile(fileobj=stream, mode="r") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                _refuse_hostile(path, name, member, limit, seen)
                if member.isdir():
                    continue
                if not wanted.fullmatch(name):
                    yield name, None
                    continue
                content = archive.extractfile(member)
                assert content is not None  # _refuse_hostile lets only regular files pass
                data = content.read()
                if len(data) != member.size:
                    raise EOFError(f"{name} is cut short")
                yield name, data
            _drain(stream, path, limit)
    except _BROKEN as error:
        raise ArchiveError(f"{path.name}: is damaged or cut short ({error}); fetch it again") from None


class _CappedReads(gzip.GzipFile):
    """A gzip stream that refuses to read very much at once.

    tarfile reads a long name in one piece, and trusts the length that the header gives.
    """

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_MEMBER_BYTES + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return super().read(size)


def _refuse_hostile(path: Path, name: str, member: tarfile.TarInfo, limit: int, seen: set[str]) -> None:
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise ArchiveError(f"{path.name}: {name!r} is a link or a device; such an archive is refused")
    if name.startswith("/") or ".." in name.split("/"):
        raise ArchiveError(f"{path.name}: {name!r} points out of the archive; such an archive is refused")
    if member.isreg() and name in seen:
        raise ArchiveError(f"{path.name}: {name!r} is there twice; such an archive is refused")
    seen.add(name)
    if member.size > MAX_MEMBER_BYTES:
        raise ArchiveError(f"{path.name}: {name!r} has {member.size:,} bytes, more than {MAX_MEMBER_BYTES:,}")
    if member.offset_data + member.size > limit:
        raise _expands_too_much(path, limit)


def _expansion_limit(path: Path) -> int:
    return MAX_EXPANSION * path.stat().st_size + _SMALL_ARCHIVE_BYTES


def _expands_too_much(path: Path, limit: int) -> ArchiveError:
    return ArchiveError(
        f"{path.name}: expands to more than {limit:,} bytes, {MAX_EXPANSION} times its size; refused"
    )


def _drain(stream: gzip.GzipFile, path: Path, limit: int) -> None:
    """Read to the end, where gzip checks its checksum."""
    while stream.read(_CHUNK):
        if stream.tell() > limit:
            raise _expands_too_much(path, limit)
