import pytest
import torch

from petseg.data.arrays import PetArrays
from petseg.data.batches import load_photos, to_input, to_target
from petseg.errors import ShapeMismatch
from petseg.models import MODELS, build_network, parameter_count, placed
from petseg.models.unet import UNet
from petseg.optim import build_optimizer
from petseg.params import ModelParams, Params
from petseg.scoring import mean_dice
from petseg.training import predict_masks, train_step

CPU = torch.device("cpu")


@pytest.mark.parametrize(("width", "depth", "size"), [(4, 1, 16), (8, 3, 32), (16, 4, 128), (3, 5, 64)])
def test_logits_have_the_photos_size(width: int, depth: int, size: int) -> None:
    network = UNet(width, depth).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 1, size, size)
    assert network(torch.zeros(1, 3, size, 2 * size)).shape == (1, 1, size, 2 * size)


def conv_pair(channels_in: int, channels_out: int) -> int:
    """Parameters of two 3x3 convolutions without bias and two batch norms."""
    return 9 * channels_out * (channels_in + channels_out) + 4 * channels_out


def test_the_number_of_parameters() -> None:
    w = 16
    down = conv_pair(3, w) + sum(conv_pair(w * 2**i, w * 2 ** (i + 1)) for i in range(4))
    up = sum(4 * 2 * c * c + c + conv_pair(2 * c, c) for c in (w, 2 * w, 4 * w, 8 * w))
    assert parameter_count(UNet(w, 4)) == down + up + w + 1


def test_every_scale_reaches_the_logits() -> None:
    """Without its skip, or without what is below, the output of each level must change."""
    torch.manual_seed(0)
    network = UNet(4, 3)
    photo = torch.randn(2, 3, 32, 32)
    whole = network(photo)
    for level in [network.stem, *network.down]:
        hook = level.register_forward_hook(lambda *_: torch.zeros_like(_[2]))
        assert not torch.allclose(network(photo), whole, atol=1e-4)
        hook.remove()
    assert torch.equal(network(photo), whole)


def test_a_size_that_can_not_be_halved_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"depth 3: shapes \(30, 32\) and \(24, 32\) differ"):
        UNet(4, 3)(torch.zeros(1, 3, 30, 32))


def test_dropout_is_of_training_alone() -> None:
    torch.manual_seed(0)
    network, photo = UNet(4, 1, dropout=0.5), torch.randn(2, 3, 16, 16)
    assert not torch.equal(network(photo), network(photo))
    network.eval()
    assert torch.equal(network(photo), network(photo))


@pytest.mark.parametrize("name", MODELS)
def test_a_network_learns_eight_photos_by_heart(name: str, sample_arrays: PetArrays, params: Params) -> None:
    torch.manual_seed(0)
    model = ModelParams.model_validate({"name": name, "width": 8, "depth": 3, "dropout": 0.0})
    network = placed(build_network(model), CPU)
    photos = load_photos(sample_arrays, "train", "foreground", CPU)
    images, trimaps = photos.images[::34][:8], photos.trimaps[::34][:8]
    assert len(images) == 8
    mask, valid = to_target(trimaps, "foreground")
    optimizer = build_optimizer(network, params.train)
    for _ in range(250):
        train_step(network, optimizer, to_input(images), mask, valid, params.train, 1e-2)
    masks = torch.from_numpy(predict_masks(network, images))
    assert mean_dice(masks, trimaps, "foreground") > 0.99
