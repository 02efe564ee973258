"""Strict YAML for settings: nothing is silently dropped, and a short text cannot fill the memory."""

from typing import Any

import yaml

DEEPEST = 40
"""Levels of nesting; settings need about six."""
LARGEST = 100_000
"""The most values, counting repetitions by aliases; a long list of row ids has some thousands."""


def load(text: str) -> Any:
    """The value of one YAML document, of plain types.

    Raises:
        ValueError: it is not valid, has a key twice, is nested too deeply or too large; one line, with the place.
    """
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, OverflowError) as error:
        # A value that does not fit its tag, such as `!!bool perhaps` or the date 2026-13-45, raises any of these.
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())}") from None
    _check(value)
    return value


class _Loader(yaml.SafeLoader):
    """Refuses what PyYAML accepts: repeated keys, of which it keeps the last, and nesting up to Python's own limit."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(f"nested more than {DEEPEST} deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(f"the key `{key.value}` occurs twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


def _check(value: Any) -> None:
    """Refuse too many values, as from aliases of aliases, and text that cannot be encoded."""
    left, counted = [value], 0
    while left:
        here = left.pop()
        counted += 1
        if counted > LARGEST:
            raise ValueError(f"more than {LARGEST:,} values, counting those that aliases repeat; use fewer aliases")
        if isinstance(here, dict):
            left += [*here, *here.values()]
        elif isinstance(here, list | tuple | set):
            left += here
        elif isinstance(here, str) and not here.isascii():
            try:
                here.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{ascii(here)[:60]} holds half a character; write the whole one") from None
