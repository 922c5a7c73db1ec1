"""The outputs of infer for known masks: each rule, the mask that answers it, raw and cleaned masks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from petseg.core.textfiles import without_nan
from petseg.data.arrays import PetArrays
from petseg.data.images import BACKGROUND, PET
from petseg.data.masks import load_masks
from petseg.evaluation.evaluate import Predicted, against_truth, write_outputs
from petseg.evaluation.outputs import HEADLINES, PER_IMAGE, PREDICTIONS, SCORES, THRESHOLDS
from petseg.evaluation.scores import Tallies
from petseg.params import Boundary
from tests.support import ROOT

PIXELS = 64
ISLAND = (slice(0, 2), slice(0, 2))  # in a corner, where there are few pets


@pytest.fixture(scope="module")
def perfect(sample_arrays: PetArrays) -> Predicted:
    """Both masks as people drew them, and an island beside the pet, which cleaning removes."""

    def probability(split: str) -> Any:
        trimaps = sample_arrays.trimaps[sample_arrays.rows(split)]
        found = np.stack([trimaps != BACKGROUND, trimaps == PET], axis=1) * np.float32(0.9)
        found[:, :, *ISLAND] = 0.9
        return found

    return Predicted(
        "foreground",
        probability("val"),
        probability("test"),
        {"whole": 0.6, "tight": 0.4},
        {"foreground": "whole", "background": "tight", "ignore": "tight"},
        clean=False,
        blind=np.zeros((PIXELS, PIXELS), bool),
    )


@pytest.fixture(scope="module")
def tallies(sample_arrays: PetArrays, perfect: Predicted) -> dict[str, Tallies]:
    return against_truth(sample_arrays, ROOT / "data/sample", perfect)


def write_and_read(folder: Path, arrays: PetArrays, predicted: Predicted, scored: dict[str, Tallies]) -> Any:
    write_outputs(folder, arrays, predicted, scored, "k")
    return json.loads((folder / HEADLINES).read_text())


def test_the_headlines_say_which_mask_answers_each_rule(
    sample_arrays: PetArrays, perfect: Predicted, tallies: dict[str, Tallies], tmp_path: Path
) -> None:
    headlines = write_and_read(tmp_path, sample_arrays, perfect, tallies)
    assert headlines["boundary"] == "foreground"
    assert headlines["answers"] == {"foreground": "whole", "background": "tight", "ignore": "tight"}
    assert headlines["thresholds"] == {"whole": 0.6, "tight": 0.4}
    assert headlines["threshold"] == 0.6  # of the mask that answers the headline's rule
    assert headlines["cleaned_masks"] is False
    for name in ("boundary_background", "boundary_ignore", "cleaned", "own_resolution_cleaned"):
        assert headlines[name].keys() == headlines["own_resolution"].keys()
    assert not {"boundary_foreground", "as_is", "own_resolution_as_is"} & headlines.keys()
    scores = json.loads((tmp_path / SCORES).read_text())
    for rule in ("background", "ignore"):
        whole, few = scores["model"][f"boundary_{rule}"], headlines[f"boundary_{rule}"]
        assert few == {name: whole[name] for name in few}
    assert scores["cleaned"]["boundary_background"]["dice_per_image"] is not None


@pytest.mark.parametrize(("boundary", "place"), [("foreground", 0), ("background", 1), ("ignore", 1)])
def test_tables_and_masks_use_the_rule_of_the_headline(
    sample_arrays: PetArrays,
    perfect: Predicted,
    tallies: dict[str, Tallies],
    tmp_path: Path,
    boundary: Boundary,
    place: int,
) -> None:
    predicted = replace(perfect, boundary=boundary)
    headlines = write_and_read(tmp_path, sample_arrays, predicted, tallies)
    assert headlines["threshold"] == (0.6, 0.4)[place]
    masks, _ = load_masks(tmp_path / PREDICTIONS)
    assert np.array_equal(masks, predicted.test[:, place] >= 0.5)
    assert pd.read_csv(tmp_path / PER_IMAGE)["dice"].mean() == pytest.approx(
        headlines["dice_per_image"], abs=1e-5
    )
    at = pd.read_csv(tmp_path / THRESHOLDS).set_index("threshold")["test_dice_per_image"]
    assert at[headlines["threshold"]] == pytest.approx(headlines["dice_per_image"], abs=1e-5)
    model = without_nan(tallies["model"]["foreground"].scores())
    other = headlines if boundary == "foreground" else headlines["boundary_foreground"]
    assert other["dice_per_image"] == pytest.approx(model["dice_per_image"])


def test_raw_and_cleaned_masks_are_both_scored(
    sample_arrays: PetArrays, perfect: Predicted, tallies: dict[str, Tallies], tmp_path: Path
) -> None:
    clean = replace(perfect, clean=True)
    found = against_truth(sample_arrays, ROOT / "data/sample", clean)
    as_is = write_and_read(tmp_path / "as_is", sample_arrays, perfect, tallies)
    cleaned = write_and_read(tmp_path / "cleaned", sample_arrays, clean, found)
    assert cleaned["cleaned_masks"] is True
    assert "cleaned" not in cleaned
    for headline, one, other in ((as_is, cleaned, "as_is"), (cleaned, as_is, "cleaned")):
        assert one[other]["dice_per_image"] == headline["dice_per_image"] != one["dice_per_image"]
        assert one[f"own_resolution_{other}"] == headline["own_resolution"] != one["own_resolution"]
    with_islands, without = (load_masks(tmp_path / way / PREDICTIONS)[0] for way in ("as_is", "cleaned"))
    lonely = ~(sample_arrays.trimaps[sample_arrays.rows("test")] != BACKGROUND)[:, :8, :8].any(axis=(1, 2))
    assert lonely.sum() > len(lonely) / 2
    assert with_islands[lonely][:, *ISLAND].all()
    assert not without[lonely][:, *ISLAND].any()
