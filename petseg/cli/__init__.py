"""The command ``petseg``: a module a command, or group of commands."""

import atexit
import gc
import sys
from typing import Never

import typer

from petseg.cli import evaluate, runs
from petseg.cli.compare import compare
from petseg.cli.predict import predict
from petseg.cli.stages import infer, train
from petseg.cli.ui import ui
from petseg.errors import PetsegError

app = typer.Typer(
    name="petseg", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
app.command()(train)
app.command()(infer)
app.command()(predict)
app.command()(compare)
app.command()(ui)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(runs.app, name="runs")


@app.callback()
def petseg() -> None:
    """Reproducible training of networks that cut pets out of photos."""


def main() -> Never:
    """Run the command and exit: 0 done, 1 failed, 2 wrong arguments."""
    atexit.register(gc.freeze)  # or Python goes through all that was imported once more, for a second
    try:
        app()
    except PetsegError as error:
        for line in str(error).splitlines():
            print(f"petseg: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"petseg: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
