"""Draw figures of the data, the training and the predictions, or take them from the store."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from petseg.core.files import listed, remove_leftovers, sha256_file, written_atomically
from petseg.core.git import git_state
from petseg.core.project import main_root, now, provenance
from petseg.core.terminal import print_lines
from petseg.data.arrays import PetArrays
from petseg.data.preprocess import first_originals
from petseg.params import Params, flat
from petseg.pipeline.codehash import code_sha256, needed_files
from petseg.pipeline.stage import run_stage
from petseg.report import figures as draw
from petseg.report import mask_figures
from petseg.report.page import report
from petseg.report.results import Results
from petseg.store.keep import keep
from petseg.store.layout import CURVES, EVOLUTION_MASKS, FIGURES, PAGE, key_of
from petseg.store.run import StoredRun
from petseg.store.runs import run_of
from petseg.tracking.outbox import flush_outbox, lock_entry

PREPARED_PHOTOS = 3  # photos in the figure of preprocessing
DPI = 110


def plot(
    params: Params, archives: Path, arrays: Path, evolution: Path, history: Path, results: Path, figures: Path
) -> None:
    remove_leftovers(figures)  # unfinished files of this stage, if it was killed
    started, seen = now(), Results(arrays, evolution, history, results)
    run = run_of(main_root() / "runs", seen.run_key) if seen.run_key else None
    settings = flat(augment=params.augment, plot=params.plot)
    read = {path.name: sha256_file(path) for path in (evolution, history, *listed(results, "[!.]*"))}
    if run is not None and not is_of(run, read, evolution.name, history.name):
        print_lines(
            f"warning: run {run.key} has other masks, curves or scores than the files here; "
            "its figures are not kept"
        )
        run = None
    code = code_sha256(Path(__file__))
    key = key_of(settings | {"read": read}, seen.arrays.digest, code)

    if run is not None and run.export_added(FIGURES, key, figures, "*.png"):
        print_lines(f"run {run.key} was drawn before with this code and these params; its figures are used")
    else:
        draw_all(seen, params, archives, figures)
        if run is not None:
            made_by = {"started": started, "settings": settings, "data_sha256": seen.arrays.digest}
            made_by |= {"code_sha256": code} | provenance(git_state(Path.cwd(), needed_files(Path(__file__))))
            keep_figures(run, key, made_by, seen, figures)
    if run is not None:
        flush_outbox()
    print_lines(f"{len(listed(figures, '[!.]*'))} figures: {figures}; everything on one page: petseg report")


def is_of(run: StoredRun, read: Mapping[str, str], evolution: str, history: str) -> bool:
    """Return whether the files that were read are those of the run and of one of its evaluations."""
    results = {name: digest for name, digest in read.items() if name not in (evolution, history)}
    recorded = run.manifest.get("files", {})
    return (
        read[evolution] == recorded.get(EVOLUTION_MASKS)
        and read[history] == recorded.get(CURVES)
        and results in [evaluation.manifest["files"] for evaluation in run.evaluations]
    )


def keep_figures(
    run: StoredRun, key: str, made_by: Mapping[str, object], seen: Results, figures: Path
) -> None:
    """Keep the figures in the store, and with them the report page, which has times and machines."""
    with tempfile.TemporaryDirectory(prefix="petseg-") as folder:
        page = Path(folder, PAGE)
        with written_atomically(page, durable=False) as file:
            file.write(report(seen, run))
        files = {path.name: path for path in listed(figures, "[!.]*")}
        with lock_entry(run.key):
            keep(run, FIGURES, key, made_by, files | {PAGE: page})


def draw_all(seen: Results, params: Params, archives: Path, folder: Path) -> None:
    trivial = seen.headlines["all_foreground"]["dice_per_image"]
    drawn = {
        "curves": draw.curves(seen.history),
        "evolution": evolution_figure(seen, params.plot.evolution_epochs),
        "preprocessing": preprocessing_figure(seen.arrays, archives),
        "augmentation": mask_figures.augmentation(*training_photos(seen.arrays), params.augment),
        "examples": examples_figure(seen, params.plot.examples),
        "breeds": draw.dice_by_breed(seen.table, seen.title),
        "dice_histogram": draw.dice_histogram(seen.table["dice"], trivial, seen.title),
        "thresholds": draw.threshold_curves(seen.thresholds, seen.headlines["threshold"], seen.title),
        "calibration": draw.calibration_diagram(seen.calibration, seen.title),
        "confusion": draw.confusion(seen.counts, seen.title),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        with written_atomically(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def evolution_figure(seen: Results, wanted: tuple[int, ...]) -> Figure:
    shown = seen.evolution.at(wanted)
    return mask_figures.evolution(
        shown.images, shown.truths, shown.masks, shown.epochs, shown.dices, f"validation photos: {seen.title}"
    )


def preprocessing_figure(arrays: PetArrays, archives: Path) -> Figure:
    row_of = {name: row for row, name in enumerate(arrays.index["name"])}
    originals = first_originals(archives, row_of.keys(), PREPARED_PHOTOS)
    rows = np.array([row_of[name] for name, _ in originals])
    return mask_figures.preprocessing(originals, arrays.images[rows], arrays.trimaps[rows])


def training_photos(arrays: PetArrays) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rows = arrays.rows("train")[[0, -1]]
    return arrays.images[rows], arrays.trimaps[rows]


def examples_figure(seen: Results, count: int) -> Figure:
    rows = {
        "best": seen.best_photos(count),
        "median": seen.median_photos(count),
        "worst": seen.worst_photos(count),
    }
    drawn = {name: [seen.example(place) for place in places] for name, places in rows.items()}
    return mask_figures.examples(drawn, f"test photos, by Dice (n = {len(seen.table)}): {seen.title}")


if __name__ == "__main__":
    run_stage(plot)
