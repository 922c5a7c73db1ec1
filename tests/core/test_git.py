"""The diff of an edited project turns a clean clone into the same files, under any settings of git."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from petseg.core.git import GitState, apply_changes, git_state, neutral_git

SETTINGS = {
    "none": [],
    "external": ["diff.external=true"],
    "color": ["color.ui=always", "color.diff=always", "diff.colorMoved=zebra", "diff.wsErrorHighlight=all"],
    "noprefix": ["diff.noprefix=true"],
    "mnemonicPrefix": ["diff.mnemonicPrefix=true"],
    "prefixes": ["diff.srcPrefix=old/", "diff.dstPrefix=new/"],
    "context": ["diff.context=0", "diff.interHunkContext=99"],
    "algorithm": ["diff.algorithm=patience", "diff.suppressBlankEmpty=true", "diff.indentHeuristic=false"],
    "renames": ["diff.renames=copies"],
    "relative": ["diff.relative=true"],
    "words": ["diff.wordRegex=.", "diff.statGraphWidth=3"],
    "submodules": ["diff.submodule=log", "diff.ignoreSubmodules=all"],
    "quotePath": ["core.quotePath=false"],
    "autocrlf": ["core.autocrlf=true"],
    "autocrlf input": ["core.autocrlf=input", "core.safecrlf=true"],
    "eol": ["core.eol=crlf"],
    "fileMode": ["core.fileMode=false"],
    "textconv": ["core.attributesFile=ATTRIBUTES", "diff.hidden.textconv=true", "diff.hidden.command=true"],
    "filter": ["core.attributesFile=ATTRIBUTES", "filter.empty.clean=true", "filter.empty.smudge=cat"],
    "untracked": ["status.showUntrackedFiles=no", "core.excludesFile=EXCLUDED"],
    "stat": ["core.checkStat=minimal", "core.trustctime=false", "core.fsmonitor=true"],
    "index": ["core.splitIndex=true", "feature.manyFiles=true", "core.hooksPath=HOOKS"],
    "apply": ["apply.whitespace=fix", "apply.ignoreWhitespace=change", "core.whitespace=tab-in-indent"],
    "apply error": ["apply.whitespace=error-all"],
}
VARIABLES = {
    "GIT_DIFF_OPTS": "-u0",
    "GIT_EXTERNAL_DIFF": "true",
    "GIT_INDEX_FILE": "/nowhere/index",
    "GIT_DIR": "/nowhere/.git",
    "GIT_WORK_TREE": "/nowhere",
    "GIT_PREFIX": "petseg/",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NOGLOB_PATHSPECS": "1",
    "GIT_CONFIG_PARAMETERS": "'diff.noprefix=true'",
}
ODD_NAME = "petseg/größe \"a\\b\" 'c' .py"
LINES = b"".join(b"line %d\n\n" % number for number in range(30))
COMMITTED = {
    "petseg/model.py": LINES,
    "petseg/staged.py": b"a = 1\n",
    "petseg/deleted.py": b"d = 1\n",
    "petseg/unlinked.py": b"only in the index\n",
    "petseg/renamed.py": LINES + b"renamed\n",
    "petseg/crlf.py": b"a = 1\r\nb = 2\r\n",
    "petseg/spaces.py": b"a = 1  \n\tb = 2\n \tc = 3\n",
    "petseg/tool.sh": b"#!/bin/sh\n",
    "petseg/picture.png": bytes(range(256)) * 9,
    "petseg/no_newline.py": b"a = 1",
    "petseg/turned": b"a file, then a folder\n",
    "petseg/latin.py": b"# \xe9t\xe9\n",
    ODD_NAME: b"odd = 1\n",
    "params.yaml": b"train: {epochs: 1}\n",
    "dvc.lock": b"{}\n",
    "metrics/test.json": b"{}\n",
    ".gitignore": b"/petseg/ignored.py\n/data/\n",
}
# Every file after the edit; None for a file that is deleted.
EDITED: dict[str, bytes | None] = {
    "petseg/model.py": LINES.replace(b"line 3\n", b"line three\n").replace(b"line 25\n", b"line 25 \n"),
    "petseg/staged.py": b"a = 2\n",
    "petseg/staged_new.py": b"new = 1\n",
    "petseg/deleted.py": None,
    "petseg/renamed.py": None,
    "petseg/renamed_to.py": LINES + b"renamed\n",
    "petseg/crlf.py": b"a = 1\r\nb = 3\r\n",
    "petseg/crlf_new.py": b"a = 1\r\n\r\nb = 3\n",
    "petseg/spaces.py": b"a = 1  \n\tb = 2 \t\n \tc = 4  \n",
    "petseg/picture.png": bytes(reversed(range(256))) * 9,
    "petseg/new_picture.png": b"\0\1\2" * 99,
    "petseg/no_newline.py": b"a = 2",
    "petseg/turned": None,
    "petseg/turned/inside.py": b"inside = 1\n",
    "petseg/latin.py": b"# \xe9t\xe9\nyear = 1\n",
    "petseg/untracked.py": b"untracked = 1\n",
    "petseg/ignored.py": b"ignored = 1\n",
    ODD_NAME: b"odd = 2\n",
    "data/ignored folder.py": b"deep = 1\n",
}
STAGED = ("petseg/staged.py", "petseg/staged_new.py")
BESIDES = (
    *("petseg/crlf_new.py", "petseg/new_picture.png", "petseg/untracked.py", "petseg/ignored.py"),
    *("petseg/turned/inside.py", "petseg/renamed_to.py", "data/ignored folder.py", "petseg/model.py"),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has no git settings."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for key, value in {"user.name": "t", "user.email": "t@t", "init.defaultBranch": "main"}.items():
        subprocess.run(["git", "config", "--global", key, value], check=True)
    return home


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository without uncommitted edits."""
    return committed(tmp_path / "project", COMMITTED)


@pytest.fixture
def _set(request: pytest.FixtureRequest, home: Path) -> None:
    (home / "attributes").write_text("*.py diff=hidden filter=empty\n*.png diff=hidden -text\n")
    (home / "excluded").write_text("*.py\n")
    hook = home / "hooks/post-index-change"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\ntouch hook-ran\n")
    hook.chmod(0o755)
    places = {"ATTRIBUTES": "attributes", "EXCLUDED": "excluded", "HOOKS": "hooks"}
    for setting in SETTINGS[request.param]:
        key, _, value = setting.partition("=")
        value = str(home / places[value]) if value in places else value
        subprocess.run(["git", "config", "--global", key, value], check=True)


def committed(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    git(folder, "init", "-q")
    for command in (("add", "-A", "-f"), ("commit", "-qm", "all")):  # without filters and hooks
        neutral_git(folder, *command).check_returncode()
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def edit(project: Path) -> None:
    neutral_git(project, "rm", "-q", "--cached", "petseg/unlinked.py").check_returncode()
    for name, content in EDITED.items():
        if content is None:
            (project / name).unlink()
    for name, content in EDITED.items():
        if content is not None:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_bytes(content)
    (project / "petseg/tool.sh").chmod(0o755)
    (project / "petseg/link.py").symlink_to("./model.py")
    # Without the user's filters, because staging is not tested here.
    neutral_git(project, "add", "-f", *STAGED, "petseg/link.py").check_returncode()


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the mode and the bytes of each file, except those of git."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_mode & 0o170100, read(path))
        for path in folder.rglob("*")
        if ".git" not in path.relative_to(folder).parts and (path.is_symlink() or path.is_file())
    }


def read(path: Path) -> bytes:
    # Path.readlink would change a target such as "./a" to "a".
    return os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()  # noqa: PTH115


def state_of(project: Path, *besides: str) -> GitState:
    return git_state(project, [project / name for name in besides])


def checked_out(project: Path, state: GitState, folder: Path) -> dict[str, tuple[int, bytes]]:
    """Apply the diff to a clean checkout of the commit, and return the files."""
    assert state.commit is not None
    assert state.changes is not None
    neutral_git(project, "worktree", "add", "-q", "--detach", str(folder), state.commit).check_returncode()
    changes = folder.with_suffix(".diff")
    changes.write_bytes(state.changes.encode(errors="surrogateescape"))
    if state.changes:
        done = apply_changes(folder, changes)
        assert done.returncode == 0, done.stderr.decode()
    return contents(folder)


@pytest.mark.parametrize("_set", SETTINGS, indirect=True)
@pytest.mark.usefixtures("_set")
def test_the_diff_makes_the_same_files_under_any_setting(project: Path, tmp_path: Path) -> None:
    edit(project)
    state = state_of(project, *BESIDES)
    assert state.dirty
    assert not (project / "hook-ran").exists()
    assert checked_out(project, state, tmp_path / "again") == contents(project)


@pytest.mark.parametrize("driver", ["command", "textconv"])
def test_attributes_in_the_git_folder_hide_nothing(project: Path, tmp_path: Path, driver: str) -> None:
    git(project, "config", f"diff.hidden.{driver}", "true")
    (project / ".git/info/attributes").write_text("*.py diff=hidden\n*.png diff=hidden\n")
    edit(project)
    state = state_of(project, *BESIDES)
    assert checked_out(project, state, tmp_path / "again") == contents(project)


@pytest.mark.parametrize("_set", SETTINGS, indirect=True)
@pytest.mark.usefixtures("_set")
def test_the_diff_is_the_same_under_any_setting(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(project)
    state = state_of(project, *BESIDES)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    assert state == state_of(project, *BESIDES)


@pytest.mark.parametrize("name", VARIABLES)
def test_environment_variables_do_not_change_the_diff(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    edit(project)
    before = state_of(project, *BESIDES)
    monkeypatch.setenv(name, VARIABLES[name])
    assert state_of(project, *BESIDES) == before


@pytest.mark.parametrize("_set", SETTINGS, indirect=True)
@pytest.mark.usefixtures("_set")
def test_a_fresh_clone_is_clean_under_any_setting(project: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(project), "clone")
    assert git_state(tmp_path / "clone") == GitState(git(project, "rev-parse", "HEAD"), "")


def test_a_clone_with_converted_line_ends_records_only_the_edited_file(project: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", str(project), "clone")
    clone = tmp_path / "clone"
    text = (clone / "petseg/model.py").read_bytes()
    assert b"\r\n" in text
    (clone / "petseg/model.py").write_bytes(text.replace(b"line 3\r", b"line three\r"))
    state = git_state(clone)
    assert state.changes
    assert state.changes.count("diff --git") == 1
    made = checked_out(clone, state, tmp_path / "again")
    assert made["petseg/model.py"] == contents(clone)["petseg/model.py"]


@pytest.mark.parametrize("bit", ["--assume-unchanged", "--skip-worktree"])
def test_no_flag_of_the_index_hides_an_edit(project: Path, tmp_path: Path, bit: str) -> None:
    git(project, "update-index", bit, "petseg/model.py")
    (project / "petseg/model.py").write_bytes(b"hidden = 1\n")
    assert git(project, "diff", "HEAD") == ""
    state = git_state(project)
    assert state.dirty
    assert checked_out(project, state, tmp_path / "again") == contents(project)


def test_an_edit_that_keeps_size_and_time_is_found(project: Path) -> None:
    file = project / "petseg/staged.py"
    git(project, "config", "core.trustctime", "false")
    git(project, "update-index", "--refresh")
    before = file.stat()
    file.write_bytes(b"a = 9\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert git_state(project).dirty


def test_files_outside_a_sparse_checkout_are_not_changes(project: Path) -> None:
    git(project, "sparse-checkout", "set", "--no-cone", "/*", "!/petseg/deleted.py")
    assert not (project / "petseg/deleted.py").exists()
    assert git_state(project).changes == ""


def test_an_untracked_file_counts_only_if_it_is_named(project: Path) -> None:
    (project / "petseg/untracked.py").write_bytes(b"x = 1\n")
    (project / "petseg/ignored.py").write_bytes(b"y = 1\n")
    assert git_state(project).changes == ""
    for name in ("untracked", "ignored"):
        changes = state_of(project, f"petseg/{name}.py").changes
        assert changes
        assert changes.startswith(f"diff --git a/petseg/{name}.py b/petseg/{name}.py\nnew file mode 100644")
        assert changes.count("diff --git") == 1


def test_files_that_the_pipeline_writes_are_not_changes(project: Path) -> None:
    for name in ("dvc.lock", "metrics/test.json", "params.yaml"):  # every record has the params
        (project / name).write_text("2")
    git(project, "add", "dvc.lock")
    assert state_of(project, "params.yaml") == GitState(git(project, "rev-parse", "HEAD"), "")


@pytest.mark.parametrize("name", ["apart/lib.py", "project/petseg/far.py"])
def test_code_behind_a_link_is_recorded(project: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"linked = 1\n")
    (project / "petseg/linked.py").symlink_to(target)
    (project / "helpers").symlink_to(target.parent)
    state = state_of(project, "petseg/linked.py", f"helpers/{target.name}")
    made = checked_out(project, state, tmp_path / "again")
    if name.startswith("apart"):  # in another place the link would lead nowhere
        assert {made["petseg/linked.py"][1], made["helpers/lib.py"][1]} == {b"linked = 1\n"}
    else:
        assert made == contents(project)


def test_another_commit_of_a_submodule_is_recorded(project: Path, tmp_path: Path) -> None:
    git(project, "config", "--global", "protocol.file.allow", "always")
    other = committed(tmp_path / "other", {"lib.py": b"1\n"})
    git(project, "submodule", "add", "-q", str(other), "lib")
    git(project, "commit", "-qm", "submodule")
    assert git_state(project).changes == ""
    git(project / "lib", "commit", "-q", "--allow-empty", "-m", "moved")
    git(project, "config", "diff.ignoreSubmodules", "all")
    changes = state_of(project, "lib/lib.py").changes
    assert changes
    assert f"+Subproject commit {git(project / 'lib', 'rev-parse', 'HEAD')}\n" in changes


@pytest.mark.parametrize("where", ["worktree", "subdirectory", "temporary", "sha256", 'odd:"na\\me é'])
def test_the_diff_works_wherever_the_project_is(project: Path, tmp_path: Path, where: str) -> None:
    root = project
    match where:
        case "worktree":
            root = tmp_path / "linked"
            git(project, "worktree", "add", "-q", "--detach", str(root))
        case "subdirectory":
            root = committed(tmp_path / "larger", {f"sub/{k}": v for k, v in COMMITTED.items()}) / "sub"
        case "temporary":  # like a folder of dvc exp run --temp
            root = project / ".dvc/tmp/exps/standalone/tmp1"
            git(tmp_path, "clone", "-q", "--shared", str(project), str(root))
        case "sha256":
            shutil.rmtree(project / ".git")
            git(project, "init", "-q", "--object-format=sha256")
            git(project, "add", "-A", "-f")
            git(project, "commit", "-qm", "all")
        case _:
            root = project.rename(tmp_path / where)
    (root / "params.yaml").write_bytes(b"train: {epochs: 2}\n")
    assert git_state(root).changes == ""
    edit(root)
    state = state_of(root, *BESIDES)
    top = tmp_path / "again"
    made = checked_out(root, state, top)
    made = contents(top / "sub") if where == "subdirectory" else made
    assert made.pop("params.yaml")[1] == COMMITTED["params.yaml"]
    present = contents(root)
    del present["params.yaml"]
    assert made == present


def test_reading_the_state_changes_no_file(project: Path) -> None:
    edit(project)
    git(project, "config", "core.splitIndex", "true")
    git(project, "status")  # lets git refresh its index

    def everything() -> dict[Path, bytes]:
        return {path: read(path) for path in project.rglob("*") if path.is_symlink() or path.is_file()}

    before = everything()
    assert state_of(project, *BESIDES).dirty
    assert everything() == before


def test_without_a_commit_there_is_no_diff(tmp_path: Path) -> None:
    assert git_state(tmp_path) == GitState(None, None)
    (tmp_path / "code.py").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    state = state_of(tmp_path, "code.py")
    assert (state, state.dirty) == (GitState(None, None), None)


def test_without_git_there_is_no_commit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project))
    assert git_state(project) == GitState(None, None)


def test_a_repository_that_git_cannot_read_is_not_called_clean(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    tree = git(project, "rev-parse", "HEAD:petseg")
    (project / ".git/objects" / tree[:2] / tree[2:]).unlink()
    state = git_state(project)
    assert (state, state.dirty) == (GitState(commit, None), None)


def test_a_filter_does_not_hide_an_edit_of_code(project: Path, tmp_path: Path) -> None:
    """The output of the filter is what runs, and another clone does not have the filter."""
    git(project, "config", "filter.swap.smudge", "sed s/1/2/")
    git(project, "config", "filter.swap.clean", "sed s/2/1/")
    (project / ".git/info/attributes").write_text("*.py filter=swap\n")
    (project / "petseg/staged.py").write_bytes(b"a = 2\n")
    assert not git(project, "diff", "HEAD", "--", "petseg/staged.py")
    assert git_state(project).changes == ""
    state = state_of(project, "petseg/staged.py")
    assert state.changes
    assert state.changes.count("diff --git") == 1
    assert checked_out(project, state, tmp_path / "again")["petseg/staged.py"][1] == b"a = 2\n"


def test_line_ends_that_git_converts_are_not_an_edit(project: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "-c", "core.autocrlf=true", str(project), "clone")
    assert b"\r\n" in (tmp_path / "clone/petseg/model.py").read_bytes()
    assert state_of(tmp_path / "clone", "petseg/model.py").changes == ""


REFUSALS = {
    "core.worktree": "its core.worktree is ",
    "core.bare": "fatal: this operation must be run in a work tree",
    "safe.directory": "fatal: detected dubious ownership in repository at",
    "broken": "fatal: not a git repository",
    "settings": "fatal: bad config line 1 in file .git/config",
    "no git": "No such file or directory: 'git'",
}


@pytest.mark.parametrize("why", REFUSALS)
def test_the_reason_of_gits_refusal_is_printed_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], why: str
) -> None:
    match why:
        case "core.worktree":
            git(project, "config", "core.worktree", str(project.parent / "home"))
        case "core.bare":
            git(project, "config", "core.bare", "true")
        case "safe.directory":
            monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        case "broken":
            (project / ".git/HEAD").unlink()
        case "settings":
            (project / ".git/config").write_text("[core\n")
        case _:
            monkeypatch.setenv("PATH", str(project))
    for _ in range(2):
        assert git_state(project) == GitState(None, None)
    printed = capfd.readouterr().err
    assert printed.startswith(f"warning: no record has the commit of {project}, as git refuses to read it (")
    assert REFUSALS[why] in printed
    assert printed.count("\n") == 1


def test_a_folder_without_a_commit_prints_no_warning(
    project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty/.git").mkdir(parents=True)
    git(tmp_path, "init", "-q", "new")
    for folder in (tmp_path / "empty", tmp_path / "new", project):
        git_state(folder)
    assert capfd.readouterr().err == ""
