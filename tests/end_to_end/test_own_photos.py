"""The user's own photos and masks in the pipeline, run by DVC."""

from pathlib import Path
from typing import Any

import numpy as np

from petseg.data.arrays import PetArrays
from tests.support.pets import OwnFolder
from tests.support.project import Project, ran


def test_an_own_folder_goes_through_the_pipeline(tmp_path: Path, forks: Path) -> None:
    changes: dict[str, Any] = {
        "source: sample": "source: ../mine",
        "masks: trimap": "masks: binary_255",
        "image_size: 128": "image_size: 32",
    }
    own = OwnFolder(tmp_path / "mine", tuple(f"pet {n}" for n in range(12)))
    own.write("groups.csv", "name,group\n" + "".join(f"pet {n},home {n // 2}\n" for n in range(12)))
    project = Project(tmp_path / "clone", changes, forks)
    assert ran(project.run("dvc", "repro", "preprocess")) == ["download", "preprocess"]
    arrays = PetArrays.open(project.folder / "data/pets")
    assert dict(arrays.index["split"].value_counts()) == {"train": 8, "val": 2, "test": 2}
    sides = arrays.index.groupby(arrays.index["name"].str.split().str[1].astype(int) // 2)["split"]
    assert (sides.nunique() == 1).all()
    assert set(np.unique(arrays.trimaps)) == {1, 2}
    project.edit("params.yaml", {"masks: binary_255": "masks: binary_1"})
    printed = project.run("dvc", "repro", "preprocess", fails=True)
    assert "12 of 12 listed photos were rejected" in printed
    assert "did you mean binary_255?" in printed
