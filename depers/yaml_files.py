"""YAML of strangers: plain values alone, of a size that fits the purpose, and one line for everything else."""

from typing import Any

import yaml

from depers.errors import UserError, one_line

_MOST_BYTES = 4_000_000  # ten thousand classes have a quarter of a megabyte
_MOST_VALUES = 1_000_000


def parse_yaml(source: str, data: bytes, unique_keys: bool = False) -> Any:
    """Return what a YAML file holds; `source` is its name for messages. Raise UserError.

    With `unique_keys` a mapping that has a key twice is refused; without, the last one counts, as in all of YAML.
    """
    if len(data) > _MOST_BYTES:
        raise UserError(f"{source}: must be YAML of at most {_MOST_BYTES} bytes, but has {len(data)}")
    try:
        loader = yaml.SafeLoader(data.decode("utf-8"))
        node = loader.get_single_node()
        if node is not None and _count_values(node, {}) > _MOST_VALUES:
            raise UserError(
                f"{source}: must be YAML of at most {_MOST_VALUES} values, but its aliases make more of them"
            )
        if unique_keys and (key := _find_double_key(node)) is not None:
            raise UserError(f"{source}: a key must be given once, but {shorten(key)} is twice in one mapping")
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise UserError(f"{source}: must be YAML, but is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # also of dates and numbers that are none
        raise UserError(f"{source}: must be YAML, but {one_line(error)}") from None


def shorten(value: Any) -> str:
    """Return a value for messages: a text or a number, else what kind of thing it is."""
    if isinstance(value, str):
        return repr(value[:60])
    is_number = isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 10**18)
    return str(value) if value is None or is_number else type(value).__name__


def _find_double_key(node: yaml.Node | None) -> str | None:
    """Return a key that a mapping has twice, here or further in; None where there is none."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubles = [key for key in keys if keys.count(key) > 1]
        inner = (_find_double_key(value) for _, value in node.value)
        return str(doubles[0]) if doubles else next((key for key in inner if key is not None), None)
    if isinstance(node, yaml.SequenceNode):
        return next((key for value in node.value if (key := _find_double_key(value)) is not None), None)
    return None


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return how many values a node stands for, counting aliases each time; too many for what holds itself."""
    if id(node) not in counts:
        counts[id(node)] = _MOST_VALUES + 1  # while its values are counted
        values = node.value if isinstance(node, yaml.CollectionNode) else []
        items = [item for value in values for item in (value if isinstance(value, tuple) else (value,))]
        counts[id(node)] = 1 + sum(_count_values(item, counts) for item in items)
    return counts[id(node)]
