"""``petseg demo``."""

from functools import partial
from typing import Annotated

import typer

from petseg.cli.showing import show


def demo(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to use; 0 takes any free one.")
    ] = 8000,
    wanted: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="ID|champion|FILE",
            help="The model to begin with, named as for petseg predict.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on; 0.0.0.0 in a container whose port is published."),
    ] = "127.0.0.1",
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Try the models on your own photos, on a page in your browser.

    The page is served to this machine only, until you press Ctrl-C.
    """
    from petseg.core.project import main_root
    from petseg.models.device import set_up_torch  # imported here: torch is slow
    from petseg.predict.demo.app import make_app
    from petseg.predict.demo.models import Models
    from petseg.predict.demo.server import listen, serve

    with listen(port, host) as listener:  # first, so that a taken port is reported at once
        # One thread, as in petseg predict, so that the bits of a mask do not depend on the number of cores.
        models = Models(main_root(), wanted, set_up_torch("auto", threads=1))
        serve(make_app(models), listener, ready=partial(show, opens=opens))
