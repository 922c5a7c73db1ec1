"""The entry point of ``python -m petseg`` and of the command ``petseg``."""

import os
import sys
from pathlib import Path
from typing import Never


def command() -> Never:
    """Run the command; inside a project, with the project's own code and not the installed package's."""
    here = Path(__file__).resolve().parent
    for root in (Path.cwd(), *Path.cwd().parents):
        own = root / here.name
        if (root / "dvc.yaml").is_file() and (own / "__main__.py").is_file():
            if own.resolve() != here:
                path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
                arguments = [sys.executable, "-m", "petseg", *sys.argv[1:]]
                os.execve(sys.executable, arguments, os.environ | {"PYTHONPATH": path})
            break
    run()


def run() -> Never:
    """Run the command with this code."""
    from petseg.cli import main  # not above: a project's code may be run instead

    main()


if __name__ == "__main__":
    run()
