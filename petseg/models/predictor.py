"""Load a trained network, and predict the masks of photos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from petseg.core.checked import read_record
from petseg.core.progress import progress
from petseg.data.batches import mirrored, resized, to_input
from petseg.data.images import resize_photo
from petseg.errors import BrokenRecord, DamagedFile, DataError
from petseg.models.description import Described
from petseg.models.masking import Thresholds, cleaned, cut
from petseg.models.networks import build_network, placed
from petseg.models.weights import load_tensors, sha256_tensors
from petseg.params import OUTPUTS, Edge, ModelParams

_STRIP_PX = 1 << 18  # how many pixels of a large photo are enlarged at once


@dataclass(frozen=True)
class Predictor:
    """A trained network, ready to use.

    Attributes:
        network: in evaluation mode, on ``device``.
        about: the content of its model.json.
        device: the device on which it computes.
        flip_average: whether a prediction is the mean of those for the photo and for its mirror image.
    """

    network: nn.Module
    about: dict[str, Any]
    device: torch.device
    flip_average: bool

    @classmethod
    def load(cls, weights: Path, about: Path, device: torch.device, flip_average: bool) -> Self:
        """Load a model from its two files.

        Raises:
            DamagedFile: a file is damaged, or the two do not belong together.
        """
        tensors, _ = load_tensors(weights)
        try:
            described = cast("dict[str, Any]", read_record(about, Described))
            if described["tensors_sha256"] != sha256_tensors(tensors):
                raise ValueError("it is of other weights")
            network = _network_of(described, tensors)
        except (OSError, ValueError, RuntimeError, BrokenRecord) as error:
            reason = " ".join(str(error).split())
            raise DamagedFile(f"{about}: does not describe {weights} ({reason:.200})") from None
        return cls(placed(folded(network.eval()), device), described, device, flip_average)

    @property
    def has_two_outputs(self) -> bool:
        """Whether the network has both OUTPUTS; if not, its one output stands for both."""
        return has_two_outputs(self.about)

    @property
    def size_px(self) -> int:
        """The side of the squares that the network was trained on."""
        return int(self.about["image_size"])

    @torch.inference_mode()
    def probability(self, images: NDArray[np.uint8], batch_size: int, what: str = "predict") -> Tensor:
        """Predict packed photos.

        Args:
            images: (N, S, S, 3) uint8, of the size that the network was trained on.
            batch_size: number of photos at once.
            what: the name of the work, for the progress bar.

        Returns:
            (N, 2, S, S) float32, the probabilities of OUTPUTS, on the CPU.

        Raises:
            DataError: the photos have another size.
        """
        if images.shape[1:] != (self.size_px, self.size_px, 3):
            raise DataError(
                f"photos of shape {images.shape[1:]} do not fit the model, which was trained on "
                f"{self.size_px}x{self.size_px}; run dvc repro train"
            )
        result = torch.empty(len(images), len(OUTPUTS), *images.shape[1:3])
        with progress(what, len(images), transient=True) as advance:
            for start in range(0, len(images), batch_size):
                batch = to_input(torch.from_numpy(images[start : start + batch_size]).to(self.device))
                result[start : start + batch_size] = self.segment(batch).cpu()
                advance(len(batch))
        return result

    def segment(self, batch: Tensor) -> Tensor:
        """Map a network input, (N, 3, S, S) float, to the probabilities of OUTPUTS, (N, 2, S, S) float32."""
        probability: Tensor = self.network(batch).float().sigmoid()
        if self.flip_average:
            flipped = mirrored(self.network(mirrored(batch)).float().sigmoid())
            probability = (probability + flipped) / 2
        return probability.expand(-1, len(OUTPUTS), -1, -1)

    @torch.inference_mode()
    def probability_of(self, photo: Image.Image) -> NDArray[np.float32]:
        """Predict one RGB photo of any size, resized as in preprocess.

        The photo is predicted alone, so that its bits do not depend on other photos.

        Returns:
            (2, S, S), the probabilities of OUTPUTS; ``at_own_size`` enlarges them.
        """
        packed = torch.tensor(resize_photo(photo, self.size_px), device=self.device)
        batch = to_input(packed[None])
        if not self.flip_average:
            return self.segment(batch)[0].cpu().numpy()
        # The same as segment, in one call of the network: faster, but exporters can't trace it.
        both: Tensor = self.network(torch.cat([batch, mirrored(batch)])).float().sigmoid()
        return ((both[0] + mirrored(both[1])) / 2).expand(len(OUTPUTS), -1, -1).cpu().numpy()

    @torch.inference_mode()
    def masks_at_own_size(
        self, photos: Iterable[Image.Image], thresholds: Thresholds, edge: Edge, *, clean: bool
    ) -> list[NDArray[np.uint8]]:
        """Segment photos of any size: resize as in preprocess, predict, enlarge the probabilities.

        Args:
            photos: RGB; taken one by one, so that no two of them need to be in memory.
            thresholds: for each output, the probability from which a pixel belongs to its mask.
            edge: whether the mask covers the whole pet, or the pet within its border strip.
            clean: whether small islands are dropped and small holes are filled.

        Returns:
            For each photo (H, W) uint8; 1 is pet.
        """

        def shrunk(photo: Image.Image) -> tuple[NDArray[np.uint8], tuple[int, int]]:
            return resize_photo(photo, self.size_px), photo.size

        taken = list(map(shrunk, photos))  # a comprehension would keep a photo until it has the next one
        probability = self.probability(np.stack([small for small, _ in taken]), batch_size=16)
        masks = []
        for each, (_, (width, height)) in zip(probability.numpy(), taken, strict=True):
            mask = np.empty((height, width), np.uint8)
            own = OwnSize(cleaned(each, thresholds) if clean else each, mask.shape, thresholds)
            for columns, _, both in own.strips():
                mask[:, columns] = both[OUTPUTS.index(edge)]
            masks.append(mask)
        return masks


def _network_of(described: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """Build the network that model.json describes, with these weights.

    It gets no memory of its own, because a description may name a network that no machine can hold.

    Raises:
        ValueError, RuntimeError: there is no such network, or the weights belong to another one.
    """
    with torch.device("meta"):
        network = build_network(ModelParams.model_validate(described["model"]))
        if not has_two_outputs(described):
            network.keep_one_output()
    kinds = {name: value.dtype for name, value in network.state_dict().items()}
    copies = {name: value.to(kinds.get(name, value.dtype), copy=True) for name, value in tensors.items()}
    network.load_state_dict(copies, assign=True)
    if described["image_size"] % network.size_step:
        raise ValueError(f"image_size is no multiple of {network.size_step}")
    return network


def has_two_outputs(about: dict[str, Any]) -> bool:
    """Return whether a network has both OUTPUTS, from its model.json; older networks have one."""
    return "outputs" in about


def folded(network: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions before them, in place: the same function in less time.

    Args:
        network: in evaluation mode.
    """
    for block in network.modules():
        if isinstance(block, nn.Sequential):
            for place, (convolution, norm) in enumerate(pairwise(list(block))):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[place] = fuse_conv_bn_eval(convolution, norm)
                    block[place + 1] = nn.Identity()
    return network


def at_own_size(probability: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Enlarge or shrink one photo's probabilities, (2, S, S), to the photo's (2, H, W)."""
    if probability.shape[1:] == shape:
        return probability
    fitting: NDArray[np.float32] = resized(torch.from_numpy(probability)[None], *shape)[0].numpy()
    return fitting


@dataclass(frozen=True)
class OwnSize:
    """One photo's probabilities and masks at the photo's own size, in strips: at once they would take GBs.

    Attributes:
        small: (2, S, S), the probabilities as the network gives them, or cleaned.
        shape: (H, W), the size of the photo.
        thresholds: for each output, the probability from which a pixel belongs to its mask.
    """

    small: NDArray[np.float32]
    shape: tuple[int, int]
    thresholds: Thresholds

    def strips(self) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield columns, their probabilities and their masks, (2, H, columns): the same bits as ``enlarged``.

        An image is enlarged along its rows first, and then along its columns, so the strips are independent.
        """
        height, width = self.shape
        count = -(-height * width // _STRIP_PX)
        if count <= 1:
            yield slice(0, width), *enlarged(self.small, self.shape, self.thresholds, clean=False)
            return
        wide = at_own_size(self.small, (self.small.shape[1], width))
        ends = [width * strip // count for strip in range(count + 1)]
        for start, end in pairwise(ends):
            columns = np.ascontiguousarray(wide[:, :, start:end])
            yield (
                slice(start, end),
                *enlarged(columns, (height, end - start), self.thresholds, clean=False),
            )


def enlarged(
    small: NDArray[np.float32], shape: tuple[int, ...], thresholds: Thresholds, *, clean: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return one photo's probabilities at its own size, and the masks that are cut from them.

    Args:
        small: (2, S, S), the probabilities as the network gives them.
        shape: (H, W), the size of the photo.
        thresholds: for each output, the probability from which a pixel belongs to its mask.
        clean: whether small islands are dropped and small holes are filled.
    """
    probability = at_own_size(cleaned(small, thresholds) if clean else small, shape)
    return probability, cut(probability, thresholds)
