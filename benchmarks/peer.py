"""Comparisons with alternatives: the Unet of segmentation_models_pytorch, and a background remover.

``python -m benchmarks.peer step``     times training steps of both, in turn, in one process
``python -m benchmarks.peer train``    trains the peer as in its own Oxford-Pet example, on the same arrays
``python -m benchmarks.peer remover``  tries a background remover on the test photos: benchmarks/remover.py

The first peer, Unet("resnet34"), is installed into its own environment, .venv-peer, which uses the torch of
this one.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import remover
from petseg.data.arrays import PetArrays
from petseg.data.batches import Photos, load_photos, mask_of_rule, masks_of_outputs, mirrored, to_input
from petseg.errors import PetsegError
from petseg.evaluation.metrics import count_against, mean, mean_dice
from petseg.evaluation.thresholds import choose_threshold
from petseg.models.device import environment, set_up_torch
from petseg.models.networks import build_network, placed
from petseg.params import Params, load_params
from petseg.training.loop import predict_masks, train_step
from petseg.training.optim import build_optimizer

ROOT = Path(__file__).resolve().parent.parent
PEER = "segmentation-models-pytorch==0.6.0"
ENVIRONMENT = ROOT / ".venv-peer"
RESULT = ROOT / "docs/results/peer.json"
BATCH, LEARNING_RATE, LOWEST_RATE = 16, 2e-4, 1e-5  # from the peer's example
EPOCHS = 30  # takes about as long as petseg's ResNet34-UNet at its defaults
ROUNDS, STEPS = 5, 4


def main() -> None:
    """Install the peer if necessary, and continue in its environment."""
    if sys.argv[1:] == ["remover"]:
        remover.main()
        return
    if sys.argv[1:] not in (["step"], ["train"]):
        sys.exit("usage: python -m benchmarks.peer step | train | remover")
    if Path(sys.prefix) != ENVIRONMENT:
        install()
        python = ENVIRONMENT / "bin/python"
        command = [str(python), "-m", "benchmarks.peer", *sys.argv[1:]]
        os.execve(python, command, os.environ | {"PYTHONPATH": str(ROOT)})
    params = load_params(ROOT / "params.yaml")
    set_up_torch("cpu", params.train.threads)
    arrays = PetArrays.open(ROOT / "data/pets")
    compare_steps(params, arrays) if sys.argv[1] == "step" else train(arrays)


def install() -> None:
    """Make .venv-peer with the peer and the packages that this environment lacks."""
    if (ENVIRONMENT / ".made").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    (ours,) = Path(sys.prefix).glob("lib/python*/site-packages")
    (theirs,) = ENVIRONMENT.glob("lib/python*/site-packages")
    (theirs / "borrowed.pth").write_text(f"{ours}\n")
    subprocess.run([ENVIRONMENT / "bin/python", "-m", "pip", "install", "--quiet", PEER], check=True)
    (ENVIRONMENT / ".made").touch()


def build_peer() -> nn.Module:
    """Return the peer's network with random weights."""
    import segmentation_models_pytorch as smp

    network: nn.Module = smp.Unet("resnet34", encoder_weights=None, in_channels=3, classes=1)
    return network


def peer_step(network: nn.Module, optimizer: torch.optim.Optimizer, photos: Tensor, mask: Tensor) -> Tensor:
    """Do a training step as in the peer's example, with its own Dice loss over the whole batch."""
    import segmentation_models_pytorch as smp

    loss: Tensor = smp.losses.DiceLoss(smp.losses.BINARY_MODE, from_logits=True)(network(photos), mask)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()


def compare_steps(params: Params, arrays: PetArrays) -> None:
    """Time training steps of both ResNet34-UNets, in turn, and print a Markdown table."""
    photos = load_photos(arrays, "train", torch.device("cpu"))
    inputs = to_input(photos.images[:BATCH])
    masks = masks_of_outputs(photos.trimaps[:BATCH])
    model = params.model.model_copy(update={"name": "resnet34_unet"})
    ours = placed(build_network(model), torch.device("cpu")).train()
    our_optimizer = build_optimizer(ours, params.train)
    steps: dict[str, Callable[[], object]] = {
        "petseg resnet34_unet": lambda: train_step(
            ours, our_optimizer, inputs, masks, params.train, params.train.learning_rate
        )
    }
    laid_out = {
        "default layout": (build_peer(), torch.contiguous_format),
        "channels_last": (placed(build_peer(), torch.device("cpu")), torch.channels_last),
    }
    for name, (peer, layout) in laid_out.items():
        optimizer = torch.optim.Adam(peer.train().parameters(), lr=LEARNING_RATE)
        given = inputs.contiguous(memory_format=layout)

        def one_step(
            network: nn.Module = peer, optimizer: torch.optim.Adam = optimizer, given: Tensor = given
        ) -> None:
            peer_step(network, optimizer, given, masks[:, :1])

        steps[f"peer, {name}"] = one_step
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            for _ in range(STEPS):
                step()
            if turn:  # the first turn warms up
                rates[name].append(STEPS * BATCH / (time.perf_counter() - started))
    print(
        f"{arrays.size_px} px, batch {BATCH}, {torch.get_num_threads()} threads, median of {ROUNDS} turns\n"
    )
    print("| training step | images/s | relative to the faster peer |\n|---|---|---|")
    fastest = [max(turn) for turn in zip(*(rates[name] for name in rates if "peer" in name), strict=True)]
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, fastest, strict=True))
        print(f"| {name} | {statistics.median(values):.1f} | {ratio:.2f} |")


def train(arrays: PetArrays) -> None:
    """Train the peer, score it after each epoch, and save the curve and the Dice of each photo."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    training, validation = (load_photos(arrays, part, device) for part in ("train", "val"))
    network = build_peer()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    steps = -(-len(training) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps, LOWEST_RATE)
    history = []
    for epoch in range(1, EPOCHS + 1):
        started = time.monotonic()
        network.train()
        for rows in torch.split(torch.randperm(len(training)), BATCH):
            mask, _ = mask_of_rule(training.trimaps[rows], "foreground")
            peer_step(network, optimizer, to_input(training.images[rows]).contiguous(), mask)
            schedule.step()
        masks = torch.from_numpy(predict_masks(network, validation.images)).squeeze(1)
        val_dice = mean_dice(masks, validation.trimaps, "foreground")
        row = {"epoch": epoch, "val_dice": val_dice, "elapsed_s": time.monotonic() - started}
        history.append(row)
        print(
            "epoch {epoch:>2}/{of}  val Dice {val_dice:.4f}  {elapsed_s:.1f} s".format(of=EPOCHS, **row),
            flush=True,
        )
    about = {"peer": PEER, "environment": environment(device), "image_size": arrays.size_px}
    about |= {"photos_sha256": arrays.photos_digest, "data_sha256": arrays.digest}
    splits = {"val": validation, "test": load_photos(arrays, "test", device)}
    probability = {part: predict(network, photos) for part, photos in splits.items()}
    threshold = choose_threshold(probability["val"][1], validation.trimaps, "foreground")
    scored: dict[str, dict[str, dict[str, float]]] = {}
    for name, place, cut in (("dice", 0, 0.5), ("dice_as_we_infer", 1, threshold)):
        for part, photos in splits.items():
            dice = count_against(probability[part][place] >= cut, photos.trimaps, "foreground").dice()
            names = arrays.index["name"][photos.rows].to_list()
            scored.setdefault(name, {})[part] = dict(zip(names, dice.tolist(), strict=True))
            print(f"{part} {name} {mean(dice.numpy()):.4f}, threshold {cut:g}")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(about | {"history": history} | scored) + "\n", encoding="utf-8")


@torch.inference_mode()
def predict(network: nn.Module, photos: Photos) -> tuple[Tensor, Tensor]:
    """Return the probability of pet, (N, S, S): plain, and averaged over the photo and its mirror image."""
    network.eval()
    plain, averaged = [], []
    for images in torch.split(photos.images, 64):
        given = to_input(images).contiguous()
        probability = network(given).sigmoid()
        plain.append(probability.squeeze(1))
        averaged.append(((probability + mirrored(network(mirrored(given)).sigmoid())) / 2).squeeze(1))
    return torch.cat(plain), torch.cat(averaged)


if __name__ == "__main__":
    try:
        main()
    except PetsegError as error:
        sys.exit(f"petseg: {error}")
