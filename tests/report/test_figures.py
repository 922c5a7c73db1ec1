import io

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from petseg.evaluation.metrics import PixelCounts
from petseg.params import Params
from petseg.report import figures, mask_figures

RANDOM = np.random.default_rng(0)
PHOTOS = RANDOM.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
MASKS = RANDOM.random((3, 16, 16)) > 0.5
TITLE = "masks of the whole pet, scored by the foreground rule"
TRIMAPS = RANDOM.integers(1, 4, (3, 16, 16), dtype=np.uint8)


def texts(figure: Figure) -> str:
    """Draw a figure, and return all its texts."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    picture = np.asarray(Image.open(file))
    assert picture.std() > 0
    written = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
    return " | ".join(text for text in written if text)


def test_curves_mark_the_best_epoch() -> None:
    history = pd.DataFrame({
        "epoch": [1, 2, 3],
        "train_loss": [1, 0.5, 0.4], "val_loss": [1.1, 0.6, 0.7],
        "train_dice": [0.5, 0.7, 0.8], "val_dice": [np.nan, 0.71234, 0.7],
    })  # fmt: skip
    written = texts(figures.curves(history))
    for part in ("best epoch 2: 0.712", "best epoch 2: 0.600", "validation", "training, augmented", "epoch"):
        assert part in written
    assert "mean of both" not in written  # the network has one output


def test_curves_have_both_outputs_beside_their_mean() -> None:
    history = pd.DataFrame({
        "epoch": [1, 2], "train_loss": [1, 0.5], "val_loss": [1.1, 0.6], "train_dice": [0.5, 0.7],
        "val_dice": [0.5, 0.7], "val_dice_whole": [0.6, 0.8], "val_dice_tight": [0.4, 0.6],
    })  # fmt: skip
    figure = figures.curves(history)
    loss, dice = figure.axes
    drawn = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in dice.lines}
    assert drawn["validation, the whole pet"] == [0.6, 0.8]
    assert drawn["validation, the pet within its border"] == [0.4, 0.6]
    assert drawn["validation, mean of both masks"] == [0.5, 0.7]
    assert not [line for line in loss.lines if "whole" in str(line.get_label())]


def test_one_epoch_is_drawn_as_a_curve() -> None:
    row = {"epoch": 1, "train_loss": 1, "val_loss": 1, "train_dice": 0.5, "val_dice": 0.5}
    assert "best epoch 1" in texts(figures.curves(pd.DataFrame([row])))


def test_evolution_names_epochs_and_scores() -> None:
    dices = np.array([[0.1, 0.2, np.nan], [0.9, 0.8, 0.7]])
    masks = np.stack([MASKS, ~MASKS])
    written = texts(mask_figures.evolution(PHOTOS, MASKS, masks, [1, 60], dices, TITLE))
    for part in (TITLE, "photo", "truth", "epoch 1", "epoch 60", "Dice 0.90", "Dice nan"):
        assert part in written


def test_preprocessing_shows_sizes_and_both_masks() -> None:
    originals = [(f"pug_{n}", np.zeros((20 + n, 30, 3), np.uint8)) for n in range(3)]
    figure = mask_figures.preprocessing(originals, PHOTOS, TRIMAPS)
    written = texts(figure)
    for part in ("pug_2, 30x22 px", "packed, 16x16 px", "trimap", "border", "to learn: the whole pet"):
        assert part in written
    whole, tight = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[8:10])  # in the second row
    assert np.array_equal(whole, TRIMAPS[1] != 2)
    assert np.array_equal(tight, TRIMAPS[1] == 1)


def test_augmentation_names_each_strength(params: Params) -> None:
    settings = params.augment.model_copy(update={"translate": 0.0})
    written = texts(mask_figures.augmentation(PHOTOS[:2], TRIMAPS[:2], settings))
    for part in ("flip 0.5", "rotate_deg 15", "translate off", "all, at random"):
        assert part in written


def test_examples_colour_wrong_pixels() -> None:
    truth, predicted = np.zeros((2, 4, 4), bool)
    truth[:2], predicted[1:3] = True, True
    example = mask_figures.Example("pug_1, Dice 0.500", np.full((4, 4, 3), 90, np.uint8), truth, predicted)
    picture = mask_figures._errors(example)
    missed, right, wrong, background = picture[:, 0].astype(int)
    assert list(right) == [90, 90, 90]
    assert missed[2] > missed[0]  # blue
    assert wrong[0] > wrong[2]  # vermilion
    assert background.min() > 200
    written = texts(
        mask_figures.examples({"best": [example], "worst": [example]}, "test photos, by Dice (n = 261)")
    )
    for part in ("pug_1, Dice 0.500", "best", "worst", "n = 261", "missed"):
        assert part in written
    assert f"pug_1, Dice 0.500; {TITLE}" in texts(mask_figures.one_photo(example, TITLE))


def test_breeds_are_sorted_and_counted() -> None:
    table = pd.DataFrame({
        "breed": ["pug", "pug", "Bengal"], "species": ["dog", "dog", "cat"], "dice": [0.2, 0.4, 0.9],
    })  # fmt: skip
    written = texts(figures.dice_by_breed(table, TITLE))
    assert TITLE in written
    assert written.index("pug (n = 2)") < written.index("Bengal (n = 1)")
    assert "Dice of a test photo" in written


def test_breeds_of_unknown_species_are_drawn() -> None:
    table = pd.DataFrame({
        "breed": ["unknown"] * 3, "species": ["unknown", "rabbit", "cat"], "dice": [0.2, 0.4, np.nan],
    })  # fmt: skip
    written = texts(figures.dice_by_breed(table, TITLE))
    for species in ("unknown, a diamond", "rabbit, a diamond", "cat, a diamond"):
        assert species in written


def test_a_data_sheet_names_doubts() -> None:
    photos = [np.full((20 + n, 30, 3), 90, np.uint8) for n in range(8)]
    trimaps = [TRIMAPS[0], np.full((16, 16), 2, np.uint8), *[TRIMAPS[0]] * 6]
    captions = [f"rex_{n}, 40 % pet" for n in range(8)]
    figure = mask_figures.data_sheet(photos, trimaps, captions, [None, "its mask is empty", *[None] * 6])
    written = texts(figure)
    for part in (*captions, "its mask is empty", "outline of the mask"):
        assert part in written
    faded, pet = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[1::-1])
    assert (faded > 90).all(), "what is not pet is paler"
    assert (pet == 90).any()


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.9, np.nan]])
def test_the_histogram_has_mean_median_and_trivial_score(values: list[float]) -> None:
    written = texts(figures.dice_histogram(pd.Series(values), 0.56, TITLE))
    for part in (TITLE, "mean 0.500", "median 0.500", "all foreground, mean 0.560", "n = "):
        assert part in written


def test_threshold_curves_mark_the_threshold_in_use() -> None:
    scores = ("val_dice_per_image", "test_dice_per_image", "test_precision", "test_recall")
    table = pd.DataFrame({"threshold": [0.25, 0.5, 0.75]} | {name: [0.5, 0.7, np.nan] for name in scores})
    written = texts(figures.threshold_curves(table, 0.35, TITLE))
    for part in (TITLE, "in use: 0.35", "validation", "test", "precision: ", "recall: "):
        assert part in written


def test_the_calibration_diagram_has_the_mean_distance() -> None:
    table = pd.DataFrame({
        "low": [0.0, 0.5], "high": [0.5, 1.0], "mean_probability": [0.25, np.nan],
        "pet_share": [0.375, np.nan], "pixels": [8, 0],
    })  # fmt: skip
    written = texts(figures.calibration_diagram(table, TITLE))
    assert "mean distance 0.125" in written
    assert TITLE in written


def test_confusion_has_shares_and_counts() -> None:
    counts = PixelCounts(*(torch.tensor(n) for n in ([3, 3], [1, 0], [1, 1], [500, 491])))
    written = texts(figures.confusion(counts, TITLE))
    for part in (
        TITLE,
        "found\n0.6% of all pixels\n75.0% of this row\n6 px",
        "991 px",
        "1,000 pixels of 2 test",
    ):
        assert part in written
