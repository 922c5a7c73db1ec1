"""The files that the pipeline leaves, and the photos that are chosen from them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from petseg.core.textfiles import write_json
from petseg.data.masks import load_masks, save_masks
from petseg.errors import DataError
from petseg.evaluation.outputs import BREEDS, HEADLINES, PREDICTIONS
from petseg.params import Boundary
from petseg.report.results import Results
from tests.support.results import EPOCHS, HOSTILE, KEY, VAL, results_in, write_results


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "results"
    write_results(folder)
    return folder


@pytest.fixture
def results(written: Path, tmp_path: Path) -> Results:
    """Results that a test may damage."""
    shutil.copytree(written, tmp_path / "results")
    return results_in(tmp_path / "results")


def test_photos_are_ranked_by_dice_without_undefined_ones(results: Results) -> None:
    dice = results.table["dice"]
    order = results.ranked()
    assert len(order) == len(dice) - 1 == 17
    assert dice[order].is_monotonic_decreasing
    assert results.best_photos(3) == order[:3]
    assert results.median_photos(3) == order[7:10]
    assert results.worst_photos(3) == order[-3:]
    assert results.worst_photos(99) == results.best_photos(99) == order


def test_random_photos_are_drawn_once_each(results: Results) -> None:
    drawn = results.random_photos(9, seed=3)
    assert len(set(drawn)) == 9
    assert drawn == results.random_photos(9, seed=3) != results.random_photos(9, seed=4)
    assert results.random_photos(99, seed=0) == list(range(18))


def test_a_photo_is_found_by_its_name(results: Results) -> None:
    assert results.table["name"][results.photo("pug_10")] == "pug_10"
    with pytest.raises(DataError, match="pug_100: no such test photo; did you mean pug_10"):
        results.photo("pug_100")


def test_an_example_is_the_photo_and_both_masks(results: Results) -> None:
    place = results.photo("pug_10")
    example = results.example(place)
    row = int(results.rows[place])
    assert results.arrays.index["name"][row] == "pug_10"
    assert example.title == f"pug_10, Dice {results.table['dice'][place]:.3f}"
    assert np.array_equal(example.image, results.arrays.images[row])
    assert np.array_equal(example.truth, results.arrays.trimaps[row] != 2)
    both, either = (example.truth & example.predicted).sum(), example.truth.sum() + example.predicted.sum()
    assert 2 * both / either == pytest.approx(results.table["dice"][place], abs=1e-6)


def test_the_evolution_has_the_dice_of_each_mask(results: Results) -> None:
    evolution = results.evolution
    assert evolution.masks.shape[:2] == evolution.dices.shape == (EPOCHS, VAL)
    assert evolution.dices[-1] == pytest.approx(1)  # as write_results draws it
    assert (np.diff(evolution.dices, axis=0) > 0).all()
    assert evolution.names[2].startswith(HOSTILE)
    assert np.array_equal(evolution.masks, load_masks(results.evolution_file)[0][:, :, 0])
    chosen = evolution.at([2, 99])
    assert chosen.epochs == [2, EPOCHS]
    assert np.array_equal(chosen.masks, evolution.masks[[1, -1]])


@pytest.mark.parametrize(
    ("boundary", "title", "truth_has_border"),
    [
        ("foreground", "masks of the whole pet, scored by the foreground rule", True),
        ("background", "masks of the pet within its border, scored by the background rule", False),
        ("ignore", "masks of the pet within its border, scored by the ignore rule", False),
    ],
)
def test_shown_masks_answer_the_rule_of_the_headline(
    tmp_path: Path, boundary: Boundary, title: str, truth_has_border: bool
) -> None:
    results = write_results(tmp_path / "results", boundary=boundary)
    assert results.title == title
    place = 0 if truth_has_border else 1
    masks, beside = load_masks(results.evolution_file, "epochs", "rows")
    assert np.array_equal(results.evolution.masks, masks[:, :, place])
    trimaps = results.arrays.trimaps[beside["rows"]]
    assert np.array_equal(results.evolution.truths, (trimaps != 2) if truth_has_border else (trimaps == 1))
    assert results.evolution.dices[-1] == pytest.approx(1)
    dice = results.counts.dice().numpy()
    assert dice[:-1] == pytest.approx(results.table["dice"].to_numpy()[:-1], abs=1e-6)
    example = results.example(results.photo("pug_10"))
    border = results.arrays.trimaps[results.rows[results.photo("pug_10")]] == 3
    assert example.truth[border].all() == truth_has_border


def test_the_truth_of_a_whole_mask_has_the_border_under_any_rule(tmp_path: Path) -> None:
    """By validation, the whole mask may answer the ignore rule better."""
    results = write_results(tmp_path / "results", boundary="ignore")
    headlines = json.loads((results.folder / HEADLINES).read_text())
    answers = headlines["answers"] | {"ignore": "whole"}
    write_json(results.folder / HEADLINES, headlines | {"answers": answers})
    assert results.title == "masks of the whole pet, scored by the ignore rule"
    assert np.array_equal(results.truths, results.arrays.trimaps[results.rows] != 2)


@pytest.mark.parametrize("boundary", ["foreground", "ignore"])
def test_a_run_of_one_output_shows_its_one_mask(tmp_path: Path, boundary: Boundary) -> None:
    results = write_results(tmp_path / "results", boundary=boundary, outputs=1)
    assert results.edge is None
    assert results.title == f"masks scored by the {boundary} rule"
    assert list(results.history)[-1] == "val_dice"
    assert results.evolution.masks.shape[:2] == (EPOCHS, VAL)
    trimaps = results.arrays.trimaps[results.rows]
    assert np.array_equal(results.truths, trimaps != 2 if boundary == "foreground" else trimaps == 1)
    assert len(results.masks) == len(results.table) == 18


def test_numbers_and_texts_keep_their_type(results: Results) -> None:
    assert results.run_key == KEY
    assert results.best["epoch"] == 3
    assert np.isnan(results.table["dice"].iloc[-1])
    assert results.table.loc[:, "dice":].dtypes.eq("float64").all()
    path = results.folder / BREEDS
    path.write_text(
        "breed,photos,dice_per_image,dice_per_image_low,dice_per_image_high\nNA,1,,,\n12,2,0.5,0.4,0.6\n"
    )
    assert results.breeds["breed"].to_list() == ["NA", "12"]
    assert results.breeds["photos"].sum() == 3


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("history.csv", "history"), ("test/per_image.csv", "table"), ("test/test.json", "headlines"),
        ("test/predictions.npz", "masks"), ("evolution.npz", "evolution"),
        ("test/thresholds.csv", "thresholds"), ("test/test.json", "boundary"),
    ],
)  # fmt: skip
def test_a_file_that_is_absent_is_named(results: Results, name: str, view: str) -> None:
    path = results.history_file.parent / name
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: can't be read"):
        getattr(results, view)


def test_files_of_other_photos_are_refused(results: Results) -> None:
    path = results.folder / PREDICTIONS
    masks, beside = load_masks(path)
    for rows, message in (
        (beside["rows"][::-1], "not of the same photos"),
        (beside["rows"] + 99, "other photos"),
    ):
        save_masks(path, masks, rows=rows)
        with pytest.raises(DataError, match=message):
            _ = replace(results).table
