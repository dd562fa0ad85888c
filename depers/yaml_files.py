"""YAML of strangers: plain values alone, of a size that fits the purpose, and one line for everything else."""

from typing import Any

import yaml

from depers.errors import UserError, one_line

_MOST_BYTES = 4_000_000  # ten thousand classes have a quarter of a megabyte


class _AliasFreeLoader(yaml.SafeLoader):
    """Knows no aliases: a few lines of them stand for more values than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases (*), which are not read")
        return super().compose_node(parent, index)


def parse_yaml(source: str, data: bytes) -> Any:
    """Return what a YAML file holds; `source` is its name for messages. Raise UserError."""
    if len(data) > _MOST_BYTES:
        raise UserError(f"{source}: must be YAML of at most {_MOST_BYTES} bytes, but has {len(data)}")
    try:
        return yaml.load(data.decode("utf-8"), Loader=_AliasFreeLoader)
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
