"""Turn the two archives into three files: photos, trimaps, index."""

from pathlib import Path

from petseg.data.arrays import PetArrays
from petseg.data.packing import pack
from petseg.params import Params
from petseg.records import write_json
from petseg.stage import run_stage
from petseg.tracking import flat, stage_run


def preprocess(params: Params, archives: Path, arrays_folder: Path, report_file: Path, metrics: Path) -> None:
    settings = flat(
        data__image_size=params.data.image_size,
        data__max_rejected=params.data.max_rejected,
        split=params.split,
    )
    with stage_run("preprocess", settings, {}) as log:
        report = pack(
            archives,
            arrays_folder,
            report_file,
            params.data.image_size,
            params.data.max_rejected,
            params.split,
        )
        write_json(metrics, report.summary())
        digest = PetArrays.open(arrays_folder).digest
        log.metrics(report.summary())
        log.dataset("pets", digest, str(arrays_folder), "preprocess")
        log.tags({"data_sha256": digest})
        log.artifact(report_file, "report")
    print(", ".join(f"{name} {n}" for name, n in report.summary().items()), f"; see {report_file}")


if __name__ == "__main__":
    run_stage(preprocess)
