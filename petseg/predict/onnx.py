"""Exports a stored run to one ONNX file that needs no petseg.

The file takes photos of any size, and returns the probabilities of both outputs. Small islands and holes stay
in, as with ``petseg predict --as-is``. A photo of more than four times the network's size is shrunk in one
step, while petseg predict uses two, so the probabilities differ a little.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from petseg.core.files import written_atomically
from petseg.data.arrays import PetArrays
from petseg.data.batches import normalize, resized
from petseg.errors import ExportError
from petseg.models.masking import Thresholds
from petseg.models.predictor import Predictor
from petseg.params import OUTPUTS
from petseg.predict.load import Model
from petseg.store.run import StoredRun

OPSET = 18  # the first whose Resize can antialias, which is needed to shrink photos
TOLERANCE = 1e-3  # of a probability; float32 sums in another order differ by about 1e-6
INPUT, OUTPUT = "photos", "probability"
_COMPARED = ((96, 160), (375, 500), (640, 427))  # height and width of the photos to compare on


class PhotoToProbability(nn.Module):
    """All steps of a predictor on tensors: shrink, standardize, predict, enlarge."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor, self.network = predictor, predictor.network

    def forward(self, photos: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 RGB photos to (N, 2, H, W) float32, the probability of OUTPUTS."""
        _, height, width, _ = photos.shape
        size = self.predictor.size_px
        small = resized(photos.permute(0, 3, 1, 2).float(), size, size)
        return resized(self.predictor.segment(normalize(small / 255)), height, width)


@dataclass(frozen=True)
class Export:
    """The result of an export.

    Attributes:
        path: the file that was written.
        size_bytes: its size.
        thresholds: for each output, the probability from which a pixel is in its mask, as it was chosen on
            validation photos; None if infer has not run.
        compared: on how many real photos torch and ONNX Runtime were compared.
        difference: the largest difference between their probabilities; None without a comparison.
    """

    path: Path
    size_bytes: int
    thresholds: Thresholds | None
    compared: int
    difference: float | None


def export_onnx(run: StoredRun, arrays: PetArrays | None, target: Path) -> Export:
    """Export a run's network, with the steps before and after it, to ONNX.

    The model averages over the mirror image if the run's evaluation did. The file's metadata have the run's
    key, and the thresholds by which its probabilities become masks.

    Args:
        run: a run of the store.
        arrays: the packed photos. torch and ONNX Runtime are compared on some validation photos before the
            file is written; None: they are not compared.
        target: the file to write; an existing file is replaced.

    Raises:
        StoreError: the run is not finished, or does not say what its network is.
        ExportError: ONNX Runtime's probabilities differ from torch's.
    """
    chosen = Model.of_run(run, torch.device("cpu"))
    predictor, thresholds = chosen.predictor, chosen.thresholds if chosen.decided else None
    module = PhotoToProbability(predictor).eval()
    model = _converted(module)
    known = {
        "run_key": run.key,
        "tensors_sha256": run.manifest["tensors_sha256"],
        "outputs": OUTPUTS,
        "thresholds": thresholds,
        "flip_average": predictor.flip_average,
    }
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in known.items()})
    content = model.SerializeToString()
    difference, photos = None, _photos(arrays) if arrays else []
    if photos:
        difference = largest_difference(module, content, photos)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"run {run.key}: ONNX Runtime's probability differs from torch's by {difference:.3g}; "
                "nothing is written"
            )
    with written_atomically(target) as file:
        file.write(content)
    return Export(target, len(content), thresholds, len(photos), difference)


@torch.inference_mode()
def largest_difference(module: nn.Module, content: bytes, photos: list[NDArray[np.uint8]]) -> float:
    """Return the largest difference of a probability between torch and ONNX Runtime.

    Args:
        module: maps (N, H, W, 3) to (N, 2, H, W).
        content: the same model as ONNX.
        photos: the photos to compare on, each (H, W, 3) uint8.
    """
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return max(
        float(
            np.abs(module(torch.from_numpy(p[None])).numpy() - session.run(None, {INPUT: p[None]})[0]).max()
        )
        for p in photos
    )


def _converted(module: PhotoToProbability) -> onnx.ModelProto:
    example = torch.zeros(2, *_COMPARED[0], 3, dtype=torch.uint8)
    shape = {0: Dim("photos"), 1: Dim("height"), 2: Dim("width")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of deprecations in its own code
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(shape,),
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # it has the paths of the code on this machine
    return model


def _photos(arrays: PetArrays) -> list[NDArray[np.uint8]]:
    """Return some validation photos, resized to the sizes to compare on."""
    chosen = arrays.images[arrays.rows("val")[: 2 * len(_COMPARED)]]
    sizes = [_COMPARED[i % len(_COMPARED)] for i in range(len(chosen))]
    return [
        np.array(Image.fromarray(photo).resize(size[::-1])) for photo, size in zip(chosen, sizes, strict=True)
    ]
