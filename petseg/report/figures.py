"""Figures of numbers. Each function takes data and returns a figure; nothing here reads or writes a file."""

from itertools import cycle, product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from petseg.core.colours import BLUE, GREEN, GREY, ORANGE, PALETTE, VERMILION, rgb
from petseg.evaluation.metrics import PixelCounts
from petseg.evaluation.thresholds import calibration_error
from petseg.store.score_rows import MASKS

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Columns of a history, each with the name of its mask and the style of its line.
OUTPUTS = {"val_dice_whole": (MASKS["whole"], "--"), "val_dice_tight": (MASKS["tight"], ":")}
SPECIES = {"cat": BLUE, "dog": VERMILION}  # others are grey


def curves(history: pd.DataFrame) -> Figure:
    """Draw loss and Dice by epoch, for training and validation, with the best epoch marked.

    Args:
        history: a row for each epoch; for a network with two outputs also the columns of OUTPUTS.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    best = history.iloc[int(history["val_dice"].argmax())]
    for axes, quantity, label in zip(
        figure.subplots(1, 2), ("loss", "dice"), ("loss", "Dice, mean over photos"), strict=True
    ):
        value, epoch = best[f"val_{quantity}"], int(best["epoch"])
        train, val = history[f"train_{quantity}"], history[f"val_{quantity}"]
        axes.plot(history["epoch"], train, color=ORANGE, lw=1.8, label="training, augmented")
        outputs = {name: look for name, look in OUTPUTS.items() if quantity == "dice" and name in history}
        for name, (mask, line) in outputs.items():
            axes.plot(history["epoch"], history[name], line, color=BLUE, lw=1.2, label=f"validation, {mask}")
        mean = ", mean of both masks" if outputs else ""
        axes.plot(history["epoch"], val, color=BLUE, lw=1.8, label=f"validation{mean}")
        axes.plot(epoch, value, "o", color=BLUE, ms=7, mec="white", label=f"best epoch {epoch}: {value:.3f}")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes)
        axes.legend(frameon=False)
    return figure


def dice_by_breed(table: pd.DataFrame, title: str) -> Figure:
    """Draw the Dice of each test photo by breed, with the breeds sorted by their mean.

    Args:
        table: a row for each photo, with the columns breed, species, dice.
        title: which masks are scored, and how.
    """
    breeds = table.groupby(["breed", "species"])["dice"].agg(["mean", "count"]).reset_index()
    breeds = breeds.sort_values("mean", ignore_index=True)
    figure = Figure(figsize=(8, 1.2 + 0.24 * len(breeds)), layout="constrained")
    axes = figure.subplots()
    colours = {species: SPECIES.get(species, GREY) for species in sorted(set(breeds["species"]), key=str)}
    for place, (breed, species) in enumerate(zip(breeds["breed"], breeds["species"], strict=True)):
        values = table.loc[(table["breed"] == breed) & (table["species"] == species), "dice"]
        axes.plot(values, np.full(len(values), place), ".", color=colours[species], alpha=0.3, mew=0)
    axes.scatter(
        breeds["mean"], range(len(breeds)), c=[colours[s] for s in breeds["species"]], marker="D", zorder=3
    )
    labels = [
        plain(f"{b.replace('_', ' ')} (n = {n})")
        for b, n in zip(breeds["breed"], breeds["count"], strict=True)
    ]
    axes.set_yticks(range(len(breeds)), labels, fontsize=8)
    axes.set(xlabel="Dice of a test photo", ylim=(-0.7, len(breeds) - 0.3))
    axes.grid(axis="x", color="#DDDDDD", lw=0.6)
    _tidy(axes)
    add_legend(
        figure,
        {f"{species}, a diamond is a breed's mean": colour for species, colour in colours.items()},
    )
    entitle(figure, title)
    return figure


def dice_histogram(dice: pd.Series, trivial: float, title: str) -> Figure:
    """Draw the distribution of Dice over the test photos.

    Args:
        dice: the Dice of each photo.
        trivial: the mean Dice if every pixel is called pet.
        title: which masks are scored, and how.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    defined = dice.dropna()
    axes.hist(defined, bins=[n / 40 for n in range(41)], color=BLUE, alpha=0.85, edgecolor="white", lw=0.5)
    lines = (
        (defined.mean(), "-", "black", f"mean {defined.mean():.3f}"),
        (defined.median(), "--", "black", f"median {defined.median():.3f}"),
        (trivial, ":", VERMILION, f"all foreground, mean {trivial:.3f}"),
    )
    for value, style, colour, label in lines:
        axes.axvline(value, ls=style, color=colour, lw=1.6, label=label)
    axes.set(xlabel="Dice of a test photo", ylabel=f"photos (n = {len(defined)})", xlim=(0, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _tidy(axes)
    axes.legend(frameon=False, loc="upper left")
    entitle(figure, title)
    return figure


def threshold_curves(table: pd.DataFrame, threshold: float, title: str) -> Figure:
    """Draw scores by threshold: Dice for validation and test photos, precision and recall for test photos.

    Args:
        table: the columns threshold, and with ``val_`` and ``test_``: dice_per_image, precision, recall.
        threshold: the threshold in use.
        title: which masks are scored, and how.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    lines = (
        (left, "val_dice_per_image", BLUE, "validation"),
        (left, "test_dice_per_image", VERMILION, "test"),
        (right, "test_precision", GREEN, "precision: share of predicted pet that is pet"),
        (right, "test_recall", ORANGE, "recall: share of pet that is found"),
    )
    for axes, column, colour, label in lines:
        axes.plot(table["threshold"], table[column], color=colour, lw=1.8, label=label)
    for axes, ylabel in ((left, "Dice, mean over photos"), (right, "share of pixels, test")):
        axes.axvline(threshold, color=GREY, lw=1.2, ls=":", label=f"in use: {threshold:g}")
        axes.set(xlabel="threshold: pet has this probability or more", ylabel=ylabel, xlim=(0, 1))
        _tidy(axes)
        axes.legend(fontsize=9, loc="lower center", framealpha=1, edgecolor="none")
    entitle(figure, title)
    return figure


def calibration_diagram(table: pd.DataFrame, title: str) -> Figure:
    """Draw the share of pixels that are pet by predicted probability, above the number of pixels.

    Args:
        table: the result of petseg.evaluation.thresholds.calibration.
        title: which masks are scored, and how.
    """
    figure = Figure(figsize=(5.5, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    seen = table[table["pixels"] > 0]
    upper.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="perfect calibration")
    error = calibration_error(table)
    upper.plot(
        seen["mean_probability"],
        seen["pet_share"],
        "o-",
        color=BLUE,
        ms=4,
        label=f"mean distance {error:.3f}",
    )
    upper.set(ylabel="share of these pixels that is pet", xlim=(0, 1), ylim=(0, 1))
    upper.legend(frameon=False, loc="upper left")
    share = table["pixels"] / table["pixels"].sum()
    lower.bar(table["low"], share, width=table["high"] - table["low"], align="edge", color=BLUE, ec="white")
    lower.set(xlabel="predicted probability of pet", ylabel="share of all pixels")
    for axes in (upper, lower):
        _tidy(axes)
    entitle(figure, title)
    return figure


def confusion(counts: PixelCounts, title: str) -> Figure:
    """Draw how many pixels of all photos together are rightly and wrongly called pet and background.

    Args:
        counts: the counts of each photo.
        title: which masks are scored, and how.
    """
    total = counts.total()
    cells = np.array([[total.tp, total.fn], [total.fp, total.tn]], dtype=np.int64)
    names = (("found", "missed"), ("wrongly called pet", "rightly left out"))
    shares = cells / max(1, cells.sum())
    of_truth = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    figure = Figure(figsize=(5.5, 4.6), layout="constrained")
    axes = figure.subplots()
    colours = np.array([[rgb(BLUE), rgb(VERMILION)], [rgb(VERMILION), rgb(BLUE)]]) / 255
    axes.imshow(1 - (1 - colours) * (0.08 + 0.82 * of_truth[..., None]))
    for row, column in product(range(2), range(2)):
        text = (
            f"{names[row][column]}\n{shares[row, column]:.1%} of all pixels\n"
            f"{of_truth[row, column]:.1%} of this row\n{cells[row, column]:,} px"
        )
        ink = "white" if of_truth[row, column] > 0.6 else "black"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=10)
    axes.set_xticks((0, 1), ("pet", "background"))
    axes.set_yticks((0, 1), ("pet", "background"), rotation=90, va="center")
    axes.set(
        xlabel="prediction", ylabel="truth", title=f"{cells.sum():,} pixels of {len(counts.tp)} test photos"
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    entitle(figure, title)
    return figure


def race(curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], goal: float) -> Figure:
    """Draw validation Dice by time.

    Args:
        curves: by name, the seconds since the start and the Dice at the end of each epoch.
        goal: a Dice to mark.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    looks = product(("-", "--", ":"), PALETTE)
    for (name, (seconds, dice)), (line, colour) in zip(curves.items(), cycle(looks)):
        axes.plot(seconds / 60, dice, color=colour, ls=line, lw=1.6, label=name)
    axes.axhline(goal, color=GREY, lw=1, ls=":")
    axes.annotate(
        f"{goal:g}", (1, goal), (-4, 3), ("axes fraction", "data"), "offset points", ha="right", color=GREY
    )
    axes.set(xlabel="minutes of training, validation included", ylabel="validation Dice, mean over photos")
    axes.set(xlim=(0, None), ylim=(0.5, None))
    axes.grid(color="#DDDDDD", lw=0.6)
    _tidy(axes)
    axes.legend(frameon=False, loc="lower right")
    return figure


def comparison(table: pd.DataFrame) -> Figure:
    """Draw settings below each other: their Dice, and the difference from the best, with 95 % intervals.

    Args:
        table: the result of petseg.store.compare.table.
    """
    parts = [part for part in ("val", "test") if table[f"{part}_photos"].any()]
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(table)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(table))[::-1]
    for shift, (part, colour, name) in enumerate(
        (("val", BLUE, "validation"), ("test", VERMILION, "test")), start=-len(parts) + 1
    ):
        if part not in parts:
            continue
        at = places - 0.16 * shift if len(parts) > 1 else places
        for axes, value in ((left, f"{part}_dice"), (right, f"{part}_less_best")):
            ends = ("low", "high") if axes is left else ("less_best_low", "less_best_high")
            middle = table[value].to_numpy()
            low, high = (table[f"{part}_{end}"].to_numpy() for end in ends)
            axes.errorbar(
                middle,
                at,
                xerr=[middle - low, high - middle],
                fmt="o",
                color=colour,
                ms=5,
                capsize=2,
                label=name,
            )
    left.set_yticks(places, [plain(setting) for setting in table["setting"]], fontsize=8)
    left.set(xlabel="Dice of a photo, mean and 95 % interval", ylim=(-0.6, len(table) - 0.4))
    right.set(xlabel="less the best setting by validation, photo by photo")
    right.axvline(0, color=GREY, lw=1)
    for axes in (left, right):
        axes.grid(axis="x", color="#DDDDDD", lw=0.6)
        _tidy(axes)
    if len(parts) > 1:
        left.legend(frameon=False, fontsize=8)
    return figure


def add_legend(figure: Figure, colours: dict[str, str]) -> None:
    """Add a legend of colours below a figure."""
    patches = [Patch(color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)


def entitle(figure: Figure, title: str) -> None:
    """Add a title above a figure."""
    figure.suptitle(title, fontsize=10)


def plain(text: str) -> str:
    """Escape the dollars in a text, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
