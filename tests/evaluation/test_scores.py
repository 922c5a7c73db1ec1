import math

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from petseg.errors import ShapeMismatch
from petseg.evaluation.metrics import bootstrap_interval, count_against
from petseg.evaluation.scores import (
    Answers,
    Contour,
    by_group,
    mean_mask,
    photo_scores,
    tally,
    under_each_rule,
)
from petseg.params import Edge

PET, BACKGROUND, BORDER = 1, 2, 3
ANSWERS: Answers = {"foreground": "whole", "background": "tight", "ignore": "tight"}


def square(size: int = 128, top: int = 32, left: int = 32, side: int = 64) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def both(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Stack one mask as the masks of both outputs."""
    return np.stack([mask, mask])


def boundary_f(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return Contour.of(predicted).f_score(Contour.of(true))


def test_the_boundary_of_a_shifted_square() -> None:
    """The tolerance is 0.75 % of the diagonal, 1.36 px: a shift by 1 px costs nothing, by 2 px two sides."""
    assert boundary_f(square(), square()) == 1
    assert boundary_f(square(left=33), square()) == 1
    # Of 252 pixels, the left and the right side (64 each) are 2 px away, except those near the other sides.
    f = boundary_f(square(left=34), square())
    assert f == pytest.approx((252 - 2 * 62) / 252, abs=0.02)
    assert f < boundary_f(square(left=33), square())


def test_the_tolerance_grows_with_the_photo() -> None:
    assert boundary_f(square(512, 100, 103, 300), square(512, 100, 100, 300)) == 1
    assert boundary_f(square(128, 32, 35), square(128, 32, 32)) < 0.6


def test_a_missing_side_lowers_recall_and_an_extra_side_precision() -> None:
    true, thin = square(), square()
    thin[32:96, 64:96] = False  # half of the square
    predicted, real = 2 * (64 + 32) - 4, 252
    precision = (predicted - 62) / predicted  # the new side is inside the true square
    recall = (64 + 2 * 33) / real
    assert boundary_f(thin, true) == pytest.approx(2 * precision * recall / (precision + recall), abs=0.02)


def test_a_mask_without_an_edge_scores_zero_or_nan() -> None:
    nothing, everything = np.zeros((128, 128), bool), np.ones((128, 128), bool)
    for flat in (nothing, everything):
        assert boundary_f(flat, square()) == 0
        assert boundary_f(square(), flat) == 0
        assert math.isnan(boundary_f(flat, nothing))


def test_shapes_must_agree() -> None:
    with pytest.raises(ShapeMismatch, match="predicted and true"):
        boundary_f(square(64), square(128))


def test_every_rule_for_the_border_is_scored() -> None:
    trimap = np.array([[PET, BACKGROUND], [BORDER, BACKGROUND]], np.uint8)
    tallies = tally([("cat", both(np.array([[True, False], [True, False]])), trimap)], ANSWERS)
    assert {rule: found.counts.dice().item() for rule, found in tallies.items()} == {
        "foreground": 1.0,
        "background": pytest.approx(2 / 3),
        "ignore": 1.0,
    }
    scores = under_each_rule(tallies, "foreground")
    assert scores["dice_per_image"] == 1
    assert isinstance(scores["boundary_background"], dict)
    assert scores["boundary_background"]["dice_per_image"] == pytest.approx(2 / 3)
    assert isinstance(scores["boundary_ignore"], dict)
    assert math.isnan(scores["boundary_ignore"]["boundary_f_per_image"])


@pytest.mark.parametrize(
    ("ignored_by", "ignore"),
    [("whole", 1.0), ("tight", pytest.approx(2 / 3))],
)
def test_each_rule_is_answered_by_its_own_mask(ignored_by: Edge, ignore: float) -> None:
    """The whole mask is right if the border is pet; the tight one misses a pixel of pet."""
    trimap = np.array([[PET, PET], [BORDER, BACKGROUND]], np.uint8)
    whole, tight = np.array([[True, True], [True, False]]), np.array([[True, False], [False, False]])
    tallies = tally([("cat", np.stack([whole, tight]), trimap)], {**ANSWERS, "ignore": ignored_by})
    assert {rule: found.counts.dice().item() for rule, found in tallies.items()} == {
        "foreground": 1.0,
        "background": pytest.approx(2 / 3),
        "ignore": ignore,
    }
    swapped: Answers = {"foreground": "tight", "background": "whole", "ignore": ignored_by}
    tallies = tally([("cat", np.stack([whole, tight]), trimap)], swapped)
    assert tallies["foreground"].counts.dice().item() == pytest.approx(2 / 4)
    assert tallies["background"].counts.dice().item() == pytest.approx(4 / 5)
    assert [tallies["foreground"].counts.tp.item(), tallies["background"].counts.tp.item()] == [1, 2]


def test_the_boundary_score_uses_the_mask_that_answers_the_rule() -> None:
    whole, tight = square(), square(top=40, left=40, side=48)
    trimap = np.where(tight, PET, np.where(whole, BORDER, BACKGROUND)).astype(np.uint8)
    tallies = tally([("cat", np.stack([whole, tight]), trimap)], ANSWERS)
    assert [tallies[rule].edge_f.item() for rule in ("foreground", "background")] == [1, 1]
    swapped: Answers = {"foreground": "tight", "background": "whole", "ignore": "tight"}
    tallies = tally([("cat", np.stack([whole, tight]), trimap)], swapped)
    assert [tallies[rule].edge_f.item() for rule in ("foreground", "background")] == [0, 0]


def test_photos_are_scored_at_their_own_size() -> None:
    small, large = square(64, 8, 8, 16), square(128)
    trimaps = [np.where(mask, PET, BACKGROUND).astype(np.uint8) for mask in (small, large)]
    half = large & (np.arange(128) < 64)
    found = tally([("small", both(small), trimaps[0]), ("large", both(half), trimaps[1])], ANSWERS)[
        "foreground"
    ]
    table = photo_scores(found)
    assert list(table.index) == ["small", "large"]
    assert table["dice"].tolist() == [1.0, pytest.approx(2 / 3)]
    assert table.loc["small", "boundary_f"] == 1
    scores = found.scores()
    assert scores["dice_per_image"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["dice_global"] == pytest.approx(2 * (256 + 2048) / (2 * 256 + 2048 + 4096))


def test_an_empty_mask_is_left_out_only_if_the_truth_is_empty_too() -> None:
    nothing = np.zeros((8, 8), bool)
    background = np.full((8, 8), BACKGROUND, np.uint8)
    pet = background.copy()
    pet[2:5, 2:5] = PET
    photos = [("both", both(nothing), background), ("missed", both(nothing), pet)]
    table = photo_scores(tally(photos, ANSWERS)["foreground"])
    assert table.loc["both"].isna().all()
    assert (table.loc["missed"] == 0).all()


def test_groups_are_sorted_by_their_mean() -> None:
    table = pd.DataFrame({"breed": ["pug", "pug", "Bengal", "Bengal"], "dice": [0.9, 0.7, 0.5, math.nan]})
    groups = by_group(table, "breed")
    assert groups["breed"].tolist() == ["Bengal", "pug"]
    assert groups["photos"].tolist() == [2, 2]
    assert groups["dice_per_image"].tolist() == [0.5, pytest.approx(0.8)]
    low, high = bootstrap_interval(np.array([0.9, 0.7]))
    assert (groups["dice_per_image_low"][1], groups["dice_per_image_high"][1]) == (low, high)


def test_the_mean_mask_is_the_share_of_photos_with_pet_at_a_pixel() -> None:
    trimaps = torch.tensor([[[PET, BORDER]], [[BACKGROUND, BORDER]]], dtype=torch.uint8)
    assert mean_mask(trimaps, "foreground").tolist() == [[0.5, 1.0]]
    assert mean_mask(trimaps, "background").tolist() == [[0.5, 0.0]]
    assert mean_mask(trimaps, "ignore").tolist() == [[0.5, 0.0]]


def test_a_batch_has_the_same_counts_as_single_photos() -> None:
    random = np.random.default_rng(0)
    masks, trimaps = random.random((5, 16, 16)) > 0.5, random.integers(1, 4, (5, 16, 16)).astype(np.uint8)
    one_by_one = tally(zip("abcde", map(both, masks), trimaps, strict=True), ANSWERS)
    for rule, found in one_by_one.items():
        batch = count_against(torch.from_numpy(masks), torch.from_numpy(trimaps), rule)
        assert torch.equal(found.counts.dice(), batch.dice())
