"""Large JSON is read in pieces as Python reads it whole, or not at all, whatever is in it."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.normalization.formats import json_lists
from depers.normalization.formats.json_lists import find_pieces, read_piece

NAMES = ("images", "annotations", "categories")
texts = st.sampled_from(["", "a", 'a"b', "\\", "{[", ']}"', "é\u4e00", 'x\\"', "images", '"images": ['])
plain = st.one_of(texts, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.none(), st.booleans())
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=6)
objects = st.lists(st.dictionaries(texts, values, max_size=3), max_size=5)
documents = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, objects) | {"info": values, 'im"ages': objects})


def read(data: bytes, block: int) -> dict[str, list[Any]] | None:
    """What is in the lists; None for what is refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, "_BLOCK", block)
        try:
            pieces = find_pieces(io.BytesIO(data), NAMES)
            return {
                name: [item for piece in pieces[name] for item in read_piece(io.BytesIO(data), piece)] for name in NAMES
            }
        except ValueError:
            return None


@given(documents, st.sampled_from([None, 1]), st.booleans(), st.sampled_from([1, 2, 3, 7, 30, 1000]))
def test_lists_are_read_whole(document: dict[str, Any], indent: int | None, is_ascii: bool, block: int) -> None:
    data = json.dumps(document, indent=indent, ensure_ascii=is_ascii).encode()
    found = read(data, block)
    if found is None:  # as something further down has such a name
        beside = json.dumps([value for name, value in document.items() if name not in NAMES])
        assert any(f'"{name}":' in beside for name in NAMES)
    else:
        assert found == {name: document.get(name, []) for name in NAMES}
    assert read(b"\xef\xbb\xbf" + data, block) == found


@given(
    documents,
    st.lists(st.tuples(st.integers(0), st.sampled_from(list(b'{}[]",:\\ 1a') + [-1])), min_size=1, max_size=2),
)
def test_what_is_damaged_is_refused_or_read_as_it_is(document: dict[str, Any], damage: list[tuple[int, int]]) -> None:
    data = bytearray(json.dumps(document).encode())
    for place, byte in damage:
        data[place % len(data) : place % len(data) + 1] = b"" if byte < 0 else bytes([byte])
    found = read(bytes(data), 30)
    if found is not None:
        pairs = json.loads(data, object_pairs_hook=lambda pairs: pairs)
        for name in NAMES:  # a name may be there twice now
            whole = [item for key, items in pairs if key == name for item in items]
            assert len(found[name]) == len(whole)


@pytest.mark.parametrize(
    "text",
    ['{"images": [{}], "im\\u0061ges": [{}]}', '{"images":' + " " * 5000 + "[{}]}", '{"images": {"a": 1}}']
    + [
        '{"images": [{}, {"a": NaN}]}',
        '{"images": [{}, {"a": "\\ud800"}]}',
        '{"images": [{},]}',
        "[]",
        '{"images": [{}]',
    ],
)
def test_what_is_odd_is_left_to_a_slower_reader(text: str) -> None:
    assert read(text.encode(), 30) is None


@pytest.mark.parametrize(
    "value",
    ["18446744073709551616", "-9223372036854775809", "12345678901234567890123", "1e3", '"\\ud83d\\ude00"', "-0.0"],
)
def test_values_are_what_python_reads(value: str) -> None:
    """Ids beyond 64 bits become no fractions, of which many are one."""
    document = json.loads(text := f'{{"annotations": [{{"id": {value}}}, {{"id": 2}}]}}')
    found = read(text.encode(), 1000)
    assert found is not None and repr(found["annotations"]) == repr(document["annotations"])
