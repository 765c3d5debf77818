"""YAML that remembers where each key stands, so that an error can name the line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml

from open4ov.errors import UserError

Loc = tuple[str | int, ...]
"""A place in a document: keys and list indices from the root down."""


_DEEPEST = 32


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, with the floats of YAML 1.2 (`1e-3` is a number, not a string)."""


_Loader.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


class _Once(_Loader):
    """Refuses a key that is given twice in one mapping; of the two PyYAML would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value not in lines:
                lines[key.value] = key.start_mark.line + 1
            else:
                told = f"'{key.value}' is given twice (first in line {lines[key.value]})"
                raise yaml.MarkedYAMLError(problem=told, problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """A whole document. Raises yaml.YAMLError, also for a key that is given twice."""
    return yaml.load(text, Loader=_Once)  # a SafeLoader


def parse_value(text: str) -> Any:
    """One YAML value (what stands after `--set key=`). Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def read(path: Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The mapping in a YAML file, and the 1-based line of each key and list item.

    Raises UserError for a missing or unreadable file, broken YAML, a key given twice, a key that is no string, and
    for anything but a mapping at the top.
    """
    text = _text(path)
    lines: dict[Loc, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if not isinstance(node, yaml.MappingNode):
            found = "empty" if node is None else "a single value or a list"
            raise UserError(f"{path}: the file is {found}; expected `key: value` lines (a mapping)")
        _walk(node, (), lines, path)
        return cast(dict[str, Any], loader.construct_document(node)), lines  # pyright: ignore[reportUnknownMemberType]
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give the YAML file itself") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _walk(node: yaml.Node, loc: Loc, lines: dict[Loc, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = key_node.value
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.tag != "tag:yaml.org,2002:str":
                raise UserError(f"{path}, line {line}: a key must be a word; got {key!r} (write it in quotes)")
            here = (*loc, key)
            if here in lines:
                raise UserError(f"{path}, line {line}: '{dotted(here)}' is given twice (first in line {lines[here]})")
            lines[here] = line
            if len(here) > _DEEPEST:
                raise UserError(
                    f"{path}, line {line}: more than {_DEEPEST} levels deep (an alias that contains itself?)"
                )
            _walk(value_node, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*loc, index)] = item.start_mark.line + 1
            _walk(item, (*loc, index), lines, path)


def dotted(loc: Loc) -> str:
    """`('rl', 'steps')` → `rl.steps`."""
    return ".".join(str(part) for part in loc)
