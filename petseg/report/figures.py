"""Figures. Each function takes data and returns a figure; nothing here reads or writes a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, cycle, product
from textwrap import wrap

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from petseg.core.colours import BLUE, GREEN, GREY, ORANGE, PALETTE, VERMILION, rgb
from petseg.data.images import BACKGROUND
from petseg.evaluation.metrics import PixelCounts
from petseg.evaluation.thresholds import calibration_error
from petseg.params import AugmentParams
from petseg.training.augment import AUGMENTATIONS, augment

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_ERRORS = {"missed": BLUE, "wrongly called pet": VERMILION, "left out: called background": "#BBBBBB"}
SPECIES = {"cat": BLUE, "dog": VERMILION}  # of others, grey
_CELL_IN = 1.75  # a small picture's side


@dataclass(frozen=True)
class Example:
    """A photo, (S, S, 3) uint8, with its true and its predicted mask, (S, S) bool."""

    title: str
    image: Image
    truth: Mask
    predicted: Mask


def curves(history: pd.DataFrame) -> Figure:
    """Draw loss and Dice by epoch, training beside validation, with the best epoch marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    best = history.iloc[int(history["val_dice"].argmax())]
    for axes, quantity, label in zip(
        figure.subplots(1, 2), ("loss", "dice"), ("loss", "Dice, mean over photos"), strict=True
    ):
        value, epoch = best[f"val_{quantity}"], int(best["epoch"])
        train, val = history[f"train_{quantity}"], history[f"val_{quantity}"]
        axes.plot(history["epoch"], train, color=ORANGE, lw=1.8, label="training, augmented")
        axes.plot(history["epoch"], val, color=BLUE, lw=1.8, label="validation")
        axes.plot(epoch, value, "o", color=BLUE, ms=7, mec="white", label=f"best epoch {epoch}: {value:.3f}")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes)
        axes.legend(frameon=False)
    return figure


def evolution(
    images: Image, truths: Mask, masks: Mask, epochs: Sequence[int], dices: NDArray[np.float64]
) -> Figure:
    """Draw how the prediction for some photos changes over the epochs.

    Args:
        images: (K, S, S, 3).
        truths: (K, S, S).
        masks: (E, K, S, S), of the epochs to show.
        epochs: (E,), their numbers.
        dices: (E, K), Dice of each mask.
    """
    columns = 2 + len(epochs)
    figure, grid = _picture_grid(len(images), columns)
    titles = ["photo", "truth", *(f"epoch {epoch}" for epoch in epochs)]
    for column, title in enumerate(titles):
        grid[0][column].set_title(title, fontsize=10)
    for row, (image, truth) in enumerate(zip(images, truths, strict=True)):
        grid[row][0].imshow(image)
        grid[row][1].imshow(cut_out(image, truth))
        for column, (mask, dice) in enumerate(zip(masks[:, row], dices[:, row], strict=True), 2):
            grid[row][column].imshow(cut_out(image, mask))
            grid[row][column].set_xlabel(f"Dice {dice:.2f}", fontsize=8, labelpad=2)
    return figure


def preprocessing(
    originals: Sequence[tuple[str, Image]], images: Image, trimaps: Image, truths: Mask
) -> Figure:
    """Draw some photos as they come, as the network sees them, their trimap and the mask made of it.

    Args:
        originals: K pairs of a name and the photo at its own size.
        images: (K, S, S, 3).
        trimaps: (K, S, S).
        truths: (K, S, S), the masks by the boundary rule in use.
    """
    size = images.shape[1]
    figure, grid = _picture_grid(len(images), 4, cell=2.2)
    titles = ("the photo", f"packed, {size}x{size} px", "trimap", "mask to learn")
    for column, title in enumerate(titles):
        grid[0][column].set_title(title, fontsize=10)
    palette = np.array([[0, 0, 0], *(rgb(c) for c in (BLUE, "#DDDDDD", ORANGE))], dtype=np.uint8)
    for row, (name, original) in enumerate(originals):
        height, width = original.shape[:2]
        grid[row][0].imshow(original)
        grid[row][0].set_xlabel(_plain(f"{name}, {width}x{height} px"), fontsize=8)
        grid[row][1].imshow(images[row])
        grid[row][2].imshow(palette[trimaps[row]])
        grid[row][3].imshow(truths[row], cmap="gray", vmin=0, vmax=1)
    _legend(figure, {"pet": BLUE, "border": ORANGE, "background": "#DDDDDD"})
    return figure


def augmentation(images: Image, trimaps: Image, params: AugmentParams) -> Figure:
    """Draw what each augmentation does to one photo: nothing, its one extreme, its other, and all together.

    Args:
        images: (2, S, S, 3); the first is drawn, and the second is the neighbour whose pet may be pasted.
        trimaps: (2, S, S).
        params: the strengths in use.
    """
    strengths = params.model_dump()
    off = AugmentParams.model_validate(dict.fromkeys(strengths, 0.0))
    figure, grid = _picture_grid(3, len(strengths) + 1)
    for row, label in enumerate(("one extreme", "other extreme", "all, at random")):
        grid[row][0].set_ylabel(label, fontsize=10)
    draws = torch.from_numpy(np.random.default_rng(0).random((len(strengths) + 1, AUGMENTATIONS), np.float32))

    def show(axes: Axes, chances: torch.Tensor, strength: AugmentParams) -> None:
        batch = torch.tensor(images), torch.tensor(trimaps), chances.expand(2, -1)
        photos, labels = augment(*batch, strength, images.shape[1])
        axes.imshow(photos[0].permute(1, 2, 0).numpy())
        axes.contour(labels[0].numpy() != 2, [0.5], colors=ORANGE, linewidths=1)

    extremes = torch.zeros(AUGMENTATIONS), torch.full((AUGMENTATIONS,), 0.999)
    for column, name in enumerate([None, *strengths]):
        only = off if name is None else off.model_copy(update={name: strengths[name]})
        for row, chances in enumerate(extremes):
            show(grid[row][column], chances, only)
        show(grid[2][column], draws[column], params)
        value = "" if name is None else f" {strengths[name]:g}" if strengths[name] else " off"
        grid[0][column].set_title("photo" if name is None else f"{name}{value}", fontsize=10)
    _legend(figure, {"outline of the mask, moved along": ORANGE})
    return figure


def examples(rows: dict[str, list[Example]], title: str) -> Figure:
    """Draw rows of test photos, with where the prediction is wrong.

    Args:
        rows: examples by the name of their row.
        title: of all.
    """
    columns = max(len(row) for row in rows.values())
    figure, grid = _picture_grid(len(rows), columns, cell=2.1)
    for line, (name, row) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=11)
        for axes, example in zip(line, row, strict=False):
            axes.imshow(_errors(example))
            axes.set_title(_plain(example.title), fontsize=8)
    figure.suptitle(title)
    _legend(figure, _ERRORS)
    return figure


def one_photo(example: Example) -> Figure:
    """Draw a test photo, its true mask, the predicted one, and where they differ."""
    figure, [line] = _picture_grid(1, 4, cell=3)
    pictures = {
        "photo": example.image,
        "truth": cut_out(example.image, example.truth),
        "prediction": cut_out(example.image, example.predicted),
        "difference": _errors(example),
    }
    for axes, (name, picture) in zip(line, pictures.items(), strict=True):
        axes.imshow(picture)
        axes.set_title(name, fontsize=10)
    figure.suptitle(_plain(example.title))
    _legend(figure, _ERRORS)
    return figure


def dice_by_breed(table: pd.DataFrame) -> Figure:
    """Draw the Dice of each test photo by breed, breeds sorted by their mean.

    Args:
        table: columns breed, species, dice.
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
        _plain(f"{b.replace('_', ' ')} (n = {n})")
        for b, n in zip(breeds["breed"], breeds["count"], strict=True)
    ]
    axes.set_yticks(range(len(breeds)), labels, fontsize=8)
    axes.set(xlabel="Dice of a test photo", ylim=(-0.7, len(breeds) - 0.3))
    axes.grid(axis="x", color="#DDDDDD", lw=0.6)
    _tidy(axes)
    _legend(
        figure,
        {f"{species}, a diamond is a breed's mean": colour for species, colour in colours.items()},
    )
    return figure


def dice_histogram(dice: pd.Series, trivial: float) -> Figure:
    """Draw how the Dice of the test photos is spread.

    Args:
        dice: of each photo.
        trivial: mean Dice of calling every pixel pet.
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
    axes.set(
        xlabel="Dice of a test photo", ylabel="photos", xlim=(0, 1), title=f"n = {len(defined)} test photos"
    )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _tidy(axes)
    axes.legend(frameon=False, loc="upper left")
    return figure


def threshold_curves(table: pd.DataFrame, threshold: float) -> Figure:
    """Draw scores by threshold: Dice of validation and test, and what test trades between its two errors.

    Args:
        table: columns threshold, and for ``val_`` and ``test_``: dice_per_image, precision, recall.
        threshold: the one in use.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    lines = (
        (left, "val_dice_per_image", BLUE, "validation"),
        (left, "test_dice_per_image", VERMILION, "test"),
        (right, "test_precision", GREEN, "precision: of what is called pet, what is"),
        (right, "test_recall", ORANGE, "recall: of what is pet, what is found"),
    )
    for axes, column, colour, label in lines:
        axes.plot(table["threshold"], table[column], color=colour, lw=1.8, label=label)
    for axes, ylabel in ((left, "Dice, mean over photos"), (right, "share of pixels, test")):
        axes.axvline(threshold, color=GREY, lw=1.2, ls=":", label=f"in use: {threshold:g}")
        axes.set(xlabel="from this probability on, a pixel is pet", ylabel=ylabel, xlim=(0, 1))
        _tidy(axes)
        axes.legend(fontsize=9, loc="lower center", framealpha=1, edgecolor="none")
    return figure


def calibration_diagram(table: pd.DataFrame) -> Figure:
    """Draw how often the probabilities of the test photos' pixels come true, over how many there are.

    Args:
        table: of petseg.probabilities.calibration.
    """
    figure = Figure(figsize=(5.5, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    seen = table[table["pixels"] > 0]
    upper.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="as it should be")
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
    return figure


def confusion(counts: PixelCounts) -> Figure:
    """Draw how many pixels of all photos together are rightly and wrongly called pet and background."""
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
    axes.set(xlabel="called", ylabel="is", title=f"{cells.sum():,} pixels of {len(counts.tp)} test photos")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def race(curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], goal: float) -> Figure:
    """Draw validation Dice against time.

    Args:
        curves: by name, the seconds since the beginning and the Dice at the end of each epoch.
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
    """Draw settings side by side: their Dice, and how far each is from the best, with 95 % intervals.

    Args:
        table: of petseg.store.compare.table.
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
    left.set_yticks(places, [_plain(setting) for setting in table["setting"]], fontsize=8)
    left.set(xlabel="Dice of a photo, mean and 95 % interval", ylim=(-0.6, len(table) - 0.4))
    right.set(xlabel="less the best setting by validation, photo by photo")
    right.axvline(0, color=GREY, lw=1)
    for axes in (left, right):
        axes.grid(axis="x", color="#DDDDDD", lw=0.6)
        _tidy(axes)
    if len(parts) > 1:
        left.legend(frameon=False, fontsize=8)
    return figure


def data_sheet(
    photos: Sequence[Image], trimaps: Sequence[Image], captions: Sequence[str], odd: Sequence[str | None]
) -> Figure:
    """Draw photos of a data set with the outlines of their masks, and paler where they are not pet.

    Args:
        photos: at least one, (h, w, 3), each of a size of its own.
        trimaps: (h, w), each of any size.
        captions: what stands below each.
        odd: what is wrong with each, or None.
    """
    columns = min(6, len(photos))
    figure, grid = _picture_grid(-(-len(photos) // columns), columns, cell=2.3)
    everything = zip(photos, trimaps, captions, odd, strict=True)
    for axes, (photo, trimap, caption, reason) in zip(chain(*grid), everything, strict=False):
        pet = trimap != BACKGROUND
        here = np.ix_(*(np.arange(photo.shape[i]) * pet.shape[i] // photo.shape[i] for i in (0, 1)))
        axes.imshow(np.where(pet[here][..., None], photo, 255 - (255 - photo) * 0.45).astype(np.uint8))
        if pet.any() and not pet.all():
            across, down = (np.linspace(0, photo.shape[i] - 1, pet.shape[i]) for i in (1, 0))
            axes.contour(across, down, pet, [0.5], colors="white", linewidths=2.8)
            axes.contour(across, down, pet, [0.5], colors=VERMILION, linewidths=1.4)
        axes.set_xlabel(_plain(caption), fontsize=8)
        if reason:
            axes.set_title("\n".join(wrap(_plain(reason), 36)), fontsize=8, color=VERMILION)
            axes.spines[:].set(visible=True, color=VERMILION, linewidth=2)
    _legend(figure, {"outline of the mask, its border counted": VERMILION})
    return figure


def cut_out(image: Image, mask: Mask) -> Image:
    """Return the photo with everything but the mask faded to near white."""
    faded = 255 - (255 - image.mean(axis=2, keepdims=True)) * 0.18
    result: Image = np.where(mask[..., None], image, faded).astype(np.uint8)
    return result


def _errors(example: Example) -> Image:
    """Return the cut-out, with missed pixels in blue and wrong ones in vermilion."""
    picture = cut_out(example.image, example.predicted).astype(float)
    for wrong, colour in (
        (example.truth & ~example.predicted, BLUE),
        (example.predicted & ~example.truth, VERMILION),
    ):
        picture[wrong] = 0.35 * picture[wrong] + 0.65 * np.array(rgb(colour))
    return picture.astype(np.uint8)


def _picture_grid(rows: int, columns: int, cell: float = _CELL_IN) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(columns * cell, rows * (cell + 0.15) + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure, [list(line) for line in grid]


def _legend(figure: Figure, colours: dict[str, str]) -> None:
    patches = [Patch(color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)


def _plain(text: str) -> str:
    """Return text that people wrote, whose dollars matplotlib would take for mathematics."""
    return text.replace("$", r"\$")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
