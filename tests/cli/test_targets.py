"""Where commands may write: not into protected folders, even through links, and not over files unasked."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from petseg.cli import app
from petseg.cli.targets import check_targets
from petseg.core.files import sha256_file
from petseg.core.project import expanded
from petseg.errors import PetsegError, UsageError
from petseg.pipeline.guard import check_kept_out
from petseg.store.before import EARLIER
from petseg.store.chain import MARKER
from petseg.store.layout import ABOUT, WEIGHTS
from tests.support import ROOT
from tests.support.runs import make_run

KEY = "aaaa111122223333"
PATIENCE_S = 120
DEAD = 99999999  # larger than any process id

# Each command up to its option, and the ending of its file.
COMMANDS: dict[str, tuple[list[str], str]] = {
    "restore": (["runs", "restore", KEY, "--to"], ".safetensors"),
    "export": (["runs", "export", KEY, "--onnx"], ".onnx"),
    "report": (["report", "--no-open", "--out"], ".html"),
    "compare": (["compare", KEY, "--figure"], ".png"),
    "evaluate": (["evaluate", "curves", "--out"], ".svg"),
    "doctor": (["doctor", "--data", "--sheet"], ".pdf"),
    "csv": (["predict", "photo.jpg", "--out", "fresh", "--csv"], ".csv"),
    "predict": (["predict", "photo.jpg", "--out"], ""),
}
VIEWS = ("curves", "evolution", "best", "worst", "random", "breeds", "histogram", "thresholds", "confusion")
STORE, CACHE, MLFLOW = "the store of runs", "DVC's cache", "MLflow's files"
GIT, DVC, SETTINGS = "git's own folder", "DVC's own folder", "the pipeline's files"

# Each place, without the ending, and the protected part in which it lies.
KEPT = {
    "runs/new": STORE,
    f"runs/{KEY}/model": STORE,
    f"runs/{KEY}/deep/down/new": STORE,
    "RUNS/new": STORE,
    "folder/../runs/new": STORE,
    "to-folder/../../runs/new": STORE,
    "~/project/runs/new": STORE,
    "to-runs/new": STORE,
    "to-a-run/new": STORE,
    "to-to-runs/new": STORE,
    "link": STORE,
    "dangling": STORE,
    "../other/runs/new": STORE,
    "../other/folder/to-runs/new": STORE,
    "../big disk/store/new": STORE,
    "../no project/store/new": STORE,
    "mlartifacts/1/new": MLFLOW,
    "mlruns/new": MLFLOW,
    "../mlruns elsewhere/new": MLFLOW,
    "../other/mlartifacts/new": MLFLOW,
    ".git/new": GIT,
    ".GIT/hooks/new": GIT,
    "../other/.git/new": GIT,
    "../bare/objects/new": GIT,
    ".dvc/new": DVC,
    ".dvc/cache/files/md5/aa/new": DVC,
    "../other/.dvc/cache/new": DVC,
    "../cache of dvc/new": CACHE,
    "to-cache/new": CACHE,
    "../local cache/new": CACHE,
    "../remote/files/new": CACHE,
    "plots/test/new": SETTINGS,  # the next dvc repro would delete it
    "data/sample/new": SETTINGS,
    "../other/petseg/core/new": SETTINGS,
    "../somebody's/cache/files/md5/aa/new": CACHE,
    "../run elsewhere/new": STORE,  # the target of a run's folder that is a link
    "../unknown run/new": STORE,
    "../weights elsewhere": STORE,  # the target of a run's file that is a link
    "../before the ledger/new": STORE,
    "to-third/../dvc elsewhere/new": DVC,
    "../objects elsewhere/aa/new": CACHE,
    f"../artifacts elsewhere/1/{KEY * 2}/artifacts/new": MLFLOW,
    f"../artifacts elsewhere/1/models/m-{KEY * 2}/artifacts/new": MLFLOW,
}


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def write(path: Path, text: str = "precious") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with two projects, and the folders that both keep in other places."""
    home = tmp_path_factory.mktemp("home")
    project, other = home / "project", home / "other"
    for root in (project, other):
        root.mkdir()
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, root)
        for ending in (".safetensors", ".onnx", ".html", ".png", ".svg", ".pdf", ".csv"):
            write(root / f"tracked{ending}")
        link(root / "tracked-link.csv", "nowhere")
        write(root / "named.json")
        git(root, "init", "-q")
        git(root, "add", ".")
    write(project / ".dvc/config", f"['remote \"r\"']\n    url = {home}/remote\n[cache]\n    dir = ../../x\n")
    write(project / ".dvc/config.local", "[cache]\n    dir = ../../cache of dvc\n")
    (home / "cache of dvc").mkdir()
    write(project / "mlflow.db")
    Image.new("RGB", (40, 30)).save(project / "photo.jpg")
    make_run(project / "runs" / KEY, "unet")
    write(home / "big disk/store" / MARKER)
    link(other / "runs", "../big disk/store")
    shutil.copytree(project / "runs", home / "no project/store")
    for path, target in (
        ("to-runs", "runs"), ("to-a-run", f"runs/{KEY}"), ("to-to-runs", "to-runs"), ("to-folder", "a/b"),
        ("to-cache", "../cache of dvc"), ("mlruns", "../mlruns elsewhere"),
        ("../other/folder/to-runs", "../runs"),
    ):  # fmt: skip
        link(project / path, target)
    (project / "a/b").mkdir(parents=True)
    (project / "folder").mkdir()
    for _, ending in COMMANDS.values():
        link(project / f"link{ending}", f"runs/{KEY}/{WEIGHTS}" if ending else "runs")
        link(project / f"dangling{ending}", "runs/not-there")
    for name in ("run elsewhere", "unknown run"):
        make_run(home / name, "unet")
    link(project / f"runs/{KEY[::-1]}", "../../run elsewhere")
    for _, ending in COMMANDS.values():
        link(project / f"runs/{KEY}/linked{ending}", f"../../../weights elsewhere{ending}")
        write(home / (f"weights elsewhere{ending}" if ending else "weights elsewhere/there"))
    write(home / "before the ledger" / EARLIER)
    for name in ("dvc elsewhere", "objects elsewhere"):
        (home / name).mkdir()
    link(project / ".dvc/cache/files/md5", "../../../../objects elsewhere")
    for name in (KEY * 2, f"models/m-{KEY * 2}"):
        (home / "artifacts elsewhere/1" / name / "artifacts").mkdir(parents=True)
    link(home / "third/.dvc", "../dvc elsewhere")
    link(project / "to-third", "../third")
    git(home, "init", "-q", "--bare", "bare")
    (home / "somebody's/cache/files/md5").mkdir(parents=True)
    return home


@pytest.fixture
def home(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home folder, which no test may change. The working folder is the project."""
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(made / "settings"))
    write(made / "settings/config", f"['remote \"backup\"']\n    url = {made}/local cache\n")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = state(made)
    with chdir(made / "project"):
        yield made
    assert state(made) == before


def state(folder: Path) -> dict[str, str]:
    """Each file and folder with its hash or link target, except hidden ones, which libraries make."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else sha256_file(path) if path.is_file() else ""
        for below in folder.glob("[!.]*")
        for path in (below, *below.rglob("*"))
    }


def refusal(*arguments: str) -> str:
    """Return the one line with which a command refuses its arguments."""
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


# One command that writes a file and one that writes a folder try all places; the others one of each kind.
OF_EACH_KIND = ("to-to-runs/new", "link", "mlartifacts/1/new", ".git/new", ".dvc/new", "../cache of dvc/new")
CASES = [
    (name, place)
    for name in COMMANDS
    for place in KEPT
    if name in ("report", "predict") or place in OF_EACH_KIND
]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_no_command_writes_into_a_protected_place(home: Path, name: str, place: str) -> None:
    command, ending = COMMANDS[name]
    message = refusal(*command[:-1], f"{command[-1]}={place}{ending}", "--force")
    assert message.startswith(f"{command[-1]} ")
    assert f"lies in {KEPT[place]} (" in message


@pytest.mark.parametrize("name", [name for name, (_, ending) in COMMANDS.items() if ending])
def test_no_command_replaces_a_file_that_git_tracks(home: Path, name: str) -> None:
    command, ending = COMMANDS[name]
    for folder in ("", "../other/folder/../"):
        message = refusal(*command, f"{folder}tracked{ending}", "--force")
        assert message.endswith("is tracked by git; choose another place")


def test_absent_and_linked_tracked_files_are_not_replaced(home: Path) -> None:
    for name in ("tracked.csv", "tracked-link.csv"):
        Path(f"../other/{name}").rename(f"../{name}")
        try:
            assert "is tracked by git" in refusal(*COMMANDS["csv"][0], f"../other/{name}")
        finally:
            Path(f"../{name}").rename(f"../other/{name}")
    assert "is tracked by git" in refusal(*COMMANDS["csv"][0], "../other/tracked-link.csv", "--force")
    link(home / "project/to-tracked.csv", "../other/tracked.csv")
    try:
        assert "is tracked by git" in refusal(*COMMANDS["csv"][0], "to-tracked.csv", "--force")
    finally:
        (home / "project/to-tracked.csv").unlink()


def test_variables_of_git_do_not_hide_tracked_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(home / "bare"))
    assert "is tracked by git" in refusal(*COMMANDS["csv"][0], "tracked.csv", "--force")
    many = [Path(f"new-{n}.csv") for n in range(300)]
    check_targets("--out", *many, force=False)
    with pytest.raises(UsageError, match=r"tracked\.png: is tracked by git"):
        check_targets("--out", *many, Path("tracked.png"), force=True)


def test_nothing_is_written_where_git_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = home / "other/.git/index"
    kept = index.read_bytes()
    index.write_bytes(b"broken")
    try:
        assert "git can't say what it tracks there (" in refusal(*COMMANDS["csv"][0], "../other/new.csv")
    finally:
        index.write_bytes(kept)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "dvc.lock", "Params.yaml", "metrics/test.json"])
def test_untracked_files_of_the_pipeline_are_not_replaced(home: Path, name: str) -> None:
    for folder in ("", "../other/"):
        assert f"lies in {SETTINGS}" in refusal(*COMMANDS["csv"][0], f"{folder}{name}", "--force")


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow.db-wal", "mlflow.db-journal", "../hers.db"])
def test_the_database_of_mlflow_is_not_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "../hers.db":
        refused = CliRunner().invoke(app, [*COMMANDS["csv"][0], name, "--model", "none"])
        assert "no such run" in str(refused.exception)  # an error after the guard
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/hers.db")
    assert f"lies in {MLFLOW}" in refusal(*COMMANDS["csv"][0], name, "--force")


@pytest.mark.parametrize("view", [*VIEWS, "calibration", "photo", "compare"])
def test_each_view_has_the_guard(home: Path, view: str) -> None:
    more = {"photo": ["some"], "compare": [KEY, KEY]}.get(view, [])
    assert f"lies in {STORE}" in refusal("evaluate", view, *more, "--out", "runs/x.png", "--force")


def test_each_picture_of_predict_has_the_guard(home: Path, tmp_path: Path) -> None:
    for kind in ("masks", "overlays", "cutouts"):
        link(tmp_path / kind / kind, str(home / "project/runs"))
        message = refusal("predict", "photo.jpg", "--out", str(tmp_path / kind), "--force")
        assert f"--out {tmp_path / kind / kind}/photo." in message
        assert f"lies in {STORE}" in message
    write(tmp_path / "out/cutouts/photo.png")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    for more in (["--force"], []):
        message = refusal("predict", "photo.jpg", "--out", str(tmp_path / "out"), *more)
        assert "cutouts/photo.png: is tracked by git" in message
    link(tmp_path / "far/sheet.jpg", str(home / "project/mlflow.db"))
    assert f"lies in {MLFLOW}" in refusal("predict", "photo.jpg", "--out", str(tmp_path / "far"), "--force")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "predict"])
def test_no_file_is_replaced_without_force(home: Path, tmp_path: Path, name: str) -> None:
    command, ending = COMMANDS[name]
    target = tmp_path / f"taken{ending}"
    for make in (write, lambda path: link(path, "nowhere"), lambda path: link(path, str(home / "local"))):
        make(target)
        assert "is there already; --force replaces" in refusal(*command, str(target))
        of_no_run = ["none" if word == KEY else word for word in command]
        more = ["--model", "none"] if name == "csv" else []
        passed = CliRunner().invoke(app, [*of_no_run, str(target), "--force", *more])
        assert passed.exception  # an error after the guard
        assert "is there already" not in str(passed.exception)
        target.unlink()
    if name != "csv":
        target.mkdir()
        assert refusal(*command, str(target), "--force").endswith("is there, and is no regular file")


@pytest.mark.parametrize(
    "name", [name for name, (_, ending) in COMMANDS.items() if ending in (".html", ".csv")]
)
def test_a_device_is_not_replaced(home: Path, name: str) -> None:
    assert refusal(*COMMANDS[name][0], "/dev/null", "--force").endswith("is there, and is no regular file")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["report", "restore"])
@pytest.mark.parametrize("end", ["/dev/null", "/dev/stdout", "/dev/fd/1", "folder", "pipe"])
def test_a_link_to_an_irregular_file_is_not_replaced(home: Path, tmp_path: Path, name: str, end: str) -> None:
    command, ending = COMMANDS[name]
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    link(tmp_path / f"first{ending}", end)
    link(tmp_path / f"second{ending}", f"first{ending}")
    for first in ("first", "second"):
        message = refusal(*command, str(tmp_path / f"{first}{ending}"), "--force")
        assert message.endswith("is there, and is no regular file")


@pytest.mark.parametrize("end", ["/dev/stdout", "/dev/fd/1"])
def test_a_link_to_a_redirected_stdout_is_not_replaced(home: Path, tmp_path: Path, end: str) -> None:
    link(tmp_path / "page.html", end)
    command = [sys.executable, "-m", "petseg", *COMMANDS["report"][0], str(tmp_path / "page.html"), "--force"]
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=out, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, (tmp_path / "page.html").is_symlink()) == (2, True)
    assert done.stderr.endswith("is there, and is no regular file\n")


def test_predict_writes_no_file_twice(home: Path, tmp_path: Path) -> None:
    link(tmp_path / "here", ".")
    command = ("predict", "photo.jpg", "--force", "--out", str(tmp_path))
    for table, other in {
        "here/sheet.jpg": "sheet.jpg",
        "masks/photo.png": "masks/photo.png",
        "Sheet.jpg": "sheet.jpg",
    }.items():
        message = refusal(*command, "--csv", str(tmp_path / table))
        assert (
            message == f"--csv {tmp_path / table}: is written as {tmp_path / other} too; choose another place"
        )
    (tmp_path / "masks").mkdir()
    link(tmp_path / "cutouts", "masks")
    assert f"is written as {tmp_path}/masks/photo.png too" in refusal(*command)


def test_a_broken_repository_is_ignored(home: Path, tmp_path: Path) -> None:
    for name in ("empty", "broken"):
        (tmp_path / name / ".git").mkdir(parents=True)
    write(tmp_path / "broken/.git/HEAD", "nonsense")
    write(tmp_path / "file/.git", "nonsense")
    write(tmp_path / "moved/.git", "gitdir: /nowhere")
    for name in ("empty", "broken", "file", "moved"):
        check_targets("--out", tmp_path / name / "new.png", force=False)
        check_targets("--out", home / "other" / name / "new.png", force=False)
    (home / "other/empty/.git").mkdir(parents=True)
    try:
        with pytest.raises(UsageError, match=r"tracked\.png: is tracked by git"):
            check_targets("--out", home / "other/empty/../tracked.png", force=True)
    finally:
        shutil.rmtree(home / "other/empty")


@pytest.mark.parametrize("setting", ["core.bare true", "core.worktree /", "core.worktree ../.."])
def test_no_setting_of_git_hides_tracked_files(home: Path, tmp_path: Path, setting: str) -> None:
    shutil.copytree(home / "other", tmp_path / "copy", symlinks=True)
    git(tmp_path / "copy", "config", *setting.split())
    assert "is tracked by git" in refusal(*COMMANDS["csv"][0], str(tmp_path / "copy/tracked.csv"), "--force")


@pytest.mark.parametrize("ending", ["", "-wal", "-journal"])
def test_a_database_of_mlflow_is_recognized_by_its_tables(home: Path, tmp_path: Path, ending: str) -> None:
    for name, table in (("hers", "experiments"), ("another", "photos")):
        with sqlite3.connect(tmp_path / f"{name}.db") as tables:
            tables.execute(f"CREATE TABLE {table} (id)")
            tables.execute("CREATE TABLE alembic_version (id)")
        tables.close()
    check_kept_out("--out", tmp_path / f"another.db{ending}", tmp_path / "new.db-wal")
    with pytest.raises(UsageError, match=f"lies in {MLFLOW}"):
        check_kept_out("--out", tmp_path / f"hers.db{ending}")


@pytest.mark.parametrize("uri", ["sqlite+pysqlite:///{}/a b", "file://{}/a%20b", "file:{}/a%20b", "../a b"])
def test_files_of_mlflow_are_protected_under_any_uri(
    home: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    check_kept_out("--out", home / "a b")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(home))
    with pytest.raises(UsageError, match=f"lies in {MLFLOW}"):
        check_kept_out("--out", home / "a b")


@pytest.mark.parametrize("broken", ["[core\n", "[remote]\n    x = 1\n", "\udcff"])
def test_broken_settings_of_dvc_give_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], broken: str
) -> None:
    write(tmp_path / ".dvc/config", "")
    settings = f"{broken}[cache]\n    dir = /big\n".encode(errors="surrogateescape")
    (tmp_path / ".dvc/config").write_bytes(settings)
    with chdir(tmp_path):
        check_kept_out("--out", tmp_path / "new.png")
    printed = capfd.readouterr().err
    assert printed.startswith(f"warning: {tmp_path}/.dvc: DVC can't read its settings (")
    assert printed.endswith("), so the cache and the remotes that they name are not known\n")
    assert printed.count("\n") == 1


def test_temporary_files_of_killed_commands_are_removed(home: Path, tmp_path: Path) -> None:
    left = ["here.safetensors.{}.tmp", "here.json.{}.tmp", "there.safetensors.{}.tmp", "here.{}.tmp"]
    for name in left:
        write(tmp_path / f".{name.format(DEAD)}")
    write(tmp_path / f".here.safetensors.{os.getpid()}.tmp")
    write(tmp_path / ".here.safetensors.mine.tmp")
    to = str(tmp_path / "here.safetensors")
    assert CliRunner().invoke(app, ["runs", "restore", KEY, "--to", to]).exit_code == 0
    kept = {f".there.safetensors.{DEAD}.tmp", f".here.{DEAD}.tmp", ".here.safetensors.mine.tmp"}
    # The file with this process's id is gone because restore has used the same name.
    assert {path.name for path in tmp_path.glob(".*")} == kept


def test_restore_replaces_no_weights_and_no_description_without_force(home: Path, tmp_path: Path) -> None:
    target, about = tmp_path / "site/package.safetensors", tmp_path / "site/package.json"
    write(about, "of the site")
    assert f"--to {about}: is there already" in refusal("runs", "restore", KEY, "--to", str(target))
    assert not target.exists()
    assert about.read_text() == "of the site"
    result = CliRunner().invoke(app, ["runs", "restore", KEY, "--to", str(target), "--force"])
    assert result.exit_code == 0, result.exception
    run = home / "project/runs" / KEY
    assert target.read_bytes() == (run / WEIGHTS).read_bytes()
    assert about.read_bytes() == (run / ABOUT).read_bytes()
    tracked = refusal("runs", "restore", KEY, "--to", "named.safetensors", "--force")
    assert "--to named.json: is tracked by git" in tracked


def test_restore_to_the_default_path_replaces_only_files_of_a_run(made: Path) -> None:
    models = made / "project/models"
    with chdir(made / "project"):
        try:
            for _ in range(2):
                assert CliRunner().invoke(app, ["runs", "restore", KEY]).exit_code == 0
            (models / ABOUT).write_text("of another model")
            assert f"{models / ABOUT}: no run has these weights" in refusal("runs", "restore", KEY)
            assert (models / ABOUT).read_text() == "of another model"
            assert CliRunner().invoke(app, ["runs", "restore", KEY, "--force"]).exit_code == 0
            shutil.rmtree(models)
            link(models, f"runs/{KEY}")
            assert f"models: lies in {STORE}" in refusal("runs", "restore", KEY, "--force")
        finally:
            models.unlink(missing_ok=True)


def test_a_link_is_replaced_and_its_target_is_not(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "far.safetensors")
    link(tmp_path / "near.safetensors", "far.safetensors")
    os.link(home / "project/runs" / KEY / ABOUT, tmp_path / "near.json")  # shares its bytes with the store
    write(tmp_path / "two.safetensors")
    for name in ("near", "two"):
        to = str(tmp_path / f"{name}.safetensors")
        assert CliRunner().invoke(app, ["runs", "restore", KEY, "--to", to, "--force"]).exit_code == 0
    assert (tmp_path / "far.safetensors").read_text() == "precious"
    assert not (tmp_path / "near.safetensors").is_symlink()


def test_circular_links_are_an_error(home: Path, tmp_path: Path) -> None:
    link(tmp_path / "one", "other")
    link(tmp_path / "other", "one")
    for name in ("report", "predict"):
        result = CliRunner().invoke(app, [*COMMANDS[name][0], str(tmp_path / "one/x.html")])
        assert isinstance(result.exception, PetsegError | OSError)


def test_predict_replaces_no_file_that_it_reads(home: Path, tmp_path: Path) -> None:
    photo, model = tmp_path / "masks/pet.png", tmp_path / "net.safetensors"
    write(photo)
    write(model)
    link(tmp_path / "linked.png", "masks/pet.png")
    link(tmp_path / "here", str(tmp_path))
    for table in ("masks/pet.png", "here/masks/pet.png", "net.safetensors"):
        command = (
            "predict",
            str(tmp_path / "linked.png"),
            "--model",
            str(model),
            "--out",
            str(tmp_path / "o"),
        )
        message = refusal(*command, "--csv", str(tmp_path / table), "--force")
        assert message == f"--csv {tmp_path / table}: is read too; choose another place"
    message = refusal("predict", str(photo), "--out", str(tmp_path), "--force")
    assert message == f"--out {photo}: is read too; choose another place"
    assert photo.read_text() == model.read_text() == "precious"


def test_similar_names_are_not_protected(home: Path, tmp_path: Path) -> None:
    """Names alone make no store and no cache: people would switch off a guard that refuses too much."""
    for name in (
        "runs/x.png",
        "yolo/runs/x.png",
        ".github/x.png",
        "dvc.lock",
        "files/x",
        f"{KEY}/manifest.json",
    ):
        check_targets("--out", tmp_path / name, force=False)
    check_kept_out("--out", Path(), Path("plots"), home, Path("/"))
    (tmp_path / "repository").mkdir()
    git(tmp_path / "repository", "init", "-q")
    check_targets("--out", tmp_path / "repository/new.png", tmp_path / ("n" * 300), force=False)


def test_a_leading_tilde_is_the_home_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert expanded("~/cut") == home / "cut"
    for text in ("cut", "a/~/b", "~nobody-of-this-name/x", "/~"):
        assert expanded(text) == Path(text)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["runs", "restore", KEY, "--to=~/cut/x.safetensors"])
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "cut/x.safetensors").is_file()
    result = CliRunner().invoke(app, ["runs", "which", "~/cut/x.safetensors"])
    assert f"the weights of run {KEY}" in result.stdout
    message = refusal("runs", "restore", KEY, "--to=~/cut/x.safetensors")
    assert message == f"--to {tmp_path}/cut/x.safetensors: is there already; --force replaces it"


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "device", "folder", "nothing"])
@pytest.mark.parametrize("command", ["adopt", "which"])
def test_an_irregular_file_is_not_read(home: Path, tmp_path: Path, command: str, kind: str) -> None:
    path = tmp_path / "weights.pt"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link to a device":
            link(path, "/dev/zero")
        case "device":
            path = Path("/dev/zero")
        case "folder":
            path.mkdir()
    done = subprocess.run(  # in a process of its own, because it might never end
        [sys.executable, "-m", "petseg", "runs", command, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    reason = "no such file" if kind == "nothing" else "is no regular file"
    assert (done.returncode, done.stderr) == (2, f"petseg: {path}: {reason}\n")
