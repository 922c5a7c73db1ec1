from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet34

from petseg.data.arrays import PetArrays
from petseg.data.batches import load_photos, masks_of_outputs, to_input
from petseg.errors import ShapeMismatch
from petseg.evaluation.metrics import mean_dice
from petseg.models.networks import MODELS, build_network, parameter_count, placed, settings_of
from petseg.models.resnet34_unet import ResNet34UNet
from petseg.models.unet import UNet
from petseg.params import Boundary, ModelParams, Params
from petseg.training.loop import predict_masks, train_step
from petseg.training.optim import build_optimizer

CPU = torch.device("cpu")


@pytest.mark.parametrize(("width", "depth", "size"), [(4, 1, 16), (8, 3, 32), (16, 4, 128), (3, 5, 64)])
def test_logits_have_the_size_of_the_photos(width: int, depth: int, size: int) -> None:
    network = UNet(width, depth).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 2, size, size)
    assert network(torch.zeros(1, 3, size, 2 * size)).shape == (1, 2, size, 2 * size)


def model_of(name: str) -> ModelParams:
    small = {"name": name, "width": 8, "depth": 3, "dropout": 0.0, "encoder_weights": "none"}
    return ModelParams.model_validate(small)


def conv_pair(channels_in: int, channels_out: int) -> int:
    """Count the parameters of two 3x3 convolutions without bias and two batch norms."""
    return 9 * channels_out * (channels_in + channels_out) + 4 * channels_out


def test_the_number_of_parameters() -> None:
    w = 16
    down = conv_pair(3, w) + sum(conv_pair(w * 2**i, w * 2 ** (i + 1)) for i in range(4))
    up = sum(4 * 2 * c * c + c + conv_pair(2 * c, c) for c in (w, 2 * w, 4 * w, 8 * w))
    assert parameter_count(UNet(w, 4)) == down + up + 2 * (w + 1)


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(
        ShapeMismatch, match=r"UNet and multiples of 8: shapes \(30, 32\) and \(24, 32\) differ"
    ):
        UNet(4, 3)(torch.zeros(1, 3, 30, 32))


def test_dropout_acts_only_in_training() -> None:
    torch.manual_seed(0)
    network, photo = UNet(4, 1, dropout=0.5), torch.randn(2, 3, 16, 16)
    assert not torch.equal(network(photo), network(photo))
    network.eval()
    assert torch.equal(network(photo), network(photo))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (128, 128)])
def test_a_resnet34_unet_accepts_any_multiple_of_32(height: int, width: int) -> None:
    network = ResNet34UNet(8).eval()
    assert network(torch.zeros(2, 3, height, width)).shape == (2, 2, height, width)
    with pytest.raises(
        ShapeMismatch, match=r"ResNet34UNet and multiples of 32: shapes \(48, 32\) and \(32, 32\) differ"
    ):
        network(torch.zeros(1, 3, 48, 32))


def test_the_encoder_has_the_names_and_shapes_of_torchvision() -> None:
    """So published weights load by their names, and none is silently left out."""
    oracle = resnet34()
    expected = {name: value.shape for name, value in oracle.state_dict().items() if not name.startswith("fc")}
    encoder = ResNet34UNet(16).encoder
    assert {name: value.shape for name, value in encoder.state_dict().items()} == expected


def test_the_encoder_computes_the_same_as_torchvision() -> None:
    """No norm and no ReLU between the layers is left out, and no skip is changed in place."""
    torch.manual_seed(0)
    network, photo = ResNet34UNet(4).eval(), torch.randn(1, 3, 64, 64)
    oracle = resnet34().eval()
    oracle.load_state_dict(network.encoder.state_dict(), strict=False)
    names = ("relu", "layer1", "layer2", "layer3", "layer4")
    seen: dict[str, Tensor] = {}
    for name in names:
        getattr(oracle, name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out.clone()})
        )
    oracle(photo)
    taken = {}

    def note(place: int) -> Callable[..., None]:
        return lambda _, inputs: taken.update({place: [value.clone() for value in inputs]})

    for place, up in enumerate(network.up):
        up.register_forward_pre_hook(note(place))
    network(photo)
    torch.testing.assert_close(taken[0][0], seen["layer4"])
    for place, name in enumerate(("layer3", "layer2", "layer1", "relu")):
        torch.testing.assert_close(taken[place][1], seen[name])
    assert taken[4][1].shape[2:] == photo.shape[2:]  # the skip at full resolution


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("place", [0, 1], ids=["below", "skip"])
def test_every_level_and_every_skip_affects_the_logits(name: str, place: int) -> None:
    torch.manual_seed(0)
    network, photo = build_network(model_of(name)), torch.randn(2, 3, 64, 64)
    whole = network(photo)
    levels = network.up
    assert isinstance(levels, nn.ModuleList)

    def without(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(x) if i == place else x for i, x in enumerate(inputs))

    for level in levels:
        hook = level.register_forward_pre_hook(without)
        assert not torch.allclose(network(photo), whole, atol=1e-4)
        hook.remove()
    assert torch.equal(network(photo), whole)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_learns(name: str, params: Params) -> None:
    """No weight is frozen, unused, or stored under two names."""
    torch.manual_seed(0)
    network = placed(build_network(model_of(name)), CPU)
    # Adam's first step changes each weight that has a gradient. Weight decay would change the others too.
    train = params.train.model_copy(update={"optimizer": "adam", "weight_decay": 0.0})
    optimizer = build_optimizer(network, train)
    photos, masks = torch.randn(2, 3, 64, 64), torch.rand(2, 2, 64, 64).round()
    before = {key: value.clone() for key, value in network.named_parameters()}
    train_step(network, optimizer, photos, masks, train, 1e-2)
    assert [key for key, value in network.named_parameters() if torch.equal(value, before[key])] == []
    held = [value.data_ptr() for value in network.state_dict().values()]
    assert len(set(held)) == len(held)


@pytest.mark.parametrize("name", MODELS)
def test_the_second_logit_is_never_above_the_first(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(model_of(name))
    with torch.no_grad():
        network.head.weight.mul_(1000)
    whole, tight = network(torch.randn(2, 3, 64, 64)).unbind(1)
    assert (tight <= whole).all()
    assert (tight < whole).any()


@pytest.mark.parametrize("name", MODELS)
def test_a_pixel_of_the_mask_depends_on_the_photo_around_it(name: str) -> None:
    """A decoder with a shifted or half-sized output would learn only blobs."""
    torch.manual_seed(0)
    network = build_network(model_of(name)).eval()
    photo = torch.randn(1, 3, 64, 64, requires_grad=True)
    for row, column in ((5, 50), (40, 20)):
        (sensitivity,) = torch.autograd.grad(network(photo)[0, 0, row, column], photo)
        found = sensitivity.abs().sum((0, 1))
        assert divmod(int(found.argmax()), 64) == pytest.approx((row, column), abs=6)


@pytest.mark.parametrize("name", MODELS)
def test_settings_that_a_network_does_not_use_do_not_change_its_key(name: str) -> None:
    changed = model_of(name).model_copy(update={"depth": 2, "encoder_weights": "x"})
    other = {key for key, value in settings_of(changed).items() if settings_of(model_of(name))[key] != value}
    assert other == {"unet": {"model.depth"}, "resnet34_unet": {"model.encoder_weights"}}[name]


@pytest.mark.parametrize("name", MODELS)
def test_a_network_has_the_size_step_that_it_accepts(name: str) -> None:
    network = build_network(model_of(name)).eval()
    step = network.size_step
    assert network(torch.zeros(1, 3, step, 2 * step)).shape == (1, 2, step, 2 * step)
    with pytest.raises(ShapeMismatch):
        network(torch.zeros(1, 3, step + step // 2, step))


@pytest.mark.whole
@pytest.mark.parametrize("name", ["unet", pytest.param("resnet34_unet", marks=pytest.mark.slow)])
def test_a_network_learns_eight_photos_by_heart(name: str, sample_arrays: PetArrays, params: Params) -> None:
    torch.manual_seed(0)
    model = model_of(name)
    network = placed(build_network(model), CPU)
    photos = load_photos(sample_arrays, "train", CPU)
    images, trimaps = photos.images[::5, ::2, ::2][:8], photos.trimaps[::5, ::2, ::2][:8]  # at 32x32
    assert len(images) == 8
    train = params.train.model_copy(update={"optimizer": "adamw"})
    optimizer = build_optimizer(network, train)
    steps, rate = {"unet": (250, 1e-2), "resnet34_unet": (160, 2e-3)}[name]
    dice = 0.0
    while dice <= 0.99 and steps > 0:
        for _ in range(10):
            network.train()
            train_step(network, optimizer, to_input(images), masks_of_outputs(trimaps), train, rate)
        steps -= 10
        masks = torch.from_numpy(predict_masks(network, images))
        rules: tuple[Boundary, ...] = ("foreground", "background")
        dice = min(mean_dice(masks[:, place], trimaps, rule) for place, rule in enumerate(rules))
    assert dice > 0.99
