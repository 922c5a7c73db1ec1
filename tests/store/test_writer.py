import errno
import json
import math
import multiprocessing
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from petseg.core.files import sha256_file
from petseg.data.masks import load_masks, save_masks
from petseg.errors import DamagedFile, DataError, RunLocked, StoreError, TrainingError
from petseg.models.weights import load_tensors, save_tensors, sha256_tensors
from petseg.params import OUTPUTS, ModelParams, Params
from petseg.store.keep import keep
from petseg.store.layout import (
    ABOUT,
    CURVES,
    EVALUATIONS,
    EVOLUTION_MASKS,
    HISTORY,
    MANIFEST,
    WEIGHTS,
    key_of,
)
from petseg.store.writer import Run, open_run, read_history
from petseg.training.history import EpochRecord, best_epoch, is_stale
from petseg.training.loop import TrainingState

MODEL = ModelParams(name="unet", width=2, depth=1, dropout=0.0, encoder_weights="none")
KEY = key_of({"a": 1}, "data", "code")
BEGUN = {
    "params": {"a": 1},
    "data_sha256": "d",
    "environment": {},
    "git": {"commit": None, "dirty": False},
}


def record(epoch: int, val_dice: float) -> EpochRecord:
    return EpochRecord(epoch, 64, 0.5, 0.6, 0.7, val_dice, val_dice, val_dice, 1e-3, 100.0, 1.5)


def state_of(params: Params, epoch: int) -> TrainingState:
    """A state in which every weight equals the epoch."""
    state = TrainingState.new(MODEL, params.train, torch.device("cpu"))
    for network in (state.network, state.average):
        assert network is not None
        for weights in network.parameters():
            weights.data.fill_(epoch)
    state.epoch = epoch
    return state


def add(run: Run, params: Params, epoch: int, val_dice: float) -> None:
    masks = np.zeros((3, 2, 8, 8), bool)
    masks[:, 0, :epoch] = masks[:, 1, : epoch - 1] = True
    run.add(record(epoch, val_dice), state_of(params, epoch), masks)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(tmp_path / "runs", KEY, BEGUN) as run:
        run.note(shown_rows=[4, 7, 9])
        yield run


def weights_of(path: Path) -> float:
    tensors, _ = load_tensors(path)
    return float(tensors["head.bias"][0])


def test_the_key_depends_on_params_data_and_code() -> None:
    keys = {key_of({"a": 1}, "d", "c"), key_of({"a": 2}, "d", "c"), key_of({"a": 1}, "e", "c")}
    keys |= {key_of({"a": 1}, "d", "x"), key_of({"b": 1}, "d", "c")}
    assert len(keys) == 5
    assert key_of({"a": 1, "b": 2}, "d", "c") == key_of({"b": 2, "a": 1}, "d", "c")


def test_the_best_epochs_weights_are_kept(run: Run, params: Params, tmp_path: Path) -> None:
    for epoch, dice in enumerate([0.5, 0.8, math.nan, 0.8, 0.7], 1):
        add(run, params, epoch, dice)
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [
        "epoch-00002.safetensors", "epoch-00004.safetensors", "epoch-00005.safetensors",
    ]  # fmt: skip
    run.finish({"model": MODEL.model_dump(), "image_size": 8, "outputs": OUTPUTS})
    assert run.finished
    run.export({
        WEIGHTS: tmp_path / "w.safetensors", ABOUT: tmp_path / "w.json",
        EVOLUTION_MASKS: tmp_path / "evolution.npz", CURVES: tmp_path / "history.csv",
    })  # fmt: skip
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert (
        lines[0]
        == "epoch,size_px,train_loss,val_loss,train_dice,val_dice,val_dice_whole,val_dice_tight,learning_rate"
    )
    assert len(lines) == 6
    assert weights_of(tmp_path / "w.safetensors") == 2
    about = json.loads((tmp_path / "w.json").read_text())
    assert (about["epoch"], about["val_dice"], about["run_key"]) == (2, 0.8, KEY)
    tensors, _ = load_tensors(tmp_path / "w.safetensors")
    assert about["tensors_sha256"] == sha256_tensors(tensors)
    masks, beside = load_masks(tmp_path / "evolution.npz")
    assert masks.shape == (5, 3, 2, 8, 8)
    whole, tight = masks.sum(axis=(1, 3, 4)).T.tolist()
    assert (whole, tight) == ([24, 48, 72, 96, 120], [0, 24, 48, 72, 96])
    assert beside["outputs"].tolist() == [0, 1]
    assert beside["epochs"].tolist() == [1, 2, 3, 4, 5]
    assert beside["rows"].tolist() == [4, 7, 9]


def test_a_finished_run_is_read_only_and_hashed(run: Run, params: Params) -> None:
    add(run, params, 1, 0.5)
    run.finish({})
    files = [path for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in files)
    recorded = run.manifest["files"]
    assert {str(path.relative_to(run.folder)) for path in files} == {*recorded, MANIFEST}
    assert all(sha256_file(run.folder / name) == digest for name, digest in recorded.items())


def test_the_size_of_a_run_includes_its_evaluations(run: Run, params: Params, tmp_path: Path) -> None:
    add(run, params, 1, 0.5)
    on_disk = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    assert run.size_bytes == on_disk
    run.finish({})
    files = [run.folder / name for name in run.manifest["files"]]
    finished = sum(path.stat().st_size for path in files)
    assert run.size_bytes == finished
    (tmp_path / "scores.json").write_text("x" * 1000)
    keep(run, EVALUATIONS, "e1", {}, {"scores.json": tmp_path / "scores.json"})
    record = run.folder / EVALUATIONS / "e1/evaluation.json"
    assert run.size_bytes == finished + 1000 + record.stat().st_size


def test_a_finished_run_is_opened_unchanged(run: Run, params: Params) -> None:
    add(run, params, 1, 0.5)
    run.finish({})
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    with open_run(run.folder.parent, KEY, {"params": "others"}) as again:
        assert again.finished
        assert again.manifest["params"] == {"a": 1}
        assert best_epoch(again.history) == record(1, 0.5)
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_altered_weights_are_not_exported(run: Run, params: Params, tmp_path: Path) -> None:
    add(run, params, 1, 0.5)
    run.finish({})
    path = run.folder / WEIGHTS
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFile, match=rf"{KEY}/model\.safetensors: differs from its recorded hash"):
        run.export({ABOUT: tmp_path / "j", WEIGHTS: tmp_path / "w"})
    assert not (tmp_path / "w").exists()
    assert not (tmp_path / "j").exists()


def test_an_unfinished_run_is_resumed(run: Run, params: Params) -> None:
    for epoch in (1, 2, 3):
        add(run, params, epoch, epoch / 10)
    again = Run(run.folder, run.manifest)
    state = state_of(params, 0)
    again.resume(state)
    assert state.epoch == 3
    assert next(state.network.parameters()).flatten()[0].item() == 3
    assert again.history == [record(1, 0.1), record(2, 0.2), record(3, 0.3)]


def test_a_kill_between_checkpoint_and_row_leaves_one_row_per_epoch(run: Run, params: Params) -> None:
    add(run, params, 1, 0.1)
    rows = (run.folder / HISTORY).read_bytes()
    add(run, params, 2, 0.2)
    (run.folder / HISTORY).write_bytes(rows)  # as if the process had been killed before it wrote the row
    again = Run(run.folder, run.manifest)
    state = state_of(params, 0)
    again.resume(state)
    add(again, params, 3, 0.3)
    assert [row.epoch for row in read_history(run.folder)] == [1, 2, 3]


def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_used(
    run: Run, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    add(run, params, 1, 0.1)
    add(run, params, 2, math.nan)
    newest = run.folder / "checkpoints/epoch-00002.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(data)
    again = Run(run.folder, run.manifest)
    state = state_of(params, 0)
    again.resume(state)
    assert state.epoch == 1
    assert [row.epoch for row in read_history(run.folder)] == [1]
    assert newest.with_suffix(".damaged").read_bytes() == bytes(data)
    assert "epoch-00002.safetensors: is damaged" in capsys.readouterr().out


def test_a_checkpoint_of_another_run_is_not_resumed(
    run: Run, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    add(run, params, 1, 0.5)
    path = run.folder / "checkpoints/epoch-00001.safetensors"
    tensors, about = load_tensors(path)
    save_tensors(path.with_name("epoch-00002.safetensors"), tensors, about | {"run_key": "another"})
    state = state_of(params, 0)
    run.resume(state)
    assert state.epoch == 1
    assert "epoch-00002.safetensors: is a checkpoint of run another; moved to" in capsys.readouterr().out


def test_a_run_without_its_best_checkpoint_goes_back_before_it(run: Run, params: Params) -> None:
    for epoch, dice in enumerate([0.3, 0.9, 0.5, 0.4], 1):
        add(run, params, epoch, dice)
    (run.folder / "checkpoints/epoch-00002.safetensors").write_bytes(b"broken")
    state = state_of(params, 0)
    again = Run(run.folder, run.manifest)
    again.resume(state)
    assert (state.epoch, again.history) == (0, [])  # epochs 3 and 4 do not have the best weights
    for epoch, dice in enumerate([0.3, 0.9], 1):
        add(again, params, epoch, dice)
    assert again.best_weights()["head.bias"].tolist() == [2, 2]


def test_a_run_with_unreadable_masks_is_not_sealed(
    run: Run, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(run, params, 1, 0.5)

    def refusing(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[None]:
        onerror(PermissionError(errno.EACCES, "Permission denied", str(folder)))
        yield from ()

    about = {"model": MODEL.model_dump(), "image_size": 8, "outputs": OUTPUTS}
    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", refusing)
        with pytest.raises(PermissionError):
            run.finish(about)
    assert not run.finished
    run.finish(about)
    assert "evolution/00001.png" in run.manifest["files"]


def test_nan_is_never_the_best_and_is_null_on_disk(run: Run, params: Params) -> None:
    add(run, params, 1, math.nan)
    with pytest.raises(TrainingError, match="no epoch has a validation Dice"):
        best_epoch(run.history)
    assert json.loads((run.folder / HISTORY).read_text())["val_dice"] is None
    assert math.isnan(read_history(run.folder)[0].val_dice)
    add(run, params, 2, 0.1)
    assert best_epoch(run.history).epoch == 2


@pytest.mark.parametrize(
    ("dices", "patience", "stale"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.6, 0.6], 1, True),
        ([0.5, 0.6, 0.6], 2, False),
        ([0.6, 0.5, 0.4], 2, True),
        ([0.6, 0.5, 0.4], None, False),
    ],
)
def test_a_history_without_progress_is_stale(dices: list[float], patience: int | None, stale: bool) -> None:
    history = [record(epoch, dice) for epoch, dice in enumerate(dices, 1)]
    assert is_stale(history, patience) is stale


def hold(
    store: Path, held: "multiprocessing.synchronize.Event", free: "multiprocessing.synchronize.Event"
) -> None:
    with open_run(store, KEY, BEGUN):
        held.set()
        free.wait(60)


def test_a_second_training_of_a_run_is_refused_and_names_the_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, free = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, free))
    other.start()
    try:
        assert held.wait(60)
        with (
            pytest.raises(RunLocked, match=rf"is being trained by process {other.pid};"),
            open_run(tmp_path, KEY, BEGUN),
        ):
            pass
    finally:
        free.set()
        other.join()
    with open_run(tmp_path, KEY, BEGUN) as run:
        assert (run.folder / ".lock").read_text() == str(os.getpid())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ('{"format": 99}', "has format 99, this petseg knows 1"),
        ("[]", "is no record"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=message), open_run(tmp_path, KEY, BEGUN):
        pass


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 3, 16, 10), (3, 7)])
def test_masks_are_packed_and_unpacked(tmp_path: Path, shape: tuple[int, ...]) -> None:
    masks = np.random.default_rng(0).random(shape) > 0.5
    save_masks(tmp_path / "m.npz", masks, rows=np.arange(3))
    found, beside = load_masks(tmp_path / "m.npz")
    assert (found == masks).all()
    assert beside["rows"].tolist() == [0, 1, 2]
    first = (tmp_path / "m.npz").read_bytes()
    save_masks(tmp_path / "m.npz", masks, rows=np.arange(3))
    assert (tmp_path / "m.npz").read_bytes() == first
    (tmp_path / "m.npz").write_bytes(first[:50])
    with pytest.raises(DataError, match="can't be read as packed masks"):
        load_masks(tmp_path / "m.npz")


def test_a_finished_run_has_the_documented_files(run: Run, params: Params) -> None:
    add(run, params, 1, 0.5)
    run.finish({})
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        ".lock",
        MANIFEST,
        HISTORY,
        WEIGHTS,
        ABOUT,
        "evolution",
        CURVES,
        EVOLUTION_MASKS,
    }
