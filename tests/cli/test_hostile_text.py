"""Text of others in the output of every command: it has no control characters, and begins no line."""

import asyncio
import atexit
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file

from petseg.cli import app, main
from petseg.core.loopback import App, Message
from petseg.core.textfiles import write_csv, write_json
from petseg.report import page
from petseg.store.card import card
from petseg.store.layout import MANIFEST
from petseg.store.run import StoredRun
from tests.support import ROOT
from tests.support.pets import sample_photos
from tests.support.runs import make_run, trained

KEY, BROKEN = "aaaa111122223333", "bbbb111122223333"
ACTING = "\x1b[31m\x1b]0;title\x07\x9b2J\u202e\u2066\u200f\u2028\x85\r\b"
HOSTILE = f"evil{ACTING}\nFORGED line\u2029FORGED"
NAME = f"evil{ACTING}\nFORGED" + os.fsdecode(b"\xff")  # the name of a file; the last byte is no UTF-8


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with control characters in its folder, files, branch, author, records and metadata."""
    root = tmp_path_factory.mktemp("hostile") / f"project{ACTING[:6]}\u202e"
    (root / ".dvc/tmp").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    git = ["git", "-c", f"user.name=A\u202e{ACTING[:6]}", "-c", "user.email=a@b"]
    for command in (["init", "-q", "-b", "b\u202eranch"], ["add", "."], ["commit", "-qm", HOSTILE]):
        subprocess.run([*git, *command], cwd=root, check=True)
    run = make_run(root / "runs" / KEY, "unet")
    breed = {"breed": HOSTILE, "photos": 5, "dice_per_image": 0.5}
    write_csv(run.folder / "evaluations/e/breeds.csv", [breed])
    changes: dict[str, Any] = {
        "created": f"2026-01-01T10:00:00{HOSTILE}",
        "git": {"commit": HOSTILE, "dirty": True},
        "params": {"model.name": HOSTILE, HOSTILE: HOSTILE},
        "data": {"data.source": f"http://user:geheim@host/{HOSTILE}?geheim", "data.image_size": 64},
        "environment": {"device": HOSTILE, "cpu_capability": HOSTILE},
        "photos": {HOSTILE: 1},
        "dvc_experiment": HOSTILE,
    }
    write_json(run.folder / MANIFEST, run.manifest | changes)
    write_json(root / "runs" / BROKEN / MANIFEST, trained(status=HOSTILE, **{HOSTILE: HOSTILE}))
    (jpeg,) = sample_photos(1)
    for folder in ("photos", "own/images", "own/masks"):
        (root / folder).mkdir(parents=True)
        (root / folder / f"{NAME}.jpg").write_bytes(jpeg)
        (root / folder / f"{NAME}.bad.png").write_bytes(HOSTILE.encode("utf-8", "surrogatepass"))
    (root / "pairs.csv").write_text(f'photo,mask,{HOSTILE}\n"{HOSTILE}","{HOSTILE}",1\n')
    save_file({"a": torch.zeros(1)}, root / f"{NAME}.safetensors", {"run_key": HOSTILE, "epoch": "1"})
    (root / f"{NAME}.yaml").write_text(f"train: {{{json.dumps(HOSTILE)}: {json.dumps(HOSTILE)}}}\n")
    return root


def leaves(command: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command that can be run."""
    below = getattr(command, "commands", {})
    if not below or getattr(command, "invoke_without_command", False):
        yield way
    for name, inner in below.items():
        yield from leaves(inner, (*way, name))


LEAVES = sorted(leaves(typer.main.get_command(app)))
WEIGHTS = f"{NAME}.safetensors"
TRAIN = [["--recipe", NAME], ["--recipe", f"{NAME}.yaml"], ["--data-path", NAME], ["-S", f"{HOSTILE}=1"]]
PICTURE = [["--out", f"{NAME}.png"], ["--out", NAME]]
# The arguments of each command, besides those that all commands get. A new command needs an entry.
GIVEN: dict[tuple[str, ...], list[list[str]]] = {
    ("train",): [*TRAIN, ["-S", f"train.loss={HOSTILE}"], []],
    ("infer",): [*TRAIN, []],
    ("predict",): [
        ["photos", "--model", KEY, "--csv", "table.csv"],
        ["photos", "--model", WEIGHTS],
        ["photos", "--out", WEIGHTS],
        ["photos", "--csv", "pairs.csv"],
        [NAME],
    ],
    ("demo",): [["--port=0", "--no-open", "--model", KEY], ["--port=0", "--no-open", "--model", WEIGHTS]],
    ("evaluate",): [[]],
    **{("evaluate", view): PICTURE for view in ("curves", "best", "worst", "random", "breeds", "histogram")},
    **{("evaluate", view): PICTURE for view in ("thresholds", "confusion", "calibration")},
    ("evaluate", "evolution"): [["--photo", HOSTILE]],
    ("evaluate", "photo"): [[NAME]],
    ("evaluate", "compare"): [[KEY, KEY], [KEY, HOSTILE]],
    ("report",): [[KEY, "--no-open"], ["--no-open"], [KEY, "--out", f"photos/{NAME}.jpg"]],
    ("compare",): [[KEY], [KEY, BROKEN], [KEY, "--figure", NAME]],
    ("runs", "list"): [[], ["--json"], ["--where", HOSTILE], ["--sort", HOSTILE]],
    ("runs", "show"): [[KEY], [KEY, "--json"], [BROKEN]],
    ("runs", "restore"): [[KEY, "--to", f"{NAME}.2.safetensors"], [KEY, "--to", WEIGHTS], [KEY]],
    ("runs", "verify"): [[], [KEY], ["--json"]],
    ("runs", "which"): [[WEIGHTS], [f"photos/{NAME}.jpg"], [f"runs/{KEY}/model.safetensors"]],
    ("runs", "reproduce"): [[KEY]],
    ("runs", "prune"): [[KEY], [BROKEN], [HOSTILE, "--yes"]],
    ("runs", "adopt"): [[f"photos/{NAME}.jpg"], [WEIGHTS, "--note", HOSTILE], [NAME]],
    ("runs", "promote"): [[KEY], [BROKEN]],
    ("runs", "export"): [[KEY, "--onnx", NAME], [BROKEN, "--onnx", f"{NAME}.onnx"]],
    ("runs", "sync"): [[], ["--all"]],
    ("runs", "champion"): [[], ["--log"]],
    ("ui",): [[]],
    ("doctor",): [
        [],
        ["--data", "--source", "own", "--masks", "binary_255"],
        ["--data", "--source", "pairs.csv"],
        ["--data", "--source", NAME],
        ["--data", "--masks", HOSTILE],
    ],
}


def test_each_command_is_tested() -> None:
    assert sorted(GIVEN) == LEAVES


@pytest.mark.whole
@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_no_command_prints_control_characters(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("LOGNAME", f"user{ACTING}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    keep_to_the_process(monkeypatch)
    for arguments in [*GIVEN[command], [HOSTILE] * 9, [f"--{HOSTILE}"], [f"--out={HOSTILE}"]]:
        check(run([*command, *arguments], monkeypatch))
    check((hostile / "table.csv").read_text() if command == ("predict",) else "")


def keep_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make commands start no server and no training, and leave this process unchanged."""
    import petseg.cli.stages
    import petseg.predict.demo.server

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(atexit, "register", lambda *_: None)
    monkeypatch.setattr(petseg.cli.stages, "_run_dvc", lambda *_: 1)
    monkeypatch.setattr(petseg.predict.demo.server, "serve", lambda *_, **__: None)
    monkeypatch.setattr(os, "execv", lambda *_: sys.exit(0))


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run petseg in this process, and return all that it prints."""
    printed = io.BytesIO()
    stream = io.TextIOWrapper(printed, encoding="utf-8", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["petseg", *arguments])
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        patch.setattr(sys, "stdin", io.StringIO("n\n"))
        with pytest.raises(SystemExit):
            main()
    return printed.getvalue().decode()


def check(text: str) -> None:
    """Check that a text has no control characters, no line that others began, and no secret."""
    assert not control_characters(text), text
    assert not any(line.strip(' │|"').startswith("FORGED") for line in text.splitlines()), text
    assert "geheim" not in text
    assert "Traceback" not in text


def control_characters(text: str) -> set[str]:
    """Return the characters that move the cursor, reverse text or end a line, except the newline."""
    return {letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {
        "\n"
    }


def test_a_card_has_no_control_characters_html_or_links(hostile: Path) -> None:
    run = StoredRun.open(hostile / "runs" / KEY)
    text = card(run)
    assert "evil" in text
    check(text)
    changes = {"params": {"model.name": "<img src=x> [a](javascript:b) | ![c](d) &lt; \\"}}
    text = card(StoredRun(run.folder, run.manifest | changes))
    for raw in ("<img", "[a]", "![c]", "&lt;", " | !"):
        assert raw not in text.replace(f"\\{raw[:1]}", "")
    assert r"\<img src=x\> \[a\](javascript:b) \| !\[c\](d) \&lt; \\" in text


def test_a_page_has_no_control_characters() -> None:
    html = page._filled({"model": HOSTILE, HOSTILE: [HOSTILE, {"name": NAME}], "gallery": []}).decode()
    assert not control_characters(html)
    (data,) = [line for line in html.splitlines() if "FORGED" in line]
    found = json.loads(data[data.index("{") : data.rindex("}") + 1])
    check("".join((found["model"], *found)))
    check("".join(map(str, found.values())))


def test_the_demo_offers_no_control_characters(hostile: Path) -> None:
    from petseg.predict.demo.app import make_app
    from petseg.predict.demo.models import Models, Offer

    class Offering(Models):
        first_key = KEY

        def __init__(self) -> None:
            pass

        def offers(self) -> list[Offer]:
            return [Offer.of_run(StoredRun.open(hostile / "runs" / KEY), champion=False)]

    status, body = asyncio.run(get("/api/models", make_app(Offering())))
    assert status == 200
    (offer,) = json.loads(body)["models"]
    assert "evil" in offer["network"]
    check(json.dumps(offer, ensure_ascii=False))


async def get(path: str, application: App) -> tuple[int, bytes]:
    """Send a request to an ASGI application; return the status and the body of its answer."""
    answered: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        answered.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")]}
    await application(scope | {"query_string": b"", "raw_path": path.encode()}, receive, send)
    return answered[0]["status"], b"".join(message.get("body", b"") for message in answered)


def test_no_control_characters_are_logged_to_mlflow(
    hostile: Path, mlflow_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from petseg.tracking.client import connect
    from petseg.tracking.entries import of_data_stage, of_training
    from petseg.tracking.outbox import DataRecord
    from petseg.tracking.rows import Row

    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", f"user{ACTING}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = StoredRun.open(hostile / "runs" / KEY)
    changes = {"created": "2026-01-01T10:00:00+00:00", "params": {"model.name": HOSTILE}}
    training = of_training(StoredRun(run.folder, run.manifest | changes))
    stage = DataRecord("download", {"a": HOSTILE}, {"b": HOSTILE}, datasets=[(HOSTILE, "0" * 64, HOSTILE)])
    for record in (replace(training, files={}, ended=""), of_data_stage("data-1", stage)):
        row = Row.open(connect(), record)
        row.begin(record)
        logged = row.client.get_run(row.run_id)
        texts = json.dumps([logged.to_dictionary(), logged.info.run_name], ensure_ascii=False)
        assert "evil" in texts
        check(texts)
