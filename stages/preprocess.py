"""Pack the two archives into three files: photos, trimaps, index."""

from pathlib import Path

from petseg.core.files import sha256_file
from petseg.core.terminal import print_lines
from petseg.core.textfiles import write_json
from petseg.data.arrays import PetArrays
from petseg.data.preprocess import pack
from petseg.params import Params, flat
from petseg.pipeline.stage import run_stage
from petseg.tracking.outbox import recorded


def preprocess(params: Params, archives: Path, arrays: Path, rejected: Path, metrics: Path) -> None:
    settings = flat(
        data__image_size=params.data.image_size,
        data__max_rejected=params.data.max_rejected,
        split=params.split,
    )
    with recorded("preprocess", settings) as record:
        report = pack(
            archives,
            arrays,
            rejected,
            params.data.image_size,
            params.data.max_rejected,
            params.split,
        )
        write_json(metrics, report.summary())
        digest = PetArrays.open(arrays).digest
        record.metrics |= report.summary()
        # These hashes lead from a model to its photos, and from the photos to their download.
        read = ((path.name, sha256_file(path), str(archives)) for path in sorted(archives.iterdir()))
        record.datasets = [("pets", digest, str(arrays)), *read]
        record.tags |= {"data_sha256": digest}
        record.texts |= {f"report/{rejected.name}": rejected.read_text(encoding="utf-8")}
    counts = ", ".join(f"{name} {n}" for name, n in report.summary().items())
    print_lines(f"{counts}; see {rejected}")


if __name__ == "__main__":
    run_stage(preprocess)
