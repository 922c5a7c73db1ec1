"""A stored file that is damaged or gone is restored when petseg meets a good copy of it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.errors import DamagedFile, StoreError
from petseg.models.weights import save_tensors
from petseg.store.adopt import adopt
from petseg.store.beginning import begin_anew
from petseg.store.chain import read_ledger
from petseg.store.champion import promote
from petseg.store.heal import Copy, heal_from, heal_runs
from petseg.store.layout import ABOUT, CHECKPOINTS, HISTORY, LAST_WEIGHTS, MANIFEST, WEIGHTS
from petseg.store.ledger import changing
from petseg.store.prune import prune
from petseg.store.records import sealed
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs
from petseg.store.verify import verify
from tests.support.store import evaluate, flip, make_run


@pytest.fixture
def run(root: Path) -> StoredRun:
    """A run with an evaluation; both are in the ledger."""
    return evaluate(make_run(root, "aa"), 0.7)


def healed_files(root: Path) -> list[str]:
    return [line["file"] for line in read_ledger(root / "runs").lines if line["event"] == "healed"]


def no_copies(runs: Sequence[StoredRun]) -> Iterator[Copy]:
    yield from ()


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_adopting_the_weights_of_a_run_heals_it(
    root: Path, run: StoredRun, harm: Callable[[Path], object]
) -> None:
    good, before = root / "copy.safetensors", (run.folder / WEIGHTS).read_bytes()
    good.write_bytes(before)
    (run.folder / WEIGHTS).chmod(0o644)
    harm(run.folder / WEIGHTS)
    kept, is_new = adopt(good, root / "runs", "")
    assert (kept.key, is_new) == ("aa", False)
    assert (run.folder / WEIGHTS).read_bytes() == before
    assert healed_files(root) == [WEIGHTS]
    adopt(good, root / "runs", "")
    assert healed_files(root) == [WEIGHTS]  # nothing was healed, so there is no new line


def test_the_same_evaluation_heals_the_stored_one(root: Path, run: StoredRun) -> None:
    folder = run.folder / "evaluations/e1"
    flip(folder / "test.json")
    (folder / "breeds.csv").unlink()
    assert evaluate(run, 0.7).evaluation is not None
    assert list(StoredRun.open(run.folder).damages()) == []
    assert sorted(healed_files(root)) == ["evaluations/e1/breeds.csv", "evaluations/e1/test.json"]


def test_an_evaluation_that_cannot_be_healed_is_set_aside(root: Path, run: StoredRun) -> None:
    flip(run.folder / "evaluations/e1/test.json")
    again = evaluate(run, 0.6).evaluation  # other scores with the same key
    assert again is not None
    assert again.headlines["dice_per_image"] == 0.6
    assert (run.folder / "evaluations/.e1.damaged/test.json").exists()
    events = [line["event"] for line in read_ledger(root / "runs").lines]
    assert events[-2:] == ["set aside", "added"]
    assert verify(root, None, no_copies).damages == []


def test_verify_heals_from_dvcs_cache_and_from_mlflow(root: Path, run: StoredRun) -> None:
    content = (run.folder / HISTORY).read_bytes()
    cached = root / ".dvc/cache/files/md5"
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    (cached / md5[:2]).mkdir(parents=True)
    (cached / md5[:2] / md5[2:]).write_bytes(content)
    shutil.copy(run.folder / WEIGHTS, root / "in_mlflow")
    flip(run.folder / HISTORY)
    (run.folder / WEIGHTS).unlink()
    flip(run.folder / ABOUT)  # there is no copy of it

    def copies(runs: Sequence[StoredRun]) -> Iterator[Copy]:
        yield Copy(runs[0], "runs:/1/weights", lambda _: root / "in_mlflow", lambda _: False)

    assert len(verify(root, None, copies).damages) == 3
    assert (run.folder / HISTORY).read_bytes() != content
    report = verify(root, None, copies, heals=True)
    assert [line for line in report.damages if ABOUT not in line] == []
    assert report.damages[0].endswith(
        "model.json: differs from its recorded hash; no copy that is whole was found"
    )
    assert sorted(healed_files(root)) == [HISTORY, WEIGHTS]
    assert (run.folder / HISTORY).read_bytes() == content


def test_verify_heals_copies_from_the_store(root: Path, run: StoredRun) -> None:
    weights = run.folder / WEIGHTS
    md5 = hashlib.md5(weights.read_bytes(), usedforsecurity=False).hexdigest()
    cached = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"damaged")
    (root / "in_mlflow").write_bytes(b"damaged")

    def put(file: Path) -> bool:
        return bool(shutil.copy(file, root / "in_mlflow"))

    def copies(runs: Sequence[StoredRun]) -> Iterator[Copy]:
        yield Copy(runs[0], "runs:/1", lambda _: root / "in_mlflow", put)
        yield Copy(runs[0], "runs:/2", lambda _: None, lambda _: False)  # MLflow does not accept it

    assert len(verify(root, None, copies).damages) == 3
    report = verify(root, None, copies, heals=True)
    assert report.damages == ["runs:/2: is gone; it was a copy of run aa's weights"]
    assert [line.partition(": ")[0] for line in report.healed] == ["runs:/1", str(cached)]
    assert cached.read_bytes() == (root / "in_mlflow").read_bytes() == weights.read_bytes()


def test_two_repairs_of_one_file_are_two_lines(root: Path, run: StoredRun) -> None:
    shutil.copy(run.folder / WEIGHTS, root / "copy")
    for number in (1, 2):
        flip(run.folder / WEIGHTS)
        heal_from(run, [root / "copy"])
        assert healed_files(root) == [WEIGHTS] * number


def test_an_edited_record_does_not_replace_the_copy_in_mlflow(root: Path, run: StoredRun) -> None:
    other = make_run(root, "bb", 0.6)
    shutil.copy(run.folder / WEIGHTS, root / "in_mlflow")
    good = (root / "in_mlflow").read_bytes()
    shutil.copy(other.folder / WEIGHTS, run.folder / WEIGHTS)
    manifest = json.loads((run.folder / MANIFEST).read_text())
    manifest["files"][WEIGHTS] = other.manifest["files"][WEIGHTS]

    def put(file: Path) -> bool:
        return bool(shutil.copy(file, root / "in_mlflow"))

    def copies(runs: Sequence[StoredRun]) -> Iterator[Copy]:
        yield Copy(StoredRun.open(run.folder), "runs:/1", lambda _: root / "in_mlflow", put)

    for edited in (manifest, sealed(manifest)):
        write_json(run.folder / MANIFEST, edited)
        report = verify(root, None, copies, heals=True)
        assert "runs:/1: differs from run aa's weights, whose copy it is" in report.damages
        assert (root / "in_mlflow").read_bytes() == good


def test_a_file_that_was_put_back_is_verified(root: Path, run: StoredRun) -> None:
    (root / "in_mlflow").write_bytes(b"damaged")

    def copies(runs: Sequence[StoredRun]) -> Iterator[Copy]:
        yield Copy(
            runs[0], "runs:/1", lambda _: root / "in_mlflow", lambda _: True
        )  # reports success, but puts nothing back

    assert len(verify(root, None, copies, heals=True).damages) == 1


def test_an_unreadable_file_does_not_stop_healing(
    root: Path, run: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(run.folder / WEIGHTS, root / "in_mlflow")
    flip(run.folder / WEIGHTS)
    opened = os.open

    def refused(path: Any, *given: Any, **named: Any) -> int:
        if path == run.folder / HISTORY:
            raise OSError(5, "Input/output error", str(path))
        return opened(path, *given, **named)

    def copies(runs: Sequence[StoredRun]) -> Iterator[Copy]:
        yield Copy(runs[0], "runs:/1", lambda _: root / "in_mlflow", lambda _: False)

    monkeypatch.setattr(os, "open", refused)
    report = verify(root, None, copies, heals=True)
    assert [line for line in report.damages if HISTORY not in line] == []
    assert len(report.damages) == 1
    assert healed_files(root) == [WEIGHTS]


def test_an_edited_record_heals_nothing(root: Path, run: StoredRun) -> None:
    """Otherwise the last good bytes would be replaced by those that the edited record names."""
    other = make_run(root, "bb", 0.6)
    before = (run.folder / WEIGHTS).read_bytes()
    manifest = json.loads((run.folder / MANIFEST).read_text())
    manifest["files"][WEIGHTS] = sha256_file(other.folder / WEIGHTS)
    write_json(run.folder / MANIFEST, manifest)
    heal_runs(stored_runs(root / "runs")[0], {manifest["files"][WEIGHTS]: other.folder / WEIGHTS})
    assert (run.folder / WEIGHTS).read_bytes() == before
    write_json(run.folder / MANIFEST, sealed(manifest))  # an edit with a valid seal
    heal_runs(stored_runs(root / "runs")[0], {manifest["files"][WEIGHTS]: other.folder / WEIGHTS})
    assert (run.folder / WEIGHTS).read_bytes() == before
    assert healed_files(root) == []


def test_a_run_that_was_pruned_is_not_written_again(root: Path, run: StoredRun) -> None:
    gone = make_run(root, "bb", 0.6)
    shutil.copy(gone.folder / WEIGHTS, root / "copy")
    prune(root / "runs", ["bb"])
    heal_from(gone, [root / "copy"])
    assert not gone.folder.exists()
    with pytest.raises(StoreError, match="is no run"):
        evaluate(gone, 0.5)
    assert not gone.folder.exists()


def test_a_damaged_run_is_not_promoted(root: Path, run: StoredRun) -> None:
    flip(run.folder / "evaluations/e1/test.json")
    with pytest.raises(StoreError, match="run aa can't be verified"):
        promote(run, force=True)
    with changing(root / "runs"):
        pass
    assert not [line for line in read_ledger(root / "runs").lines if line["event"] == "promoted"]


@pytest.mark.parametrize("epoch", [1, 3], ids=["best", "last"])
def test_weights_are_restored_from_a_checkpoint(root: Path, run: StoredRun, epoch: int) -> None:
    name, about = (WEIGHTS, {}) if epoch == 1 else (LAST_WEIGHTS, {"epoch": epoch})
    other = root / "runs/bb"
    tensors = {"w": torch.full((3,), 0.5)}
    save_tensors(other / name, tensors, {"run_key": "bb", **about})
    write_json(other / MANIFEST, sealed(run.manifest | {"files": {name: sha256_file(other / name)}}))
    state = {"average/w": tensors["w"], "network/w": torch.zeros(3), "optimizer/w": torch.ones(3)}
    for number, weights in ((epoch, state), (2, {"network/w": torch.ones(3)})):
        save_tensors(
            other / CHECKPOINTS / f"epoch-{number:05}.safetensors", weights, {"record": {"epoch": number}}
        )
    (root / "runs/store.json").unlink()
    begin_anew(root / "runs")
    before = (other / name).read_bytes()
    flip(other / name)
    report = verify(root, None, no_copies, heals=True)
    assert report.damages == []
    assert f"put back from {other / CHECKPOINTS}/epoch-{epoch:05}.safetensors" in "".join(report.healed)
    assert (other / name).read_bytes() == before
    assert verify(root, None, no_copies).damages == []


def test_a_link_is_not_a_stored_file(root: Path, run: StoredRun) -> None:
    weights, output = run.folder / WEIGHTS, root / "models/model.safetensors"
    output.parent.mkdir()
    weights.rename(output)
    weights.symlink_to(output)
    (damage,) = verify(root, None, no_copies).damages
    assert damage == f"{weights}: is a link, and no file of the store"
    with pytest.raises(DamagedFile, match="is a link"):
        run.export({WEIGHTS: root / "away.safetensors"})
    adopt(output, root / "runs", "")
    assert not weights.is_symlink()
    assert verify(root, None, no_copies).damages == []


def test_nothing_is_written_into_a_linked_folder(root: Path, run: StoredRun) -> None:
    elsewhere = root / "elsewhere"
    (run.folder / "evaluations").rename(elsewhere)
    (run.folder / "evaluations").symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    flip(elsewhere / "e1/test.json")
    before[elsewhere / "e1/test.json"] = (elsewhere / "e1/test.json").read_bytes()
    (damage, *_) = verify(root, None, no_copies, heals=True).damages
    assert damage == f"{run.folder}/evaluations: is a link, and no folder of the store"
    assert {path: path.read_bytes() for path in before} == before


def test_damaged_checkpoints_of_a_stopped_training_are_named(root: Path, run: StoredRun) -> None:
    stopped = root / "runs/cc"
    checkpoints = [stopped / CHECKPOINTS / f"epoch-{number:05}.safetensors" for number in (1, 2, 3)]
    for path, key in zip(checkpoints, ("cc", "cc", "dd"), strict=True):
        save_tensors(path, {"network/w": torch.ones(3)}, {"run_key": key})
    write_json(stopped / MANIFEST, run.manifest | {"status": "running"})
    checkpoints[0].write_bytes(checkpoints[0].read_bytes()[:-2])
    first, last = verify(root, None, no_copies).damages
    assert first.startswith(f"{checkpoints[0]}: ")
    assert last == f"{checkpoints[2]}: is a checkpoint of run dd"
    (stopped / MANIFEST).unlink()
    assert f"{stopped / MANIFEST}: is gone" in verify(root, None, no_copies).damages[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_an_irregular_file_is_named_without_waiting(root: Path, run: StoredRun, kind: str) -> None:
    def lay(path: Path) -> None:
        path.unlink(missing_ok=True)
        {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](
            path
        )

    (root / "w.pt").write_bytes(b"weights")
    lay(root / "w.json")
    adopted, _ = adopt(root / "w.pt", root / "runs", "")
    assert "model.json" not in adopted.manifest["files"]
    lay(run.folder / "evaluations/e1/evaluation.json")
    lay(run.folder / ABOUT)
    (root / "runs/zz").mkdir()
    lay(root / "runs/zz" / MANIFEST)
    damages = verify(root, None, no_copies).damages
    for path in (run.folder / "evaluations/e1/evaluation.json", root / "runs/zz" / MANIFEST):
        assert f"{path}: is no regular file" in damages
    assert any(line.startswith(f"{run.folder / ABOUT}: ") for line in damages)
    with pytest.raises(DamagedFile):
        run.export({ABOUT: root / "away.json"})
