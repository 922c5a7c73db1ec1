"""Checks where figures and pages may be saved, saves them, and opens them if there is a screen."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petseg.core.files import remove_leftovers_of, written_atomically
from petseg.core.project import expanded
from petseg.core.terminal import print_lines
from petseg.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
_DPI = 110


def show(target: Path | str, opens: bool = True) -> None:
    """Print the path or URL of a picture or page, and open it if there is a screen."""
    print_lines(target)
    if opens and sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
        typer.launch(str(target))


def check_picture(option: str, path: Path) -> None:
    """Check that a picture can be drawn to a file with this name.

    Raises:
        UsageError: the suffix is not .png, .svg or .pdf.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{option} {path}: must end in .png, .svg or .pdf")


def picture_target(option: str, given: Path | None, default: Path, force: bool) -> Path:
    """Return the file that a picture is drawn to.

    Args:
        option: the option that names the file, for messages.
        given: the file that the user named, or None.
        default: the file to use without one; it belongs to petseg and is replaced each time.
        force: whether an existing file that the user named may be replaced.

    Raises:
        UsageError: the suffix is not .png, .svg or .pdf, or the file must not be written.
    """
    if given is not None:
        check_picture(option, given)
    return page_target(option, given, default, force)


def page_target(option: str, given: Path | None, default: Path, force: bool) -> Path:
    """Return the file that a page is written to; like ``picture_target``, but with any suffix.

    Raises:
        UsageError: the file must not be written.
    """
    from petseg.cli.targets import check_targets
    from petseg.pipeline.guard import check_kept_out

    if given is None:
        check_kept_out("", default.parent)
        remove_leftovers_of([default])
        return default
    target = expanded(given)
    check_targets(option, target, force=force)
    return target


def save_figure(figure: "Figure", path: Path) -> None:
    """Draw a figure to a file atomically, and create the file's folder if needed."""
    kind = path.suffix.removeprefix(".")
    metadata = {"Software": None} if kind == "png" else None
    with written_atomically(path, durable=False) as file:
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
