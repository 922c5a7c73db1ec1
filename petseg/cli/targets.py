"""Where a command may write: one guard for every path that a user gives.

Nothing is written into what petseg, DVC, MLflow or git keep for themselves, in this project or in another, or
over a file that git tracks, through links or not. No file is replaced without --force. Whoever then writes
puts a new file into place, which replaces a link and leaves alone what it leads to.
"""

import os
import re
import stat
import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from petseg.core.project import main_root
from petseg.core.textfiles import printable
from petseg.errors import UsageError
from petseg.pipeline.dvcfiles import LOCK, PIPELINE, dvc_settings, pipeline_paths
from petseg.store.before import EARLIER
from petseg.store.chain import MARKER
from petseg.store.layout import KEY_LENGTH, MANIFEST
from petseg.tracking.outbox import tracking_uri

_STORE, _CACHE = "the store of runs", "DVC's cache"
_MLFLOW, _SETTINGS = "MLflow's files", "the pipeline's files"
_OWN = {".git": "git's own folder", ".dvc": "DVC's own folder"}  # of any project
_IN_A_PROJECT: dict[str | Path, str] = {
    "runs": _STORE,
    "mlartifacts": _MLFLOW,
    "mlruns": _MLFLOW,
    "params.yaml": _SETTINGS,
    PIPELINE: _SETTINGS,
    LOCK: _SETTINGS,
}
_DATABASE = ("", "-wal", "-shm", "-journal")  # what SQLite writes beside one
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_FEW = 100  # files that git is asked about by their names


def check_targets(option: str, *paths: Path, force: bool) -> None:
    """Check that a command may write these files, those beside the named one included.

    Args:
        option: that named the first of them.
        paths: what the command would write.
        force: whether files that are there may be replaced.

    Raises:
        UsageError: one is kept for something else, is tracked by git, is there already and is not to be
            replaced, or is there and no file.
    """
    check_kept_out(option, *paths)
    if tracked := _first_tracked(paths):
        raise UsageError(f"{_named(option, tracked)}: is tracked by git; choose another place")
    there = [path for path in paths if os.path.lexists(path)]
    for path in there:
        if not (path.is_file() or path.is_symlink()):
            raise UsageError(f"{_named(option, path)}: is there, and is no regular file")
    if there and not force:
        raise UsageError(f"{_named(option, there[0])}: is there already; --force replaces it")


def check_kept_out(option: str, *paths: Path) -> None:
    """Check that files or folders lie in nothing that petseg, DVC, MLflow or git keep for themselves.

    Raises:
        UsageError: one does, by its name or through links; or its links lead in a circle.
    """
    guard = _Guard()
    for path in paths:
        try:
            reason = guard.why_not(path)
        except (OSError, RuntimeError) as error:  # which of the two a circle of links is depends on Python
            raise UsageError(f"{_named(option, path)}: can't be resolved ({error})") from None
        if reason:
            raise UsageError(f"{_named(option, path)}: lies in {reason}; choose another place")


def check_not_read(option: str, paths: Iterable[Path], given: Iterable[Path]) -> None:
    """Check that a command would write none of the files that it is to read.

    Raises:
        UsageError: it would, by this name or through links.
    """
    read = {place for path in given for place in (_place(path), Path(os.path.realpath(path)))}
    for path in paths:
        if _place(path) in read:
            raise UsageError(f"{_named(option, path)}: is read too; choose another place")


def _place(path: Path) -> Path:
    return Path(os.path.realpath(path.parent), path.name)


def regular_file(path: Path) -> Path:
    """Return the path of a file that is to be read.

    Raises:
        UsageError: there is none, or it is a folder, a device or a pipe, whose reading might not end.
    """
    if not path.exists():
        raise UsageError(f"{printable(path)}: no such file")
    if not path.is_file():
        raise UsageError(f"{printable(path)}: is no regular file")
    return path


def _named(option: str, path: Path) -> str:
    return f"{option} {printable(path)}".strip()


class _Guard:
    """What is kept for something else: of this project, and of each project that a path leads through."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[Path, str], str] = {}
        self._by_inode: dict[tuple[int, int], str] = {}
        self._projects: set[Path] = set()
        self._folders: dict[Path, tuple[Path, str | None]] = {}  # resolved, and why nothing may go there
        root = main_root()
        self._add_project(root)
        if database := re.fullmatch(r"(?:sqlite:///|file://|file:)?(/[^?]+).*", tracking_uri()):
            self._add_all(root, {Path(f"{database[1]}{ending}"): _MLFLOW for ending in _DATABASE})

    def why_not(self, path: Path) -> str | None:
        """Return in what a path lies, and where that is; None where it may be written to."""
        if path.name in ("", ".."):
            return self._first_on(_way(path))
        if path.parent not in self._folders:
            self._folders[path.parent] = path.parent.resolve(), self._first_on(_way(path.parent))
        folder, reason = self._folders[path.parent]
        place = folder / path.name
        return reason or self._first_on(_way(place) if _is_link(place) else [place])

    def _first_on(self, way: Iterable[Path]) -> str | None:
        return next((f"{what} ({printable(step)})" for step in way if (what := self._kept_for(step))), None)

    def _kept_for(self, step: Path) -> str | None:
        """Return what a file or folder itself is; of a project, remember what it keeps."""
        named = _OWN.get(step.name.casefold()) or self._by_name.get(_name_of(step))
        status = _status(step)
        if named or status is None:
            return named
        if found := self._by_inode.get((status.st_dev, status.st_ino)):
            return found
        if not stat.S_ISDIR(status.st_mode):
            return None
        if _is_project(step):
            self._add_project(step)
        return _content_of(step)

    def _add_project(self, root: Path) -> None:
        if root in self._projects:
            return
        self._projects.add(root)
        kept = {root / name: what for name, what in _IN_A_PROJECT.items()}
        kept |= {root / f"mlflow.db{ending}": _MLFLOW for ending in _DATABASE}
        kept |= dict.fromkeys(pipeline_paths(root), _SETTINGS)
        self._add_all(root, kept | dict.fromkeys(_caches(root), _CACHE))

    def _add_all(self, root: Path, kept: dict[Path, str]) -> None:
        for path, what in kept.items():
            for place in (path, path.resolve()):
                if root.is_relative_to(place):  # a remote of DVC's above the project, say
                    continue
                self._by_name[_name_of(place)] = what
                if status := _status(place):
                    self._by_inode[status.st_dev, status.st_ino] = what


def _way(path: Path) -> Iterator[Path]:
    """Yield the files and folders that a path leads through, its links followed one by one and at once."""
    path = Path.cwd() / path
    for step in (*reversed(path.parents), path):
        yield step.resolve() if step.name in ("", "..") else step.parent.resolve() / step.name
    end = path.resolve()
    yield from (*reversed(end.parents), end)


def _name_of(path: Path) -> tuple[Path, str]:
    return path.parent, path.name.casefold()  # as some disks take RUNS for runs


def _status(path: Path) -> os.stat_result | None:
    """Return what is known of what a path leads to; None where it leads to nothing that can be seen."""
    try:
        return path.stat()
    except OSError:
        return None


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # no folder that can be looked into, or a name that is too long
        return False


def _is_project(folder: Path) -> bool:
    """Tell whether a folder is a project's root, of this program or of DVC's."""
    if (folder / ".dvc").is_dir():
        return True
    has_stages = (folder / PIPELINE).is_file()
    return has_stages and ((folder / "params.yaml").is_file() or (folder / "petseg").is_dir())


def _content_of(folder: Path) -> str | None:
    """Return what a folder is by what is in it, as links may lead there from anywhere."""
    if (folder / "files/md5").is_dir():
        return _CACHE
    if (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir():
        return _OWN[".git"]  # a bare repository, or .git by another name
    try:
        with os.scandir(folder) as entries:
            keys = [entry.name for entry in entries if _KEY.fullmatch(entry.name)]
    except OSError:
        keys = []
    is_store = any((folder / name).is_file() for name in (MARKER, EARLIER)) or any(
        (folder / key / MANIFEST).is_file() for key in keys
    )
    return _STORE if is_store else None


def _caches(root: Path) -> Iterator[Path]:
    """Yield the folders that DVC's settings name: its cache, and the remotes that are folders."""
    if not (root / ".dvc").is_dir():
        return
    config = dvc_settings(root)
    if config is None:  # DVC has no cache either, then
        return
    urls = [remote.get("url") for remote in config.get("remote", {}).values()]
    places: list[str | None] = [config.get("cache", {}).get("dir"), *urls]
    for place in places:
        if place and "://" not in place:
            yield Path(os.path.abspath(root / ".dvc" / place))  # noqa: PTH100  (resolve would follow links)


def _first_tracked(paths: Iterable[Path]) -> Path | None:
    """Return a file that git tracks, in whatever repository, whether it is there or not; None for none."""
    asked: dict[Path, dict[str, Path]] = defaultdict(dict)
    folders: dict[Path, tuple[Path, Path | None]] = {}
    for path in paths:
        for each in {path, path.resolve()} if _is_link(path) else {path}:
            if each.parent not in folders:
                folder = each.parent.resolve()
                folders[each.parent] = folder, _repository(folder)
            folder, top = folders[each.parent]
            if top:
                asked[top][str((folder / each.name).relative_to(top))] = path
    for top, names in asked.items():
        folded = {name.casefold(): name for name in names}
        for listed in _listed(top, names):
            name = listed if listed in names else folded.get(listed.casefold())
            if name and (name == listed or _are_one(top / name, top / listed)):
                return names[name]
    return None


def _repository(folder: Path) -> Path | None:
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def _listed(top: Path, names: Collection[str]) -> list[str]:
    """Return the files that git tracks below a folder: at least those of these names, in whatever case."""
    asked = [f":(icase,literal){name}" for name in names] if len(names) <= _FEW else []
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "ls-files", "-z", "--"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run([*command, *asked], cwd=top, env=environment, capture_output=True, check=False)
    except FileNotFoundError:  # where there is no git, nobody works with the repository
        return []
    if done.returncode:
        reason = " ".join(os.fsdecode(done.stderr).split())
        raise UsageError(f"{printable(top)}: git can't say what it tracks there ({printable(reason)})")
    return os.fsdecode(done.stdout).split("\0")


def _are_one(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
