"""The experiments behind the defaults: the pipeline accepts each of their runs, and each is found again."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from docs import sweeps
from petseg.params import flatten, load_params
from petseg.store.compare import Record
from tests.support import ROOT

PRESENT = flatten(load_params(ROOT / "params.yaml"))
CHANGES: tuple[dict[str, Any], ...] = ({"split.folds": 5}, {"split.folds": None}, {"train.epochs": 7})


def write_params(flat: dict[str, Any], path: Path) -> Path:
    nested: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    path.write_text(json.dumps(nested))
    return path


def record(key: str, params: dict[str, Any], dice: float) -> Record:
    known = {name: value for name, value in params.items() if not name.startswith(("infer.", "plot."))}
    scored = {"val": {"pug_1": dice, "pug_2": math.nan}}
    environment = {"torch": "2", "cpu_capability": "AVX2"}
    return Record(key, "2026-01-01", known, "d", "p", [0.5, dice], [1.0, 2.0], scored, environment)


@pytest.mark.parametrize("sweep", sweeps.read_sweeps(), ids=lambda sweep: sweep.name)
def test_the_pipeline_accepts_each_run(sweep: sweeps.Sweep, tmp_path: Path) -> None:
    assert len(sweep.runs) > 1
    for run in sweep.runs:
        assert run.keys() <= PRESENT.keys()
        load_params(write_params(PRESENT | run, tmp_path / "params.yaml"))


def test_only_what_differs_from_the_defaults_is_overridden() -> None:
    assert sweeps.overrides(dict(PRESENT)) == []
    options = sweeps.overrides(
        PRESENT | {"train.loss": "tversky", "train.gradient_clip": 1.5, "split.fold": None}
    )
    assert options == ["-S", "train.loss=tversky", "-S", "train.gradient_clip=1.5"]


def test_records_are_read_as_they_were_written_and_match_their_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sweep,) = (sweep for sweep in sweeps.read_sweeps() if sweep.name == "loss")
    runs = [record(f"{i}", PRESENT | run, 0.8 + i / 100) for i, run in enumerate(sweep.runs)]
    for name in ("RECORDS", "PAGE", "FIGURES", "PEER"):
        monkeypatch.setattr(sweeps, name, tmp_path / name)
    (tmp_path / "FIGURES").mkdir()
    sweeps.write_records(runs)
    kept = sweeps.read_records()
    assert [each.params for each in kept] == [each.params for each in runs]
    assert math.isnan(kept[0].dice["val"]["pug_2"])
    assert all(sum(sweeps.fits(each, run) for run in sweep.runs) == 1 for each in kept)
    others = [record(f"o{i}", PRESENT | sweep.runs[0] | change, 0.99) for i, change in enumerate(CHANGES)]
    page = "\n".join(sweeps.section(sweep, kept + others))
    assert page.index("| loss=tversky | 1 |  | 2 | 0.8400") < page.index("| loss=bce | 1 |  | 2 | 0.8000")
    assert "0.99" not in page
    assert "1 of 5 runs are not there yet." in "\n".join(sweeps.section(sweep, kept[1:]))
    assert (tmp_path / "FIGURES/loss.png").stat().st_size > 0
    assert "Not run yet." in "\n".join(sweeps.section(sweep, kept[:1]))


def test_a_run_that_has_a_record_is_not_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sweep,) = (sweep for sweep in sweeps.read_sweeps() if sweep.name == "loss")
    monkeypatch.setattr(sweeps, "RECORDS", tmp_path / "RECORDS")
    queued: list[dict[str, Any]] = []
    monkeypatch.setattr(sweeps, "hand_over", lambda runs, stages: queued.extend(runs))
    sweeps.write_records([record("0", PRESENT | sweep.runs[0], 0.8)])
    sweeps.queue(["loss"])
    assert queued == sweep.runs[1:]


def test_the_time_to_reach_the_goal() -> None:
    assert sweeps.to_goal(record("1", {}, 0.86)) == 3.0
    assert sweeps.to_goal(record("1", {}, 0.84)) is None
