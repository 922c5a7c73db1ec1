"""Writes the pages that are made of the code, so that no fact is written twice: ``make docs``.

tests/docs/test_docs.py fails where one of them is not what the code says.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import PlainValidator, TypeAdapter
from pydantic.fields import FieldInfo

from docs.edits import edits_page
from docs.limits import limits_page
from petseg.cli import app
from petseg.core.textfiles import read_yaml
from petseg.params import Params
from petseg.pipeline.dvcfiles import PIPELINE

HERE = Path(__file__).parent

_PARAMS = """\
# Parameters

`params.yaml` holds them, and this page is made of it and of the types in `petseg/params.py` (`make docs`).

A mistake is one line for each key, before anything runs:
`params.yaml: train.learning_rat: unknown key; did you mean learning_rate?` Change one for a single run with
`dvc exp run -S train.loss=dice` or `petseg train -S train.loss=dice`; both leave it in `params.yaml`.

*Reruns from* is the first stage that reads the key: those before it are not run again, those after it only if
what they read became another.
"""

_COMMAND = """\
# The command petseg

This page is made of the command itself (`make docs`); `petseg COMMAND --help` says the same. It works in any
folder of the project. `petseg --install-completion` lets the shell complete commands and options.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed; of `which`, `verify`, `reproduce` and `doctor`: no, or something is not as it should be |
| 2 | wrong arguments or params; nothing was begun |
| 3 | of `predict`: done, but some files are bad |
| 130, 143, 129 | stopped by Ctrl-C, SIGTERM, or the end of its terminal |

What went wrong is one line on stderr that begins with `petseg:`; [troubleshooting](troubleshooting.md) has
each. An unknown option, or a value that it can't take, is told in a box.
With `--json` a command prints one JSON value on stdout and nothing else there.

`ID` is the beginning of a run's key, an MLflow run id, or an MLflow filter such as
``"params.`train.loss` = 'dice'"``, where it fits one run.
"""


_KEYS = ("| key | default | allowed | what it does | reruns from |", "|---|---|---|---|---|")
_OPTIONS = ("| | takes | default | |", "|---|---|---|---|")


def params_page(root: Path) -> str:
    """Return params.md, of params.yaml below ``root``, the types, and dvc.yaml."""
    lines = _described((root / "params.yaml").read_text(encoding="utf-8"))
    stages = read_yaml(root / PIPELINE)["stages"]
    page = [_PARAMS]
    for section, field in Params.model_fields.items():
        page += [f"## {section}\n", *_KEYS]
        assert field.annotation is not None
        for key, inner in field.annotation.model_fields.items():
            name = f"{section}.{key}"
            default, words = lines[name]
            choices = allowed(inner)
            words = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", words)
            words = re.sub(rf"^{re.escape(choices.replace(', ', ' | '))}[:;]? ?", "", words)
            readers = (stage for stage, told in stages.items() if {name, section} & {*told.get("params", [])})
            page.append(_row(f"`{name}`", default, choices, words, next(readers)))
        page.append("")
    return "\n".join(page)


def _described(text: str) -> dict[str, tuple[str, str]]:
    """Return the value and the comment of each key of params.yaml, as they are written."""
    found: dict[str, tuple[str, str]] = {}
    section = name = ""
    for line in text.splitlines():
        if top := re.match(r"(\w+):", line):
            section, name = top[1], ""
        elif key := re.match(r"  (\w+): +(.*?) *(?:# (.*))?$", line):
            name = f"{section}.{key[1]}"
            found[name] = (key[2], key[3] or "")
        elif name and (more := re.match(r" +# (.*)", line)):
            value, words = found[name]
            found[name] = (value, f"{words} {more[1]}")
    return found


def allowed(field: FieldInfo) -> str:
    """Return what a key may be: its choices, or its type and range."""
    if any(isinstance(part, PlainValidator) for part in field.metadata):
        return "auto, or above 0 below 1"  # infer.threshold, of which pydantic knows no schema
    annotated: Any = Annotated[field.annotation, "", *field.metadata]
    schema = TypeAdapter(annotated).json_schema()
    return " or ".join(_worded(part) for part in schema.get("anyOf", [schema]))


def _worded(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(schema["enum"])
    words = {
        "exclusiveMinimum": "above {}",
        "minimum": "from {}",
        "exclusiveMaximum": "below {}",
        "maximum": "to {}",
    }
    said = [text.format(f"{schema[word]:,}") for word, text in words.items() if word in schema]
    plain = {"null": "null", "boolean": "true, false", "string": "text"}
    if schema["type"] == "array":
        return f"a list, each {_worded(schema['items'])}"
    return " ".join(said) or plain[schema["type"]]


def command_page() -> str:
    """Return command.md, of the command as typer has it."""
    return "\n".join([_COMMAND, *_commands("petseg", typer.main.get_command(app))])


def _commands(name: str, command: Any, shared: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines of a command, and then those of the ones below it.

    Args:
        name: the words that are typed.
        command: as typer has it.
        shared: rows of options that the group's own table has.
    """
    below = getattr(command, "commands", {})
    rows = _rows(command)
    if name != "petseg":
        yield f"{'##' if name.count(' ') == 1 else '###'} {name}\n"
        yield inspect.cleandoc(command.help) + "\n"
        if below:
            first, *others = map(_rows, below.values())
            rows = [row for row in first if all(row in other for other in others)]
            yield "Each of its commands has:\n"
        else:
            usage = command.get_usage(command.context_class(command, info_name=name))
            yield f"    {usage.removeprefix('Usage: ')}\n"
        if alone := [row for row in rows if row not in shared]:
            yield from (*_OPTIONS, *alone, "")
    for word, inner in below.items():
        yield from _commands(f"{name} {word}", inner, [] if name == "petseg" else rows)


def _rows(command: Any) -> list[str]:
    return [_parameter(one) for one in command.params]


def _parameter(one: Any) -> str:
    if one.param_type_name == "argument":
        return _row(f"`{one.metavar or one.name.upper()}`", "", "", one.help or "")
    words = " ".join(f"`{word}`" for word in (*one.opts, *one.secondary_opts))
    is_flag = getattr(one, "is_flag", False)
    takes = "" if is_flag else f"`{one.metavar or _takes(one.type_descriptor.annotation)}`"
    default = "" if is_flag or one.default is None else f"`{one.default}`"
    if one.secondary_opts:
        default = f"`{(one.opts if one.default else one.secondary_opts)[0]}`"
    return _row(words, takes, default, one.help or "")


def _takes(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    return {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(annotation, "TEXT")


def _row(*cells: str) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


PAGES: dict[str, Callable[[], str]] = {
    "params.md": lambda: params_page(HERE.parent),
    "command.md": command_page,
    "what-an-edit-costs.md": lambda: edits_page(HERE.parent),
    "limits.md": limits_page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
