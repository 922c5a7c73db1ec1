"""Fetch the weights that the encoder begins with, and verify them; random weights need no file."""

from pathlib import Path

from petseg.core.project import main_root
from petseg.core.terminal import print_lines
from petseg.models.encoder_download import fetch_encoder
from petseg.params import Params
from petseg.pipeline.stage import run_stage


def encoder(params: Params, encoder: Path) -> None:
    found = fetch_encoder(params.model.encoder_weights, encoder, main_root())
    if found.path is not None:
        # Imported here because torch is slow, and not needed without a file.
        from petseg.models.resnet34_unet import ResNet34UNet, load_encoder

        load_encoder(ResNet34UNet(width=1), found.path)
    print_lines(f"encoder weights: {found.name}")


if __name__ == "__main__":
    run_stage(encoder)
