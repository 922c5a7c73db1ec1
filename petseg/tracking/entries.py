"""What is logged in MLflow of a training, an evaluation, a set of figures, and a stage before training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petseg.params import Boundary
from petseg.store.additions import Addition, Evaluation
from petseg.store.layout import ABOUT, CARD, EVOLUTION, SHOWN, WEIGHTS
from petseg.store.run import StoredRun
from petseg.tracking.outbox import DataRecord

_COLUMNS = 3  # photos in a row of an epoch's picture
_FADED = 0.2  # the background keeps this share of its contrast


@dataclass(frozen=True)
class Dataset:
    """A data set that was read or made, with petseg's own hash."""

    name: str
    sha256: str
    origin: str
    context: str


@dataclass(frozen=True)
class Record:
    """Everything that is logged as one run of MLflow.

    Attributes:
        stage: the stage that the run is of.
        title: the run's name.
        known_by: tags that no other run has, by which the run is found again.
        tags: the other tags.
        params: the params, flat.
        metrics: single numbers.
        datasets: the data sets that were read or made.
        files: files to log, by their folder among the artifacts.
        texts: the content of further files, by their path among the artifacts.
        started, ended: UTC, ISO 8601; ended is empty while the stage runs.
        status: FINISHED, FAILED or KILLED, once the stage has ended.
    """

    stage: str
    title: str
    known_by: Mapping[str, str]
    tags: Mapping[str, object]
    params: Mapping[str, object]
    started: str
    ended: str = ""
    status: str = "FINISHED"
    metrics: Mapping[str, float] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def of_training(run: StoredRun) -> Record:
    """Return the record of a training, finished or not, which is the row of its model."""
    manifest = run.manifest
    finished, rows = run.finished, run.rows()
    weights = tuple(path for name in (WEIGHTS, ABOUT) if (path := run.folder / name).exists())
    metrics = {"parameters": manifest.get("parameters", math.nan)}
    metrics |= {"seconds": round(sum(row["elapsed_s"] for row in rows), 1)} if rows else {}
    if "best" in manifest:
        best = manifest["best"]
        metrics |= {"best/epoch": best["epoch"], "best/val_dice": best["val_dice"]}
    tags = _origin(run, manifest) | {
        "photos_sha256": manifest.get("photos_sha256"),
        "source_file": manifest.get("source"),
        "weights": f"runs/{run.key}/{WEIGHTS}" if finished and weights else None,
        "tensors_sha256": manifest.get("tensors_sha256"),
        "adopted": manifest.get("adopted", {}).get("note"),
    }
    return Record(
        "train",
        manifest.get("dvc_experiment") or run.key,
        {"run_uid": run.uid},
        tags,
        run.data | run.params,
        manifest["created"],
        manifest.get("finished", manifest["created"] if finished else ""),
        "FINISHED" if finished else "KILLED",
        metrics if finished else {},
        _pets(run, manifest, "train"),
        {"weights": weights} if finished else {},
    )


def of_evaluation(run: StoredRun, evaluation: Evaluation) -> Record:
    """Return the record of an evaluation, which is a child of the model's row."""
    about, scores = evaluation.manifest, evaluation.headlines
    own, boundary = scores.get("own_resolution", {}), scores.get("boundary")
    metrics = {
        f"test/{name}": value
        for name, value in scores.items()
        if isinstance(value, float | int) and not isinstance(value, bool)
    }
    for rule in get_args(Boundary):  # so that one table compares models with any data.boundary
        dice = (scores if rule == boundary else scores.get(f"boundary_{rule}", {})).get("dice_per_image")
        metrics |= {f"test/dice_{rule}": dice} if dice is not None else {}
    metrics |= {f"test_own_resolution/{name}": value for name, value in own.items() if value is not None}
    return Record(
        "infer",
        "infer",
        {"evaluation": evaluation.key, "parent_uid": run.uid},
        _origin(run, about),
        about.get("settings", {}),
        about.get("started", about["created"]),
        about["created"],
        metrics=metrics,
        datasets=_pets(run, about, "test"),
        files={"test": tuple(evaluation.folder / name for name in about["files"]), "": (run.folder / CARD,)},
    )


def of_figures(run: StoredRun, figures: Addition) -> Record:
    """Return the record of a set of figures, which is a child of the model's row."""
    about = figures.manifest
    return Record(
        "plot",
        "plot",
        {"figures": figures.key, "parent_uid": run.uid},
        _origin(run, about),
        about.get("settings", {}),
        about.get("started", about["created"]),
        about["created"],
        datasets=_pets(run, about, "plot"),
        files={"figures": tuple(figures.folder / name for name in about["files"])},
    )


def of_data_stage(name: str, done: DataRecord) -> Record:
    """Return the record of a stage before training."""
    datasets = tuple(Dataset(*described, context=done.stage) for described in done.datasets)
    return Record(
        done.stage,
        done.stage,
        {"record": name},
        done.tags,
        done.params,
        done.started,
        done.ended,
        done.status,
        done.metrics,
        datasets,
        texts=done.texts,
    )


def _origin(run: StoredRun, about: Mapping[str, Any]) -> dict[str, object]:
    """Return the tags that name the run, and the commit, code and data that made it."""
    git = about.get("git", {})
    return {
        "run_key": run.key,
        "dvc_experiment": about.get("dvc_experiment"),
        "git_commit": git.get("commit"),
        "mlflow.source.git.commit": git.get("commit"),
        "uncommitted_changes": git.get("dirty"),
        "code_sha256": about.get("code_sha256"),
        "data_sha256": about.get("data_sha256"),
    }


def _pets(run: StoredRun, about: Mapping[str, Any], context: str) -> tuple[Dataset, ...]:
    if "data_sha256" not in about:
        return ()
    source = run.data.get("data.source") or "unknown"
    return (Dataset("pets", about["data_sha256"], source, context),)


def of_epoch(row: Mapping[str, Any]) -> dict[str, float]:
    """Return an epoch's numbers by their metric names; MLflow groups metrics by the word before the slash."""
    return {
        "loss/train": row.get("train_loss"),
        "loss/val": row.get("val_loss"),
        "dice/train": row.get("train_dice"),
        "dice/val": row["val_dice"],
        "dice/val_whole": row.get("val_dice_whole"),
        "dice/val_tight": row.get("val_dice_tight"),
        "learning_rate": row.get("learning_rate"),
        "images_per_s": row.get("images_per_s"),
        "epoch_s": row["elapsed_s"],
    }


def picture_of_epoch(run: StoredRun, epoch: int) -> Image.Image | None:
    """Draw the fixed validation photos, cut out by that epoch's network; None if the run has no such masks.

    The border strip is half faded.
    """
    photos, masks = run.folder / SHOWN, run.folder / EVOLUTION / f"{epoch:05}.png"
    if not (photos.exists() and masks.exists()):
        return None
    strip, pet = np.asarray(Image.open(photos)), np.asarray(Image.open(masks).convert("L"))[..., None] / 255
    faded = 255 - (255 - strip.mean(axis=-1, keepdims=True)) * _FADED
    drawn = (pet * strip + (1 - pet) * faded).astype(np.uint8)
    return Image.fromarray(_in_rows(drawn))


def _in_rows(strip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put square pictures that are side by side, (S, K * S, 3), into rows of ``_COLUMNS``."""
    pictures = np.hsplit(strip, strip.shape[1] // strip.shape[0])
    blank = np.full_like(pictures[0], 255)
    rows = [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
    width = min(_COLUMNS, len(pictures))
    return np.vstack([np.hstack([*row, *[blank] * (width - len(row))]) for row in rows])
