"""Save figures and pages, and open them where there is a screen."""

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

Force = Annotated[bool, typer.Option("--force", help="Replace the file, if there is one.")]
_DPI = 110


def show(what: Path | str, opens: bool = True) -> None:
    """Say where a picture or page is, and open it where a person sits before a screen."""
    print_lines(what)
    if opens and sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
        typer.launch(str(what))


def check_picture(option: str, path: Path) -> None:
    """Check that a picture can be drawn to a file of this name.

    Raises:
        UsageError: it can't.
    """
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{option} {path}: must end in .png, .svg or .pdf")


def picture_target(option: str, given: Path | None, default: Path, force: bool) -> Path:
    """Return where a picture is to be drawn.

    Args:
        option: by which a user names the file.
        given: what the user named; None for ``default``, which is petseg's own and replaced each time.
        default: where it goes else.
        force: whether a file that the user names may be replaced.

    Raises:
        UsageError: it can't be drawn to such a file, or must not be.
    """
    if given is not None:
        check_picture(option, given)
    return page_target(option, given, default, force)


def page_target(option: str, given: Path | None, default: Path, force: bool) -> Path:
    """Return where a picture or page goes, as ``picture_target`` does, whatever its name ends in.

    Raises:
        UsageError: it must not be written there.
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
    """Draw a figure to a file, which is there whole or not at all; its folder is made."""
    kind = path.suffix.removeprefix(".")
    metadata = {"Software": None} if kind == "png" else None
    with written_atomically(path, durable=False) as file:
        figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
