"""Notes on where the model fails, made of its numbers; they say nothing that the numbers do not show."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from petseg.core.formats import interval
from petseg.evaluation.metrics import bootstrap_interval, mean
from petseg.report.results import Results
from petseg.store.card import ENOUGH, WEAKEST

POOR = 0.7  # a photo with a lower Dice is called poor
_CLEARLY = 1.25  # a kind of error is the main one if it is more frequent by this factor
_ENOUGH_TO_QUARTER = 20  # photos

Note = tuple[str, str]  # a heading and a text


def notes(results: Results) -> list[Note]:
    """Return the notes on a run's test photos."""
    kinds = (_poor, _breeds, _errors, _poor_errors, _small_pets, _found_nothing, _undefined)
    return [note for kind in kinds for note in kind(results)]


def _poor(results: Results) -> Iterator[Note]:
    dice = results.table["dice"].dropna()
    if dice.empty:
        return
    poor = int((dice < POOR).sum())
    worst = results.table.loc[results.ranked()[-1]]
    yield (
        f"{_share(poor, len(dice))} of the photos are cut out poorly",
        f"{poor} of {len(dice)} have a Dice below {POOR:g}. The median is {dice.median():.3f}; "
        f"the worst is `{worst['name']}`, at {worst['dice']:.3f}.",
    )


def _breeds(results: Results) -> Iterator[Note]:
    breeds, overall = results.breeds, results.headlines["dice_per_image"]
    weakest = breeds[breeds["photos"] >= ENOUGH].dropna().head(WEAKEST)
    if len(breeds) < 2 or weakest.empty:
        return
    listed = "; ".join(
        f"{name.replace('_', ' ')} {interval(*numbers)}, {photos} photos"
        for name, photos, *numbers in weakest.itertuples(index=False, name=None)
    )
    is_below = weakest["dice_per_image_high"] < overall
    below = [breed.replace("_", " ") for breed in weakest.loc[is_below, "breed"]]
    verdict = (
        f"The whole interval of {' and of '.join(below)} is below the mean of all photos, {overall:.3f}."
        if below
        else f"Each interval reaches the mean of all photos, {overall:.3f}: none is shown to be harder."
    )
    yield f"The weakest breeds with {ENOUGH} photos or more", f"{listed}. {verdict}"


def _errors(results: Results) -> Iterator[Note]:
    total = results.counts.total()
    yield from _kind_of_errors(int(total.fp), int(total.fn), "all wrong pixels")


def _poor_errors(results: Results) -> Iterator[Note]:
    poor = (results.table["dice"] < POOR).to_numpy()
    if poor.any():
        fp, fn = (int(each.numpy()[poor].sum()) for each in (results.counts.fp, results.counts.fn))
        yield from _kind_of_errors(fp, fn, f"the wrong pixels of photos below {POOR:g}")


def _kind_of_errors(wrong: int, missed: int, where: str) -> Iterator[Note]:
    if not wrong + missed:
        return
    if wrong > _CLEARLY * missed:
        heading = f"Of {where}, most are background called pet"
    elif missed > _CLEARLY * wrong:
        heading = f"Of {where}, most are pet that was missed"
    else:
        heading = f"Of {where}, about as many were missed as wrongly called pet"
    every = wrong + missed
    yield (
        heading,
        f"{_share(wrong, every)} are background called pet, {_share(missed, every)} are pet that was missed.",
    )


def _small_pets(results: Results) -> Iterator[Note]:
    counts, dice = results.counts, results.table["dice"].to_numpy()
    true = (counts.tp + counts.fn).numpy()
    share = true / np.maximum(1, (counts.tp + counts.fp + counts.fn + counts.tn).numpy())
    defined = np.flatnonzero(~np.isnan(dice))
    if len(defined) < _ENOUGH_TO_QUARTER:
        return
    by_size = defined[np.argsort(share[defined], kind="stable")]
    quarter = len(by_size) // 4
    small, large = by_size[:quarter], by_size[-quarter:]
    (low, high), (low_large, high_large) = (bootstrap_interval(dice[each]) for each in (small, large))
    if high < low_large:
        heading = "Small pets are cut out worse than large ones"
    elif high_large < low:
        heading = "Large pets are cut out worse than small ones"
    else:
        heading = "Small and large pets are not shown to differ"
    yield (
        heading,
        f"The quarter of the photos with the smallest pets, up to {_share(share[small[-1]])} of the photo, "
        f"has a mean Dice of {interval(mean(dice[small]), low, high)}; the quarter with the largest, from "
        f"{_share(share[large[0]])}, {interval(mean(dice[large]), low_large, high_large)}.",
    )


def _found_nothing(results: Results) -> Iterator[Note]:
    counts = results.counts
    nothing: NDArray[np.bool_] = ((counts.tp + counts.fp == 0) & (counts.fn > 0)).numpy()
    if found := int(nothing.sum()):
        names = _named(results.table["name"][nothing])
        yield f"In {_photos(found)} no pet was found", f"Not one pixel reached the threshold: {names}."


def _undefined(results: Results) -> Iterator[Note]:
    undefined = results.table["dice"].isna()
    if count := int(undefined.sum()):
        yield (
            f"Dice is undefined for {_photos(count)}",
            "Neither the truth nor the prediction has a pixel of pet, so means leave these out: "
            f"{_named(results.table['name'][undefined])}.",
        )


def _named(names: "pd.Series[str]", most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + more


def _photos(count: int) -> str:
    return "one photo" if count == 1 else f"{count} photos"


def _share(part: float, whole: float = 1) -> str:
    return f"{part / whole:.0%}".replace("%", " %")
