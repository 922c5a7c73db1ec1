import json
import multiprocessing
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from petseg.core.files import sha256_file
from petseg.core.terminal import warn_once
from petseg.core.textfiles import write_json
from petseg.errors import DamagedFile, PromotionRefused, StoreError
from petseg.evaluation.outputs import BREEDS, HEADLINES, PER_IMAGE, SCORES
from petseg.models.weights import save_tensors
from petseg.store.adopt import adopt, adopt_if_unknown
from petseg.store.card import card
from petseg.store.champion import champion, promote, promotions
from petseg.store.identify import Weights, runs_of
from petseg.store.keep import keep
from petseg.store.layout import (
    ABOUT,
    EVALUATIONS,
    HISTORY,
    MANIFEST,
    ORIGINAL,
    RECORDS,
    WEIGHTS,
)
from petseg.store.prune import prune
from petseg.store.run import StoredRun, locked
from petseg.store.runs import run_of, stored_runs
from petseg.store.verify import DVC, STORE, verify
from petseg.store.writer import open_run
from petseg.tracking.queries import weights_in_mlflow
from tests.support.store import edit, evaluate, flip, make_run, petseg


def test_runs_are_read_in_order_and_unreadable_ones_are_named(root: Path) -> None:
    for key in ("bb", "aa"):
        make_run(root, key)
    (root / "runs/cc").mkdir()
    (root / "runs/cc" / MANIFEST).write_text("{")
    (root / "runs/.dd.1.tmp").mkdir()
    (root / "runs/.dd.1.tmp" / MANIFEST).write_text("{}")  # left by a process that was killed
    runs, broken = stored_runs(root / "runs")
    assert [run.key for run in runs] == ["bb", "aa"]
    assert len(broken) == 1
    assert "cc/manifest.json: is no JSON" in broken[0]
    assert run_of(root / "runs", "zz") is None
    with pytest.raises(StoreError, match="is no run"):
        StoredRun.open(root / "runs/zz")


def test_an_edited_record_is_named_by_list_and_show(root: Path) -> None:
    run = evaluate(make_run(root, "aa"), 0.7)
    for record in (run.record, run.folder / "evaluations/e1" / RECORDS[EVALUATIONS]):
        content = record.read_text()
        edit(record, '"created": "2', '"created": "1')
        for command in (("list",), ("show", "aa")):
            warn_once.cache_clear()
            assert f"warning: {record}: differs from the hash that it holds" in petseg("runs", *command)
        record.write_text(content)


def test_a_card_has_no_scores_that_differ_from_their_record(root: Path) -> None:
    run = evaluate(evaluate(make_run(root, "aa"), 0.7), 0.6, "e2")
    breeds = run.folder / "evaluations/e2" / BREEDS
    edit(breeds, "0.5", "0.9")
    warn_once.cache_clear()
    shown = petseg("runs", "show", "aa")
    assert "0.7000" in shown
    assert "0.6000" not in shown
    assert f"warning: {breeds}: differs from its recorded hash; this evaluation is not used" in shown
    breeds.write_bytes(b"\xff")
    assert "0.7000" in petseg("runs", "show", "aa")
    (run.folder / HISTORY).unlink()
    assert f"{run.folder / HISTORY}: is gone" in petseg("runs", "show", "aa", fails=True)


def test_an_evaluation_is_kept_once_and_read_only(root: Path) -> None:
    run = evaluate(make_run(root, "aa"), 0.7)
    assert run.evaluation is not None
    assert run.evaluation.headlines["dice_per_image"] == 0.7
    folder = run.folder / "evaluations/e1"
    assert {path.name for path in folder.iterdir()} == {
        RECORDS[EVALUATIONS],
        HEADLINES,
        SCORES,
        PER_IMAGE,
        BREEDS,
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in folder.iterdir())
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    evaluate(run, 0.9)  # has the same key, so it counts as the same evaluation
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
    assert [path.name for path in (run.folder / "evaluations").iterdir()] == ["e1"]


def test_weights_come_back_byte_for_byte(root: Path) -> None:
    run = make_run(root, "aa")
    assert "run aa: its weights are in " in petseg("runs", "restore", "aa")
    assert (root / "models" / WEIGHTS).read_bytes() == (run.folder / WEIGHTS).read_bytes()
    assert json.loads((root / "models" / ABOUT).read_text()) == {"image_size": 64}
    petseg("runs", "restore", "aa", "--to", "deep/down/x.safetensors")
    assert sha256_file(root / "deep/down/x.safetensors") == run.manifest["files"][WEIGHTS]
    assert (root / "deep/down/x.json").exists()
    for place in ("x.pt", ".", ""):
        assert "must end in .safetensors" in petseg("runs", "restore", "aa", f"--to={place}", fails=True)


def test_restoring_replaces_only_weights_of_a_run(root: Path) -> None:
    make_run(root, "aa", 0.8)
    make_run(root, "bb", 0.9)
    petseg("runs", "restore", "aa")
    petseg("runs", "restore", "bb")  # replaces the weights of run aa
    save_tensors(root / "models" / WEIGHTS, {"w": torch.zeros(3)}, {})
    precious = (root / "models" / WEIGHTS).read_bytes()
    assert "no run has these weights" in petseg("runs", "restore", "aa", fails=True)
    assert (root / "models" / WEIGHTS).read_bytes() == precious
    petseg("runs", "adopt", "models/model.safetensors")
    petseg("runs", "restore", "aa")
    assert (root / "models" / WEIGHTS).read_bytes() != precious


def test_damaged_or_unfinished_runs_are_not_exported(root: Path) -> None:
    run = make_run(root, "aa")
    flip(run.folder / WEIGHTS)
    with pytest.raises(DamagedFile, match=r"aa/model\.safetensors: differs from its recorded hash"):
        run.export({WEIGHTS: root / "w"})
    assert not (root / "w").exists()
    with pytest.raises(StoreError, match="run bb is not finished"):
        make_run(root, "bb", status="running").export({WEIGHTS: root / "w"})


@pytest.mark.whole
def test_verify_counts_all_files_and_names_those_that_differ(root: Path) -> None:
    run = make_run(root, "aa")
    make_run(root, "bb")
    run = evaluate(run, 0.7)
    cached = root / ".dvc/cache/files/md5/90/0150983cd24fb0d6963f7d28e17f72"
    cached.parent.mkdir(parents=True)
    cached.write_text("abc")  # its md5 is the name of the file
    report = verify(root, None, weights_in_mlflow)
    assert report.damages == []
    assert report.runs == 2
    assert report.files[STORE] == (3 + 1) + (4 + 1) + (3 + 1)
    assert report.files[DVC] == 1
    assert "none differ" in petseg("runs", "verify")
    flip(run.folder / HISTORY)
    flip(run.folder / "evaluations/e1" / BREEDS)
    flip(cached)
    (root / "runs/bb" / ABOUT).unlink()
    record = root / "runs/bb" / MANIFEST
    record.write_text(record.read_text().replace('"train.seed": 0', '"train.seed": 1'))
    damages = verify(root, None, weights_in_mlflow).damages
    assert len(damages) == 5
    assert any("bb/manifest.json: differs from the hash that it holds" in damage for damage in damages)
    printed = petseg("runs", "verify", fails=True)
    for name in (
        "aa/history.jsonl: differs",
        "e1/breeds.csv: differs",
        "bb/model.json: is gone",
        "17f72: diff",
    ):
        assert name in printed.replace("\n", "")
    assert "bb/model.json: is gone" in petseg("runs", "verify", "bb", fails=True)


def test_the_run_of_any_copy_of_weights_is_found(root: Path) -> None:
    run = make_run(root, "aa")
    copy = root / "renamed.bin"
    copy.write_bytes((run.folder / WEIGHTS).read_bytes())
    assert "the weights of run aa" in petseg("runs", "which", str(copy))
    foreign = root / "torch.pt"
    torch.save({"w": torch.full((3,), 0.8)}, foreign)  # the same tensors in another format
    assert [found.key for found in runs_of(Weights.read(foreign), root / "runs")] == ["aa"]
    run.folder.rename(root / "away")
    printed = petseg("runs", "which", str(copy), fails=True)
    assert "no run of the store has these weights" in printed
    assert "according to its header, run aa made it" in printed
    flip(copy)
    assert "is damaged" in petseg("runs", "which", str(copy), fails=True)
    (root / "text").write_text("hello")
    assert "can't be read as weights" in petseg("runs", "which", "text", fails=True)


def test_unknown_weights_at_the_output_are_adopted(
    root: Path, mlflow_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(mlflow_database, root / "mlflow.db")
    run, output = make_run(root, "aa"), root / "models" / WEIGHTS
    adopt_if_unknown(output, root / "runs")  # there is no file
    run.export({WEIGHTS: output})
    adopt_if_unknown(output, root / "runs")  # the file belongs to a run
    assert len(stored_runs(root / "runs")[0]) == 1
    for content in (b"precious bytes", b"others"):
        output.write_bytes(content)
        adopt_if_unknown(output, root / "runs")
        adopt_if_unknown(output, root / "runs")
    runs = stored_runs(root / "runs")[0]
    kept = [found for found in runs if found.adopted]
    assert {(found.folder / f"{ORIGINAL}.safetensors").read_bytes() for found in kept} == {
        b"precious bytes", b"others",
    }  # fmt: skip
    assert capsys.readouterr().out.count("is in no run of the store; kept as run") == 2
    assert "can't be read as weights" in card(kept[0]) + json.dumps(kept[0].manifest)
    assert list(verify(root, None, weights_in_mlflow).damages) == []


def test_foreign_weights_are_adopted_with_their_note_and_description(root: Path) -> None:
    torch.save({"w": torch.ones(2)}, root / "old.pt")
    (root / "old.json").write_text('{"note": "mine"}')
    kept, is_new = adopt(root / "old.pt", root / "runs", "from my laptop")
    assert is_new
    assert kept.finished
    assert (kept.folder / f"{ORIGINAL}.pt").read_bytes() == (root / "old.pt").read_bytes()
    assert Weights.read(kept.folder / WEIGHTS).tensors["w"].tolist() == [1, 1]
    again, is_new = adopt(root / "old.pt", root / "runs", "again")
    assert (again.folder, is_new) == (kept.folder, False)
    trained = make_run(root, "aa", 0.9)
    assert adopt(trained.folder / WEIGHTS, root / "runs", "what a run has")[0].folder == trained.folder
    printed = petseg("runs", "show", kept.key)
    assert "from my laptop" in printed
    assert "reproduce" not in printed  # it is not known how they were made
    petseg("runs", "restore", kept.key, "--to", "back.safetensors")
    assert Weights.read(root / "back.safetensors").tensors["w"].tolist() == [1, 1]
    assert (root / "back.json").read_text() == '{"note": "mine"}'


def test_damaged_adopted_weights_are_not_adopted_again(root: Path) -> None:
    torch.save({"w": torch.ones(2)}, root / "old.pt")
    manifest = adopt(root / "old.pt", root / "runs", "")[0].folder / MANIFEST
    manifest.chmod(0o644)
    manifest.write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json: is no JSON"):
        adopt(root / "old.pt", root / "runs", "again")


def test_a_worse_model_does_not_become_champion(root: Path) -> None:
    good, bad = make_run(root, "aa", 0.9), make_run(root, "bb", 0.8)
    other = make_run(root, "cc", 0.99, data_sha256="others")
    assert champion(root / "runs") is None
    assert promote(bad, force=False) is not None
    line = promote(good, force=False)
    assert line is not None
    assert (line.key, line.before, line.forced) == ("aa", "bb", False)
    with pytest.raises(PromotionRefused, match=r"bb has a validation Dice of 0\.8000, less than .* 0\.9000"):
        promote(bad, force=False)
    with pytest.raises(PromotionRefused, match="was validated on other photos"):
        promote(other, force=False)
    assert promote(good, force=False) is None
    assert champion(root / "runs") == "aa"
    forced = promote(other, force=True)
    assert forced is not None
    assert forced.forced
    assert [line.key for line in promotions(root / "runs")] == ["bb", "aa", "cc"]
    flip(bad.folder / WEIGHTS)
    with pytest.raises(StoreError, match="run bb can't be verified"):
        promote(bad, force=True)


def promote_many(folder: Path, times: int) -> None:
    for _ in range(times):
        promote(StoredRun.open(folder), force=True)


def test_no_concurrent_promotion_is_lost(root: Path) -> None:
    runs = [make_run(root, key) for key in ("aa", "bb", "cc")]
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=promote_many, args=(run.folder, 20)) for run in runs]
    for other in others:
        other.start()
    for other in others:
        other.join()
        assert other.exitcode == 0
    log = promotions(root / "runs")
    assert {line.key for line in log} == {"aa", "bb", "cc"}
    assert [line.before for line in log] == [None, *(line.key for line in log[:-1])]  # an unbroken chain
    assert champion(root / "runs") == log[-1].key


def test_the_list_marks_the_champion_and_differing_params(root: Path) -> None:
    scored = make_run(root, "aa", 0.9)
    dice = {"model.name": "unet", "model.width": 8, "train.loss": "dice", "train.seed": 0}
    make_run(root, "bb", 0.8, params=dice, git={"commit": "abc", "dirty": True})
    evaluate(scored, 0.7)
    promote(StoredRun.open(root / "runs/aa"), force=False)
    rows = json.loads(petseg("runs", "list", "--json"))["runs"]
    assert [row["id"] for row in rows] == ["aa", "bb"]
    assert rows[1]["params"]["train.loss"] == "dice"
    assert "train.seed" not in rows[1]["params"]
    assert (rows[0]["test"], rows[0]["champion"], rows[1]["test"]) == (0.7, True, None)
    printed = petseg("runs", "list", "--sort", "val", "--where", "train.loss=dice")
    assert "aa" not in printed
    assert "unet, width 8" in printed
    assert "its code differed from that commit" in printed
    assert [row["id"] for row in json.loads(petseg("runs", "list", "--sort", "val", "--json"))["runs"]] == [
        "bb", "aa",
    ]  # fmt: skip
    assert "no run matches" in petseg("runs", "list", "--where", "model.width=3")
    assert "must be one of" in petseg("runs", "list", "--sort", "beauty", fails=True)
    assert "must be KEY=VALUE" in petseg("runs", "list", "--where", "dice", fails=True)


def test_the_champion_the_best_run_and_a_training_are_not_pruned(root: Path) -> None:
    for key, val_dice in (("aa", 0.9), ("bb", 0.8), ("cc", 0.7), ("dd", 0.6)):
        make_run(root, key, val_dice)
    promote(StoredRun.open(root / "runs/bb"), force=False)
    assert "is the best by validation Dice" in petseg("runs", "prune", "dd", "aa", "--yes", fails=True)
    assert "is the champion" in petseg("runs", "prune", "bb", "--yes", fails=True)
    assert "it needs --yes" in petseg("runs", "prune", "cc", "--json", fails=True)
    with locked(root / "runs/dd"):
        assert "is being trained" in petseg("runs", "prune", "dd", "--yes", fails=True)
    petseg("runs", "prune", "cc", fails=True)  # the question gets no answer
    assert [run.key for run in stored_runs(root / "runs")[0]] == ["aa", "bb", "cc", "dd"]
    assert json.loads(petseg("runs", "prune", "cc", "cc", "--yes", "--json")) == {"deleted": ["cc"]}
    assert "deleted 1 run" in petseg("runs", "prune", "dd", "--yes")
    assert sorted(path.parent.name for path in (root / "runs").glob("[!.]*/manifest.json")) == ["aa", "bb"]


def test_nothing_is_pruned_while_a_kept_run_is_damaged(root: Path) -> None:
    best = make_run(root, "aa", 0.9)
    make_run(root, "bb", 0.8)
    flip(best.folder / WEIGHTS)
    assert "run aa, which is kept, can't be verified" in petseg("runs", "prune", "--yes", "bb", fails=True)
    assert (root / "runs/bb").is_dir()


def test_checkpoints_are_kept_while_the_weights_are_damaged(root: Path) -> None:
    run = make_run(root, "aa")
    checkpoint = run.folder / "checkpoints/epoch-00001.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.write_text("all that is left")
    good = (run.folder / WEIGHTS).read_bytes()
    for harm in (flip, Path.unlink):
        harm(run.folder / WEIGHTS)
        for heals in (False, True):
            assert verify(root, None, lambda _: (), heals).damages
            assert checkpoint.exists()
    (run.folder / WEIGHTS).write_bytes(good)
    assert verify(root, None, lambda _: ()).damages == []
    assert not checkpoint.exists()


def test_a_run_with_an_edited_record_is_not_promoted_nor_the_best(root: Path) -> None:
    store, worse = root / "runs", make_run(root, "bb", 0.6)
    promote(make_run(root, "aa", 0.9), force=False)
    edited = {key: value for key, value in worse.manifest.items() if key != "sha256"}
    write_json(worse.record, edited | {"best": {"epoch": 1, "val_dice": 0.99}})
    (damage,) = verify(root, [StoredRun.open(worse.folder)], lambda _: ()).damages
    assert "bb/manifest.json: is not what the ledger says" in damage
    assert "0.9900 edited" in petseg("runs", "list")
    with pytest.raises(StoreError, match="run bb can't be verified"):
        promote(StoredRun.open(worse.folder), force=True)
    make_run(root, "cc", 0.1)
    with pytest.raises(StoreError, match="run bb, which is kept, can't be verified"):
        prune(store, ["cc"])
    assert (store / "cc").is_dir()


def test_a_finished_run_that_was_edited_to_unfinished_is_named(root: Path) -> None:
    store, run = root / "runs", make_run(root, "bb", 0.6)
    promote(make_run(root, "aa", 0.9), force=False)
    write_json(run.record, run.manifest | {"status": "running"})
    edit = f"{run.record}: is not what the ledger says; it was edited"
    assert verify(root, None, lambda _: ()).damages == [edit]
    run = StoredRun.open(run.folder)
    for use in (
        lambda: run.export({WEIGHTS: root / "away"}),
        lambda: open_run(store, "bb", {}).__enter__(),
        lambda: prune(store, ["bb"]),
    ):
        with pytest.raises(StoreError, match=edit):
            use()
    assert runs_of(Weights.read(run.folder / WEIGHTS), store) == []
    assert "no run of the store has these weights" in petseg(
        "runs", "which", str(run.folder / WEIGHTS), fails=True
    )
    prune(store, ["bb"], force=True)
    assert verify(root, None, lambda _: ()).damages == []


def test_the_card_has_scores_weak_breeds_and_commands(root: Path) -> None:
    run = make_run(root, "aa", 0.9)
    assert "Not yet scored on test photos" in card(run)
    text = card(evaluate(run, 0.7))
    for part in (
        "# unet, width 16: run aa",
        "12 to train, 4 to val; data.source `sample`, Oxford-IIIT Pet, CC BY-SA 4.0",
        "| **test, ignore (the border does not count)** | | 0.7000 (0.600 to 0.800) | 0.3500 | undefined |",
        "| at the photos' own size | | 0.7000",
        "| *every pixel is pet* | | 0.7000",
        "Means over 9 test photos. Bold: the headline, masks scored by the ignore rule;",
        "Pet is what has a probability of 0.5 or more.",
        "| basset hound | 7 | 0.5000 (0.400 to 0.600) |",
        "petseg runs reproduce aa",
        "| `train.loss` | bce |",
    ):
        assert part in " ".join(text.split())
    assert "cleaned" not in text  # no masks were cleaned while networks had one output
    assert "rare breed" not in text  # one photo is too few for the score of a breed


def scored(dice: float) -> dict[str, float | None]:
    """The scores of one kind of masks, as infer leaves them."""
    of_dice = {"dice_per_image": dice, "dice_per_image_low": dice - 0.1, "dice_per_image_high": dice + 0.1}
    return {**of_dice, "iou_per_image": dice / 2, "boundary_f_per_image": None}


@pytest.mark.parametrize("clean", [False, True])
def test_the_card_names_the_mask_that_answers_each_rule(root: Path, clean: bool) -> None:
    run = make_run(root, "aa", 0.9, best={"epoch": 1, "val_dice": 0.9, "val_dice_whole": 0.95})
    other = "as_is" if clean else "cleaned"
    headlines: dict[str, Any] = {
        "boundary": "background", "photos": 9, "threshold": 0.4, "thresholds": {"whole": 0.6, "tight": 0.4},
        "answers": {"foreground": "whole", "background": "tight", "ignore": "whole"}, "cleaned_masks": clean,
        **scored(0.8), "boundary_foreground": scored(0.85), "boundary_ignore": scored(0.88),
        "own_resolution": scored(0.81), other: scored(0.82), f"own_resolution_{other}": scored(0.83),
        "mean_mask": scored(0.6), "all_foreground": scored(0.5),
    }  # fmt: skip
    write_json(root / "h", headlines)
    (root / "b").write_text("breed,photos,dice_per_image,dice_per_image_low,dice_per_image_high\n")
    keep(run, EVALUATIONS, "e1", {}, {HEADLINES: root / "h", BREEDS: root / "b"})
    text = " ".join(card(StoredRun.open(run.folder)).split())
    one, two = ("cleaned", "as they are") if clean else ("as they are", "cleaned")
    for part in (
        "| validation, which chose the epoch | mean of both | 0.9000 |",
        "| test, foreground (the border counts as pet) | the whole pet | 0.8500 (0.750 to 0.950) | 0.4250 |",
        "| **test, background (the border counts as background)** | the pet within its border | 0.8000",
        "| test, ignore (the border does not count) | the whole pet | 0.8800",
        f"| {two}, at the packed size | the pet within its border | 0.8200",
        f"| {one}, at the photos' own size | the pet within its border | 0.8100",
        f"| {two}, at the photos' own size | the pet within its border | 0.8300",
        "the headline, masks of the pet within its border, scored by the background rule;",
        "0.6 for the whole pet, 0.4 for the pet within its border.",
        "Headline masks were cleaned" if clean else "Headline masks are as the network gave them",
    ):
        assert part in text
    assert f"| {one}, at the packed size" not in text  # that row is the headline
