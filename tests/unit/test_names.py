"""Names in the code: variables are nouns, and one word has one meaning.

    python tests/unit/test_names.py [FOLDER]

prints the words that name no thing, the most frequent ones first, and where they stand.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MOST_SHARE = 0.01

PARTICIPLES = """
    added allowed answered asked begun broken built carried changed chosen collected condemned counted cut done
    drawn ended exchanged failed filled finished found gathered given got grown having held joined kept known
    laid_out left left_out listed looked lost made meant measured missed missing mixed moved named noted ordered
    pasted picked placed planned put refused running said searched seen shown started taken tested told touched
    tried unread used waiting wanted went written
"""
PRONOUNS = """
    all_of_it another any_of_them anything both each either enough everybody everything few it many mine more most
    much neither none nothing one ones other others ours own same so_far some somebody something such that theirs
    them these they this those what which who whole whose
"""
ADVERBS = """
    about again ahead alike alone at away by carefully deadly elsewhere here how like of once out_of_it so then
    there till todo when where why within without
"""
BANNED = frozenset(f"{PARTICIPLES} {PRONOUNS} {ADVERBS}".split())

SPECIFIED = {
    "<picture>": "an element of HTML",
    "multi-picture": "the Multi-Picture Format (MPF) of CIPA DC-007, of which MPO files are made",
}
"""Where a specification itself says `picture`, and which one."""
RENAMING = "bench/same_bytes.py"
"""Compares code from before the renaming with code from after it, so it must say both words."""


class Name(NamedTuple):
    """A name that is assigned, without leading underscores, and where."""

    name: str
    path: Path
    line: int


def assigned_names(path: Path) -> Iterator[Name]:
    """Yield every name that a module assigns, as often as it does: targets of all kinds, attributes, parameters."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                if name not in ("self", "cls"):
                    yield Name(name.strip("_"), path, node.lineno)


def all_names(folder: Path) -> list[Name]:
    """List the names that the modules below a folder assign."""
    return [name for path in sorted(folder.rglob("*.py")) for name in assigned_names(path)]


def offences(names: list[Name]) -> list[Name]:
    """Select the names that are no nouns; `left` is one where there is a `right` in the same module."""
    sided = {name.path for name in names if name.name == "right"}
    return [name for name in names if name.name in BANNED and not (name.name == "left" and name.path in sided)]


def ranking(names: list[Name]) -> str:
    """Describe the share of names that are no nouns, how often each occurs, and in which modules."""
    bad = offences(names)
    lines = [
        f"{len(bad)} of {len(names)} assigned names are participles, pronouns or adverbs: {len(bad) / len(names):.2%}"
    ]
    lines += [", ".join(f"{word} {count}" for word, count in Counter(name.name for name in bad).most_common())]
    for path, count in Counter(name.path for name in bad).most_common():
        words = Counter(name.name for name in bad if name.path == path).most_common()
        lines.append(f"{count:5} {path}: " + ", ".join(f"{word} {times}" for word, times in words))
    return "\n".join(lines)


def picture_lines() -> list[str]:
    """List the lines of code and documentation that say `picture` on their own account."""
    files = [ROOT / "README.md"]
    for folder in ("depers", "jobs", "bench", "docs"):
        files += sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml", ".html"))
    allowed = re.compile("|".join(map(re.escape, SPECIFIED)), re.IGNORECASE)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files
        if path != ROOT / RENAMING
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "picture" in allowed.sub("", line).lower()
    ]


def test_variables_are_nouns() -> None:
    """A reader takes a name for a thing; `found` and `each` name none."""
    names = all_names(ROOT / "depers")
    assert len(offences(names)) < MOST_SHARE * len(names), ranking(names)


def test_there_is_one_word_for_an_image() -> None:
    """Code, options, messages, columns and documentation call it `image` everywhere."""
    lines = picture_lines()
    assert not lines, f"{len(lines)} lines say picture:\n" + "\n".join(lines[:100])


if __name__ == "__main__":
    print(ranking(all_names(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "depers")))
