"""The Python API: a model that cuts pets out of photos, and what it found in one photo.

Predictions have the same bits as those of ``petseg predict``: each photo is predicted alone, in one thread.
Several photos are predicted at once, on all cores.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from petseg.core.parallel import in_order
from petseg.core.project import expanded, main_root
from petseg.data.images import decode_photo, to_photo
from petseg.errors import BadImage, UsageError
from petseg.models.device import choose_device
from petseg.models.predictor import OwnSize, at_own_size
from petseg.params import OUTPUTS, Edge
from petseg.predict import load
from petseg.predict.cutting import (
    CUTOUTS,
    MASKS,
    OVERLAYS,
    mask_of,
    open_photo,
    outputs_of,
    picture_paths,
    save_picture,
)
from petseg.predict.pictures import Cutout, alpha_of, draw_overlay

Photo = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]


class Cut:
    """A photo and the pet that was found in it. Everything has the photo's own size, H x W.

    The photo is upright: it is turned as its EXIF data say.

    Attributes:
        photo: the photo, RGB.
        name: the name of the photo's file without its suffix; None for a picture that was in memory.
        edge: which mask was asked for: ``"tight"``, the pet, or ``"whole"``, the pet with its border strip.
        threshold: a pixel belongs to the mask if its probability is at least this.
    """

    def __init__(self, photo: Image.Image, name: str | None, own: OwnSize, edge: Edge) -> None:
        self.photo, self.name, self.edge, self._own = photo, name, edge, own
        self.threshold = own.thresholds[edge]

    def __repr__(self) -> str:
        return f"<petseg.Cut {self.photo.width}x{self.photo.height}, {self.edge}, {self.coverage:.1%} pet>"

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, (H, W) bool: True where the photo shows pet.

        The tight mask always lies within the whole one, so a pixel of the tight mask has at least the
        threshold of each of the two outputs.
        """
        return mask_of(self._own, self.edge) > 0

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """The probability of each pixel, (H, W) float32 in [0, 1], that it belongs to the mask."""
        found: NDArray[np.float32] = at_own_size(self._own.small, self._own.shape)[OUTPUTS.index(self.edge)]
        return found

    @property
    def coverage(self) -> float:
        """The share of the photo's pixels that are pet."""
        return float(self.mask.mean())

    @cached_property
    def cutout(self) -> Image.Image:
        """The pet alone, a picture of mode RGBA.

        Alpha is 255 in the tight mask and falls to 0 over the border strip. With the whole edge it falls
        where the network is unsure, and is 128 or more within the mask.
        """
        return self._cutout.crop((0, 0, *self.photo.size))

    @property
    def _cutout(self) -> Cutout:
        return Cutout(self.photo, alpha_of(self._own, self.edge))

    @cached_property
    def overlay(self) -> Image.Image:
        """The photo, in which everything but the pet is faded and the pet has an outline; RGB."""
        picture = self.photo.copy()
        draw_overlay(picture, mask_of(self._own, self.edge))
        return picture

    def save(
        self, folder: str | os.PathLike[str], name: str | None = None, *, replace: bool = False
    ) -> dict[str, Path]:
        """Write the mask, the overlay and the cut-out as ``petseg predict`` does.

        They are FOLDER/masks/NAME.png (8-bit grey; 255 is pet), FOLDER/overlays/NAME.jpg and
        FOLDER/cutouts/NAME.png.

        Args:
            folder: it is made if it is not there.
            name: of the files, without a suffix; if not given, that of the photo's file.
            replace: replace files that are there already.

        Returns:
            The path of each file, by ``"masks"``, ``"overlays"`` and ``"cutouts"``.

        Raises:
            UsageError: a file is there already, or the photo has no name.
            OSError: a file can't be written.
        """
        name = name or self.name
        if not name or Path(name).name != name:
            raise UsageError(f"name: {name!r} is no file name; a picture from memory needs one")
        paths = picture_paths(expanded(os.fspath(folder)), name)
        there = [path for path in paths.values() if os.path.lexists(path)]
        if there and not replace:
            raise UsageError(f"{there[0]} is there already; replace=True replaces it")
        save_picture(Image.fromarray(mask_of(self._own, self.edge)), paths[MASKS], self.photo)
        save_picture(self._cutout, paths[CUTOUTS], self.photo)
        save_picture(self.overlay, paths[OVERLAYS], self.photo)
        return paths


class Model:
    """A trained model. ``petseg.load`` makes one.

    Attributes:
        name: where the model is from.
        size_px: the side of the squares to which the model shrinks photos.
        thresholds: of ``"whole"`` and ``"tight"``; a pixel belongs to a mask if its probability is at least
            this.
    """

    def __init__(self, loaded: load.Model) -> None:
        self._loaded = loaded
        self.name, self.size_px = loaded.name, loaded.predictor.size_px
        self.thresholds = dict(loaded.thresholds)

    def __repr__(self) -> str:
        return f"<petseg.Model {self.name}>"

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path and an array can be iterated over too
        self, photos: Photo, *, edge: Edge = ..., threshold: float | None = ..., as_is: bool = ...
    ) -> Cut: ...
    @overload
    def predict(  # type: ignore[overload-overlap]
        self,
        photos: Sequence[Photo],
        *,
        edge: Edge = ...,
        threshold: float | None = ...,
        as_is: bool = ...,
    ) -> list[Cut]: ...
    @overload
    def predict(
        self, photos: Iterable[Photo], *, edge: Edge = ..., threshold: float | None = ..., as_is: bool = ...
    ) -> Iterator[Cut]: ...
    def predict(
        self,
        photos: Photo | Iterable[Photo],
        *,
        edge: Edge = "tight",
        threshold: float | None = None,
        as_is: bool = False,
    ) -> Cut | list[Cut] | Iterator[Cut]:
        """Cut the pet out of a photo, or of several.

        Args:
            photos: a path; the bytes of a file; a PIL image; an array, (H, W, 3) uint8 RGB or (H, W) uint8
                grey; or several of these, as a list, a tuple or any other iterable.
            edge: ``"tight"`` for the pet without the strip of unsure pixels around it, ``"whole"`` for the
                pet with it.
            threshold: of the mask; if not given, the one that validation chose.
            as_is: leave small islands and holes in the mask.

        Returns:
            A ``Cut`` of one photo; a list of cuts of a list or another sequence; of another iterable an
            iterator, which takes only a few photos ahead, so that memory does not grow with their number.

        Raises:
            BadImage: a photo can't be read or used; the message names it.
            UsageError: an argument has another type or value.
        """
        model = self._loaded.shown_as(_checked(edge), _checked_threshold(threshold))
        if isinstance(photos, str | os.PathLike | bytes | Image.Image | np.ndarray):
            with _one_thread():
                return _cut(model, photos, as_is)
        if not isinstance(photos, Iterable):
            raise UsageError(f"photos: a {type(photos).__name__} is no photo; {_KNOWN}")
        cuts = _cut_all(model, photos, as_is)
        return list(cuts) if isinstance(photos, Sequence) else cuts


_KNOWN = "a photo is a path, the bytes of a file, a PIL image, or an array of uint8"


def load_model(model: str | os.PathLike[str] | None, device: str) -> Model:
    """Load a model, as ``petseg.load`` describes."""
    wanted = None if model is None else os.fspath(model)
    return Model(load.choose(main_root(), wanted, choose_device(device), carried_first=True))


def _cut_all(model: load.Model, photos: Iterable[Photo], as_is: bool) -> Iterator[Cut]:
    with _one_thread():
        for _, future in in_order(lambda photo: _cut(model, photo, as_is), photos):
            yield future.result()


def _cut(model: load.Model, given: Photo, as_is: bool) -> Cut:
    photo, name = _read(given)
    return Cut(photo, name, outputs_of(photo, model, clean=not as_is), model.edge)


def _read(given: Photo) -> tuple[Image.Image, str | None]:
    """Return a photo as RGB, upright, and the name of its file."""
    if isinstance(given, str | os.PathLike):
        path = expanded(os.fspath(given))
        try:
            with open_photo(path) as file:
                return decode_photo(file), path.stem
        except BadImage as error:
            raise BadImage(f"{path}: {error}") from None
    if isinstance(given, bytes):
        return decode_photo(given), None
    if isinstance(given, Image.Image):
        return to_photo(given), None
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or not given.size or given.ndim < 2 or given.shape[2:] not in ((), (3,)):
            kind = f"{given.dtype} of shape {given.shape}"
            raise UsageError(f"photos: an array of {kind} is no photo; it must be (H, W, 3) uint8")
        return Image.fromarray(np.ascontiguousarray(given)).convert("RGB"), None
    raise UsageError(f"photos: a {type(given).__name__} is no photo; {_KNOWN}")


def _checked(edge: str) -> Edge:
    for known in OUTPUTS:
        if edge == known:
            return known
    raise UsageError(f"edge: {edge!r} must be one of {', '.join(OUTPUTS)}")


def _checked_threshold(threshold: float | None) -> float | None:
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"threshold: {threshold!r} must be above 0, and 1 at the most")
    return threshold


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute each photo in one thread, as its bits depend on it; the caller's setting comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
