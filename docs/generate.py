"""Write the pages that follow from the code: reference.md from the verbs' options, tables in formats.md from schemas.

    python docs/generate.py            # writes both (`make docs`)
    python docs/generate.py --check    # exits 1 where a page is not what the code says

In formats.md a table lies between `<!-- table: NAME -->` and `<!-- end -->`; all around it is written by hand.
"""

import dataclasses
import importlib
import re
import sys
import typing
from pathlib import Path
from typing import Any

import pyarrow as pa

from depers import cli
from depers.options import REQUIRED
from depers.resources import default_cache_folder
from depers.storage.tables import description

FOLDER = Path(__file__).resolve().parent
SCHEMAS = {
    "manifest": "depers.anonymization.manifest:SCHEMA",
    "findings": "depers.anonymization.audit_step:SCHEMA",
    "detections": "depers.detection.detections:SCHEMA",
    "problems": "depers.normalization.writing:PROBLEMS",
    "files": "depers.normalization.account:FILES",
    "index": "depers.datasets.image_index:SCHEMA",
    "seen": "depers.datasets.seen_images:SCHEMA",
    "machine_labels": "depers.labelling.steps:RECORD",
    "backgrounds": "depers.datasets.sprite_bank:BACKGROUNDS",
    "sprites": "depers.datasets.sprite_bank:SPRITES",
    "plan": "depers.synthesis.plan_table:SCHEMA",
}


def reference() -> str:
    """Return reference.md: the arguments and options of every verb, by group."""
    parts = [
        "# Reference\n\nGenerated from the code by `make docs`. An option is `--kebab-case` on the command line and a"
        " keyword argument\n`snake_case` in Python; repeatable options are tuples there.\n"
        "\nOn the command line every verb also takes `--debug` (the traceback of an unexpected error), `--progress"
        " auto|json|none` and\n`--core-hour-price X`: [operations.md](operations.md#watching-a-run).\n"
    ]
    for verb, summary in cli.VERBS.items():
        options_type = importlib.import_module(f"depers.commands.{verb}").Options
        hints = typing.get_type_hints(options_type)
        fields = dataclasses.fields(options_type)
        names = [field.name.upper() for field in fields if field.metadata["positional"]]
        parts.append(f"\n## {verb}\n\n{summary[0].upper()}{summary[1:]}.\n\n`depers {verb} {' '.join(names)}`\n")
        groups: dict[str, list[str]] = {}
        for field in fields:
            title = "arguments" if field.metadata["positional"] else field.metadata["group"] or "options"
            groups.setdefault(title, []).append(_option_row(field, hints[field.name]))
        for title, rows in groups.items():
            parts.append(f"\n| {title} | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def _option_row(field: "dataclasses.Field[Any]", hint: Any) -> str:
    positional, limits = field.metadata["positional"], field.metadata["limits"]
    flag = field.name.upper() if positional else "--" + field.name.replace("_", "-")
    if field.default is REQUIRED:
        default = "" if positional else "required"
    elif field.default in (None, ()):
        default = ""
    elif isinstance(field.default, bool):
        default = "yes" if field.default else "no"
    else:
        default = ", ".join(map(str, field.default)) if isinstance(field.default, tuple) else f"{field.default}"
        default = default.replace(default_cache_folder(), "~/.cache/depers")  # not this machine's
    notes = [f"one of {', '.join(map(str, limits.choices))}"] if limits.choices else []
    notes += [bounds] if (bounds := limits.describe(0)) else []
    notes += ["repeatable"] if typing.get_origin(hint) is tuple else []
    text = field.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")
    return f"| `{flag}` | {default} | {_escaped(text)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def table(schema: pa.Schema) -> str:
    """Return the columns of a schema, a row each; fields of structs are indented by their parent's name."""
    rows = [row for field in schema for row in _column_rows(field, "")]
    return "| column | type | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _column_rows(field: pa.Field, prefix: str) -> list[str]:
    inner = field.type.value_type if pa.types.is_list(field.type) else field.type
    is_struct = pa.types.is_struct(inner)
    kind = "struct" if is_struct else str(inner)
    kind = f"list of {kind}" if pa.types.is_list(field.type) else kind
    rows = [f"| `{prefix}{field.name}` | {kind} | {_escaped(description(field))} |"]
    if is_struct:
        for index in range(inner.num_fields):
            rows += _column_rows(inner.field(index), f"{prefix}{field.name}.")
    return rows


def formats(page: str) -> str:
    """Return formats.md with every table between its marks made anew."""

    def fill(match: re.Match[str]) -> str:
        module, _, name = SCHEMAS[match[1]].partition(":")
        schema = getattr(importlib.import_module(module), name)
        return f"<!-- table: {match[1]} -->\n{table(schema)}<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", fill, page, flags=re.S)


def pages() -> dict[Path, str]:
    """Return what the generated pages should hold, by path."""
    path = FOLDER / "formats.md"
    return {FOLDER / "reference.md": reference(), path: formats(path.read_text(encoding="utf-8"))}


def main() -> int:
    """Write the pages, or with `--check` say which are not current."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path}: not what the code says; run: make docs", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
