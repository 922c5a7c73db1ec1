"""The networks, by the name that model.name gives them.

Each maps photos, (N, 3, S, S) float, to logits, (N, 2, S, S) float, as OUTPUTS.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from petseg.models.network import Network
from petseg.models.resnet34_unet import ResNet34UNet
from petseg.models.unet import UNet
from petseg.params import ModelParams

AnyModule = TypeVar("AnyModule", bound=nn.Module)

MODELS: dict[str, Callable[[ModelParams], Network]] = {
    "unet": lambda params: UNet(params.width, params.depth, params.dropout),
    "resnet34_unet": lambda params: ResNet34UNet(params.width, params.dropout),
}
_UNUSED = {"unet": {"encoder_weights"}, "resnet34_unet": {"depth"}}


def build_network(params: ModelParams) -> Network:
    """Build a network with random weights, from torch's global random state."""
    return MODELS[params.name](params)


def settings_of(params: ModelParams) -> dict[str, object]:
    """Return the settings that this network uses, ``{"model.name": ...}``; only these are in its run keys."""
    unused = _UNUSED[params.name]
    return {f"model.{key}": value for key, value in params if key not in unused}


def placed(network: AnyModule, device: torch.device) -> AnyModule:
    """Move a network to a device, and its weights to the memory format in which convolutions are fastest."""
    # torch's stubs lack the memory format of a module.
    moved: AnyModule = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def parameter_count(network: nn.Module) -> int:
    """Return the number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
