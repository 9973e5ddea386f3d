"""Reads a YAML file that must be whole, and finds the lines of its values.

A file that is cut short may still be valid YAML and lack its last lines: a key without the limits
that follow, for example. So the end must be marked by YAML's own mark of a document's end, a last
line of `...`. A file in JSON form needs none, because it ends where its first brace is closed. A
key that is written twice is refused, because YAML's readers silently take the last one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

END_MARK: Final = "..."
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C parser where there is one: half a thousand keys take it milliseconds."""


class NotWhole(ValueError):
    """The text is not one whole YAML document. The message says why, without any of the text, which
    may contain a key by mistake. `line` counts from 1; None: unknown."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class Document:
    """The content of a file, and the line of each value."""

    data: Any
    root: yaml.Node | None

    def line(self, path: Sequence[str | int]) -> int | None:
        """The line, from 1, of the value at `path`, or of the nearest parent that exists."""
        node = self.root
        line = None if node is None else node.start_mark.line + 1
        for step in path:
            node = _child(node, step)
            if node is None:
                break
            line = node.start_mark.line + 1
        return line


def load(text: str) -> Document:
    """Read the one document in `text`. Raises `NotWhole`."""
    try:
        loader = _LOADER(text)
        try:
            root = loader.get_single_node()
            _refuse_twice(root)
            data = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except NotWhole:
        raise
    except Exception as error:  # noqa: BLE001  # The constructors of its tags raise what they like.
        mark = getattr(error, "problem_mark", None)
        raise NotWhole("is not YAML", None if mark is None else mark.line + 1) from None
    if not (_has_end_mark(text) or getattr(root, "flow_style", False)):
        raise NotWhole(
            f"has no end mark and may be cut short: check that it is complete, and end it with "
            f"a line of {END_MARK!r} (printf '\\n{END_MARK}\\n' >> FILE)"
        )
    return Document(data, root)


def without_end_mark(text: str) -> str:
    """`text` up to the end mark."""
    lines = text.splitlines(keepends=True)
    at = next((n for n, line in enumerate(lines) if _is_mark(line)), len(lines))
    return "".join(lines[:at])


def _has_end_mark(text: str) -> bool:
    # In the first column these dots are a document's end wherever they stand; more than comments
    # behind them would have been another document.
    return any(map(_is_mark, text.splitlines()))


def _is_mark(line: str) -> bool:
    return line.startswith(END_MARK) and not line[len(END_MARK) :].strip().rstrip("\ufeff")


def _child(node: yaml.Node | None, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step] if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    return None


def _refuse_twice(root: yaml.Node | None) -> None:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            names: set[tuple[str, str]] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in names:
                        raise NotWhole("has a key twice", key.start_mark.line + 1)
                    names.add((key.tag, key.value))
                waiting += (key, value)
