"""Train a network, or use the run of the store that these params, data and code have made already."""

from pathlib import Path
from typing import Any

import torch

from petseg.core.progress import duration, progress
from petseg.core.project import git_state, main_root, provenance
from petseg.core.textfiles import write_csv, write_json
from petseg.data.arrays import PetArrays
from petseg.data.batches import MEAN, STD, Photos, load_photos
from petseg.models import parameter_count, settings_of
from petseg.models.device import environment, set_up_torch
from petseg.models.pretrained import Encoder
from petseg.params import Params, flat
from petseg.pipeline.codehash import code_sha256
from petseg.pipeline.dvcfiles import locked_param
from petseg.pipeline.stage import run_stage
from petseg.store.adopt import keep_unknown
from petseg.store.card import write_card
from petseg.store.layout import VALIDATION, WEIGHTS, key_of
from petseg.store.writer import Run, open_run
from petseg.tracking.outbox import tell_mlflow
from petseg.tracking.rows import LiveRow, live_row
from petseg.training.history import EpochRecord
from petseg.training.loop import TrainingState, fit, predict_masks, validate

SHOWN_PHOTOS = 6  # of validation, whose masks are kept for every epoch


def train(
    params: Params,
    arrays_folder: Path,
    encoder_folder: Path,
    weights: Path,
    about: Path,
    evolution: Path,
    run_file: Path,
    history: Path,
    metrics: Path,
) -> None:
    keep_unknown(weights, main_root() / "runs")
    device = set_up_torch(params.train.device, params.train.threads)
    arrays = PetArrays.open(arrays_folder)
    encoder = Encoder.open(encoder_folder, params.model.encoder_weights)
    settings = (
        flat(data__boundary=params.data.boundary)
        | settings_of(params.model)
        | flat(train=params.train, augment=params.augment)
    )
    if "model.encoder_weights" in settings:
        settings["model.encoder_weights"] = encoder.name
    code = code_sha256(Path(__file__))
    key = key_of(settings, arrays.digest, code)
    git = git_state()
    described: dict[str, Any] = {
        "run_key": key,
        "data_sha256": arrays.digest,
        "photos_sha256": arrays.photos_digest,
        "code_sha256": code,
        "params": settings,
        "data": flat(data__source=locked_param("download", "data.source"), data__image_size=arrays.size_px),
        "split": flat(split=params.split),
        "environment": environment(device),
        "source": __file__,
    } | provenance(git)
    with open_run(main_root() / "runs", key, described, git.changes) as run:
        warn_of_another_environment(run, described["environment"])
        with live_row(run) as row:
            if run.finished:
                print(f"run {key} is finished: its weights are used, nothing is trained")
            else:
                train_run(run, row, params, arrays, encoder, device)
        run.publish(weights, about, evolution)
        write_json(run_file, {"run_key": key})
        write_csv(history, run.history)
        write_json(metrics, summary(run))
    if not row.broken:
        tell_mlflow()
    print(f"best epoch {run.best.epoch}, validation Dice {run.best.val_dice:.4f}: runs/{key}/{WEIGHTS}")


def warn_of_another_environment(run: Run, present: dict[str, str | int]) -> None:
    """Name what differs from the environment that the run began in: its bits depend on it."""
    recorded = run.manifest["environment"]
    differing = [
        f"{key} {recorded.get(key)} then, {present[key]} now"
        for key in present
        if recorded.get(key) != present[key]
    ]
    if differing:
        print(
            f"warning: run {run.key} began elsewhere, where bits may differ: {'; '.join(differing)}",
            flush=True,
        )


def train_run(
    run: Run, row: LiveRow, params: Params, arrays: PetArrays, encoder: Encoder, device: torch.device
) -> None:
    boundary = params.data.boundary
    training = load_photos(arrays, "train", boundary, device)
    validation = load_photos(arrays, "val", boundary, device)
    shown = evenly_spread(len(validation))
    left_out = sum(len(arrays.rows(split)) for split in ("train", "val")) - len(training) - len(validation)
    state = TrainingState.new(params.model, params.train, device, encoder.path)
    parameters = parameter_count(state.network)
    run.note(
        photos={"train": len(training), "val": len(validation)},
        shown_rows=validation.rows[shown].tolist(),
        all_border_left_out=left_out,
        parameters=parameters,
    )
    run.show(arrays.images[validation.rows[shown]])
    run.resume(state)
    print(
        f"run {run.key}: {params.model.name}, {parameters / 1e6:.2f} M parameters, on {device}; "
        f"{len(training)} photos to learn from, {len(validation)} to validate on"
        + (f"; {left_out} left out, all border" if left_out else "")
        + (f"; goes on after epoch {state.epoch}" if state.epoch else ""),
        flush=True,
    )
    total, done = params.train.epochs * len(training), state.epoch * len(training)
    with progress("train", total, start=done, transient=True) as advance:
        records = fit(state, training, validation, params.train, params.augment, boundary, on_step=advance)
        while not run.is_stale(params.train.early_stopping_patience):
            record = next(records, None)
            if record is None:
                break
            run.add(record, state, predict_masks(state.evaluated, validation.images[shown]))
            row.tell_epochs()
            print(epoch_line(record, run, params.train.epochs), flush=True)
    write_validation(run, params, arrays, validation, state)
    run.finish(
        {
            "model": params.model.model_dump(),
            "image_size": arrays.size_px,
            "mean": MEAN,
            "std": STD,
            "boundary": boundary,
        }
    )
    write_card(run)


def write_validation(
    run: Run, params: Params, arrays: PetArrays, photos: Photos, state: TrainingState
) -> None:
    """Write the Dice of each validation photo, by the weights that are kept: what comparisons stand on."""
    network = state.evaluated
    network.load_state_dict(run.best_weights())
    _, dice = validate(network, photos, params.train, params.data.boundary)
    table = arrays.index.loc[photos.rows, ["name", "breed", "species"]].assign(dice=dice)
    table.to_csv(run.folder / VALIDATION, index=False, float_format="%.6f", lineterminator="\n")


def evenly_spread(n: int) -> list[int]:
    """Return the places of the fixed photos among the n of validation."""
    return sorted({round(i * (n - 1) / (SHOWN_PHOTOS - 1)) for i in range(SHOWN_PHOTOS)})


def epoch_line(record: EpochRecord, run: Run, epochs: int) -> str:
    recent = run.history[-5:]
    eta_s = (epochs - record.epoch) * sum(r.elapsed_s for r in recent) / len(recent)
    best = "*" if run.best is record else " "
    return (
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}"
        f"  loss {record.train_loss:.4f} val {record.val_loss:.4f}"
        f"  Dice {record.train_dice:.4f} val {record.val_dice:.4f}{best}"
        f"  lr {record.learning_rate:.2e}"
        f"  {record.elapsed_s:.1f} s  {record.images_per_s:.0f} images/s  ETA {duration(eta_s)}"
    )


def summary(run: Run) -> dict[str, float | int]:
    best = run.best
    return {
        "best_epoch": best.epoch,
        "epochs": len(run.history),
        "train_dice": best.train_dice,
        "val_dice": best.val_dice,
        "train_loss": best.train_loss,
        "val_loss": best.val_loss,
    }


if __name__ == "__main__":
    run_stage(train)
