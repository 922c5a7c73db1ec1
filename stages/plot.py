"""Draw what was prepared, learnt and predicted."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from petseg.core.files import sha256_file, written_atomically
from petseg.core.project import git_state, main_root, now, provenance
from petseg.data.arrays import PetArrays
from petseg.data.preprocess import first_originals
from petseg.params import Boundary, Params, flat
from petseg.pipeline.codehash import code_sha256
from petseg.pipeline.stage import run_stage
from petseg.report import figures as plotting
from petseg.report.page import report
from petseg.report.results import Files, Results, true_masks
from petseg.store.layout import FIGURES, key_of
from petseg.store.run import run_of
from petseg.tracking.outbox import claimed, tell_mlflow

PREPARED_PHOTOS = 3  # in the figure of preprocessing
DPI = 110


def plot(
    params: Params,
    archives: Path,
    arrays_folder: Path,
    evolution: Path,
    predictions: Path,
    run_file: Path,
    history: Path,
    per_image: Path,
    breeds: Path,
    metrics: Path,
    scores: Path,
    thresholds: Path,
    calibration: Path,
    figures: Path,
    page: Path,
) -> None:
    started, boundary = now(), params.data.boundary
    tables = (history, per_image, breeds, metrics, scores, thresholds, calibration)
    results = Results(Files(arrays_folder, evolution, predictions, run_file, *tables), boundary)
    arrays, told = results.arrays, results.headlines
    drawn = {
        "curves": plotting.curves(results.history),
        "evolution": evolution_figure(results, params.plot.evolution_epochs),
        "preprocessing": preprocessing_figure(arrays, boundary, archives),
        "augmentation": plotting.augmentation(*training_photos(arrays), params.augment),
        "examples": examples_figure(results, params.plot.examples),
        "breeds": plotting.dice_by_breed(results.table),
        "dice_histogram": plotting.dice_histogram(
            results.table["dice"], told["all_foreground"]["dice_per_image"]
        ),
        "thresholds": plotting.threshold_curves(results.thresholds, told["threshold"]),
        "calibration": plotting.calibration_diagram(results.calibration),
        "confusion": plotting.confusion(results.counts),
    }
    figures.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(figures / f"{name}.png", dpi=DPI, metadata={"Software": None})

    run = run_of(main_root() / "runs", results.run_key)
    with written_atomically(page) as file:
        file.write(report(results, run))
    if run is not None:
        settings = flat(data__boundary=boundary, augment=params.augment, plot=params.plot)
        code, drawn_from = code_sha256(Path(__file__)), sha256_file(per_image)
        made_by = {"started": started, "settings": settings, "data_sha256": arrays.digest}
        made_by |= {"code_sha256": code} | provenance(git_state())
        key = key_of(settings | {"per_image_sha256": drawn_from}, arrays.digest, code)
        with claimed(run.key):
            files = {path.name: path for path in sorted(figures.iterdir())}
            run.keep(FIGURES, key, made_by, files | {page.name: page})
        tell_mlflow()
    print(f"{len(drawn)} figures: {figures}; all there is to see, in a browser: {page}")


def evolution_figure(results: Results, wanted: tuple[int, ...]) -> Figure:
    shown = results.evolution.at(wanted)
    return plotting.evolution(shown.images, shown.truths, shown.masks, shown.epochs, shown.dices)


def preprocessing_figure(arrays: PetArrays, boundary: Boundary, archives: Path) -> Figure:
    row_of = {name: row for row, name in enumerate(arrays.index["name"])}
    originals = first_originals(archives, row_of.keys(), PREPARED_PHOTOS)
    rows = np.array([row_of[name] for name, _ in originals])
    return plotting.preprocessing(
        originals, arrays.images[rows], arrays.trimaps[rows], true_masks(arrays, rows, boundary)
    )


def training_photos(arrays: PetArrays) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rows = arrays.rows("train")[[0, -1]]
    return arrays.images[rows], arrays.trimaps[rows]


def examples_figure(results: Results, count: int) -> Figure:
    rows = {
        "best": results.best_photos(count),
        "median": results.median_photos(count),
        "worst": results.worst_photos(count),
    }
    drawn = {name: [results.example(place) for place in places] for name, places in rows.items()}
    return plotting.examples(drawn, f"test photos, by Dice (n = {len(results.table)})")


if __name__ == "__main__":
    run_stage(plot)
