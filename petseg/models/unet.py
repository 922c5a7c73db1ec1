"""UNet: an encoder that halves, a decoder that doubles, and a skip at every scale."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from petseg.models.network import DoubleConv, Network, UpBlock


class UNet(Network):
    """A UNet of any width and depth.

    Args:
        width: channels of the first level; each level below has twice as many.
        depth: how often the photo is halved.
        dropout: probability that a feature map is dropped before the last layer.
    """

    def __init__(self, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__(width, depth, dropout)
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = DoubleConv(3, width)
        self.down = nn.ModuleList(DoubleConv(above, below) for above, below in pairwise(channels))
        self.up = nn.ModuleList(UpBlock(below, above, above) for below, above in pairwise(reversed(channels)))

    def features(self, photos: Tensor) -> Tensor:
        features: Tensor = self.stem(photos)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(F.max_pool2d(features, 2))
        for up in self.up:
            features = up(features, skips.pop())
        return features
