"""The summary at the end of ``make repro``: scores, and whether the recorded results were reproduced."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.core.checked import checked, read_record
from petseg.core.files import why_not
from petseg.core.formats import interval, score
from petseg.core.project import main_root
from petseg.core.terminal import print_lines
from petseg.core.textfiles import read_yaml, yaml_value
from petseg.errors import BrokenRecord, PetsegError
from petseg.pipeline.dvcfiles import CODE, LOCK, stage_paths
from petseg.report import reading
from petseg.store.runs import run_of
from petseg.store.score_rows import ScoreRow, ScoreRows

RECORDED = Path("recorded.json")  # the kind of machine that made the committed dvc.lock
KIND = ("processor", "cpu_capability", "device", "threads", "torch", "torchvision", "numpy", "pillow")
_NAMED = 3  # the most params or outs that a line names


class _Recorded(TypedDict):
    made_on: dict[str, str | int]


class _Hashed(TypedDict):
    path: str
    md5: NotRequired[str]


class _Stage(TypedDict):
    """A stage's entry in dvc.lock."""

    params: NotRequired[dict[str, dict[str, Any]]]
    deps: NotRequired[list[_Hashed]]
    outs: NotRequired[list[_Hashed]]


class _Lock(TypedDict):
    stages: dict[str, _Stage]


def kind_of_machine(root: Path) -> dict[str, Any]:
    """Return the kind of machine that made the weights in models/, as their run recorded it."""
    about = stage_paths(root, "train")["weights"].with_suffix(".json")
    run = run_of(root / "runs", reading.run_key(about) or "")
    environment = run.manifest["environment"] if run is not None else {}
    return {name: environment[name] for name in KIND if name in environment}


def summary(root: Path) -> list[str]:
    """Return the lines of the summary, from the pipeline's own files."""
    train, infer, plot = (stage_paths(root, stage) for stage in ("train", "infer", "plot"))
    test, best = reading.headlines(infer["metrics"]), reading.best(train["metrics"])
    return [
        f"test Dice   {test['photos']} photos, mean and 95 % interval by each rule for the border:",
        *(f"            {_dice(row.scores)}  {named(row)}" for row in ScoreRows.of(test).rules.values()),
        f"all pet     {score(test['all_foreground']['dice_per_image'])}  (if every pixel counts as pet)",
        f"best epoch  {best['best_epoch']} of {best['epochs']}, val Dice {score(best['val_dice'])}",
        *reproduction(root),
        f"figures     {plot['figures'].relative_to(root)}/*.png",
        "report      petseg report",
        "compare     make ui",
    ]


def named(row: ScoreRow) -> str:
    """Return the rule of a row of scores, and the mask that is scored by it."""
    return ": ".join(filter(None, (row.name, row.mask)))


def reproduction(root: Path) -> list[str]:
    """Compare dvc.lock with the committed one, and say which outs differ."""
    committed = _committed_lock(root)
    if committed is None:
        return []
    now = checked(read_yaml(root / LOCK), _Lock, LOCK)["stages"]
    if changed := [key for key in _params(committed) if _params(committed)[key] != _params(now).get(key)]:
        return [f"recorded    with other params ({', '.join(changed[:_NAMED])}): there is nothing to compare"]
    recorded, outs = _outs(committed), _outs(now)
    differing = [path for path, digest in outs.items() if recorded.get(path) != digest]
    code = ", with other code" if _code(committed) != _code(now) else ""
    if not differing:
        return [
            f"reproduced  the recorded weights, scores and figures came out again{code}, bit for bit: "
            f"all {len(outs)} outs are as in the committed {LOCK}"
        ]
    named = ", ".join(differing[:_NAMED]) + (" and more" if len(differing) > _NAMED else "")
    return [
        f"differ      {len(differing)} of {len(outs)} outs from the committed {LOCK}{code}: {named}",
        f"            {_why(root)}",
    ]


def _dice(scores: Mapping[str, Any]) -> str:
    return interval(*(scores[f"dice_per_image{end}"] for end in ("", "_low", "_high")))


def _why(root: Path) -> str:
    try:
        recorded = read_record(root / RECORDED, _Recorded)["made_on"]
    except (OSError, BrokenRecord):
        return f"there is no {RECORDED}, so it is not known which kind of machine made that"
    here = kind_of_machine(root)
    differing = [
        f"{name} {value} there, {here.get(name)} here"
        for name, value in recorded.items()
        if value != here.get(name)
    ]
    if differing:
        return (
            "That was recorded on another kind of machine, which rounds differently "
            f"({'; '.join(differing)}); the scores should agree within their intervals"
        )
    return "That was recorded on the same kind of machine, so something else changed them: see git log"


def _committed_lock(root: Path) -> dict[str, _Stage] | None:
    done = subprocess.run(
        ["git", "show", f"HEAD:{LOCK}"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    try:
        return checked(yaml_value(done.stdout), _Lock, LOCK)["stages"]
    except BrokenRecord:
        return None


def _params(stages: dict[str, _Stage]) -> dict[str, Any]:
    params = (stage.get("params", {}).get("params.yaml", {}) for stage in stages.values())
    return {key: value for each in params for key, value in each.items()}


def _outs(stages: dict[str, _Stage]) -> dict[str, str]:
    return {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}


def _code(stages: dict[str, _Stage]) -> dict[str, str]:
    deps = (dep for stage in stages.values() for dep in stage.get("deps", []))
    return {dep["path"]: dep.get("md5", "") for dep in deps if dep["path"].partition("/")[0] in CODE}


def main() -> None:
    """Print the summary, or a line that says which of its files can't be read."""
    try:
        print_lines("", *summary(main_root()))
    except (PetsegError, OSError) as error:
        sys.exit(f"petseg: {why_not(error)}")


if __name__ == "__main__":
    main()
