"""Put the two archives of data.source in place, verified."""

from pathlib import Path

from petseg.data.sources import fetch, redact
from petseg.params import Params
from petseg.project import main_root
from petseg.stage import run_stage
from petseg.tracking.outbox import recorded


def download(params: Params, sample: Path, archives: Path) -> None:
    with recorded("download", {"data.source": redact(params.data.source)}) as record:
        retrieved = fetch(params.data.source, sample, archives, main_root())
        record.metrics |= {f"bytes/{archive.name}": archive.bytes for archive in retrieved}
        record.datasets = [(archive.name, archive.sha256, archive.origin) for archive in retrieved]
        for archive in retrieved:
            print(f"{archive.name}: {archive.bytes:,} bytes, sha256 {archive.sha256[:16]}, verified")


if __name__ == "__main__":
    run_stage(download)
