"""Read untrusted YAML: its size, depth and aliases are limited, and only plain values are allowed."""

from collections.abc import Iterable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from petseg.core.urls import without_secrets
from petseg.errors import ParamsError

MAX_BYTES = 200_000  # of a file; dvc.lock has 12,000
MAX_DEPTH = 20  # of nested lists and sections
MAX_VALUES = 20_000  # including those that aliases repeat
_PREFIX = "tag:yaml.org,2002:"
_PLAIN = {"str", "int", "float", "bool", "null"}


class _BoundedComposer(Composer):
    """Builds the tree of a text, and refuses one that is too large or too deep."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader=loader)
        self.warn_double_anchors = False
        self._depth = 0
        self._sizes: dict[int, int] = {}  # number of values in each finished node, by the node's id

    def compose_node(self, parent: Any, index: Any) -> Node:
        """Return the next node, with all nodes below it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ParamsError(f"has more than {MAX_DEPTH} levels of sections and lists")
        is_alias = self.parser.check_event(AliasEvent)
        node: Node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise ParamsError("has an alias that repeats the section or list around it")
        if not is_alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(child)] for child in _children(node))
        if self._sizes[id(node)] > MAX_VALUES:
            raise ParamsError(f"has more than {MAX_VALUES:,} values, with those that its aliases repeat")
        return node


def parsed(text: str) -> Any:
    """Return the content of a YAML text: nested dicts with text keys, lists, text, numbers, bool and None.

    Raises:
        ParamsError: it is not YAML, is too large, or holds other values; the message names the key.
    """
    if len(text) > MAX_BYTES:
        raise ParamsError(f"has more than {MAX_BYTES:,} bytes")
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _BoundedComposer
    try:
        node = yaml.compose(text)
        return None if node is None else _value(yaml.constructor, node, "")
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ParamsError(f"is not valid YAML: {where}{reason!s:.200}") from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ParamsError(f"is not valid YAML: {error!s:.200}") from None  # raised by the parser itself


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _value(constructor: Any, node: Node, key: str) -> Any:
    """Return the value of a node.

    Args:
        constructor: makes the values of scalars.
        node: a node of the tree.
        key: its place, such as train.epochs; empty for the whole text.
    """
    kind = str(node.tag).removeprefix(_PREFIX)
    if isinstance(node, MappingNode) and kind == "map":
        constructor.flatten_mapping(node)  # << merges the keys of another section
        return _section(constructor, node, key)
    if isinstance(node, SequenceNode) and kind == "seq":
        return [_value(constructor, each, f"{key}[{place}]") for place, each in enumerate(node.value)]
    if isinstance(node, ScalarNode) and kind in _PLAIN:
        try:
            return constructor.construct_object(node)
        except (YAMLError, ArithmeticError, LookupError, TypeError, ValueError):
            raise ParamsError(f"{_named(key)}{_text(node)} can't be read as {kind}") from None
    raise ParamsError(
        f"{_named(key)}{_text(node)} is of the type {kind:.80}; only text, numbers, true, false, "
        "null, lists and sections are read: put text in quotes"
    )


def _section(constructor: Any, node: MappingNode, key: str) -> dict[str, Any]:
    merged = getattr(node, "merge", None) or []  # they come first, and the section's own keys override them
    section = dict(_pairs(constructor, merged, key))
    own: set[str] = set()
    for name, value in _pairs(constructor, node.value[len(merged) :], key):
        if name in own:
            raise ParamsError(f"{_named(_below(key, name))}is there twice")
        own.add(name)
        section[name] = value
    return section


def _pairs(constructor: Any, nodes: Iterable[tuple[Node, Node]], key: str) -> Iterable[tuple[str, Any]]:
    for name_node, value_node in nodes:
        name = _value(constructor, name_node, key) if isinstance(name_node, ScalarNode) else None
        if not isinstance(name, str):
            raise ParamsError(f"{_named(key)}{_text(name_node)} is a key, but no text; put it in quotes")
        yield name, _value(constructor, value_node, _below(key, name))


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _text(node: Node) -> str:
    return f"{without_secrets(node.value):.80}" if isinstance(node, ScalarNode) else "a list or section"


def _named(key: str) -> str:
    return f"{key:.120}: " if key else ""
