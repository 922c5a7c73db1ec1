"""What mlflow.pyfunc runs: this file is copied into each logged model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

from petseg.inference import Predictor


class PetSegmenter(PythonModel):  # type: ignore[misc]  # mlflow leaves it without types
    """Photos in, masks out, at the photos' own size."""

    # MLflow would take predict's type hints for a schema, so they stand in a comment; and it warns
    # where there are none, but for this. The signature is given when the model is logged.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network and the rule by which its probability becomes a mask."""
        files = {name: Path(path) for name, path in context.artifacts.items()}
        decision = json.loads(files["decision"].read_text(encoding="utf-8"))
        self._threshold = float(decision["threshold"])
        self._predictor = Predictor.load(
            files["weights"], files["about"], torch.device("cpu"), bool(decision["flip_average"])
        )

    def predict(self, context, model_input, params=None):
        # type: (PythonModelContext, Any, dict[str, Any] | None) -> NDArray[np.uint8]
        """Segment a photo or a batch.

        Args:
            context: unused.
            model_input: (H, W, 3) or (N, H, W, 3) uint8 RGB.
            params: unused.

        Returns:
            (H, W) or (N, H, W) uint8; 1 is pet.

        Raises:
            MlflowException: the input is something else.
        """
        photos = _photos(model_input)
        batch = photos if photos.ndim == 4 else photos[None]
        masks = self._predictor.masks_at_own_size(batch, self._threshold)
        return masks if photos.ndim == 4 else masks[0]


def _photos(given: Any) -> NDArray[np.uint8]:
    try:
        photos = np.asarray(given)
        if photos.dtype == object:  # JSON's nested lists come as objects
            photos = np.array(photos.tolist())
        if photos.dtype.kind not in "ui" or photos.ndim not in (3, 4) or photos.shape[-1] != 3:
            raise ValueError(f"{photos.dtype} of shape {photos.shape}")
        if 0 in photos.shape or photos.min() < 0 or photos.max() > 255:
            raise ValueError("no pixels, or values outside 0 to 255")
    except ValueError as error:
        raise MlflowException(
            f"expected a photo, (H, W, 3) uint8 RGB, or a batch, (N, H, W, 3); got {error}",
            INVALID_PARAMETER_VALUE,
        ) from None
    return photos.astype(np.uint8)


set_model(PetSegmenter())
