"""Generate the pages that repeat facts of the code: ``make docs``.

tests/docs/test_docs.py fails if one of the pages differs from the code.
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

The params are in `params.yaml`. This page is generated from that file and from the types in
`petseg/params.py` (`make docs`).

Wrong params are reported before anything runs, one line for each key:
`params.yaml: train.learning_rat: unknown key; did you mean learning_rate?` To change a param for one run, use
`dvc exp run -S train.loss=dice` or `petseg train -S train.loss=dice`. Both write it into `params.yaml`, where
it stays.

*Reruns from* is the first stage that reads the key. Earlier stages are not run again. Later stages are run
again only if their inputs changed.
"""

_COMMAND = """\
# The command petseg

This page is generated from the command itself (`make docs`); `petseg COMMAND --help` prints the same.
`petseg` works in any folder of the project. `petseg --install-completion` lets the shell complete commands
and options.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed; for `which`, `verify`, `reproduce` and `doctor` also: the answer is no, or there is a problem |
| 2 | wrong arguments or params; nothing was started |
| 3 | only `predict`: done, but some files are bad |
| 130, 143, 129 | stopped by Ctrl-C, SIGTERM, or the end of the terminal |

An error is one line on stderr that begins with `petseg:`; [troubleshooting](troubleshooting.md) explains each
of them. With `--json` a command prints one JSON value on stdout, and nothing else there.

`ID` is the beginning of a run's key, an MLflow run id, or an MLflow filter such as
``"params.`train.loss` = 'dice'"`` that only one run fits.
"""


_KEYS = ("| key | default | allowed | what it does | reruns from |", "|---|---|---|---|---|")
_OPTIONS = ("| argument or option | takes | default | meaning |", "|---|---|---|---|")


def params_page(root: Path) -> str:
    """Return params.md, made from params.yaml and dvc.yaml below ``root`` and the types of the params."""
    described = _described((root / "params.yaml").read_text(encoding="utf-8"))
    stages = read_yaml(root / PIPELINE)["stages"]
    page = [_PARAMS]
    for section, field in Params.model_fields.items():
        page += [f"## {section}\n", *_KEYS]
        assert field.annotation is not None
        for key, inner in field.annotation.model_fields.items():
            name = f"{section}.{key}"
            default, words = described[name]
            choices = allowed(inner)
            words = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", words)
            words = re.sub(rf"^{re.escape(choices.replace(', ', ' | '))}[:;]? ?", "", words)
            readers = (
                stage for stage, entry in stages.items() if {name, section} & {*entry.get("params", [])}
            )
            page.append(_row(f"`{name}`", default, choices, words, next(readers)))
        page.append("")
    return "\n".join(page)


def _described(text: str) -> dict[str, tuple[str, str]]:
    """Return the value and the comment of each key, as they are written in params.yaml."""
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
    """Return the allowed values of a key: its choices, or its type and range."""
    if any(isinstance(part, PlainValidator) for part in field.metadata):
        return "auto, or above 0 below 1"  # infer.threshold, for which pydantic has no schema
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
    bounds = [text.format(f"{schema[word]:,}") for word, text in words.items() if word in schema]
    plain = {"null": "null", "boolean": "true, false", "string": "text"}
    if schema["type"] == "array":
        return f"a list, each {_worded(schema['items'])}"
    return " ".join(bounds) or plain[schema["type"]]


def command_page() -> str:
    """Return command.md, made from the commands and options that typer knows."""
    return "\n".join([_COMMAND, *_commands("petseg", typer.main.get_command(app))])


def _commands(name: str, command: Any, shared: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines of a command, and then those of its subcommands.

    Args:
        name: the words of the command, such as ``petseg runs list``.
        command: typer's object for it.
        shared: rows of options that are in the table of the command's group already.
    """
    below = getattr(command, "commands", {})
    rows = _rows(command)
    if name != "petseg":
        yield f"{'##' if name.count(' ') == 1 else '###'} {name}\n"
        yield inspect.cleandoc(command.help) + "\n"
        if below:
            first, *others = map(_rows, below.values())
            rows = [row for row in first if all(row in other for other in others)]
            yield "Each of its commands has these options:\n"
        else:
            usage = command.get_usage(command.context_class(command, info_name=name))
            yield f"    {usage.removeprefix('Usage: ')}\n"
        if own_rows := [row for row in rows if row not in shared]:
            yield from (*_OPTIONS, *own_rows, "")
    for word, inner in below.items():
        yield from _commands(f"{name} {word}", inner, [] if name == "petseg" else rows)


def _rows(command: Any) -> list[str]:
    return [_parameter_row(parameter) for parameter in command.params]


def _parameter_row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _row(f"`{parameter.metavar or parameter.name.upper()}`", "", "", parameter.help or "")
    words = " ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
    is_flag = getattr(parameter, "is_flag", False)
    takes = "" if is_flag else f"`{parameter.metavar or _takes(parameter.type_descriptor.annotation)}`"
    default = "" if is_flag or parameter.default is None else f"`{parameter.default}`"
    if parameter.secondary_opts:
        default = f"`{(parameter.opts if parameter.default else parameter.secondary_opts)[0]}`"
    return _row(words, takes, default, parameter.help or "")


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
