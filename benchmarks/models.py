"""The size and the speed of the networks: ``python -m benchmarks.models`` prints a Markdown table."""

import statistics
import time
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.__main__ import ROOT
from petseg.models.device import set_up_torch
from petseg.models.networks import build_network, parameter_count, placed
from petseg.params import ModelParams, Params, load_params
from petseg.training.loop import train_step
from petseg.training.optim import build_optimizer

SIZES: tuple[dict[str, object], ...] = (
    {"name": "unet", "width": 8, "depth": 4},
    {"name": "unet", "width": 16, "depth": 4},
    {"name": "unet", "width": 16, "depth": 5},
    {"name": "unet", "width": 32, "depth": 4},
    {"name": "unet", "width": 64, "depth": 4},
    {"name": "resnet34_unet", "width": 16},
    {"name": "resnet34_unet", "width": 32},
)
STEPS = 5  # timed, after a step that warms up


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    params = load_params(ROOT / "params.yaml")
    device = set_up_torch(params.train.device, params.train.threads)
    side, batch = params.data.image_size, batch_size(params, device)
    print(
        f"{side} px, batch {batch}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| network | parameters, M | GFLOP per photo, forward | training images/s, fp32 | bf16 |")
    print("|---|---|---|---|---|")
    for model in SIZES:
        print(f"| {' | '.join(row(params, model, device))} |", flush=True)


def row(params: Params, changes: dict[str, object], device: torch.device) -> Iterator[str]:
    """Yield the cells of one network."""
    model = ModelParams.model_validate(params.model.model_dump() | changes)
    network = placed(build_network(model), device)
    yield ", ".join(str(value) if key == "name" else f"{key} {value}" for key, value in changes.items())
    yield f"{parameter_count(network) / 1e6:.1f}"
    photo = torch.zeros(1, 3, params.data.image_size, params.data.image_size, device=device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.eval()(photo)
    yield f"{counter.get_total_flops() / 1e9:.2f}"
    for precision in ("fp32", "bf16"):
        yield f"{images_per_s(params, model, precision, device):.0f}"


def images_per_s(params: Params, model: ModelParams, precision: str, device: torch.device) -> float:
    """Return the images per second of training steps on random photos, the median of a few."""
    train = params.train.model_copy(update={"precision": precision})
    network = placed(build_network(model), device).train()
    optimizer = build_optimizer(network, train)
    size = (batch_size(params, device), 3, params.data.image_size, params.data.image_size)
    photos, masks = torch.randn(size, device=device), torch.rand(size, device=device)[:, :2].round()
    seconds = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        loss, _ = train_step(network, optimizer, photos, masks, train, train.learning_rate)
        loss.item()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    return size[0] / statistics.median(seconds[1:])


def batch_size(params: Params, device: torch.device) -> int:
    """Return the default batch size, or on a GPU a size that keeps it busy."""
    return 256 if device.type == "cuda" else params.train.batch_size


if __name__ == "__main__":
    main()
