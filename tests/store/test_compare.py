import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.errors import DamagedFile, StoreError, UsageError
from petseg.evaluation.outputs import HEADLINES, PER_IMAGE
from petseg.report import figures
from petseg.store.compare import Record, difference, differing, group, label, table
from petseg.store.keep import keep
from petseg.store.layout import EVALUATIONS, MANIFEST
from petseg.store.records import sealed
from petseg.store.run import StoredRun
from tests.support.runs import trained
from tests.support.store import edit

PHOTOS = [f"pug_{n}" for n in range(40)]


def record(key: str, mean: float, seed: int = 0, names: list[str] = PHOTOS, **params: Any) -> Record:
    """A run in which the Dice of the photos has this mean. A photo is equally hard in every run."""
    hard = np.random.default_rng(0).normal(0, 0.1, len(PHOTOS))
    noise = np.random.default_rng(int(key, 16)).normal(0, 0.01, len(PHOTOS))
    dice = dict(zip(PHOTOS, (mean + hard - hard.mean() + noise - noise.mean()).tolist(), strict=True))
    known = {"data.image_size": 64, "train.seed": seed, "train.loss": "bce", "train.threads": 2}
    known |= {"split.fold": names[0]} if names is not PHOTOS else {}
    changed = {f"train.{name}": value for name, value in params.items()}
    scored = {"val": {name: dice[name] for name in names}}
    return Record(key, f"2026-01-0{key}", known | changed, names[0], "p", [0.5, mean], [2.0, 3.0], scored)


def test_seeds_are_averaged_and_have_a_spread() -> None:
    (setting,) = group([record("1", 0.80, 0), record("2", 0.82, 1), record("3", 0.84, 2)])
    assert setting.mean("val") == pytest.approx(0.82)
    assert setting.spread("val") == pytest.approx(0.02)
    assert len(setting.dice("val")) == 40
    assert setting.seconds == 5
    assert math.isnan(setting.mean("test"))


def test_folds_are_joined_into_all_photos() -> None:
    folds = [record(str(n + 1), 0.8, names=PHOTOS[n::4]) for n in range(4)]
    (setting,) = group(folds)
    assert sorted(setting.dice("val").index) == sorted(PHOTOS)
    assert math.isnan(setting.spread("val"))  # folds differ also in their photos, not only by chance


def test_seeds_of_folds_have_a_spread_too() -> None:
    keys = iter("123456789abcdef")
    runs = [
        record(next(keys), 0.8 + seed / 50, seed, PHOTOS[fold::4]) for seed in (0, 1) for fold in range(4)
    ]
    (setting,) = group(runs)
    assert setting.spread("val") == pytest.approx(0.02 / 2**0.5, abs=0.004)
    assert len(setting.dice("val")) == 40


def test_a_run_counts_once_and_other_photos_make_another_setting() -> None:
    one = record("1", 0.8)
    assert len(group([one, one])[0].runs) == 1
    assert len(group([one, replace(one, key="2", photos="other")])) == 2
    assert len(group([one, replace(one, key="2", params=one.params | {"split.folds": 5})])) == 2


def test_of_runs_by_different_code_the_newest_counts() -> None:
    old, new = record("1", 0.8), record("2", 0.9)
    for order in ([old, new], [new, old]):
        (setting,) = group(order)
        assert [run.key for run in setting.runs] == ["2"]


def test_hard_photos_do_not_decide_which_setting_is_best() -> None:
    """Settings are ranked by the photos that all of them have scored."""
    hard = sorted(PHOTOS, key=lambda name: record("1", 0.8).dice["val"][name])
    better, worse = record("1", 0.80, names=hard[:20]), record("2", 0.75, loss="dice")
    rows = table(group([worse, better]))
    assert rows["val_dice"][0] < rows["val_dice"][1]
    assert rows["setting"][0] == "loss=bce"
    assert rows["val_photos"].tolist() == [20, 40]
    assert rows["val_less_best"][1] == pytest.approx(-0.05, abs=0.01)


def test_other_rules_for_the_border_are_not_compared() -> None:
    one, other = record("1", 0.8), record("2", 0.8, loss="dice")
    for part, rule, second in (("val", "both rules", "foreground"), ("test", "foreground", "ignore")):
        ours, theirs = replace(one, rules={part: rule}), replace(other, rules={part: second})
        with pytest.raises(
            UsageError, match=rf"{part} Dice by different rules for the border \({rule}, {second}"
        ):
            table(group([ours, theirs]))
        table(group([ours, replace(theirs, rules={part: rule})]))


def test_a_small_difference_on_the_same_photos_is_clear() -> None:
    """Photos differ by 0.1 and runs by 0.02, so only a paired comparison can separate the runs."""
    worse, better = group([record("1", 0.80), record("2", 0.82, loss="dice")])
    assert worse.interval("val")[1] > better.interval("val")[0]  # the intervals overlap
    found = difference(worse, better, "val")
    assert found is not None
    assert found.mean == pytest.approx(-0.02)
    assert found.low < -0.02 < found.high < 0
    assert found.is_clear
    assert found.photos == 40


def test_equal_runs_have_no_clear_difference() -> None:
    one, other = group([record("1", 0.8), record("2", 0.8, loss="dice")])
    found = difference(one, other, "val")
    assert found is not None
    assert not found.is_clear


def by_name(dice: NDArray[np.float64]) -> dict[str, float]:
    return {str(place): float(value) for place, value in enumerate(dice)}


@pytest.mark.whole
def test_the_paired_interval_has_its_nominal_coverage() -> None:
    covered = 0
    for trial in range(150):
        random = np.random.default_rng(trial)
        dice = random.random(50)
        runs = [
            replace(record("1", 0.5), key=str(i), params={"a": i}, dice={"val": by_name(d)})
            for i, d in enumerate((dice + random.normal(0.01, 0.03, 50), dice))
        ]
        one, other = group(runs)
        found = difference(one, other, "val")
        assert found is not None
        covered += found.low <= 0.01 <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def test_settings_without_a_photo_in_common_are_not_compared() -> None:
    one, other = group([record("1", 0.8, names=PHOTOS[:9]), record("2", 0.8, names=PHOTOS[9:], loss="dice")])
    assert difference(one, other, "val") is None


def test_only_differing_params_are_named() -> None:
    settings = group([record("1", 0.8), record("2", 0.9, loss="dice", seed=4), record("3", 0.7, epochs=3)])
    names = differing(settings)
    assert names == ["train.loss", "train.epochs"]
    assert [label(setting, names) for setting in settings] == ["loss=bce", "loss=dice", "loss=bce, epochs=3"]
    assert label(settings[0], []) == "1"


def test_the_table_is_sorted_by_validation_and_has_the_distance_to_the_best() -> None:
    best = record("2", 0.9, loss="dice")
    rows = table(group([record("1", 0.8), best]))
    assert rows["setting"].tolist() == ["loss=dice", "loss=bce"]
    assert rows["val_less_best"].tolist() == [pytest.approx(math.nan, nan_ok=True), pytest.approx(-0.1)]
    assert rows["val_photos"].tolist() == [40, 40]
    assert rows["test_photos"].tolist() == [0, 0]
    assert rows["val_clear"].tolist() == [False, True]
    assert rows["keys"].tolist() == [["2"], ["1"]]
    figure = figures.comparison(rows)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["loss=dice", "loss=bce"]
    with pytest.raises(UsageError, match="no run"):
        table([])


def finished_run(folder: Path, **changes: object) -> StoredRun:
    folder.mkdir()
    known = {
        "created": "2026-01-01",
        "params": {"train.seed": 3},
        "data": {"data.source": "sample", "data.image_size": 64},
        "split": {"split.folds": None},
        "photos_sha256": "p",
        "environment": {"torch": "2"},
    }
    manifest = trained(**known | changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rows = [
        {"epoch": 1, "val_dice": 0.5, "elapsed_s": 2.0},
        {"epoch": 2, "val_dice": None, "elapsed_s": 3.0},
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "validation.csv").write_text("name,breed,species,dice\nnull_1,null,cat,0.5\npug_1,pug,dog,\n")
    return StoredRun.open(folder)


def test_a_run_of_the_store_becomes_a_record(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "abc")
    assert "test" not in Record.of_run(run).dice
    (tmp_path / "scores.csv").write_text("name,dice\npug_9,0.7\n")
    write_json(tmp_path / HEADLINES, {"threshold": 0.5, "boundary": "ignore"})
    files = {"per_image.csv": tmp_path / "scores.csv", HEADLINES: tmp_path / HEADLINES}
    keep(run, EVALUATIONS, "e", {}, files)
    found = Record.of_run(StoredRun.open(run.folder))
    assert (found.key, found.seconds, found.params["data.image_size"]) == ("abc", 5.0, 64)
    assert "data.source" not in found.params  # another source is no other setting
    assert found.dice["test"] == {"pug_9": 0.7}
    assert found.rules == {"val": "both rules", "test": "ignore"}
    assert found.dice["val"]["null_1"] == 0.5
    assert math.isnan(found.dice["val"]["pug_1"])
    assert found.params["split.folds"] is None
    (setting,) = group([found])
    assert setting.mean("val") == 0.5  # the undefined one is left out


def test_a_table_that_differs_from_its_record_is_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / name for name in (PER_IMAGE, HEADLINES)}
    files[PER_IMAGE].write_text("name,dice\npug_9,0.7\n")
    write_json(files[HEADLINES], {"threshold": 0.5})
    for name in ("history.jsonl", "validation.csv"):
        run = with_hashes(finished_run(tmp_path / name.partition(".")[0]))
        edit(run.folder / name, "0.5", "0.9")
        with pytest.raises(DamagedFile, match=f"{name}: differs from its recorded hash"):
            Record.of_run(run)
    run = with_hashes(finished_run(tmp_path / "abc"))
    keep(run, EVALUATIONS, "e", {}, files)
    edit(run.folder / "evaluations/e" / PER_IMAGE, "0.7", "0.9")
    assert "test" not in Record.of_run(StoredRun.open(run.folder)).dice
    assert (
        f"{PER_IMAGE}: differs from its recorded hash; this evaluation is not used" in capsys.readouterr().err
    )
    edit(run.folder / MANIFEST, '"train.seed": 3', '"train.seed": 4')
    with pytest.raises(DamagedFile, match="differs from the hash that it holds"):
        Record.of_run(StoredRun.open(run.folder))


def with_hashes(run: StoredRun) -> StoredRun:
    """Write the hashes of a run's files and the seal into its record."""
    files = {path.name: sha256_file(path) for path in run.folder.iterdir() if path.name != MANIFEST}
    write_json(run.record, sealed(run.manifest | {"files": files}))
    return StoredRun.open(run.folder)


def test_a_run_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="run abc is not finished"):
        Record.of_run(finished_run(tmp_path / "abc", status="running"))
    no_finished_run = "can't be read as a finished run"
    for file, content, reason in (
        ("validation.csv", None, no_finished_run),
        ("validation.csv", "name,dice\nx,abc\n", no_finished_run),
        ("history.jsonl", "{", "history.jsonl, line 1: is no JSON"),
        ("manifest.json", '{"format": 1, "status": "finished"}', "manifest.json: created: Field required"),
    ):
        folder = finished_run(tmp_path / f"def{file}{len(content or '')}").folder
        (folder / file).unlink()
        if content is not None:
            (folder / file).write_text(content)
        with pytest.raises(StoreError, match=reason) as error:
            Record.of_run(StoredRun.open(folder))
        assert "\n" not in str(error.value)
