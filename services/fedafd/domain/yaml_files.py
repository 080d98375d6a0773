"""YAML as a reader expects it: a key once, `off` is a word, `1e-5` is a number, `010` is ten and `12:30` is no number.

PyYAML follows YAML 1.1 there, and ruamel.yaml says worse what is wrong (docs/adr/0026). These are the rules of YAML
1.2's core schema, https://yaml.org/spec/1.2.2/#103-core-schema.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fedafd.domain.errors import ConfigurationError

__all__ = ["MOST_BYTES", "MOST_NODES", "parse_yaml", "read_yaml"]

MOST_NODES = 50_000
"""Values in a file: no configuration comes near."""
MOST_BYTES = 16 << 20
"""Of a file, for it takes a hundred times as much memory once it is parsed."""

_MOST_DIGITS = 1000
"""Python makes no number of more than 4,300 of them."""
_BOOL = "tag:yaml.org,2002:bool"
_FLOAT = "tag:yaml.org,2002:float"
_INT = "tag:yaml.org,2002:int"
_DATE = "tag:yaml.org,2002:timestamp"


def read_yaml(path: Path) -> Any:
    """The one document in a file. Raises ConfigurationError naming the file, and line and column of what is no YAML."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ConfigurationError(f"{path}: a pipe, socket or device; give a regular file", source=str(path))
        if path.stat().st_size > MOST_BYTES:
            raise ConfigurationError(
                f"{path}: has more than {MOST_BYTES} bytes; is it the right file?", source=str(path)
            )
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}", source=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8: {error.reason}", source=str(path)) from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML: {_words(error)}", source=str(path)) from None


def parse_yaml(text: str) -> Any:
    """The one document in `text`. Raises yaml.YAMLError with line and column, also for a key that occurs twice.

    Aliases are followed, to MOST_NODES values at most: a few lines can stand for billions.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _need_few_nodes(node)
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    finally:
        loader.dispose()


def _words(error: yaml.YAMLError) -> str:
    """What is wrong, in one line and without what PyYAML calls the file."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is {chr(error.character)!r}, which no YAML may hold"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    where, context = _line_and_column(error.problem_mark), error.context or ""
    if context.startswith("while") and error.context_mark:
        return f"{error.problem}, {where}, {context} of {_line_and_column(error.context_mark)}"
    return f"{context}, {error.problem}, {where}" if context else f"{error.problem}, {where}"


def _line_and_column(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _need_few_nodes(node: yaml.Node) -> None:
    """Raise yaml.YAMLError for more values than MOST_NODES, each counted as often as aliases name it, and for loops."""
    _count(node, {}, set())


def _count(node: yaml.Node, known: dict[int, int], open_nodes: set[int]) -> int:
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_nodes:
        raise yaml.MarkedYAMLError(None, None, "an alias names what it stands in", node.start_mark)
    open_nodes.add(id(node))
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [child for pair in node.value for child in pair]
    total = 1
    for child in inner:
        total += _count(child, known, open_nodes)
        if total > MOST_NODES:
            raise yaml.MarkedYAMLError(
                None, None, f"stands, with its aliases, for more than {MOST_NODES} values", node.start_mark
            )
    open_nodes.discard(id(node))
    known[id(node)] = total
    return total


class _Loader(yaml.SafeLoader):
    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Stops at once where there are too many: a list of millions was read for minutes, and counted then."""
        self.composed += 1
        if self.composed > MOST_NODES:
            raise yaml.YAMLError(f"has more than {MOST_NODES} values")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} occurs twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_core_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        if len(text) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of more than {_MOST_DIGITS} digits", node.start_mark
            )
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _FLOAT, _INT, _DATE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$"), list("-+0123456789"))
_Loader.add_constructor(_INT, _Loader.construct_core_int)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
