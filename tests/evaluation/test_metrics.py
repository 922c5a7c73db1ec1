import math

import numpy as np
import pytest
import torch
from torch import Tensor

from petseg.data.batches import mask_of_rule
from petseg.errors import ShapeMismatch
from petseg.evaluation.metrics import bootstrap_interval, count_pixels, mean, scores
from petseg.params import Boundary

NAN = math.nan


def mask(*pixels: int) -> Tensor:
    return torch.tensor(pixels, dtype=torch.bool).view(1, 2, 2)


@pytest.mark.parametrize(
    ("predicted", "true", "dice", "iou", "precision", "recall"),
    [
        (mask(1, 1, 0, 0), mask(1, 0, 1, 0), 1 / 2, 1 / 3, 1 / 2, 1 / 2),
        (mask(1, 1, 1, 1), mask(1, 0, 0, 0), 2 / 5, 1 / 4, 1 / 4, 1),
        (mask(1, 0, 0, 0), mask(1, 1, 1, 1), 2 / 5, 1 / 4, 1, 1 / 4),
        (mask(1, 1, 0, 1), mask(1, 1, 0, 1), 1, 1, 1, 1),
        (mask(1, 1, 0, 0), mask(0, 0, 1, 1), 0, 0, 0, 0),
        (mask(0, 0, 0, 0), mask(1, 0, 0, 0), 0, 0, NAN, 0),
        (mask(1, 0, 0, 0), mask(0, 0, 0, 0), 0, 0, 0, NAN),
        (mask(0, 0, 0, 0), mask(0, 0, 0, 0), NAN, NAN, NAN, NAN),
    ],
)
def test_scores_of_four_pixels(
    predicted: Tensor, true: Tensor, dice: float, iou: float, precision: float, recall: float
) -> None:
    counts = count_pixels(predicted, true)
    found = [counts.dice(), counts.iou(), counts.precision(), counts.recall()]
    assert [value.item() for value in found] == pytest.approx([dice, iou, precision, recall], nan_ok=True)
    assert (counts.tp + counts.fp + counts.fn + counts.tn).item() == 4


def test_pixels_outside_the_valid_mask_are_not_counted() -> None:
    counts = count_pixels(mask(1, 1, 0, 0), mask(1, 0, 1, 0), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    assert [x.item() for x in (counts.tp, counts.fp, counts.fn, counts.tn)] == [1, 0, 0, 1]


def test_the_mean_over_photos_differs_from_the_pooled_score() -> None:
    predicted = torch.cat([mask(1, 0, 0, 0), mask(1, 1, 1, 1)])
    true = torch.cat([mask(0, 1, 0, 0), mask(1, 1, 1, 1)])
    result = scores(count_pixels(predicted, true))
    assert result["dice_per_image"] == pytest.approx((0 + 1) / 2)
    assert result["dice_global"] == pytest.approx(2 * 4 / (5 + 5))


def test_a_photo_without_a_score_is_left_out_of_the_mean() -> None:
    predicted, true = (
        torch.cat([mask(0, 0, 0, 0), mask(1, 1, 0, 0)]),
        torch.cat([mask(0, 0, 0, 0), mask(1, 0, 0, 0)]),
    )
    assert scores(count_pixels(predicted, true))["dice_per_image"] == pytest.approx(2 / 3)
    assert math.isnan(mean(np.array([NAN])))


def test_scores_equal_those_of_torchmetrics_and_scikit_learn() -> None:
    # Imported here because both take long, and each process of a test run imports all files.
    from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score
    from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

    random = torch.Generator().manual_seed(0)
    predicted, true = (torch.rand((6, 16, 16), generator=random) > t for t in (0.4, 0.6))
    counts = count_pixels(predicted, true)
    result = scores(counts)
    flat = predicted.flatten().numpy(), true.flatten().numpy()
    assert result["dice_global"] == pytest.approx(f1_score(flat[1], flat[0]))
    assert result["iou_global"] == pytest.approx(jaccard_score(flat[1], flat[0]))
    assert result["precision"] == pytest.approx(precision_score(flat[1], flat[0]))
    assert result["recall"] == pytest.approx(recall_score(flat[1], flat[0]))
    for i in range(6):
        assert counts.dice()[i].item() == pytest.approx(binary_f1_score(predicted[i], true[i]).item())
        assert counts.iou()[i].item() == pytest.approx(binary_jaccard_index(predicted[i], true[i]).item())


@pytest.mark.whole
def test_the_bootstrap_interval_has_its_nominal_coverage() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(random.normal(0.8, 0.1, 60), seed=trial)
        covered += low <= 0.8 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_bootstrap_interval_is_reproducible_and_leaves_nan_out() -> None:
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values) == bootstrap_interval(np.append(values, NAN))
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert all(math.isnan(x) for x in bootstrap_interval(np.array([NAN])))


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 2, 2), (1, 1, 2, 2)])
def test_shapes_must_agree(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match="predicted and mask"):
        count_pixels(mask(1, 0, 0, 0), torch.zeros(shape))


@pytest.mark.parametrize(
    ("boundary", "expected", "counted"),
    [
        ("foreground", [1, 0, 1, 1], None),
        ("background", [1, 0, 0, 0], None),
        ("ignore", [1, 0, 0, 0], [1, 1, 0, 0]),
    ],
)
def test_the_border_counts_by_the_rule(
    boundary: Boundary, expected: list[int], counted: list[int] | None
) -> None:
    trimaps = torch.tensor([[[1, 2], [3, 3]]], dtype=torch.uint8)
    found, valid = mask_of_rule(trimaps, boundary)
    assert found.shape == (1, 1, 2, 2)
    assert found.flatten().tolist() == expected
    assert (None if valid is None else valid.flatten().tolist()) == counted
