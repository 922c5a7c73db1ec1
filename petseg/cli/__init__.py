"""The command ``petseg``: one module for each command or group of commands.

A command reads options, calls the other rooms and prints the result. No other room imports this one.
"""

import atexit
import gc
import signal
import sys
from types import FrameType
from typing import Annotated, Never

import typer
from typer.exceptions import TyperException

from petseg import __version__
from petseg.cli import evaluate, runs
from petseg.cli.compare import compare
from petseg.cli.demo import demo
from petseg.cli.doctor import doctor
from petseg.cli.output import answering
from petseg.cli.predict import predict
from petseg.cli.report import report
from petseg.cli.stages import infer, train
from petseg.cli.ui import ui
from petseg.core.extras import missing_extra
from petseg.core.files import why_not
from petseg.core.terminal import print_lines
from petseg.errors import PetsegError

app = typer.Typer(
    name="petseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: rich is slow to import
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad files, 129+ stopped",
)
app.command()(train)
app.command()(infer)
app.command()(answering(predict))
app.command()(demo)
app.add_typer(evaluate.app, name="evaluate")
app.command()(report)
app.command()(answering(compare))
app.add_typer(runs.app, name="runs")
app.command()(ui)
app.command()(answering(doctor))


def _print_version(wanted: bool) -> None:
    if wanted:
        print_lines(f"petseg {__version__}")
        raise typer.Exit


@app.callback()
def petseg(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Reproducible training of networks that cut pets out of photos."""


def main() -> Never:
    """Run the command and exit. An error is printed as one line, without a traceback."""
    signal.signal(signal.SIGINT, _stop)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
            signal.signal(number, _stop)
    atexit.register(gc.freeze)  # otherwise Python checks every imported object at exit, for a second
    try:
        code = app(prog_name="petseg", standalone_mode=False)
    except TyperException as error:
        print_lines(*_wrong_usage(error), err=True)
        sys.exit(error.exit_code)
    except typer.Abort:
        print_lines("petseg: stopped", err=True)
        sys.exit(1)
    except PetsegError as error:
        print_lines(*(f"petseg: {line}" for line in error.lines), err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (line := missing_extra(error)) is None:
            raise
        print_lines(f"petseg: {line}", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise
        print_lines(f"petseg: {why_not(error)}", err=True)
        sys.exit(1)
    sys.exit(code or 0)


def _wrong_usage(error: TyperException) -> list[str]:
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    if context is None:
        return [f"petseg: {message}"]
    if error.message == context.get_help():  # no argument was given
        return error.message.splitlines()
    return [f"petseg: {message}; {context.command_path} --help lists what is allowed"]


def _stop(signum: int, frame: FrameType | None) -> Never:
    print_lines("petseg: interrupted", err=True)
    sys.exit(128 + signum)
