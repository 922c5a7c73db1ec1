"""Fetch the archives and an encoder's weights from servers or folders, and verify them."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from petseg.core.files import copy_atomically, written_atomically
from petseg.core.locks import Held, held
from petseg.core.progress import progress
from petseg.core.project import expanded
from petseg.core.terminal import print_lines
from petseg.core.urls import without_secrets
from petseg.data.archives import ANNOTATIONS, PHOTOS, verify
from petseg.errors import ArchiveError, DownloadError

ARCHIVES = (PHOTOS, ANNOTATIONS)
CHECKSUMS = "SHA256SUMS"

# The data set's home and its second server (https://www.robots.ox.ac.uk/~vgg/data/pets/).
OXFORD_URLS = (
    "https://www.robots.ox.ac.uk/~vgg/data/pets/data",
    "https://thor.robots.ox.ac.uk/~vgg/data/pets",
)
OXFORD_SHA256 = {
    PHOTOS: "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
    ANNOTATIONS: "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
}

FETCHED = Path("data/fetched")  # below the root; files by their sha256, which no stage deletes
PARTIAL = FETCHED / "partial"

_TRIES = 5
_TIMEOUT_S = (10, 30)  # to connect; between two packets
_CHUNK = 1 << 18
_ABSENT = (401, 403, 404, 410)  # trying again does not help


@dataclass(frozen=True)
class Retrieved:
    """An archive that is in place and verified."""

    name: str
    origin: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Remote:
    """A file on one or several servers.

    Attributes:
        name: name of the file.
        bases: URLs of the folders that hold it.
        sha256: hash of the file; None if it is unknown.
        otherwise: advice for the user if no server can be reached.
    """

    name: str
    bases: tuple[str, ...]
    sha256: str | None
    otherwise: str = "use data.source: sample, or a folder that holds the archives"


def fetch(source: str, sample: Path, into: Path, root: Path, backoff_s: float = 1.0) -> list[Retrieved]:
    """Put both archives of a source into a folder, verified.

    A file appears under its name only when it is complete. Downloads whose sha256 is known are kept in
    ``root/data/fetched``; they are hashed again and used from there without a network. A download that
    broke off stays there too, and the next call continues it.

    Args:
        source: ``sample``, ``oxford``, or a folder (relative to ``root``) or an http(s) URL that
            holds images.tar.gz and annotations.tar.gz, and SHA256SUMS if they are to be checked
            against known hashes.
        sample: folder of the photos that come with the repository.
        into: folder to put the archives into.
        root: the main repository.
        backoff_s: pause after the first failure, in seconds; it is doubled after each further one.

    Raises:
        DownloadError: an archive can't be found or fetched.
        ArchiveError: it differs from its checksum, or is damaged.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        return _fetch(source, sample, into, root, backoff_s)
    except (ValueError, RuntimeError) as error:  # an invalid URL or checksum file
        raise DownloadError(f"data.source: {without_secrets(source)}: {error}") from None


def _fetch(source: str, sample: Path, into: Path, root: Path, backoff_s: float) -> list[Retrieved]:
    if source == "oxford":
        files = [Remote(name, OXFORD_URLS, OXFORD_SHA256[name]) for name in ARCHIVES]
        return download_all(files, into, root, backoff_s)
    if "://" in source:
        if urlsplit(source).scheme not in ("http", "https"):
            raise DownloadError(f"data.source: {without_secrets(source)}: only http and https URLs are known")
        base = source.rstrip("/")
        known = _parse_checksums(_checksums(base, root))
        files = [Remote(name, (base,), known.get(name)) for name in ARCHIVES]
        return download_all(files, into, root, backoff_s)
    folder = sample if source == "sample" else root / expanded(source)
    if not folder.is_dir():
        raise DownloadError(
            f"data.source: {source}: no such folder; allowed are sample, oxford, a folder, or a URL"
        )
    known = _parse_checksums(_read_text(folder / CHECKSUMS))
    return [_copy(folder / name, into / name, known.get(name)) for name in ARCHIVES]


def _copy(origin: Path, target: Path, known: str | None) -> Retrieved:
    if not origin.is_file():
        raise DownloadError(
            f"{origin}: no such file; a source holds {PHOTOS} and {ANNOTATIONS}, "
            "or images/ and masks/, or pairs.csv"
        )
    with progress(f"verify {origin.name}", origin.stat().st_size, in_bytes=True) as advance:
        found = verify(origin, known, advance)
    copy_atomically(origin, target)
    return Retrieved(target.name, str(origin), target.stat().st_size, found)


def download_all(files: Sequence[Remote], into: Path, root: Path, backoff_s: float) -> list[Retrieved]:
    """Put files into a folder, verified: from earlier downloads, or else from their servers.

    Args:
        files: the files to fetch.
        into: folder to put them into.
        root: the main repository; files with a known sha256 are kept below it, so that they are fetched once.
        backoff_s: pause after the first failure, in seconds; it is doubled after each further one.

    Raises:
        DownloadError: a file can't be downloaded.
    """
    with requests.Session() as session:
        return [_provide(session, file, into / file.name, root, backoff_s) for file in files]


def _provide(
    session: requests.Session, file: Remote, target: Path, root: Path, backoff_s: float
) -> Retrieved:
    """Put one file in place, and keep a copy if its sha256 is known."""
    partial = root / PARTIAL / f"{_digest(file.sha256 or file.bases[0])}-{file.name}"
    with _alone(root / FETCHED / f".{partial.name}.lock", file.name):
        if file.sha256 is None:  # a kept copy could not be verified
            retrieved = _download(session, file, partial, backoff_s)
            copy_atomically(partial, target)
            partial.unlink()
            return retrieved
        kept = root / FETCHED / file.sha256 / file.name
        if _is_whole(kept, file.sha256):
            retrieved = Retrieved(
                file.name, without_secrets(f"{file.bases[0]}/{file.name}"), kept.stat().st_size, file.sha256
            )
        else:
            retrieved = _download(session, file, partial, backoff_s)
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(kept)
        copy_atomically(kept, target)
    return retrieved


def _is_whole(kept: Path, sha256: str) -> bool:
    """Return whether a file was fetched before and is unchanged; one that differs is removed."""
    if not kept.is_file():
        return False
    try:
        with progress(f"verify {kept.name}", kept.stat().st_size, in_bytes=True, transient=True) as advance:
            verify(kept, sha256, advance)
    except ArchiveError:
        print_lines(f"warning: {kept}: differs from its sha256; it is fetched again", err=True)
        kept.unlink()
        return False
    return True


@contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    """Keep other processes from fetching the same file; print a line if this one has to wait."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(lock, wait=False))
        except Held as other:
            print_lines(f"waiting for process {other.pid}, which fetches {name}", err=True)
            stack.enter_context(held(lock))
        yield


def _download(session: requests.Session, file: Remote, partial: Path, backoff_s: float) -> Retrieved:
    """Try the servers in turn, from where the last try broke off; ``partial`` is complete at the end."""
    name, bases, known = file.name, file.bases, file.sha256
    partial.parent.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    for attempt in range(_TRIES):
        url = f"{bases[attempt % len(bases)]}/{name}"
        try:
            _receive(session, url, partial, resumable=known is not None)
            found = verify(partial, known)
        except ArchiveError as error:  # an old or damaged beginning: start again from nothing
            partial.unlink(missing_ok=True)
            failures.append(str(error))
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            failures.append(f"{without_secrets(url)}: {_short(error)}")
            if _is_final(error) and len(bases) == 1:
                break
        else:
            return Retrieved(name, without_secrets(url), partial.stat().st_size, found)
        if attempt + 1 < _TRIES:
            time.sleep(backoff_s * 2**attempt)
    if known is None:  # the download could not be continued
        partial.unlink(missing_ok=True)
    kept = f"; {partial.stat().st_size:,} bytes are kept for the next try" if partial.exists() else ""
    raise DownloadError(
        f"can't download {name} ({failures[-1]}; {len(failures)} tries{kept}); "
        f"without a network {file.otherwise}"
    )


def _receive(session: requests.Session, url: str, partial: Path, resumable: bool) -> None:
    """Append the missing rest to ``partial``.

    Only a file whose sha256 is known is continued: for another one, nothing shows whether the server
    still has the same file.
    """
    have = partial.stat().st_size if resumable and partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as reply:
        if reply.status_code == requests.codes.requested_range_not_satisfiable:
            return  # it is complete, or longer than the server's file: its hash shows which
        reply.raise_for_status()
        if reply.status_code != requests.codes.partial_content:
            have = 0
        length = reply.headers.get("Content-Length", "")
        rest = int(length) if length.isdigit() else None
        if rest is not None and rest > shutil.disk_usage(partial.parent).free:
            raise DownloadError(
                f"disk full: {partial.name} needs {rest / 1e6:,.0f} MB more in {partial.parent}"
            )
        total = None if rest is None else have + rest
        with progress(f"download {partial.name[13:]}", total, start=have, in_bytes=True) as advance:
            _append(reply, partial, "ab" if have else "wb", advance)


def _append(reply: requests.Response, partial: Path, mode: str, advance: Callable[[int], None]) -> None:
    # read1 returns what has arrived; iter_content would lose the beginning of a chunk that breaks off.
    with partial.open(mode, buffering=0) as file:
        while chunk := reply.raw.read1(_CHUNK):
            file.write(chunk)
            advance(len(chunk))


def _checksums(base: str, root: Path) -> str:
    """Return the checksums that a server has; if it can't be reached, those that it had before."""
    before = root / FETCHED / f"{_digest(without_secrets(base))}-{CHECKSUMS}"
    try:
        with requests.Session() as session:
            text = _get_text(session, f"{base}/{CHECKSUMS}")
    except DownloadError as error:
        if not before.is_file():
            raise
        print_lines(f"warning: {error}; the checksums that it gave before are used", err=True)
        return _read_text(before)
    if _parse_checksums(text):
        with written_atomically(before) as file:
            file.write(text.encode())
    elif not text:  # the server has none any more; a login page in their place would prove nothing
        before.unlink(missing_ok=True)
    return text


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]


def _get_text(session: requests.Session, url: str) -> str:
    """Return a small text; an empty one if the server does not have it."""
    try:
        reply = session.get(url, timeout=_TIMEOUT_S)
        if reply.status_code in _ABSENT:
            return ""
        reply.raise_for_status()
    except requests.RequestException as error:
        raise DownloadError(f"can't reach {without_secrets(url)}: {_short(error)}") from None
    return reply.text


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _parse_checksums(text: str) -> dict[str, str]:
    """Read the lines of ``sha256sum``; others, such as those of an HTML page, are skipped."""
    known = {}
    for line in text.splitlines():
        digest, _, name = line.strip().partition(" ")
        if len(digest) == 64 and set(digest.lower()) <= set("0123456789abcdef"):
            known[name.strip().lstrip("*")] = digest.lower()
    return known


def _is_final(error: Exception) -> bool:
    return _status(error) in _ABSENT


def _status(error: Exception) -> int | None:
    response = error.response if isinstance(error, requests.RequestException) else None
    return None if response is None else response.status_code


def _short(error: Exception) -> str:
    if status := _status(error):
        return f"HTTP {status}"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return "the connection broke off"
