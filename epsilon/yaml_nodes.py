"""YAML read node by node, so that every mistake is told with its file, its line and what is allowed there."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

__all__ = ["Node", "parse_yaml", "read_yaml"]

#: What people call the kinds of YAML nodes.
KINDS = {yaml.ScalarNode: "a single value", yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping (key: value)"}


def read_yaml(path: str | os.PathLike, title: str) -> Node:
    """Return the root of a YAML file, a ``title``; else ValueError, or OSError where it cannot be read."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    return parse_yaml(text, str(path), title)


def parse_yaml(text: str, source: str, title: str) -> Node:
    """Return the root of a YAML text that comes from ``source`` and is a ``title``; else ValueError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{source}, line {mark.line + 1}: this is no YAML ({what})") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is no YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply") from None
    if root is None:
        raise ValueError(f"{source} is empty")
    return Node(root, source, title, is_root=True)


class Node:
    """A part of a YAML file: a value, a list or a mapping, and where it is.

    Parameters
    ----------
    node : yaml.Node
    source : str
        The file, for messages.
    name : str
        What the part is called, for messages: the keys that lead to it, or what the whole is.
    is_root : bool
    """

    def __init__(self, node: yaml.Node, source: str, name: str, *, is_root: bool = False) -> None:
        self._node, self._source, self.name, self._is_root = node, source, name, is_root

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self._source}, line {self._node.start_mark.line + 1}"

    @property
    def is_list(self) -> bool:
        return isinstance(self._node, yaml.SequenceNode)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_null(self) -> bool:
        return self._node.tag == "tag:yaml.org,2002:null"

    def error(self, sentence: str) -> ValueError:
        """Return an error that says where."""
        return ValueError(f"{self.place}: {sentence}")

    def refuse(self, allowed: str) -> ValueError:
        """Return the error that this is not what is allowed here."""
        given = repr(self._node.value) if isinstance(self._node, yaml.ScalarNode) else KINDS[type(self._node)]
        return self.error(f"{self.name} must be {allowed}, not {given}")

    def mapping(self, allowed: Iterable[str]) -> dict[str, Node]:
        """Return the parts of a mapping by their keys, none of them unknown or given twice."""
        allowed = tuple(allowed)
        what = self.name
        if not self.is_mapping:
            given = KINDS[type(self._node)]
            raise self.error(f"{what} must be a mapping with the keys {', '.join(allowed)}, not {given}")
        found: dict[str, Node] = {}
        for key_node, value in self._node.value:
            key = Node(key_node, self._source, self.name)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value not in allowed:
                given = key_node.value if isinstance(key_node, yaml.ScalarNode) else KINDS[type(key_node)]
                near = difflib.get_close_matches(str(given), allowed, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise key.error(f"{what} has no key {given!r}{hint}; its keys are {', '.join(allowed)}")
            if key_node.value in found:
                raise key.error(f"{what} has the key {key_node.value!r} twice")
            path = key_node.value if self._is_root else f"{self.name}.{key_node.value}"
            found[key_node.value] = Node(value, self._source, path)
        return found

    def items(self) -> list[Node]:
        """Return the parts of a list; a single value stands for a list of one."""
        if not self.is_list:
            return [self]
        if not self._node.value:
            raise self.error(f"{self.name} must not be an empty list")
        return [Node(item, self._source, self.name) for item in self._node.value]

    def distinct(self, read: Callable[[Node], object]) -> tuple:
        """Return what is read of each part of a list, nothing twice."""
        found: list = []
        for item in self.items():
            value = read(item)
            if value in found:
                raise item.error(f"{self.name} has {value!r} twice")
            found.append(value)
        return tuple(found)

    def scalar(self, allowed: str) -> object:
        """Return a single value as YAML reads it."""
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.refuse(allowed)
        try:
            return yaml.SafeLoader("").construct_object(self._node)
        except (yaml.YAMLError, ValueError):
            raise self.refuse(allowed) from None

    def integer(self, low: int, high: int | None = None, *, allowed: str = "") -> int:
        """Return an integer from ``low`` to ``high``; ``allowed`` says it in other words, for the message."""
        allowed = allowed or f"an integer from {low} to {high}"
        value = self.scalar(allowed)
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise self.refuse(allowed)
        return value

    def number(self, low: float, high: float, alternative: str = "") -> float:
        """Return a number from ``low`` to ``high``; ``alternative`` is what else would be allowed, for the message."""
        allowed = f"a number from {low:g} to {high:g}{alternative}"
        value = self.scalar(allowed)
        if isinstance(value, str) and self._node.style is None:
            # YAML 1.1 takes 1e-3 for text, which nobody means.
            try:
                value = float(value)
            except ValueError:
                raise self.refuse(allowed) from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.refuse(allowed)
        return float(value)

    def text(self, allowed: str = "a name") -> str:
        """Return a text; what YAML takes for a number or a truth value stays as it is written."""
        if not isinstance(self._node, yaml.ScalarNode) or self.is_null or not self._node.value:
            raise self.refuse(allowed)
        return self._node.value

    def choice(self, allowed: Iterable[str]) -> str:
        """Return one of the texts that are allowed."""
        allowed = tuple(allowed)
        value = self.text(f"one of {', '.join(allowed)}")
        if value not in allowed:
            raise self.refuse(f"one of {', '.join(allowed)}")
        return value
