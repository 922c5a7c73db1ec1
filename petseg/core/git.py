"""The commit that is checked out, and the diff from it to the present files.

A run is traced by this diff, so no setting of the user may change it, and no flag in the index may hide a
file from it. The bytes of each file are hashed here and compared with those of the commit; git's plumbing
commands then make the diff. It can be applied with ``apply_changes`` or with a plain ``git apply``.

The user's index, files and objects are only read: git writes to a temporary folder.
"""

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from petseg.core.terminal import print_lines

# The diff leaves these out: the pipeline writes them, and every record holds the values of params.yaml.
NO_CHANGES = ("dvc.lock", "metrics", "params.yaml")

# Variables that lead git to another repository or index, or that change a diff.
_MISLEADING = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE", "GIT_INDEX_FILE"),
    *("GIT_DIFF_OPTS", "GIT_EXTERNAL_DIFF", "GIT_ATTR_SOURCE"),
    *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"),
)
# Settings that plumbing commands read too. The user's own safe.directory must stay in force.
_NEUTRAL = (
    *("core.attributesFile=" + os.devnull, "core.hooksPath=" + os.devnull, "core.autocrlf=false"),
    *("core.eol=lf", "core.fileMode=true", "core.quotePath=true", "core.fsmonitor=false"),
    *("core.sparseCheckout=false", "core.splitIndex=false", "index.sparse=false"),
    *("diff.suppressBlankEmpty=false", "apply.whitespace=nowarn", "apply.ignoreWhitespace=no"),
)
_DIFF = (
    *("diff-tree", "-r", "-p", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--no-renames", "--no-relative", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3"),
    *("--inter-hunk-context=0", "--diff-algorithm=myers", "--submodule=short", "--ignore-submodules=none"),
)
_LINK, _SUBMODULE, _PROGRAM, _PLAIN = "120000", "160000", "100755", "100644"


@dataclass(frozen=True)
class GitState:
    """The commit that is checked out, and the difference of the files from it.

    Attributes:
        commit: None outside a repository, and before its first commit.
        changes: a diff for ``git apply``, in which bytes that are not UTF-8 are surrogate escapes; empty if
            nothing differs; None if git can't tell.
    """

    commit: str | None
    changes: str | None

    @property
    def dirty(self) -> bool | None:
        return None if self.changes is None else bool(self.changes)


@dataclass(frozen=True)
class Entry:
    """A path of the commit or of the working folder.

    Attributes:
        mode: as git writes it, such as ``100644``.
        id: hash of the blob, or the commit of a submodule.
    """

    mode: str
    id: str


def git_state(root: Path, besides: Iterable[Path] = ()) -> GitState:
    """Return the git state of a project.

    All tracked files of the repository are compared, and those of ``besides``, but not ``NO_CHANGES``. A file
    is unchanged if it has the bytes of the commit, or those that git writes on checkout here (core.autocrlf,
    filters). In files of ``besides``, which are code, a filter may only change line endings, because the
    commit does not contain the filter. Of a submodule, only its commit is compared.

    If there is a repository that git refuses to read, a line on stderr says so, once.

    Args:
        root: root of the project.
        besides: files that are compared even if git does not track or even ignores them.
    """
    try:
        commit = _text(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        repository = Repository.of(root)
    except (OSError, subprocess.CalledProcessError) as error:
        _warn(root.resolve(), error)
        return GitState(None, None)
    try:
        changes = repository.changes(commit, besides)
    except (OSError, subprocess.CalledProcessError):
        return GitState(commit, None)
    return GitState(commit, changes.decode(errors="surrogateescape"))


def _warn(root: Path, error: Exception) -> None:
    """Print why the commit of a project is unknown, unless there is none."""
    output = getattr(error, "stderr", None) or b""
    reason = " ".join(output.decode(errors="replace").split()) if isinstance(output, bytes) else ""
    if isinstance(error, OSError):
        reason = str(error)
    if reason and any(_holds_something(folder / ".git") for folder in (root, *root.parents)):
        _print_once(f"warning: no record has the commit of {root}, as git refuses to read it ({reason})")


@cache
def _print_once(line: str) -> None:
    print_lines(line, err=True)


def _holds_something(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def apply_changes(folder: Path, changes: Path) -> "subprocess.CompletedProcess[bytes]":
    """Apply the diff of a ``GitState`` to a checkout of its commit that ``neutral_git`` made.

    Args:
        folder: root of the checkout.
        changes: the file that holds the diff.
    """
    return neutral_git(folder, "apply", str(changes.resolve()))


def neutral_git(
    folder: Path, *arguments: str, given: bytes = b"", variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run git in a folder, without settings, variables and hooks that change what it reads or writes."""
    settings = [word for setting in _NEUTRAL for word in ("-c", setting)]
    return _run(folder, *settings, *arguments, given=given, variables=variables)


@dataclass(frozen=True)
class Repository:
    """The repository around a project.

    Attributes:
        top: root of the working folder.
        folder: the folder that is usually called ``.git``.
        objects: the folder of git's objects.
        project: path of the project below ``top``; "." is ``top`` itself.
    """

    top: Path
    folder: Path
    objects: Path
    project: Path

    @classmethod
    def of(cls, root: Path) -> Self:
        """Find the repository.

        Raises:
            CalledProcessError: there is none.
            OSError: git is not installed, or the project lies outside the repository's working folder.
        """
        root = root.resolve()
        top = Path(_text(root, "rev-parse", "--show-toplevel")).resolve()
        if not root.is_relative_to(top):
            raise OSError(f"its core.worktree is {top}")
        folder, objects = (
            root / _text(root, "rev-parse", *wanted) for wanted in (["--git-dir"], ["--git-path", "objects"])
        )
        return cls(top, folder.resolve(), objects.resolve(), root.relative_to(top))

    def changes(self, commit: str, besides: Iterable[Path]) -> bytes:
        """Return the diff from a commit to the working folder.

        Raises:
            CalledProcessError, OSError: git or the system can't read a file.
        """
        committed = self._committed(commit)
        tracked, skipped = self._indexed()
        code = self._recorded(besides, committed)
        paths = committed.keys() | tracked | code
        present: dict[str, Entry | None] = {}
        contents: dict[str, bytes] = {}
        for path in sorted(filter(self._counts, paths)):
            before, content = committed.get(path), None
            if (before is not None and before.mode == _SUBMODULE) or (self.top / path / ".git").exists():
                after = self._submodule(path, before)
            else:
                after, content = self._file(path, before, commit, path in tracked, path in code)
            if after != before and not (after is None and path in skipped):
                present[path] = after
                if content is not None and after is not None:
                    contents[after.id] = content
        return self._diff(commit, present, contents) if present else b""

    def _committed(self, commit: str) -> dict[str, Entry]:
        """Return the entries of a commit, by path."""
        listed = _output(neutral_git(self.top, "ls-tree", "-r", "-z", "--full-tree", commit))
        entries = {}
        for line in filter(None, listed.split(b"\0")):
            about, _, path = line.partition(b"\t")
            mode, _, digest = about.decode().split()
            entries[os.fsdecode(path)] = Entry(mode, digest)
        return entries

    def _indexed(self) -> tuple[set[str], set[str]]:
        """Return the paths of the user's index, and those that a sparse checkout leaves out."""
        listed = _output(_run(self.top, "-c", "core.fsmonitor=false", "ls-files", "-z", "-t"))
        lines = [(line[:1], os.fsdecode(line[2:])) for line in listed.split(b"\0") if line]
        return {path for _, path in lines}, {path for tag, path in lines if tag == b"S"}

    def _recorded(self, files: Iterable[Path], committed: Mapping[str, Entry]) -> set[str]:
        """Return the paths in the repository under which files are recorded.

        A file behind a symbolic link is recorded with its own path and the link's. If it lies outside the
        repository, its bytes are recorded in place of the link.
        """
        paths = set()
        for file in files:
            path, real = self.top / os.path.normpath(file.absolute()), file.resolve()
            found = {path}
            if real != path and real.is_relative_to(self.top):
                links = {each for each in (path, *path.parents) if each.is_symlink()}
                found = {real} | links
            paths |= {
                each.relative_to(self.top).as_posix() for each in found if each.is_relative_to(self.top)
            }
        submodules = {path for path, entry in committed.items() if entry.mode == _SUBMODULE}
        return {path for path in paths if submodules.isdisjoint(map(str, Path(path).parents))}

    def _counts(self, path: str) -> bool:
        apart = (self.project / name for name in NO_CHANGES)
        return not any(Path(path).is_relative_to(name) for name in apart)

    def _submodule(self, path: str, before: Entry | None) -> Entry | None:
        """Return the commit of a submodule; if it is not checked out, the one in the main repository."""
        folder = self.top / path
        if not (folder / ".git").exists():
            return before if folder.is_dir() else None
        return Entry(_SUBMODULE, _text(folder, "rev-parse", "--verify", "HEAD^{commit}"))

    def _file(
        self, path: str, before: Entry | None, commit: str, is_tracked: bool, is_code: bool
    ) -> tuple[Entry | None, bytes | None]:
        """Return a file's entry, None if there is no file, and its bytes, None if git has them."""
        file = self.top / path
        try:
            mode = file.lstat().st_mode
            linked = stat.S_ISLNK(mode) and (is_tracked or file.resolve().is_relative_to(self.top))
            if not linked and not stat.S_ISREG(file.stat().st_mode):
                return None, None
            # Path.readlink would change a target such as "./a".
            content = os.fsencode(os.readlink(file)) if linked else file.read_bytes()  # noqa: PTH115
        except (FileNotFoundError, NotADirectoryError):
            return None, None
        written = _LINK if linked else _PROGRAM if mode & stat.S_IXUSR else _PLAIN
        regular = before is not None and before.mode in (_PROGRAM, _PLAIN)
        if before is not None and regular and not linked and not self._keeps_modes(file):
            written = before.mode
        after = Entry(written, _blob_id(content, commit))
        if before is not None and regular and after.id != before.id and not linked:
            shown = _run(self.top, "cat-file", "--filters", f"{commit}:{path}")
            is_shown = shown.returncode == 0 and shown.stdout == content
            if is_shown and (not is_code or _lines(content) == _lines(self._blob(before.id))):
                return Entry(written, before.id), None
        return after, content

    def _blob(self, digest: str) -> bytes:
        return _output(neutral_git(self.top, "cat-file", "blob", digest))

    def _keeps_modes(self, file: Path) -> bool:
        """Return whether a file's execute bit is real: some mounts show it for every file, even HEAD."""
        head = (self.folder / "HEAD").lstat()
        return head.st_dev != file.lstat().st_dev or not head.st_mode & stat.S_IXUSR

    def _diff(self, commit: str, present: Mapping[str, Entry | None], contents: Mapping[str, bytes]) -> bytes:
        """Return git's diff from a commit to the same commit with other entries; None is a removed entry."""
        with tempfile.TemporaryDirectory(prefix="petseg-git-") as folder:
            variables = self._apart(Path(folder))

            def git(*arguments: str, given: bytes = b"") -> bytes:
                return _output(neutral_git(self.top, *arguments, given=given, variables=variables))

            for content in contents.values():
                git("hash-object", "-w", "--stdin", given=content)
            git("read-tree", commit)
            removed = Entry("0", "0" * len(commit))
            lines = [
                f"{(entry or removed).mode} {(entry or removed).id}\t".encode() + os.fsencode(path) + b"\0"
                for path, entry in sorted(present.items(), key=_order)
            ]
            git("update-index", "-z", "--index-info", given=b"".join(lines))
            tree = git("write-tree", "--missing-ok").decode().strip()
            return git(*_DIFF, commit, tree)

    def _apart(self, folder: Path) -> dict[str, str]:
        """Return variables that make git write its index and its objects to a folder."""
        (folder / "objects").mkdir()
        quoted = str(self.objects).replace("\\", "\\\\").replace('"', '\\"')
        others = os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES")
        return {
            "GIT_INDEX_FILE": str(folder / "index"),
            "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(filter(None, (f'"{quoted}"', others))),
        }


def _order(item: tuple[str, Entry | None]) -> tuple[bool, int]:
    """Sort removed paths first, and a link after the files of the folder that it replaces."""
    path, entry = item
    return entry is not None, -len(path)


def _lines(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def _blob_id(content: bytes, commit: str) -> str:
    """Return git's id for a file's bytes, in a repository that has this commit."""
    algorithm = "sha1" if len(commit) == 40 else "sha256"
    header = f"blob {len(content)}\0".encode()
    return hashlib.new(algorithm, header + content, usedforsecurity=False).hexdigest()


def _text(folder: Path, *arguments: str) -> str:
    """Return the one line that git prints."""
    return os.fsdecode(_output(_run(folder, *arguments))).removesuffix("\n")


def _output(done: "subprocess.CompletedProcess[bytes]") -> bytes:
    done.check_returncode()
    return done.stdout


def _run(
    folder: Path, *arguments: str, given: bytes = b"", variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run git in the repository around a folder."""
    environment = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    environment |= {"GIT_NO_REPLACE_OBJECTS": "1", "GIT_OPTIONAL_LOCKS": "0", **(variables or {})}
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, input=given, capture_output=True, check=False
    )
