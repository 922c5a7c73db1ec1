"""CONTRIBUTING.md: the recipe for a loss, followed in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.project import listed_files


@pytest.mark.whole
def test_the_recipe_for_a_loss_works(tmp_path: Path) -> None:
    for name in listed_files():
        if name.split("/")[0] not in ("data", "docs", "benchmarks"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("### A loss")[2].partition("###")[0]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    entry = re.search(r'`("(\w+)": \w+)`, in `LOSSES`', text)
    assert code
    assert entry
    losses, params = tmp_path / "petseg/training/losses.py", tmp_path / "petseg/params.py"
    above = losses.read_text().replace("LOSSES:", f"{code[1]}\n\nLOSSES:")
    losses.write_text(above.replace('"bce": bce_loss,', f'"bce": bce_loss, {entry[1]},'))
    params.write_text(
        params.read_text().replace('loss: Literal["bce",', f'loss: Literal["bce", "{entry[2]}",')
    )
    tests = ["tests/training/test_losses.py", "tests/test_params.py", "-k", f"{entry[2]} or choices"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"[5-9] passed|\d\d passed", done.stdout), done.stdout
