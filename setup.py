"""Puts a model into the wheel: the folder that PETSEG_MODEL names, which ``make wheel`` sets."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithModel(build_py):
    """Copies the model beside the code that loads it."""

    def run(self) -> None:
        """Copy the code, and the model if there is one."""
        super().run()
        if folder := os.environ.get("PETSEG_MODEL"):
            shutil.copytree(folder, Path(self.build_lib, "petseg/predict/carried"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithModel})
