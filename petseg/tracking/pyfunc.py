"""The model that mlflow.pyfunc runs; this file is copied into each logged model."""

from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray
from PIL import Image

from petseg.data.images import MAX_PIXELS, decode_photo
from petseg.errors import BadImage
from petseg.models.description import read_decision
from petseg.models.masking import Thresholds
from petseg.models.predictor import Predictor
from petseg.params import OUTPUTS, Edge
from petseg.tracking.serving import MAX_PHOTOS, Masks, take_over


class PetSegmenter(PythonModel):  # type: ignore[misc]  # mlflow leaves it without types
    """Photos in, masks out, at the photos' own size."""

    # MLflow would use type hints of predict as a schema, so they are in a comment. The attribute turns off
    # MLflow's warning about absent hints. The signature is given when the model is logged.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network and the thresholds by which its probability becomes a mask.

        Raises:
            DamagedFile: one of the model's files is not what petseg wrote. Nothing in it is executed.
        """
        files = {name: Path(path) for name, path in context.artifacts.items()}
        decision = read_decision(files["decision"])
        self._thresholds: Thresholds = {edge: decision["thresholds"][edge] for edge in OUTPUTS}
        weights, about, flip_average = files["weights"], files["about"], decision["flip_average"]
        self._predictor = Predictor.load(weights, about, torch.device("cpu"), flip_average)
        take_over(partial(self.segment, most=MAX_PHOTOS))

    def predict(self, context, model_input, params=None):
        # type: (PythonModelContext, Any, dict[str, Any] | None) -> Masks
        """Segment a photo or several.

        Args:
            context: unused.
            model_input: as for ``segment``.
            params: ``edge``: whole for masks with the border strip around the pet, tight for masks without
                it. ``as_is``: whether small islands and holes are kept.

        Returns:
            As for ``segment``.

        Raises:
            MlflowException: the input is invalid.
        """
        try:
            return self.segment(model_input, params)
        except BadImage as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from None

    def segment(self, given: Any, params: object = None, most: int | None = None) -> Masks:
        """Segment a photo or several.

        Args:
            given: a photo, (H, W, 3) whole numbers from 0 to 255, RGB, as an array or nested lists; a
                batch, (N, H, W, 3); an image file in base64; or a list of such files.
            params: as for ``predict``.
            most: the most photos at once; None for no limit.

        Returns:
            (H, W) uint8 for a photo, 1 is pet; (N, H, W) for a batch, and for a list of files a list.

        Raises:
            BadImage: the input is invalid or too large.
        """
        if isinstance(given, np.ndarray) and given.dtype.kind in "OU":  # an array that MLflow made of JSON
            given = given.tolist()
        if isinstance(given, str):
            return self.segment([given], params, most)[0]
        if isinstance(given, list) and given and isinstance(given[0], str):
            return self._masks(_decoded(given), len(given), params, most)
        array = _as_array(given)
        batch = array if array.ndim == 4 else array[None]
        masks = np.stack(self._masks(map(Image.fromarray, batch), len(batch), params, most))
        return masks if array.ndim == 4 else masks[0]

    def _masks(
        self, photos: Iterable[Image.Image], count: int, params: object, most: int | None
    ) -> list[NDArray[np.uint8]]:
        edge, clean = _mask_options(params)
        if most is not None and count > most:
            raise BadImage(f"{count} photos; at most {most} at once")
        return self._predictor.masks_at_own_size(photos, self._thresholds, edge, clean=clean)


def _mask_options(params: object) -> tuple[Edge, bool]:
    """Return which mask is wanted, and whether small islands and holes are removed from it."""
    given = {} if params is None else params
    if isinstance(given, Mapping) and given.keys() <= {"edge", "as_is"}:
        edge, as_is = given.get("edge", "tight"), given.get("as_is", False)
        if edge in OUTPUTS and isinstance(as_is, bool | np.bool_):
            return edge, not as_is
    raise BadImage('expected params such as {"edge": "whole" or "tight", "as_is": true or false}')


def _decoded(files: list[str]) -> Iterator[Image.Image]:
    """Decode image files; the limit of pixels is for all together, because a small file can have many."""
    pixels = 0
    for number, file in enumerate(files, start=1):
        try:
            image = decode_photo(b64decode(file, validate=True))
        except BadImage as error:
            raise BadImage(f"photo {number}: {error}") from None
        except (ValueError, TypeError):
            raise BadImage(f"photo {number}: expected an image file in base64") from None
        pixels += image.width * image.height
        if pixels > MAX_PIXELS:
            raise BadImage(f"the photos have together more than {MAX_PIXELS / 1e6:.0f} megapixels")
        yield image
        del image  # free the memory before the next one is decoded


def _as_array(given: Any) -> NDArray[np.uint8]:
    array = given if isinstance(given, np.ndarray) else _from_lists(given)
    got = f"{array.dtype} of shape {array.shape}"
    if array.dtype.kind in "ui" and array.ndim in (3, 4) and array.shape[-1] == 3 and array.size:
        if array.min() >= 0 and array.max() <= 255:
            return array.astype(np.uint8, copy=False)
        got = "values outside 0 to 255"
    raise BadImage(f"expected a photo, (H, W, 3) uint8 RGB, or a batch, (N, H, W, 3); got {got}")


def _from_lists(level: Any) -> NDArray[np.uint8]:
    """Turn nested lists into an array, twice as fast as np.array, and without reading text as numbers."""
    try:
        shape = [len(level)]
        while level and isinstance(level[0], list):
            (length,) = set(map(len, level))
            shape.append(length)
            level = list(chain.from_iterable(level))
        return np.frombuffer(bytes(level), np.uint8).reshape(shape)
    except (ValueError, TypeError, LookupError):
        raise BadImage(
            "expected a photo, (H, W, 3) whole numbers from 0 to 255, a batch, (N, H, W, 3), or image files "
            "in base64; got something else, or rows of different lengths"
        ) from None


set_model(PetSegmenter())
