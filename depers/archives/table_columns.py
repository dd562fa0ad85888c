"""The columns of a table, at any depth: which hold images, which are kept, and what lies in the values of those.

A value is reached through its leaf, an array without structs and lists, and the row that each of its elements is in.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers.imaging import sniffing
from depers.imaging.disguise import pixels, texts
from depers.imaging.disguise.search import find_image, find_image_in_bytes
from depers.imaging.disguise.texts import to_bytes
from depers.storage.tables import holds_extension

_EXTENSION = (b"ARROW:extension:name", b"ARROW:extension:metadata")
_MOST_METADATA = 10_000
_WORDS, _WORD_RANGE = 256, 1 << 64  # numbers that show whether an image begins in them
_FEATURE_KEYS = ("_type", "dtype", "feature", "length", "shape", "names", "num_classes", "languages")


class Column(NamedTuple):
    """A column that is written: its name and type, and which of its leaves hold images.

    `kept_leaves` are all other leaves that are written; None where the whole column is.
    """

    name: str
    type: pa.DataType
    images: frozenset[str]
    kept_leaves: frozenset[str] | None


class Leaf(NamedTuple):
    """Elements without structs and lists: where in the type they are, in which rows, and within how many lists."""

    path: str
    array: pa.Array
    rows: NDArray[np.int64]
    depth: int


def simplify_type(kind: pa.DataType) -> pa.DataType:
    """Return the type without dictionaries, views, extensions and what must not be null: as Parquet stores it."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return simplify_type(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return simplify_type(kind.value_type)
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_struct(kind):
        return pa.struct([pa.field(child.name, simplify_type(child.type)) for child in kind])
    if types.is_map(kind):
        return pa.map_(simplify_type(kind.key_type), simplify_type(kind.item_type))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(pa.field(kind.value_field.name, simplify_type(kind.value_type)))
    if types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_list_view(kind):
        return pa.list_(pa.field(kind.value_field.name, simplify_type(kind.value_type)))
    return kind


def simplify(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return the array as one of the type that `simplify_type` gives."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.type == kind:
        return array
    try:
        return array.cast(kind)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        if holds_extension(array.type):  # of which some unpickle what they are asked for
            raise
        return pa.array(array.to_pylist(), kind)


def list_leaf_types(kind: pa.DataType, path: str) -> Iterator[tuple[str, pa.DataType, bool]]:
    """Yield path and type of every leaf of a simple type, and whether a map is on the way to it."""
    if pa.types.is_struct(kind):
        for child in kind:
            yield from list_leaf_types(child.type, f"{path}.{child.name}")
    elif pa.types.is_map(kind):
        for name, child in (("key", kind.key_type), ("value", kind.item_type)):
            yield from ((inner, leaf, True) for inner, leaf, _ in list_leaf_types(child, f"{path}.{name}"))
    elif _is_list(kind):
        yield from list_leaf_types(kind.value_type, path)
    else:
        yield path, kind, False


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether values of a simple type are bytes of any length."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def walk(array: pa.Array, path: str, rows: NDArray[np.int64], depth: int = 0) -> Iterator[Leaf]:
    """Yield the leaves of an array of a simple type."""
    kind = array.type
    if pa.types.is_struct(kind):
        for child, values in zip(kind, array.flatten(), strict=True):
            yield from walk(values, f"{path}.{child.name}", rows, depth)
    elif pa.types.is_map(kind):
        pairs = pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)])
        yield from walk(array.cast(pa.list_(pairs)), path, rows, depth)
    elif _is_list(kind):
        yield from walk(array.flatten(), path, np.repeat(rows, _lengths(array)), depth + 1)
    else:
        yield Leaf(path, array, rows, depth)


def _lengths(array: pa.Array) -> NDArray[np.int64]:
    return np.asarray(pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def rebuild(array: pa.Array, path: str, leaves: Mapping[str, pa.Array]) -> pa.Array:
    """Return an array of a simple type, without maps, with other `leaves` by their paths, as `walk` gives them.

    A struct of `bytes` and `path` without bytes becomes null: readers would open the file that the path names.
    """
    kind = array.type
    if pa.types.is_struct(kind):
        children = [
            rebuild(values, f"{path}.{child.name}", leaves) for child, values in zip(kind, array.flatten(), strict=True)
        ]
        mask = array.is_null()
        names = [child.name for child in kind]
        if {"bytes", "path"} <= set(names):
            mask = pc.or_(mask, children[names.index("bytes")].is_null())
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    if _is_list(kind):
        values = rebuild(array.flatten(), path, leaves)
        offsets = np.concatenate([[0], np.cumsum(_lengths(array))])
        large = pa.types.is_large_list(kind)
        make = pa.LargeListArray.from_arrays if large else pa.ListArray.from_arrays
        return make(pa.array(offsets, pa.int64() if large else pa.int32()), values, type=kind, mask=array.is_null())
    return leaves.get(path, array)


def matches(path: str, column: str, globs: Sequence[str]) -> bool:
    """Return whether a leaf is to be kept: a pattern names it, or the column that it is in."""
    return any(fnmatchcase(path, glob) or fnmatchcase(column, glob) for glob in globs)


def find_declared_images(field: pa.Field, kind: pa.DataType, feature: Any) -> frozenset[str]:
    """Return the leaves that hold images as the schema says: by Hugging Face's feature, or as bytes with a path."""
    is_image = '"_type": "Image"' in json.dumps(feature, default=str) if feature is not None else None
    return frozenset(
        path
        for path, leaf, in_map in list_leaf_types(kind, field.name)
        if is_bytes(leaf) and not in_map and (is_image or (is_image is None and _has_path_beside(kind)))
    )


def _has_path_beside(kind: pa.DataType) -> bool:
    while _is_list(kind):
        kind = kind.value_type
    return pa.types.is_struct(kind) and {"bytes", "path"} <= {child.name for child in kind}


def find_sampled_images(leaves: Sequence[Leaf]) -> tuple[set[str], set[str]]:
    """Return the paths of leaves with values of which one is an image, and of those with values at all."""
    images, paths_with_values = set(), set()
    for leaf in leaves:
        if is_bytes(leaf.array.type):
            values = [value for value in leaf.array.to_pylist() if value]
            paths_with_values |= {leaf.path} if values else set()
            images |= {leaf.path} if any(sniffing.is_image(value[: sniffing.HEAD]) for value in values) else set()
    return images, paths_with_values


def find_hidden_images(array: pa.Array, path: str, skip: frozenset[str] = frozenset()) -> dict[int, str]:
    """Return for each row of an array of a simple type that holds an image in any dress, what it is.

    `skip` are leaves that are not looked at. Raises ValueError for a type whose values cannot be looked at.
    """
    findings: dict[int, str] = {}
    for leaf in walk(array, path, np.arange(len(array))):
        if leaf.path in skip or not len(leaf.array):
            continue
        kind = leaf.array.type
        if is_bytes(kind) or pa.types.is_fixed_size_binary(kind):
            _search_values(leaf, pa.large_binary(), b"", findings)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            _search_values(leaf, pa.large_string(), b"\n", findings)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            if leaf.depth:
                _search_numbers(leaf, findings)
        elif not (pa.types.is_boolean(kind) or pa.types.is_temporal(kind) or pa.types.is_null(kind)):
            raise ValueError(f"values of type {kind} cannot be looked at")
    return findings


def _search_values(leaf: Leaf, kind: pa.DataType, joint: bytes, findings: dict[int, str]) -> None:
    """Search the texts or bytes of each row one by one, then together where there are several."""
    values = leaf.array.cast(kind).cast(pa.large_binary())
    for start, stop in _row_spans(leaf.rows):
        row = int(leaf.rows[start])
        contents = [value for value in values[start:stop].to_pylist() if value]
        reason = next((reason for value in contents if (reason := find_image(value))), "")
        if not reason and len(contents) > 1:
            reason = find_image(joint.join(contents))
        if reason:
            findings.setdefault(row, reason)


def _search_numbers(leaf: Leaf, findings: dict[int, str]) -> None:
    floats = not pa.types.is_integer(leaf.array.type)
    array = leaf.array.cast(pa.float64(), safe=False) if floats else leaf.array
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    is_stored = pa.types.is_integer(leaf.array.type) or pa.types.is_floating(leaf.array.type)
    stored = leaf.array.fill_null(0).to_numpy(zero_copy_only=False) if is_stored else values
    for start, stop in _row_spans(leaf.rows):
        numbers = values[start:stop]
        reason = "a list of numbers that may be pixels" if pixels.are_pixels(numbers, leaf.depth) else ""
        if not reason and len(numbers) >= 32 and (not floats or (numbers == np.round(numbers)).all()):
            clipped = np.clip(numbers, -129, 256).astype(np.int64)
            kind = find_image_in_bytes(to_bytes(clipped))
            reason = f"{kind} in a list of numbers" if kind else ""
        if not reason and _holds_words(stored[start:stop]):
            reason = "an image in a list of numbers"
        if reason:
            findings.setdefault(int(leaf.rows[start]), reason)


def _holds_words(numbers: NDArray[Any]) -> bool:
    """Return whether numbers are the bytes of an image, several in each: as they are stored, or as whole numbers."""
    if sniffing.sniff_format(numbers[:_WORDS].tobytes()) in texts.FILES:
        return True
    is_whole = np.issubdtype(numbers.dtype, np.integer)
    words = [number % _WORD_RANGE for number in numbers[:_WORDS].tolist()] if is_whole else []
    return any(True for _ in texts.list_words(words))


def _row_spans(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(rows)) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(rows)], strict=True)


def remove_rows(array: pa.Array, rows: Sequence[int]) -> pa.Array:
    """Return the array with some of its rows null."""
    indices: list[int | None] = list(range(len(array)))
    for row in rows:
        indices[row] = None
    return array.take(pa.array(indices, pa.int64()))


def make_field(field: pa.Field, column: Column) -> pa.Field:
    """Return the field of a column that is written: it may be null, and says no more than its type."""
    metadata: dict[bytes, bytes] = {}
    if column.kept_leaves is None:
        if isinstance(field.type, pa.ExtensionType):
            metadata = {_EXTENSION[0]: field.type.extension_name.encode()}
            metadata[_EXTENSION[1]] = field.type.__arrow_ext_serialize__()
        else:
            metadata = {name: value for name in _EXTENSION if (value := (field.metadata or {}).get(name)) is not None}
        if any(len(value) > _MOST_METADATA or find_image(value) for value in metadata.values()):
            metadata = {}
    return pa.field(field.name, column.type, metadata=metadata or None)


def read_features(schema: pa.Schema) -> dict[str, Any]:
    """Return what the metadata of Hugging Face `datasets` says of the columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return dict(features)
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def make_metadata(features: dict[str, Any], columns: Sequence[Column]) -> dict[bytes, bytes] | None:
    """Return the schema's metadata: what Hugging Face `datasets` must know of the columns that are written."""
    known = {
        column.name: _reduce_feature(features[column.name], column) for column in columns if column.name in features
    }
    return {b"huggingface": json.dumps({"info": {"features": known}}).encode()} if known else None


def _reduce_feature(feature: Any, column: Column) -> Any:
    """Return a feature's types; names of classes where the column is kept."""
    if isinstance(feature, list):
        return [_reduce_feature(child, column) for child in feature]
    if not isinstance(feature, dict):
        return feature if isinstance(feature, str | int) and len(str(feature)) < 100 else None
    if not isinstance(feature.get("_type"), str):
        return {name: _reduce_feature(child, column) for name, child in feature.items()}
    keys = _FEATURE_KEYS if column.kept_leaves is None else ("_type", "feature", "length")
    return {name: _reduce_feature(child, column) for name, child in feature.items() if name in keys}
