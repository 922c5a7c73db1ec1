"""Keep commands and stages from writing into the files of petseg, DVC, MLflow and git, in any project.

A path is followed through its links, and the parts of a store are recognized by where they really lie.
Commands and stages share this guard; a stage may also write its own outs.
"""

import os
import re
import sqlite3
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from petseg.core.checked import MOST_BYTES
from petseg.core.files import read_file
from petseg.core.project import main_root, tracking_uri
from petseg.core.textfiles import printable
from petseg.core.tracked import first_tracked, is_link, place_of
from petseg.errors import UsageError
from petseg.pipeline.dvcfiles import LOCK, PIPELINE, dvc_settings, own_outs, pipeline_paths

_STORE, _CACHE = "the store of runs", "DVC's cache"
_MLFLOW, _SETTINGS = "MLflow's files", "the pipeline's files"
_OWN = {".git": "git's own folder", ".dvc": "DVC's own folder"}  # in any project
_DVCS = (_CACHE, _OWN[".dvc"])
_IN_A_PROJECT: dict[str | Path, str] = {
    "runs": _STORE,
    ".dvc": _OWN[".dvc"],
    "mlartifacts": _MLFLOW,
    "mlruns": _MLFLOW,
    "params.yaml": _SETTINGS,
    PIPELINE: _SETTINGS,
    LOCK: _SETTINGS,
}
_DATABASE = ("", "-wal", "-shm", "-journal")  # the file itself, and those that SQLite writes beside it
_URI = re.compile(r"(?:sqlite(?:\+\w+)?:///|file://|file:)?(/[^?#]+).*")
# Names of petseg.store, which this package can't import; tests/cli/test_targets.py compares them.
_MARKS, _MANIFEST = ("store.json", "champions.jsonl"), "manifest.json"
_LOGGED = re.compile(r"(m-)?[0-9a-f]{32}/artifacts")  # of a run or a model in an artifact store of MLflow
_KEY = re.compile(r"[0-9a-f]{16}")


def check_kept_out(option: str, *paths: Path) -> None:
    """Check that files or folders do not lie in a place that petseg, DVC, MLflow or git keep for themselves.

    Raises:
        UsageError: one does, directly or through links, or its links lead in a circle.
    """
    _check(_Guard(), option, *paths)


def check_outputs(stage: str, outputs: Mapping[str, Path]) -> None:
    """Check that a stage may write to the paths of its options, which anyone may change in dvc.yaml.

    Args:
        stage: its name; it may write the outs that dvc.yaml lists for it.
        outputs: the paths, by the names of their options.

    Raises:
        UsageError: a path lies in a place that is kept for something else, contains the project, or is
            tracked by git; or two paths are the same file.
    """
    here = Path.cwd().resolve()
    own = own_outs(here, stage)
    guard = _Guard(own, outputs.values())
    check_apart((f"--{option}", path) for option, path in outputs.items())
    others = {path: option for option, path in outputs.items() if place_of(path) not in own}
    if tracked := first_tracked(others):
        raise UsageError(f"--{others[tracked]} {printable(tracked)}: is tracked by git; choose another place")
    for option, path in outputs.items():
        description = [path.with_suffix(".json")] if path.name else []  # if it is a file of weights
        _check(guard, f"--{option}", path, *description)
        if here.is_relative_to(path.resolve()):
            raise UsageError(f"--{option} {printable(path)}: holds the project; choose another place")


def check_apart(targets: Iterable[tuple[str, Path]]) -> None:
    """Check that a command would not write the same file twice.

    Args:
        targets: the paths that it would write, each with its option.

    Raises:
        UsageError: two are the same file, through links or by names that differ only in case.
    """
    written: dict[tuple[Path, str], Path] = {}
    for option, path in targets:
        place = place_of(path)
        if (other := written.setdefault((place.parent, place.name.casefold()), path)) is not path:
            what = f"is written as {printable(other)} too"
            raise UsageError(f"{named(option, path)}: {what}; choose another place")


def _check(guard: "_Guard", option: str, *paths: Path) -> None:
    for path in paths:
        try:
            reason = guard.why_not(path)
        except (OSError, RuntimeError) as error:  # for a circle of links, by Python's version
            raise UsageError(f"{named(option, path)}: can't be resolved ({error})") from None
        if reason:
            raise UsageError(f"{named(option, path)}: lies in {reason}; choose another place")


def named(option: str, path: Path) -> str:
    """Return the words by which a message names the path of an option."""
    return f"{option} {printable(path)}".strip()


class _Guard:
    """The places that are kept for something else, in this project and in each that a path leads through.

    Args:
        own: the outs that a stage may write; None for a command.
        outputs: all paths that a stage would write.
    """

    def __init__(self, own: Iterable[Path] | None = None, outputs: Iterable[Path] = ()) -> None:
        self._by_name: dict[tuple[Path, str], str] = {}
        self._by_inode: dict[tuple[int, int], str] = {}
        self._projects: set[Path] = set()
        self._folders: dict[Path, tuple[Path, str | None]] = {}  # resolved, and why they are kept
        here, self._own = Path.cwd().resolve(), set(own or ())
        # A stage works in its folder wherever that is: in a DVC experiment it lies below .dvc/tmp.
        self._here = None if own is None else here
        # Reading DVC's settings takes a quarter of a second; outputs inside the project do not need it.
        self._reads_dvc = own is None or not all(path.resolve().is_relative_to(here) for path in outputs)
        root = main_root()
        if sys.prefix != sys.base_prefix:
            self._add_all(root, {Path(sys.prefix): "the Python environment"})
        for project in {root, here} if own is not None else {root}:
            self._add_project(project)
        uri = tracking_uri()
        if "://" not in uri and not uri.startswith("file:"):
            uri = str(Path.cwd() / uri)
        if found := _URI.fullmatch(uri):
            database = unquote(found[1]) if uri.startswith("file:") else found[1]
            self._add_all(root, {Path(f"{database}{ending}"): _MLFLOW for ending in _DATABASE})

    def why_not(self, path: Path) -> str | None:
        """Return in which kept place a path lies, and where that is; None if it may be written."""
        if path.name in ("", ".."):
            return self._first_on(_way(path))
        if path.parent not in self._folders:
            self._folders[path.parent] = path.parent.resolve(), self._first_on(_way(path.parent))
        folder, reason = self._folders[path.parent]
        place = folder / path.name
        reason = reason or self._first_on(_way(place) if is_link(place) else [place])
        # An out that DVC has made a link to its cache is replaced by its stage.
        is_dvcs = place in self._own and place.is_file() and (reason or "").startswith(_DVCS)
        return None if is_dvcs else reason

    def _first_on(self, way: Iterable[Path]) -> str | None:
        *_, end = steps = list(way)
        if self._here and end.is_relative_to(self._here):
            steps = [step for step in steps if not self._here.is_relative_to(step)]
        return next((f"{what} ({printable(step)})" for step in steps if (what := self._kept_for(step))), None)

    def _kept_for(self, step: Path) -> str | None:
        """Return for what a file or folder is kept, or None; remember the kept places of a project."""
        if step in self._own:
            return None
        kept = _OWN.get(step.name.casefold()) or self._by_name.get(_name_of(step))
        status = _status(step)
        if kept or status is None:
            return kept or (_MLFLOW if _is_beside_mlflows(step) else None)
        if found := self._by_inode.get((status.st_dev, status.st_ino)):
            return found
        if not stat.S_ISDIR(status.st_mode):
            return _MLFLOW if _is_mlflows(step) or _is_beside_mlflows(step) else None
        if _is_project(step):
            self._add_project(step)
        return _content_of(step)

    def _add_project(self, root: Path) -> None:
        if root in self._projects:
            return
        self._projects.add(root)
        kept = {root / name: what for name, what in _IN_A_PROJECT.items()}
        kept |= {root / f"mlflow.db{ending}": _MLFLOW for ending in _DATABASE}
        kept = dict.fromkeys(pipeline_paths(root) - self._own, _SETTINGS) | kept
        self._own -= kept.keys()
        caches = [root / ".dvc/cache", *(_caches(root) if self._reads_dvc else ())]
        objects = [cache / inner for cache in caches for inner in ("", "files", "files/md5")]
        self._add_all(root, dict.fromkeys(objects, _CACHE) | kept)
        for entry in _links_and_folders(root / "runs"):  # parts of a store may be links or mounts
            if entry.is_symlink():
                self._add_all(root, {Path(entry.path): _STORE})
            elif status := _status(Path(entry.path)):
                self._by_inode[status.st_dev, status.st_ino] = _STORE

    def _add_all(self, root: Path, kept: Mapping[Path, str]) -> None:
        for path, what in kept.items():
            for place in (path, path.resolve()):
                if root.is_relative_to(place):  # such as a DVC remote above the project
                    continue
                self._by_name[_name_of(place)] = what
                if status := _status(place):
                    self._by_inode[status.st_dev, status.st_ino] = what


def _links_and_folders(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield the links and the folders below a folder, but not its files, which may be many."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.is_symlink() or entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for entry in found:
        yield entry
        if not entry.is_symlink():
            yield from _links_and_folders(entry.path)


def _way(path: Path) -> Iterator[Path]:
    """Yield the files and folders that a path leads through, its links followed one by one, then at once."""
    path = Path.cwd() / path
    for step in (*reversed(path.parents), path):
        yield step.resolve() if step.name in ("", "..") else step.parent.resolve() / step.name
    end = path.resolve()
    yield from (*reversed(end.parents), end)


def _name_of(path: Path) -> tuple[Path, str]:
    return path.parent, path.name.casefold()  # for some disks RUNS and runs are the same


def _status(path: Path) -> os.stat_result | None:
    """Return the status of what a path leads to; None if there is nothing, or it can't be seen."""
    try:
        return path.stat()
    except OSError:
        return None


def _is_project(folder: Path) -> bool:
    """Return whether a folder is the root of a project of petseg or of DVC."""
    if (folder / ".dvc").is_dir():
        return True
    has_stages = (folder / PIPELINE).is_file()
    return has_stages and ((folder / "params.yaml").is_file() or (folder / "petseg").is_dir())


def _content_of(folder: Path) -> str | None:
    """Return what a folder is by its content, because links may lead there from anywhere."""
    if (folder / "files/md5").is_dir():
        return _CACHE
    if _LOGGED.fullmatch("/".join(folder.parts[-2:])):
        return _MLFLOW
    if (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir():
        return _OWN[".git"]  # a bare repository, or .git under another name
    try:
        with os.scandir(folder) as entries:
            keys = [entry.name for entry in entries if _KEY.fullmatch(entry.name)]
    except OSError:
        keys = []
    is_store = any((folder / name).is_file() for name in _MARKS) or any(
        (folder / key / _MANIFEST).is_file() for key in keys
    )
    return _STORE if is_store or _is_run(folder) else None


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run's, whatever its name: web pages have a manifest.json too."""
    try:
        text = read_file(folder / _MANIFEST, MOST_BYTES) if (folder / _MANIFEST).is_file() else b""
    except OSError:
        return False
    return b'"data_sha256"' in text or b'"adopted"' in text


def _is_mlflows(file: Path) -> bool:
    """Return whether a file is a database of MLflow, which may lie outside any project."""
    try:
        if not file.is_file():
            return False
        uri = f"file:{quote(os.fsencode(file))}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as tables:
            query = "SELECT 1 FROM sqlite_master WHERE name IN ('experiments', 'alembic_version')"
            return len(tables.execute(query).fetchall()) == 2
    except (OSError, sqlite3.Error):
        return False


def _is_beside_mlflows(file: Path) -> bool:
    """Return whether a file is one that SQLite writes beside a database of MLflow."""
    ending = next((ending for ending in _DATABASE[1:] if file.name.endswith(ending)), None)
    return ending is not None and _is_mlflows(file.with_name(file.name.removesuffix(ending)))


def _caches(root: Path) -> Iterator[Path]:
    """Yield the folders that DVC's settings name: its cache, and the remotes that are folders."""
    if not (root / ".dvc").is_dir():
        return
    config = dvc_settings(root)
    if config is None:  # then DVC has no cache either
        return
    urls = [remote.get("url") for remote in config.get("remote", {}).values()]
    places: list[object] = [config.get("cache", {}).get("dir"), *urls]
    for place in places:
        if isinstance(place, str) and place and "://" not in place:
            yield Path(os.path.abspath(root / ".dvc" / place))  # noqa: PTH100  (resolve would follow links)
