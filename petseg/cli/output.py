"""What a command found, printed as lines for people or as JSON: here it is decided, once for all commands."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from petseg.core.terminal import print_lines
from petseg.core.textfiles import to_json

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        facts: for programs; whatever JSON can hold.
        show: prints it for people; or the lines to print.
        exit_code: of the command.
    """

    facts: Any
    show: Callable[[], None] | Iterable[str]
    exit_code: int = 0

    def print(self, as_json: bool = False) -> None:
        """Print it."""
        if as_json:
            print(to_json(self.facts), end="")
        elif callable(self.show):
            self.show()
        else:
            print_lines(*self.show)


def answering(command: Callable[..., Answer]) -> Callable[..., None]:
    """Give a command the option --json, and print what it returns.

    A command that has a parameter ``as_json`` itself is told which of the two is asked for.
    """
    signature = inspect.signature(command)
    is_told = "as_json" in signature.parameters
    asked = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)

    @wraps(command)
    def run(*arguments: Any, as_json: bool = False, **options: Any) -> None:
        answer = command(*arguments, **options, **({"as_json": as_json} if is_told else {}))
        answer.print(as_json)
        raise typer.Exit(answer.exit_code)

    parameters = [each for name, each in signature.parameters.items() if name != "as_json"] + [asked]
    del run.__wrapped__  # typer would read the command's own signature
    run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    setattr(run, "__signature__", signature.replace(parameters=parameters))  # noqa: B010  (unknown to mypy)
    return run
