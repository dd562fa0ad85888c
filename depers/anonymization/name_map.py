"""What results are called: names of inputs, a prefix stripped, replaced by patterns, or hashed where they are personal.

Hashes are keyed (HMAC, RFC 2104). The key lies with the records, never in OUT: without it nobody can try which name
gives a hash. Equal names have equal hashes, so that what belongs together by its name still does.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from depers import storage
from depers.archives import registry
from depers.errors import UserError
from depers.imaging import sniffing
from depers.runtime import claims, units

KEY = "names_key"
"""What the key of hashed names is called in the records' `job.json`."""
_KEY = re.compile(r"[0-9a-f]{64}")
_DIGITS = 32  # of a hash, hexadecimal: 128 bits
_DATA_SUFFIXES = (".csv", ".json", ".jsonl", ".md", ".pdf", ".tsv", ".txt", ".xml", ".yaml", ".yml")
_SUFFIXES = tuple(sorted((*registry.SUFFIXES, *sniffing.IMAGE_SUFFIXES, *_DATA_SUFFIXES), key=len, reverse=True))


class _Strip(NamedTuple):
    prefix: str

    def apply(self, path: str, key: bytes) -> str:
        return path.removeprefix(self.prefix)


class _Replacement(NamedTuple):
    pattern: re.Pattern[str]
    text: str

    def apply(self, path: str, key: bytes) -> str:
        return self.pattern.sub(self.text, path)


class _Hashing(NamedTuple):
    """Hash what a pattern finds, or every folder and the name; the suffix stays where it says what a file is."""

    pattern: re.Pattern[str] | None

    def apply(self, path: str, key: bytes) -> str:
        suffix = find_suffix(path)
        stem = path[: len(path) - len(suffix)]
        if self.pattern is None:
            return "/".join(_hash(part, key) for part in stem.split("/")) + suffix
        return self.pattern.sub(lambda match: _hash(match[0], key) if match[0] else "", stem) + suffix


def find_suffix(path: str) -> str:
    """Return how a path ends, as it is spelt, where that is known to say what a file is; empty for all else."""
    name = path.rpartition("/")[2].lower()
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
    return path[len(path) - len(suffix) :] if suffix else ""


def _hash(name: str, key: bytes) -> str:
    return hmac.new(key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class NameMap:
    """Rules, each applied to what those before it gave, and the key of hashes; called with the path of an input."""

    rules: tuple[_Strip | _Replacement | _Hashing, ...]
    key: str = ""
    """In hexadecimal digits; empty where nothing is hashed."""

    def __call__(self, path: str) -> str:
        """Return what the result of an input, or of a member of an archive, is called."""
        key = bytes.fromhex(self.key)
        for rule in self.rules:
            path = rule.apply(path, key)
        return path

    @property
    def has_hashes(self) -> bool:
        """Return whether it needs a key."""
        return any(isinstance(rule, _Hashing) for rule in self.rules)

    def note(self) -> Mapping[str, str]:
        """Return what the records must note of it besides the options."""
        return {KEY: self.key} if self.has_hashes else {}


def parse_rules(texts: Sequence[str]) -> NameMap:
    """Return the map that the values of `--map` say, without a key yet. Raise UserError."""
    return NameMap(tuple(_parse_rule(text) for text in texts))


def _parse_rule(text: str) -> _Strip | _Replacement | _Hashing:
    kind, colon, value = text.partition(":")
    if kind == "hash":
        if colon and not value:
            raise UserError(f"--map {text}: hash: must be followed by a regular expression, or be hash alone")
        return _Hashing(_compile(text, value) if colon else None)
    if kind == "strip" and value:
        return _Strip(value)
    if kind == "replace" and value:
        parts = value[1:].split(value[0])
        if len(parts) != 3 or not parts[0] or parts[2]:
            raise UserError(f"--map {text}: must be replace:/REGEX/TEXT/, with any character for / that is in neither")
        pattern = _compile(text, parts[0])
        try:
            pattern.sub(parts[1], "")
        except (re.error, IndexError) as error:
            raise UserError(f"--map {text}: the replacement {parts[1]!r} must fit the expression ({error})") from None
        return _Replacement(pattern, parts[1])
    raise UserError(f"--map must be strip:PREFIX, replace:/REGEX/TEXT/, hash or hash:REGEX, but got {text!r}")


def _compile(text: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"--map {text}: {pattern!r} must be a regular expression ({error})") from None


def load(texts: Sequence[str], out: str, records: str) -> NameMap | None:
    """Return the map of a run, with the key of an earlier run in OUT or a new one; None without rules.

    Raise UserError.
    """
    if not texts:
        return None
    names = parse_rules(texts)
    if not names.has_hashes:
        return names
    notes: Mapping[str, Any] = {}
    if storage.exists(storage.join(records, units.JOB)):
        notes = claims.read_job(out, records)
    key = notes.get(KEY) or secrets.token_hex(32)
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise UserError(f"{records}: {KEY} must be 64 hexadecimal digits that an earlier run wrote, but is damaged")
    return replace(names, key=key)
