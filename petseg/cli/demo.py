"""``petseg demo``."""

from functools import partial
from typing import Annotated

import typer

from petseg.cli.showing import show


def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    wanted: Annotated[
        str | None,
        typer.Option("--model", metavar="ID|champion|FILE", help="To begin with, as of petseg predict."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 in a container, whose port is published.")
    ] = "127.0.0.1",
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
) -> None:
    """Try the models on your own photos, in a page.

    It is served to this machine alone, until Ctrl-C.
    """
    from petseg.core.project import main_root
    from petseg.models.device import set_up_torch  # not above: torch would slow down every other command
    from petseg.predict.demo.app import make_app
    from petseg.predict.demo.models import Models
    from petseg.predict.demo.server import listen, serve

    with listen(port, host) as listener:  # first, as a taken port is told at once
        # One thread, as petseg predict: so a mask has the same bits, however many cores there are.
        models = Models(main_root(), wanted, set_up_torch("auto", threads=1))
        serve(make_app(models), listener, ready=partial(show, opens=opens))
