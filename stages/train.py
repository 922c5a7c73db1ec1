"""Train a network, or use the run in the store that was trained with the same params, data and code."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from petseg.core.formats import duration
from petseg.core.git import git_state
from petseg.core.progress import progress
from petseg.core.project import main_root, provenance
from petseg.core.terminal import print_lines
from petseg.core.textfiles import write_json, write_table
from petseg.data.arrays import PetArrays
from petseg.data.batches import MEAN, STD, load_photos
from petseg.models.device import environment, set_up_torch
from petseg.models.networks import parameter_count, settings_of
from petseg.models.pretrained import Encoder
from petseg.params import OUTPUTS, Params, flat
from petseg.pipeline.codehash import check_reached, code_archive, code_sha256, needed_files
from petseg.pipeline.dvcfiles import locked_param, stage_paths
from petseg.pipeline.stage import run_stage
from petseg.store.adopt import adopt_if_unknown
from petseg.store.card import write_card
from petseg.store.heal import heal_from
from petseg.store.layout import ABOUT, CARD, CURVES, EVOLUTION_MASKS, HISTORY, VALIDATION, WEIGHTS, key_of
from petseg.store.rebuild import heal_from_checkpoints
from petseg.store.records import damage_of
from petseg.store.writer import Run, open_run
from petseg.tracking.outbox import flush_outbox
from petseg.tracking.rows import LiveRow, live_row
from petseg.training.history import EpochRecord, best_epoch, is_stale, summary
from petseg.training.loop import TrainingState, fit, predict_masks, validate

SHOWN_PHOTOS = 6  # validation photos whose masks are kept for every epoch


def train(
    params: Params, arrays: Path, encoder: Path, weights: Path, evolution: Path, history: Path, metrics: Path
) -> None:
    check_reached(Path(__file__))
    store, device = main_root() / "runs", set_up_torch(params.train.device, params.train.threads)
    adopt_if_unknown(weights, store)
    photos, beginning = PetArrays.open(arrays), Encoder.open(encoder, params.model.encoder_weights)
    described = description(params, photos, beginning) | {"environment": environment(device)}
    git, key = git_state(Path.cwd(), needed_files(Path(__file__))), described["run_key"]
    code = partial(code_archive, Path(__file__))
    with open_run(store, key, described | provenance(git), git.changes or "", code) as run:
        if git.commit and git.changes is None:
            print_lines("warning: git can't tell what was changed since the commit, so the run can't either")
        if changes := run.environment_changes(described["environment"]):
            print_lines(f"warning: run {key} began elsewhere, where bits may differ: {'; '.join(changes)}")
        with live_row(run) as row:
            if run.finished:
                print_lines(f"run {key} is finished: its weights are used, nothing is trained")
            else:
                train_run(run, row, params, photos, beginning, device)
            if not (run.folder / CARD).exists():  # also if the process was killed after the run was finished
                write_card(run)
        copies = {WEIGHTS: weights, ABOUT: weights.with_suffix(".json")}
        copies |= {EVOLUTION_MASKS: evolution, CURVES: history}
        heal_from(run, copies.values())
        print_lines(*heal_from_checkpoints(run))
        drop_scores_of_others(weights, run)
        adopt_if_unknown(weights, store)  # another file may have been put there meanwhile
        run.check_whole(HISTORY)  # the metrics are computed from it
        run.export(copies)
        write_json(metrics, summary(run.history))
    if not row.broken:
        flush_outbox()
    best = best_epoch(run.history)
    print_lines(f"best epoch {best.epoch}, validation Dice {best.val_dice:.4f}: runs/{key}/{WEIGHTS}")


def drop_scores_of_others(weights: Path, run: Run) -> None:
    """Remove infer's scores if they are of other weights, so that DVC does not show them as the run's."""
    scores, scored = (stage_paths(Path.cwd(), "infer")[name] for name in ("metrics", "weights"))
    if (
        weights.absolute() == scored
        and scores.exists()
        and damage_of(weights, run.manifest["files"][WEIGHTS])
    ):
        scores.unlink()
        shown = scores.relative_to(Path.cwd())
        print_lines(f"{shown}: had the scores of other weights, and is removed until infer scores these")


def description(params: Params, photos: PetArrays, encoder: Encoder) -> dict[str, Any]:
    """Return the run's key with what determines it, and what else the manifest says about the training."""
    settings = settings_of(params.model) | flat(train=params.train, augment=params.augment)
    if "model.encoder_weights" in settings:
        settings["model.encoder_weights"] = encoder.name
    code, source = code_sha256(Path(__file__)), locked_param("download", "data.source")
    return {
        "run_key": key_of(settings, photos.digest, code),
        "data_sha256": photos.digest,
        "photos_sha256": photos.photos_digest,
        "code_sha256": code,
        "params": settings,
        "data": flat(data__source=source, data__image_size=photos.size_px),
        "split": flat(split=params.split),
        "source": __file__,
    }


def train_run(
    run: Run, row: LiveRow, params: Params, photos: PetArrays, encoder: Encoder, device: torch.device
) -> None:
    training, validation = (load_photos(photos, split, device) for split in ("train", "val"))
    state = TrainingState.new(params.model, params.train, device, encoder.path)
    shown = evenly_spread(len(validation))
    run.note(
        photos={"train": len(training), "val": len(validation)},
        shown_rows=validation.rows[shown].tolist(),
        parameters=parameter_count(state.network),
    )
    run.show(photos.images[validation.rows[shown]])
    run.resume(state)
    print_lines(beginning_line(run, params, device, state.epoch))

    total, done = params.train.epochs * len(training), state.epoch * len(training)
    with progress("train", total, start=done, transient=True) as advance:
        records = fit(state, training, validation, params.train, params.augment, on_step=advance)
        while not is_stale(run.history, params.train.early_stopping_patience):
            record = next(records, None)
            if record is None:
                break
            run.add(record, state, predict_masks(state.evaluated, validation.images[shown]))
            row.log_epochs()
            print_lines(epoch_line(record, run.history, params.train.epochs))

    check_reached(Path(__file__))  # modules that were loaded meanwhile count too
    state.evaluated.load_state_dict(run.best_weights())
    _, dice = validate(state.evaluated, validation, params.train)
    table = photos.index.loc[validation.rows, ["name", "breed", "species"]]
    of_output = pd.DataFrame(dice, table.index, [f"dice_{edge}" for edge in OUTPUTS])
    table = table.assign(dice=of_output.mean(axis=1)).join(of_output)
    write_table(run.folder / VALIDATION, table)
    described = {"model": params.model.model_dump(), "image_size": photos.size_px, "outputs": OUTPUTS}
    run.finish(described | {"mean": MEAN, "std": STD})


def evenly_spread(n: int) -> list[int]:
    """Return the indices of the fixed photos among the n validation photos."""
    return sorted({round(i * (n - 1) / (SHOWN_PHOTOS - 1)) for i in range(SHOWN_PHOTOS)})


def beginning_line(run: Run, params: Params, device: torch.device, epoch: int) -> str:
    counts = run.manifest["photos"]
    millions = run.manifest["parameters"] / 1e6
    return (
        f"run {run.key}: {params.model.name}, {millions:.2f} M parameters, on {device}; "
        f"{counts['train']} photos to learn from, {counts['val']} to validate on"
        + (f"; goes on after epoch {epoch}" if epoch else "")
    )


def epoch_line(record: EpochRecord, history: list[EpochRecord], epochs: int) -> str:
    recent = history[-5:]
    eta_s = (epochs - record.epoch) * sum(r.elapsed_s for r in recent) / len(recent)
    best = "*" if any(r.val_dice == r.val_dice for r in history) and best_epoch(history) is record else " "
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}"
        f"  loss {record.train_loss:.4f} val {record.val_loss:.4f}"
        f"  Dice {record.train_dice:.4f} val {record.val_dice:.4f}{best}"
        f"  lr {record.learning_rate:.2e}"
        f"  {record.elapsed_s:.1f} s  {record.images_per_s:.0f} images/s  ETA {duration(eta_s)}"
    )


if __name__ == "__main__":
    run_stage(train)
