"""A function's docstring says what to do ("Return the boxes"); a class has one name and one meaning."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("depers", "jobs", "bench")

FIRST_WORDS = """
    A About After All An And Another Any As At Background Base64 Batch Because Before Between Blur Bool Both Bucket
    But By Byte Center Centre Class Color Colour Down Each Either Every Few File First Five For Four From Given
    Greedy Grid Half Height Here Horizontal How Hue If Image In Inside Into It Its Large Last Like Loose Many Me
    Mean Member More Most Much Neither No None Nothing Of On Once One Only Optimizer Or Other Our Outside Over Own
    Pair Peak Per Picture Pixel Plain Please Safe Same Scene Second Several She Small So Some Street Such Table Text
    That The Their Them Then There These They This Those Three Through Tiny To Two Under Until Up Upright Vertical
    We What Whatever When Where Whether Which While Who Whole Whose Why Width With Without World You
"""
"""Words that begin no request: articles, pronouns, prepositions, numerals, adjectives, nouns seen in their place."""
NOT_VERBS = frozenset(FIRST_WORDS.split())
IN_S = frozenset({"Bias", "Bus", "Focus", "Canvas"})
IN_ED = frozenset({"Bed", "Embed", "Exceed", "Feed", "Need", "Proceed", "Seed", "Shed", "Shred", "Speed", "Wed"})
IN_ING = frozenset({"Bring", "Fling", "Ring", "String", "Swing"})
"""Verbs that look like a third person, like a participle and like a noun made of a verb."""
IN_EVERY_VERB = frozenset({"Options"})
"""Class names that several modules define on purpose: one per verb."""


def is_imperative(docstring: str) -> bool:
    """Tell by its first word whether a docstring may begin with an imperative."""
    word = docstring.split()[0].rstrip(",:;")
    if not re.fullmatch(r"[A-Z][a-z]+(-[a-z]+)*", word) or word in NOT_VERBS:
        return False
    third_person = word.endswith("s") and not word.endswith("ss") and word not in IN_S
    participle = word.endswith("ed") and word not in IN_ED
    noun = (word.endswith("ing") and word not in IN_ING) or word.endswith(("tion", "ness", "ity"))
    return not (third_person or participle or noun)


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield public functions, and the methods of public classes but their properties."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
            if not decorators & {"property", "cached_property", "setter"}:
                yield node


def modules(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path and the syntax tree of every module below the folders."""
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def class_names(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the classes and type aliases that a module defines at its top, without underscores, and their lines."""
    for node in module.body:
        match node:
            case ast.ClassDef(name=name):
                yield name.strip("_"), node.lineno
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if re.fullmatch(r"_?[A-Z][a-z]\w*", name):
                    yield name.strip("_"), node.lineno


def test_docstrings_of_functions_are_imperative() -> None:
    """Constants, classes and properties are nouns, functions are requests."""
    offenders = [
        f"{path}:{node.lineno}: {node.name}: {docstring.splitlines()[0][:80]}"
        for path, module in modules(*FOLDERS)
        for node in public_functions(module.body)
        if (docstring := ast.get_docstring(node)) and not is_imperative(docstring)
    ]
    assert not offenders, f"{len(offenders)} docstrings begin with no imperative:\n" + "\n".join(offenders)


def test_a_class_name_has_one_meaning() -> None:
    """Whoever reads `Job` need not ask which."""
    places = defaultdict(list)
    for path, module in modules("depers"):
        for name, line in class_names(module):
            places[name].append(f"{path}:{line}")
    several = [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]
    several = [text for text in several if text.split(":")[0] not in IN_EVERY_VERB]
    assert not several, f"{len(several)} names of classes or types are defined more than once:\n" + "\n".join(several)
