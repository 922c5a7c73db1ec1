"""ResNet34-UNet: a ResNet34 as the encoder, and UNet's decoder with a skip at every scale.

Sources: He et al. 2015 (arXiv:1512.03385), Ronneberger et al. 2015 (arXiv:1505.04597). The encoder is
torchvision's own module, so its published weights load under their own names.
"""

from pathlib import Path

from torch import Tensor, nn

from petseg.errors import DamagedFile, EncoderError
from petseg.models.network import Network, UpBlock
from petseg.models.weights import load_foreign_tensors

_CHANNELS = (64, 64, 128, 256, 512)  # of ResNet34, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the photo's size


class ResNet34UNet(Network):
    """A UNet whose encoder is ResNet34.

    Args:
        width: channels of the decoder's last level, at the photo's size; each level below has twice as many.
        dropout: probability that a feature map is dropped before the last layer.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        from torchvision.models import resnet34  # here: it takes as long as torch, and UNet does not need it

        super().__init__(width, len(_CHANNELS), dropout)
        self.stem = nn.Sequential(  # the skip at full resolution, where ResNet34 has no features
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.encoder = resnet34()
        del self.encoder.avgpool, self.encoder.fc
        skips = (width, *_CHANNELS[:-1])
        decoded = [width * 2**level for level in range(len(skips))]
        below = (*decoded[1:], _CHANNELS[-1])
        self.up = nn.ModuleList(
            UpBlock(*channels) for channels in reversed(list(zip(below, skips, decoded, strict=True)))
        )

    def features(self, photos: Tensor) -> Tensor:
        resnet = self.encoder
        half = resnet.relu(resnet.bn1(resnet.conv1(photos)))
        quarter = resnet.layer1(resnet.maxpool(half))
        eighth = resnet.layer2(quarter)
        sixteenth = resnet.layer3(eighth)
        features: Tensor = resnet.layer4(sixteenth)
        for up, skip in zip(self.up, (sixteenth, eighth, quarter, half, self.stem(photos)), strict=True):
            features = up(features, skip)
        return features


def load_encoder(network: nn.Module, path: Path) -> None:
    """Load published weights into the encoder: a state dict of torchvision's resnet34.

    The file's classifier (``fc``) is left out; every other name and shape must fit.

    Raises:
        EncoderError: the file can't be read, or does not hold a ResNet34.
    """
    assert isinstance(network, ResNet34UNet)
    try:
        weights = load_foreign_tensors(path)
    except DamagedFile as error:
        raise EncoderError(str(error)) from None
    weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    if odd := [name for name, value in weights.items() if value.is_complex()]:
        raise EncoderError(f"{path}: holds complex numbers in {odd[0]}")
    if broken := [name for name, value in weights.items() if not value.float().isfinite().all()]:
        raise EncoderError(f"{path}: holds NaN or infinity in {broken[0]}")
    try:
        network.encoder.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EncoderError(f"{path}: is not a ResNet34 of torchvision ({reason:.160})") from None
