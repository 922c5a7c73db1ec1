"""Fetch or pack the two archives of data.source, and verify them."""

from pathlib import Path

from petseg.core.project import main_root
from petseg.core.terminal import print_lines
from petseg.data.own_folder import put_in_place
from petseg.params import Params, flat
from petseg.pipeline.stage import run_stage
from petseg.tracking.outbox import recorded


def download(params: Params, sample: Path, archives: Path) -> None:
    source, masks = params.data.source, params.data.masks
    with recorded("download", flat(data__source=source, data__masks=masks)) as record:
        retrieved = put_in_place(source, masks, sample, archives, main_root())
        record.metrics |= {f"bytes/{archive.name}": archive.bytes for archive in retrieved}
        record.datasets = [(archive.name, archive.sha256, archive.origin) for archive in retrieved]
        for archive in retrieved:
            print_lines(f"{archive.name}: {archive.bytes:,} bytes, sha256 {archive.sha256[:16]}, verified")


if __name__ == "__main__":
    run_stage(download)
