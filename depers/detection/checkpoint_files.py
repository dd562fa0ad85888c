"""torch's files as inert data: the pickle in them (`pickle_graph`), and tensors, which are numbers and a shape.

Nothing that a file names is called: a tensor is made here, from bytes of the file, and is never larger than those. Both
of torch's formats are read: the zip archive, and the pickles in a row that it wrote before 1.6.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from depers.detection.pickle_graph import Call, Dictionary, Global, PickleError, Reference, read_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's format before 1.6
_DTYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
}  # fmt: skip
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_MOST_DIMENSIONS = 8
_MOST_VALUES, _DEEPEST = 1_000_000, 16  # of plain data


class CheckpointError(ValueError):
    """Why something is not read; the message goes on after the file's name."""


class CheckpointFile:
    """What lies in a file that `torch.save` has written: `content`, as inert data."""

    def __init__(self, data: bytes) -> None:
        """Read the file's pickle. Raise CheckpointError."""
        self._size = len(data)
        self._unused = len(data)  # bytes that may still become tensors
        self._storages: dict[str, Tensor] = {}
        self._tensors: dict[int, Tensor] = {}
        try:
            self._read_bytes, self.content = (_open_zip if data.startswith(b"PK") else _open_pickles)(data)
        except PickleError as error:
            raise CheckpointError(str(error)) from None

    def holds_tensor(self, node: Any) -> bool:
        """Return whether a node describes a tensor."""
        return (
            isinstance(node, Call)
            and isinstance(node.function, Global)
            and node.function.path in _TENSORS + _PARAMETERS
        )

    def read_tensor(self, node: Any) -> Tensor:
        """Return the tensor that a node describes, on the CPU, without gradient. Raise CheckpointError."""
        if id(node) not in self._tensors:
            self._tensors[id(node)] = self._make_tensor(node)
        return self._tensors[id(node)]

    def read_plain(self, node: Any) -> Any:
        """Return the numbers, texts, lists, tuples, dicts and tensors that a node describes. Raise CheckpointError."""
        return _PlainReader(self).read(node, 0)

    def _make_tensor(self, node: Any) -> Tensor:
        if not self.holds_tensor(node) or not isinstance(node.arguments, tuple):
            raise CheckpointError(f"must hold a tensor, but holds {describe(node)}")
        if node.function.path in _PARAMETERS:
            inner: Any = node.arguments[0] if node.arguments else None
            if not self.holds_tensor(inner) or inner.function.path in _PARAMETERS:
                raise CheckpointError(f"must hold a parameter of numbers, but of {describe(inner)}")
            return self.read_tensor(inner)
        if len(node.arguments) < 4:
            raise CheckpointError("holds a tensor without storage, offset, size and stride")
        reference, offset, size, stride = node.arguments[:4]
        storage = self._read_storage(reference)
        if not (_is_index(offset) and _are_indices(size) and _are_indices(stride) and len(size) == len(stride)):
            raise CheckpointError("holds a tensor whose offset, size or stride are no numbers")
        count = math.prod(size)
        end = (
            offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
            if count
            else offset
        )
        self._unused -= count * storage.element_size()
        if end > storage.numel() or self._unused < 0:
            raise CheckpointError(f"holds a tensor of {count} numbers, but not that many numbers")
        return storage.as_strided(size, stride, offset)

    def _read_storage(self, reference: Any) -> Tensor:
        key, dtype, count = _parse_storage(reference)
        if key not in self._storages:
            length = count * dtype.itemsize
            data = self._read_bytes(key, length) if length <= self._size else b""
            if len(data) != length:
                raise CheckpointError(f"holds {len(data)} bytes of storage {key}, but must hold {length}")
            self._storages[key] = (
                torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)
            )
        storage = self._storages[key]
        if storage.dtype != dtype or storage.numel() != count:
            raise CheckpointError(f"holds a storage {key} of two kinds")
        return storage


class _PlainReader:
    """Makes plain values of nodes, as many and as deeply nested as a checkpoint has."""

    def __init__(self, file: CheckpointFile) -> None:
        self._file, self._count = file, 0

    def read(self, node: Any, depth: int) -> Any:
        self._count += 1
        if depth > _DEEPEST or self._count > _MOST_VALUES:
            raise CheckpointError(f"must hold at most {_MOST_VALUES} values, nested {_DEEPEST} deep, but holds more")
        if node is None or isinstance(node, (float, str)) or _is_number(node):
            return node
        if isinstance(node, (list, tuple)):
            return type(node)(self.read(item, depth + 1) for item in node)
        if isinstance(node, Dictionary) or is_ordered_dictionary(node):
            for key, _ in node.pairs:
                if not isinstance(key, str) and not _is_number(key):
                    raise CheckpointError(f"must hold texts and numbers as keys, but holds {describe(key)}")
            return {key: self.read(value, depth + 1) for key, value in node.pairs}
        if self._file.holds_tensor(node):
            return self._file.read_tensor(node)
        raise CheckpointError(f"must hold numbers and texts, but holds {describe(node)}")


def is_ordered_dictionary(node: Any) -> bool:
    """Return whether a node is an OrderedDict, filled after it was made."""
    return isinstance(node, Call) and _path(node.function) == "collections.OrderedDict" and node.arguments == ()


def is_new(node: Any, *paths: str) -> bool:
    """Return whether a node is an empty object of one of the classes, made without arguments."""
    return isinstance(node, Call) and node.is_new and node.arguments == () and _path(node.function) in paths


def describe(node: Any) -> str:
    """Return in a few words what a node is, for messages."""
    if isinstance(node, Call):
        return describe(node.function) if node.is_new else f"what {describe(node.function)} returns"
    if isinstance(node, Global):
        return "".join(letter if letter.isprintable() else "?" for letter in node.path[:80])
    if isinstance(node, str):
        return repr(node[:40])
    if node is None or isinstance(node, (bool, float)):
        return repr(node)
    if isinstance(node, int):
        return str(node) if abs(node) < 10**18 else "a huge number"
    names = {list: "a list", tuple: "a tuple", Dictionary: "a dict", Reference: "a storage"}
    return names.get(type(node), "bytes")


def _path(node: Any) -> str:
    return node.path if isinstance(node, Global) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and -(2**53) < value < 2**53


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _are_indices(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= _MOST_DIMENSIONS and all(map(_is_index, values))


def _parse_storage(reference: Any) -> tuple[str, torch.dtype, int]:
    """Return key, dtype and count of a storage: ("storage", class, key, device, count)."""
    value = reference.value if isinstance(reference, Reference) else None
    if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage" or any(value[5:]):
        raise CheckpointError("holds a tensor whose numbers are not in the file")
    _, cls, key, _, count = value[:5]
    dtype = _DTYPES.get(cls.name) if isinstance(cls, Global) and cls.module == "torch" else None
    if not isinstance(key, str) or not key.isalnum() or not key.isascii() or len(key) > 40:
        raise CheckpointError(f"must hold numbers under a key of letters and digits, but has {describe(key)}")
    if dtype is None or not _is_index(count):
        raise CheckpointError(f"must hold numbers of {', '.join(_DTYPES)}, but holds {describe(cls)}")
    return key, dtype, count


_ReadBytes = Callable[[str, int], bytes | memoryview]


def _open_zip(data: bytes) -> tuple[_ReadBytes, Any]:
    """Return the reader of a zip archive's storages, and what its pickle describes."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = archive.namelist()
    except Exception as error:  # zipfile fails in as many ways as an archive can be damaged
        raise CheckpointError(f"is a damaged zip archive ({type(error).__name__})") from None
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"must be a file that torch.save wrote, but is a zip archive with {len(pickles)} data.pkl"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise CheckpointError(
            "is TorchScript, which is code; wanted is the .pt that it was exported from (weights/best.pt of a training)"
        )

    def read(name: str, limit: int) -> bytes:
        try:
            info = archive.getinfo(folder + name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
                raise CheckpointError(f"must hold {name} as torch.save stores it, but it is compressed or too large")
            return archive.read(info)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"is damaged: {name} cannot be read ({type(error).__name__})") from None

    if f"{folder}byteorder" in names and read("byteorder", 16) != b"little":
        raise CheckpointError("must hold numbers with the lowest byte first, but has byteorder big")
    content, _ = read_pickle(io.BytesIO(read("data.pkl", len(data))))
    return lambda key, length: read(f"data/{key}", length), content


def _open_pickles(data: bytes) -> tuple[_ReadBytes, Any]:
    """Return the same for what torch wrote before 1.6: five pickles in a row, then each storage behind its length."""
    stream = io.BytesIO(data)
    magic, protocol = (read_pickle(stream)[0] for _ in range(2))
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise CheckpointError("must be a file that torch.save wrote, but is another pickle")
    read_pickle(stream)  # of the machine that wrote it
    content, references = read_pickle(stream)
    storages = {key: (dtype, count) for key, dtype, count in map(_parse_storage, references)}
    keys, _ = read_pickle(stream)
    places: dict[str, int] = {}
    place = stream.tell()
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in storages or place + 8 > len(data):
            break
        dtype, count = storages[key]
        if struct.unpack_from("<q", data, place) != (count,):
            break
        places[key] = place + 8
        place += 8 + count * dtype.itemsize
    view = memoryview(data)
    return lambda key, length: view[places[key] : places[key] + length] if key in places else b"", content
