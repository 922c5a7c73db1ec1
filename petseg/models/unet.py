"""UNet: an encoder that halves, a decoder that doubles, and a skip at every scale.

Source: Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597), with padded convolutions and batch norm.
"""

from itertools import pairwise

from torch import Tensor, cat, nn
from torch.nn import functional as F

from petseg.errors import ShapeMismatch


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """Double the size, put the encoder's features of that size beside it, convolve both."""

    def __init__(self, channels_below: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_below, channels_out, 2, stride=2)
        self.conv = DoubleConv(channels_skip + channels_out, channels_out)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        features: Tensor = self.conv(cat([skip, self.up(below)], dim=1))
        return features


class UNet(nn.Module):
    """A UNet of any width and depth.

    Args:
        width: channels of the first level; each level below has twice as many.
        depth: how often the photo is halved.
        dropout: probability that a feature map is dropped before the last layer.

    Attributes:
        size_step: what a photo's height and width must be multiples of, in pixels.
    """

    def __init__(self, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.size_step = 2**depth
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = DoubleConv(3, width)
        self.down = nn.ModuleList(DoubleConv(above, below) for above, below in pairwise(channels))
        self.up = nn.ModuleList(UpBlock(below, above, above) for below, above in pairwise(reversed(channels)))
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, photos: Tensor) -> Tensor:
        """Return logits of pet.

        Args:
            photos: (N, 3, H, W) float; H and W are multiples of 2 ** depth.

        Returns:
            (N, 1, H, W) float.

        Raises:
            ShapeMismatch: H or W is no such multiple.
        """
        height, width = photos.shape[-2:]
        step = self.size_step
        if height % step or width % step:
            fitting = (height // step * step, width // step * step)
            raise ShapeMismatch(f"photo for a UNet of depth {len(self.down)}", (height, width), fitting)
        features = self.stem(photos)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(F.max_pool2d(features, 2))
        for up in self.up:
            features = up(features, skips.pop())
        logits: Tensor = self.head(self.dropout(features))
        return logits
