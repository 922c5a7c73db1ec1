"""The last lines of ``make repro``: how good the model is, and whether the recorded results came again."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petseg.core.formats import interval
from petseg.core.project import main_root
from petseg.core.terminal import print_lines
from petseg.core.textfiles import yaml_value
from petseg.pipeline.dvcfiles import CODE, LOCK, described_stages, stage_paths
from petseg.store.runs import run_of
from petseg.store.score_rows import ScoreRow, ScoreRows

RECORDED = Path("recorded.json")  # on what the committed dvc.lock was made
KIND = ("processor", "cpu_capability", "device", "threads", "torch", "torchvision", "numpy", "pillow")
_NAMED = 3  # outs that differ


def kind_of_machine(root: Path) -> dict[str, Any]:
    """Return what the bits of the weights in models/ depend on, as their run recorded it."""
    about = stage_paths(root, "train")["weights"].with_suffix(".json")
    run = run_of(root / "runs", json.loads(about.read_text(encoding="utf-8"))["run_key"])
    environment = run.manifest["environment"] if run is not None else {}
    return {name: environment[name] for name in KIND if name in environment}


def summary(root: Path) -> list[str]:
    """Return a few lines from the pipeline's own files."""
    train, infer, plot = (stage_paths(root, stage) for stage in ("train", "infer", "plot"))
    test = json.loads(infer["metrics"].read_text(encoding="utf-8"))
    best = json.loads(train["metrics"].read_text(encoding="utf-8"))
    return [
        f"test Dice   {test['photos']} photos, mean and 95 % interval by each rule for the border:",
        *(f"            {_dice(row.scores)}  {named(row)}" for row in ScoreRows.of(test).rules.values()),
        f"all pet     {test['all_foreground']['dice_per_image']:.4f}  (without a look at any photo)",
        f"best epoch  {best['best_epoch']} of {best['epochs']}, val Dice {best['val_dice']:.4f}",
        *reproduction(root),
        f"figures     {plot['figures'].relative_to(root)}/*.png",
        "report      petseg report",
        "compare     make ui",
    ]


def named(row: ScoreRow) -> str:
    """Return by which rule a row is scored, and which mask answers it."""
    return ": ".join(filter(None, (row.name, row.mask)))


def reproduction(root: Path) -> list[str]:
    """Hold dvc.lock against the committed one: which outs came out as they were recorded."""
    committed = _committed_lock(root)
    if committed is None:
        return []
    now = described_stages(root, LOCK)
    if changed := [key for key in _params(committed) if _params(committed)[key] != _params(now).get(key)]:
        return [f"recorded    with other params ({', '.join(changed[:_NAMED])}): there is nothing to compare"]
    recorded, outs = _outs(committed), _outs(now)
    differing = [path for path, digest in outs.items() if recorded.get(path) != digest]
    code = " by other code" if _code(committed) != _code(now) else ""
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
        recorded = json.loads((root / RECORDED).read_text(encoding="utf-8"))["made_on"]
    except (OSError, ValueError, KeyError):
        return f"there is no {RECORDED}, which says on what that was made"
    here = kind_of_machine(root)
    differing = [
        f"{name} {value} there, {here.get(name)} here"
        for name, value in recorded.items()
        if value != here.get(name)
    ]
    if differing:
        return (
            f"That was recorded on another kind of machine, which rounds otherwise ({'; '.join(differing)}); "
            "the scores should agree within their intervals"
        )
    return "That was recorded on the same kind of machine, so something else changed them: git log tells what"


def _committed_lock(root: Path) -> dict[str, Any] | None:
    done = subprocess.run(
        ["git", "show", f"HEAD:{LOCK}"], cwd=root, capture_output=True, text=True, check=False
    )
    content = yaml_value(done.stdout) if not done.returncode else None
    return content["stages"] if isinstance(content, dict) else None


def _params(stages: dict[str, Any]) -> dict[str, Any]:
    return {key: value for stage in stages.values() for key, value in stage["params"]["params.yaml"].items()}


def _outs(stages: dict[str, Any]) -> dict[str, str]:
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def _code(stages: dict[str, Any]) -> dict[str, str]:
    deps = (dep for stage in stages.values() for dep in stage["deps"])
    return {dep["path"]: dep["md5"] for dep in deps if Path(dep["path"]).parts[0] in CODE}


if __name__ == "__main__":
    print_lines("", *summary(main_root()))
