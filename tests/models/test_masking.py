import numpy as np
import pytest
from numpy.typing import NDArray

from petseg.models.masking import Thresholds, cleaned, cut

LIMITS: Thresholds = {"whole": 0.5, "tight": 0.4}


def probability(*drawings: str) -> NDArray[np.float32]:
    """Return two drawn maps, (2, H, W): # is pet, . is not."""
    rows = [
        [[0.9 if mark == "#" else 0.1 for mark in row] for row in drawing.split()] for drawing in drawings
    ]
    return np.array(rows, np.float32)


def drawn(masks: NDArray[np.bool_]) -> list[str]:
    return [" ".join("".join("#" if pet else "." for pet in row) for row in mask) for mask in masks]


def clean(found: NDArray[np.float32]) -> NDArray[np.float32]:
    return cleaned(found, LIMITS, island=0.2, hole=0.15)


def test_the_tight_mask_is_within_the_whole_one_at_any_thresholds() -> None:
    found = np.array(
        [[[0.9, 0.45, 0.45]], [[0.9, 0.45, 0.3]]], np.float32
    )  # 0.45 is above the threshold of the tight mask
    assert cut(found, LIMITS).tolist() == [[[True, False, False]], [[True, False, False]]]
    batch = np.stack([found, found])
    assert cut(batch, LIMITS).shape == (2, 2, 1, 3)
    edge = np.array([[[0.5]], [[0.4]]], np.float32)
    assert cut(edge, {"whole": 0.5, "tight": float(np.float32(0.4))}).all()


def test_an_island_is_removed_from_both_masks_and_a_second_pet_stays() -> None:
    whole = "####.#.## ####...## .......## #........"
    tight = "####.#.## ####...## ......... #........"
    made = drawn(cut(clean(probability(whole, tight)), LIMITS))
    assert made == ["####...## ####...## .......## .........", "####...## ####...## ......... ........."]


def test_an_island_of_only_the_tight_mask_is_removed() -> None:
    whole, tight = "####### #######", "####..# ####..."
    assert drawn(cut(clean(probability(whole, tight)), LIMITS)) == [whole, "####... ####..."]


def test_pixels_that_touch_at_a_corner_are_one_component() -> None:
    diagonal = "###. ###. ...# ...."
    assert drawn(cut(clean(probability(diagonal, diagonal)), LIMITS))[0] == diagonal


def test_small_holes_are_filled_but_not_bays_at_the_frame() -> None:
    whole = "######. #.##.#. ######. #....#. #....#. #####.."
    filled = "######. ######. ######. #....#. #....#. #####.."
    assert drawn(cut(clean(probability(whole, whole)), LIMITS)) == [filled, filled]
    bay = "##.## ##.## #####"
    assert drawn(cut(clean(probability(bay, bay)), LIMITS))[0] == bay


def test_a_hole_of_only_the_tight_mask_is_filled() -> None:
    made = cut(clean(probability("##### ##### #####", "##### ##.## #####")), LIMITS)
    assert drawn(made) == ["##### ##### #####"] * 2


@pytest.mark.parametrize("mark", [".", "#"])
def test_empty_and_full_masks_do_not_change(mark: str) -> None:
    all_alike = probability(*[" ".join([mark * 5] * 4)] * 2)
    assert (clean(all_alike) == all_alike).all()


def test_the_argument_is_not_changed() -> None:
    given = probability("####.# ####..", "####.# ####..")
    before = given.copy()
    assert (clean(given) != given).any()
    assert (given == before).all()
