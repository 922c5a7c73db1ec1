"""Prints the results of commands, as text or as JSON, and adds the option ``--json`` to them."""

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
    """The result of a command.

    Attributes:
        facts: the result for programs, as a value that JSON can hold.
        show: a function that prints the result for people, or the lines to print.
        exit_code: the command's exit code.
    """

    facts: Any
    show: Callable[[], None] | Iterable[str]
    exit_code: int = 0

    def print(self, as_json: bool = False) -> None:
        """Print the result as text or as JSON."""
        if as_json:
            print(to_json(self.facts), end="")
        elif callable(self.show):
            self.show()
        else:
            print_lines(*self.show)


def answering(command: Callable[..., Answer]) -> Callable[..., None]:
    """Add the option --json to a command, and print the answer that it returns.

    A command with a parameter ``as_json`` receives the option's value.
    """
    signature = inspect.signature(command)
    takes_as_json = "as_json" in signature.parameters
    option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)

    @wraps(command)
    def run(*arguments: Any, as_json: bool = False, **options: Any) -> None:
        answer = command(*arguments, **options, **({"as_json": as_json} if takes_as_json else {}))
        answer.print(as_json)
        raise typer.Exit(answer.exit_code)

    parameters = [each for name, each in signature.parameters.items() if name != "as_json"] + [option]
    del run.__wrapped__  # otherwise typer reads the command's own signature
    run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    setattr(run, "__signature__", signature.replace(parameters=parameters))  # noqa: B010  (unknown to mypy)
    return run
