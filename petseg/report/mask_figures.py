"""Figures of photos and masks. Each function takes data and returns a figure; it reads and writes no file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from textwrap import wrap

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from petseg.core.colours import BLUE, ORANGE, VERMILION, rgb
from petseg.data.images import BACKGROUND, PET
from petseg.params import AugmentParams
from petseg.report.figures import add_legend, entitle, plain
from petseg.training.augment import AUGMENTATIONS, augment

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_ERRORS = {"missed": BLUE, "wrongly called pet": VERMILION, "left out: called background": "#BBBBBB"}
_CELL_IN = 1.75  # the side of a small picture


@dataclass(frozen=True)
class Example:
    """A photo, (S, S, 3) uint8, with its true and predicted masks, (S, S) bool, and a title."""

    title: str
    image: Image
    truth: Mask
    predicted: Mask


def evolution(
    images: Image, truths: Mask, masks: Mask, epochs: Sequence[int], dices: NDArray[np.float64], title: str
) -> Figure:
    """Draw how the prediction for some photos changes over the epochs.

    Args:
        images: the photos, (K, S, S, 3).
        truths: the true masks, (K, S, S).
        masks: the predicted masks of the epochs to show, (E, K, S, S).
        epochs: the numbers of the epochs, (E,).
        dices: the Dice of each mask, (E, K).
        title: which masks are shown, and how they are scored.
    """
    columns = 2 + len(epochs)
    figure, grid = _picture_grid(len(images), columns)
    heads = ["photo", "truth", *(f"epoch {epoch}" for epoch in epochs)]
    for column, head in enumerate(heads):
        grid[0][column].set_title(head, fontsize=10)
    for row, (image, truth) in enumerate(zip(images, truths, strict=True)):
        grid[row][0].imshow(image)
        grid[row][1].imshow(cut_out(image, truth))
        for column, (mask, dice) in enumerate(zip(masks[:, row], dices[:, row], strict=True), 2):
            grid[row][column].imshow(cut_out(image, mask))
            grid[row][column].set_xlabel(f"Dice {dice:.2f}", fontsize=8, labelpad=2)
    entitle(figure, title)
    return figure


def preprocessing(originals: Sequence[tuple[str, Image]], images: Image, trimaps: Image) -> Figure:
    """Draw some photos in their own size and packed, with their trimaps and the masks to learn.

    Args:
        originals: K pairs of a name and the photo at its own size.
        images: the packed photos, (K, S, S, 3).
        trimaps: the packed trimaps, (K, S, S).
    """
    size = images.shape[1]
    figure, grid = _picture_grid(len(images), 5, cell=2.2)
    masks = ("to learn: the whole pet", "to learn: within its border")
    titles = ("the photo", f"packed, {size}x{size} px", "trimap", *masks)
    for column, title in enumerate(titles):
        grid[0][column].set_title(title, fontsize=10)
    palette = np.array([[0, 0, 0], *(rgb(c) for c in (BLUE, "#DDDDDD", ORANGE))], dtype=np.uint8)
    for row, (name, original) in enumerate(originals):
        height, width = original.shape[:2]
        grid[row][0].imshow(original)
        grid[row][0].set_xlabel(plain(f"{name}, {width}x{height} px"), fontsize=8)
        grid[row][1].imshow(images[row])
        grid[row][2].imshow(palette[trimaps[row]])
        for column, mask in ((3, trimaps[row] != BACKGROUND), (4, trimaps[row] == PET)):
            grid[row][column].imshow(mask, cmap="gray", vmin=0, vmax=1)
    add_legend(figure, {"pet": BLUE, "border": ORANGE, "background": "#DDDDDD"})
    return figure


def augmentation(images: Image, trimaps: Image, params: AugmentParams) -> Figure:
    """Draw what each augmentation does to a photo at both of its extremes, and what all do at random.

    Args:
        images: two photos, (2, S, S, 3); the first is drawn, and the pet of the second may be pasted into it.
        trimaps: their trimaps, (2, S, S).
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
        axes.contour(labels[0].numpy() != BACKGROUND, [0.5], colors=ORANGE, linewidths=1)

    extremes = torch.zeros(AUGMENTATIONS), torch.full((AUGMENTATIONS,), 0.999)
    for column, name in enumerate([None, *strengths]):
        only = off if name is None else off.model_copy(update={name: strengths[name]})
        for row, chances in enumerate(extremes):
            show(grid[row][column], chances, only)
        show(grid[2][column], draws[column], params)
        value = "" if name is None else f" {strengths[name]:g}" if strengths[name] else " off"
        grid[0][column].set_title("photo" if name is None else f"{name}{value}", fontsize=10)
    add_legend(figure, {"outline of the whole pet, moved along": ORANGE})
    return figure


def examples(rows: dict[str, list[Example]], title: str) -> Figure:
    """Draw rows of test photos, and mark where the prediction is wrong.

    Args:
        rows: the examples of each row, by the row's name.
        title: the title of the figure.
    """
    columns = max(len(row) for row in rows.values())
    figure, grid = _picture_grid(len(rows), columns, cell=2.1)
    for line, (name, row) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=11)
        for axes, example in zip(line, row, strict=False):
            axes.imshow(_errors(example))
            axes.set_title(plain(example.title), fontsize=8)
    entitle(figure, title)
    add_legend(figure, _ERRORS)
    return figure


def one_photo(example: Example, title: str) -> Figure:
    """Draw a test photo, its true and predicted masks, and where they differ.

    Args:
        example: the photo.
        title: which mask is shown, and how it is scored.
    """
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
    entitle(figure, f"{plain(example.title)}; {title}")
    add_legend(figure, _ERRORS)
    return figure


def data_sheet(
    photos: Sequence[Image], trimaps: Sequence[Image], captions: Sequence[str], odd: Sequence[str | None]
) -> Figure:
    """Draw photos of a data set with the outlines of their masks and a paler background.

    Args:
        photos: at least one photo, (h, w, 3); sizes may differ.
        trimaps: a trimap for each, (h, w), in any size.
        captions: the text below each.
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
        axes.set_xlabel(plain(caption), fontsize=8)
        if reason:
            axes.set_title("\n".join(wrap(plain(reason), 36)), fontsize=8, color=VERMILION)
            axes.spines[:].set(visible=True, color=VERMILION, linewidth=2)
    add_legend(figure, {"outline of the mask, its border counted": VERMILION})
    return figure


def cut_out(image: Image, mask: Mask) -> Image:
    """Return a photo in which everything outside the mask is faded to near white."""
    faded = 255 - (255 - image.mean(axis=2, keepdims=True)) * 0.18
    result: Image = np.where(mask[..., None], image, faded).astype(np.uint8)
    return result


def _errors(example: Example) -> Image:
    """Return the cut-out with missed pixels in blue, and pixels wrongly called pet in vermilion."""
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
