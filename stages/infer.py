"""Choose thresholds on validation photos, and score the test photos; or use the scores in the store."""

import json
from pathlib import Path
from typing import Any

from petseg.core.files import copy_atomically, listed, remove_leftovers
from petseg.core.formats import interval, score
from petseg.core.git import git_state
from petseg.core.project import main_root, now, provenance
from petseg.core.terminal import print_lines
from petseg.data.arrays import PetArrays
from petseg.evaluation.evaluate import against_truth, predict, write_outputs
from petseg.evaluation.outputs import HEADLINES
from petseg.models.device import set_up_torch
from petseg.models.predictor import Predictor
from petseg.params import Params, flat
from petseg.pipeline.codehash import code_sha256, needed_files
from petseg.pipeline.stage import run_stage
from petseg.store.card import write_card
from petseg.store.keep import keep
from petseg.store.layout import EVALUATIONS, key_of
from petseg.store.runs import run_of_weights
from petseg.store.score_rows import title
from petseg.tracking.outbox import flush_outbox, lock_entry


def infer(params: Params, archives: Path, arrays: Path, weights: Path, results: Path, metrics: Path) -> None:
    started, boundary, photos = now(), params.data.boundary, PetArrays.open(arrays)
    about, run = weights.with_suffix(".json"), run_of_weights(main_root() / "runs", weights)
    settings = flat(
        data__boundary=boundary,
        infer=params.infer,
        train__device=params.train.device,
        train__threads=params.train.threads,
    )
    remove_leftovers(results)  # unfinished files of this stage, if it was killed
    code = code_sha256(Path(__file__))
    key = key_of(settings, photos.digest, code)

    if run is not None and run.export_added(EVALUATIONS, key, results):
        print_lines(f"run {run.key} was scored before with this code and these params; its scores are used")
    else:
        device = set_up_torch(params.train.device, params.train.threads)
        predictor = Predictor.load(weights, about, device, params.infer.flip_average)
        if run is not None:
            run.check_tensors(predictor.about["tensors_sha256"], weights)
        run_key = run.key if run else predictor.about.get("run_key")
        # Everything is chosen, and every test photo is predicted, before any test trimap is read.
        predicted = predict(predictor, photos, boundary, params.infer)
        scored = against_truth(photos, archives, predicted)
        write_outputs(results, photos, predicted, scored, run_key)
    copy_atomically(results / HEADLINES, metrics)

    if run is None:
        print_lines(
            f"warning: no run in runs/ has {weights}, so its scores are not kept; petseg runs adopt {weights}"
        )
    else:
        made_by = {"started": started, "settings": settings, "data_sha256": photos.digest}
        made_by |= {"code_sha256": code} | provenance(git_state(Path.cwd(), needed_files(Path(__file__))))
        with lock_entry(run.key):
            files = {path.name: path for path in listed(results, "[!.]*")}
            keep(run, EVALUATIONS, key, made_by, files)
            write_card(run)
        flush_outbox()
    print_lines(headline(json.loads(metrics.read_text(encoding="utf-8"))) + f": {metrics}")


def headline(scores: dict[str, Any]) -> str:
    dice = interval(*(scores[f"dice_per_image{end}"] for end in ("", "_low", "_high")))
    rules = (name for name in scores if name.startswith("boundary_") and isinstance(scores[name], dict))
    answers = (*rules, "own_resolution", "all_foreground", "mean_mask")
    others = ", ".join(f"{answer} {score(scores[answer]['dice_per_image'])}" for answer in answers)
    return (
        f"test Dice {dice}, IoU {score(scores['iou_per_image'])}, {scores['photos']} photos, "
        f"{title(scores)}, threshold {scores['threshold']:g}; {others}"
    )


if __name__ == "__main__":
    run_stage(infer)
