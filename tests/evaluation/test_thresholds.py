"""Hand-computed cases with four pixels per photo, and a slow implementation as the oracle."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from petseg.data.images import BACKGROUND, BORDER, PET
from petseg.errors import ShapeMismatch
from petseg.evaluation.metrics import count_against, mean
from petseg.evaluation.scores import RULES
from petseg.evaluation.thresholds import (
    BINS,
    GRID,
    calibration,
    calibration_error,
    choose_answers,
    threshold_scores,
)
from petseg.params import Boundary

PROBABILITY = torch.tensor([[[0.92, 0.6], [0.4, 0.1]], [[0.3, 0.5], [0.0, 1.0]]])
TRIMAPS = torch.tensor(
    [[[PET, BACKGROUND], [PET, BACKGROUND]], [[BACKGROUND, BORDER], [BACKGROUND, PET]]], dtype=torch.uint8
)


@pytest.mark.parametrize(
    ("threshold", "dice", "precision", "recall"),
    [
        # The pet pixels of the first photo have 0.92 and 0.4; of the second, with the border, 0.5 and 1.
        (0.05, (2 * 2 / 6 + 2 * 2 / 5) / 2, 4 / 7, 1),
        (0.30, (2 * 2 / 5 + 2 * 2 / 5) / 2, 4 / 6, 1),
        (0.50, (2 * 1 / 4 + 1) / 2, 3 / 4, 3 / 4),
        (0.99, (0 + 2 * 1 / 3) / 2, 1, 1 / 4),
    ],
)
def test_scores_at_a_threshold(threshold: float, dice: float, precision: float, recall: float) -> None:
    row = threshold_scores(PROBABILITY, TRIMAPS, "foreground").loc[threshold]
    assert row["dice_per_image"] == pytest.approx(dice)
    assert row["precision"] == pytest.approx(precision)
    assert row["recall"] == pytest.approx(recall)


def test_the_ignored_border_is_left_out_of_scores_and_calibration() -> None:
    row = threshold_scores(PROBABILITY, TRIMAPS, "ignore").loc[0.5]
    assert row["precision"] == pytest.approx(2 / 3)
    assert row["recall"] == pytest.approx(2 / 3)
    assert calibration(PROBABILITY, TRIMAPS, "ignore")["pixels"].sum() == 7


@pytest.mark.parametrize("boundary", RULES)
def test_scores_at_every_threshold_equal_those_of_the_cut_mask(boundary: Boundary) -> None:
    chance = torch.Generator().manual_seed(0)
    probability = torch.rand((300, 4, 4), generator=chance)
    probability[0], probability[1] = 0.5, torch.tensor(GRID[:16]).view(4, 4)  # exactly on the thresholds
    trimaps = torch.randint(PET, BORDER + 1, (300, 4, 4), generator=chance, dtype=torch.uint8)
    trimaps[2] = BACKGROUND  # its Dice is undefined if no pixel is predicted as pet
    table = threshold_scores(probability, trimaps, boundary)
    assert list(table.index) == list(GRID)
    for threshold in (0.01, 0.07, 0.5, 0.83, 0.99):
        counts = count_against(probability >= threshold, trimaps, boundary)
        row = table.loc[threshold]
        assert row["dice_per_image"] == mean(counts.dice().numpy())
        assert row["iou_per_image"] == mean(counts.iou().numpy())
        assert row["precision"] == float(counts.total().precision())
        assert row["recall"] == float(counts.total().recall())


def test_calibration_of_eight_pixels() -> None:
    table = calibration(PROBABILITY, TRIMAPS, "foreground")
    assert len(table) == BINS == 20
    seen = table[table["pixels"] > 0].set_index("low")
    assert seen["pixels"].to_dict() == {0.0: 1, 0.1: 1, 0.3: 1, 0.4: 1, 0.5: 1, 0.6: 1, 0.9: 1, 0.95: 1}
    assert list(seen["pet_share"]) == [0, 0, 0, 1, 1, 0, 1, 1]
    assert list(seen["mean_probability"]) == pytest.approx([0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.92, 1])
    apart = [0, 0.1, 0.3, 0.6, 0.5, 0.6, 0.08, 0]
    assert calibration_error(table) == pytest.approx(sum(apart) / 8)


def test_a_bin_has_the_mean_of_its_pixels() -> None:
    probability = torch.tensor([[[0.51, 0.53], [0.54, 0.54]]])
    trimaps = torch.tensor([[[PET, PET], [PET, BACKGROUND]]], dtype=torch.uint8)
    (row,) = calibration(probability, trimaps, "background").query("pixels > 0").to_dict("records")
    assert (row["low"], row["high"], row["pixels"], row["pet_share"]) == (0.5, 0.55, 4, 0.75)
    assert row["mean_probability"] == pytest.approx(0.53)


def test_scores_without_valid_pixels_are_undefined() -> None:
    border = torch.full((1, 2, 2), BORDER, dtype=torch.uint8)
    nothing = torch.full((1, 2, 2), 0.5)
    assert threshold_scores(nothing, border, "ignore").isna().all(axis=None)
    assert math.isnan(calibration_error(calibration(nothing, border, "ignore")))


@pytest.mark.parametrize(
    ("tight", "answer"),
    [
        ([True, True, False, False], "tight"),  # right except for the border, which does not count
        ([True, False, False, False], "whole"),  # it misses half of the pet
        ([True, True, True, True], "whole"),  # equal to the whole mask, which comes first
    ],
)
def test_validation_chooses_which_mask_answers_the_ignore_rule(tight: list[bool], answer: str) -> None:
    """The pixels are pet, pet, border, background. The whole mask calls the last one pet too."""
    trimaps = torch.tensor([[[PET, PET], [BORDER, BACKGROUND]]], dtype=torch.uint8)
    masks = np.array([[[[True, True], [True, True]], np.reshape(tight, (2, 2))]])
    answers = choose_answers(masks, trimaps)
    assert answers == {"foreground": "whole", "background": "tight", "ignore": answer}


def test_shapes_must_agree() -> None:
    other: Tensor = TRIMAPS[:, :1]
    for view in (threshold_scores, calibration):
        with pytest.raises(ShapeMismatch, match="probability and trimaps"):
            view(PROBABILITY, other, "foreground")
