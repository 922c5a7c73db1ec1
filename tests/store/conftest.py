"""The fixture of the tests of the store."""

from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with an empty store, which is the working folder."""
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml", "stages/train.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path
