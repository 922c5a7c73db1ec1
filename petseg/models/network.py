"""The base class of the networks, and the blocks of UNet.

Source: Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597), with padded convolutions and batch norm.
"""

from abc import abstractmethod

from torch import Tensor, cat, nn
from torch.nn import functional as F

from petseg.errors import ShapeMismatch
from petseg.params import OUTPUTS


class Network(nn.Module):
    """A network that halves a photo several times, and returns to its size with features for each pixel.

    Args:
        width: number of features of a pixel at the end.
        halvings: how often the photo is halved.
        dropout: probability that a feature map is dropped before the last layer.

    The head gives a logit for each of petseg.params.OUTPUTS. ``keep_one_output`` reduces it to one output,
    which is what older networks have.

    Attributes:
        size_step: a photo's height and width must be multiples of this, in pixels.
    """

    def __init__(self, width: int, halvings: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.size_step: int = 2**halvings
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(width, len(OUTPUTS), 1)

    @abstractmethod
    def features(self, photos: Tensor) -> Tensor:
        """Return the features, (N, width, H, W) float, of photos, (N, 3, H, W) float."""

    def forward(self, photos: Tensor) -> Tensor:
        """Return the logits of the whole pet, and those of the pet within its border, which are never higher.

        Args:
            photos: (N, 3, H, W) float, normalized; H and W are multiples of ``size_step``.

        Returns:
            (N, 2, H, W) float, as OUTPUTS; (N, 1, H, W) for a network with one output.

        Raises:
            ShapeMismatch: H or W is not such a multiple.
        """
        size = photos.shape[-2:]
        fitting = tuple(side // self.size_step * self.size_step for side in size)
        if size != fitting:
            raise ShapeMismatch(
                f"photo for a {type(self).__name__} and multiples of {self.size_step}", size, fitting
            )
        logits: Tensor = self.head(self.dropout(self.features(photos)))
        if logits.shape[1] == 1:
            return logits
        whole, border = logits[:, :1], logits[:, 1:]
        return cat([whole, whole - F.softplus(border)], dim=1)

    def keep_one_output(self) -> None:
        """Replace the head by one with a single output, as older networks have it."""
        self.head = nn.Conv2d(self.head.in_channels, 1, 1)


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
    """Double the size, append the encoder's features of that size, and convolve both."""

    def __init__(self, channels_below: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_below, channels_out, 2, stride=2)
        self.conv = DoubleConv(channels_skip + channels_out, channels_out)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        features: Tensor = self.conv(cat([skip, self.up(below)], dim=1))
        return features
