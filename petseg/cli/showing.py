"""What was made for people to look at, before whom it is opened."""

import os
import sys
from pathlib import Path

import typer

from petseg.errors import UsageError


def show(what: Path | str, opens: bool = True) -> None:
    """Say where a picture or page is, and open it where a person sits before a screen."""
    print(what, flush=True)
    if opens and sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
        typer.launch(str(what))


def check_picture(option: str, path: Path) -> None:
    """Check that a picture can be drawn to a file of this name.

    Raises:
        UsageError: it can't.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{option} {path}: must end in .png, .svg or .pdf")
