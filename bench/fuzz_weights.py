"""Hostile and damaged weights: nothing of them runs, and each loads or is refused in one line.

    python bench/fuzz_weights.py [--count 20000] [--seed 1] [--workers 2] [--every 1]

Hand-made checkpoints first: every class and function that a checkpoint may name, and those that attackers like, by
every instruction of pickles that makes, calls or changes something, in every place of a checkpoint. Then `--count`
mutated ones, of the file's bytes, or of the pickle in it with the archive around it made anew. They are read in a
process that an audit hook watches (https://docs.python.org/3/library/audit_events.html): whatever opens, writes,
connects, imports, compiles, evaluates, unpickles or starts something is told. Models that load are used once. The same
files are read as the state of a training.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import pickletools
import random
import resource
import struct
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn

from depers.detection import yolo
from depers.detection.checkpoint_files import CheckpointError, CheckpointFile
from depers.detection.known_image import compute_reference
from depers.errors import UserError

LIMIT_SECONDS = 30
MOST_MEMORY = 3 << 30  # bytes beyond what the libraries have
TRACE = "/tmp/depers-weights-were-here"
COMMAND = f"__import__('os').system('touch {TRACE}')"
PLACEHOLDER = "@@PAYLOAD@@"
ARCHITECTURE = """
depth_multiple: 0.33
width_multiple: 0.05
anchors: [[10, 13, 16, 30], [30, 61, 62, 45]]
backbone:
  - [-1, 1, Conv, [64, 6, 2, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, C3, [64]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, SPPF, [64, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 1, Conv, [64, 1, 1]]
  - [[7, 4], 1, Detect, [nc, anchors]]
"""
ALLOWED = (
    *(f"{package}models.{name}" for package in ("", "yolov5.") for name in (
        "yolo.Model", "yolo.DetectionModel", "yolo.Detect", "yolo.SegmentationModel", "yolo.ClassificationModel",
        "yolo.parse_model", "common.Conv", "common.C3", "common.C3TR", "common.SPP", "common.SPPF", "common.Focus",
        "common.Concat", "common.Contract", "common.GhostConv", "common.DetectMultiBackend", "common.AutoShape",
        "common.Classify", "experimental.MixConv2d", "experimental.Sum", "experimental.Ensemble",
        "experimental.attempt_load",
    )),
    *(f"torch.nn.modules.{name}" for name in (
        "container.Sequential", "container.ModuleList", "conv.Conv2d", "batchnorm.BatchNorm2d", "activation.SiLU",
        "activation.MultiheadAttention", "pooling.MaxPool2d", "upsampling.Upsample", "linear.Linear",
        "linear.Identity", "padding.ZeroPad2d",
    )),
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.FloatStorage", "torch.Size",
    "collections.OrderedDict", "builtins.set", "pathlib.PosixPath", "argparse.Namespace",
    "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip
FOREIGN = (
    "posix.system", "builtins.eval", "builtins.exec", "builtins.getattr", "builtins.open", "builtins.__import__",
    "subprocess.Popen", "ctypes.CDLL", "importlib.import_module", "runpy.run_path", "torch.hub.load", "torch.load",
    "functools.partial", "operator.attrgetter", "socket.create_connection", "shutil.rmtree", "webbrowser.open",
    "copyreg._reconstructor", "types.FunctionType", "code.InteractiveInterpreter", "depers.storage.write_bytes",
)  # fmt: skip
"""What checkpoints name, and what attackers would: the first are allowed in their place, or just known to YOLOv5."""


MAIN_PATHS = ("posix.system", "models.yolo.DetectionModel", "collections.OrderedDict", "torch.nn.modules.conv.Conv2d")
MAIN_PLACES = ("opt", "ema", "an activation")
"""What is put into every place, and the places into which everything is put."""


CODECS = ("cp437", "raw-unicode-escape", "latin-1", "ascii")
"""Of names in archives and texts in pickles: Python imports each when first used, and nothing else."""


class Sample(NamedTuple):
    """What was done to a checkpoint, and how to have it."""

    name: str
    make: Callable[[], bytes]


class Source(NamedTuple):
    """A checkpoint to mutate: the pickle in it, and what else the archive holds; of another format only the bytes."""

    pickle: bytes
    members: dict[str, bytes]
    data: bytes


def build_model() -> Any:
    """Return a small YOLOv5 detector with a layer of most kinds."""
    torch.manual_seed(0)
    path = f"{TRACE}-{os.getpid()}.yaml"  # of this worker
    with contextlib.ExitStack() as stack:
        stack.callback(os.remove, path)
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
            yaml.safe_dump(yaml.safe_load(ARCHITECTURE), file)
        return yolo.build(path, ["a", "b"])


def serialize(content: Any, **options: Any) -> bytes:
    """Return a content as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def read_source(data: bytes) -> Source:
    """Take a checkpoint apart."""
    if not data.startswith(b"PK"):
        return Source(b"", {}, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return Source(members.pop("archive/data.pkl"), members, data)


def pack(pickle: bytes, source: Source) -> bytes:
    """Return a checkpoint with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for name, data in source.members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def make_sources() -> list[Source]:
    """Return ordinary checkpoints: stripped, cut off, of older torch, of older YOLOv5, of newer pickles."""
    model = build_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    training = {"epoch": 3, "best_fitness": None, "model": model, "ema": model, "optimizer": optimizer.state_dict()}
    sources = [read_source(serialize({"model": model.half().eval(), "ema": None}))]
    model.float()
    sources.append(read_source(serialize(training)))
    sources.append(read_source(serialize({"model": model}, _use_new_zipfile_serialization=False)))
    sources.append(read_source(serialize({"model": model}, pickle_protocol=4)))
    old = sources[0].pickle.replace(b"cyolov5.models.yolo\nDetectionModel", b"cmodels.yolo\nModel")
    old = old.replace(b"cyolov5.models.", b"cmodels.")
    return [*sources, Source(old, sources[0].members, pack(old, sources[0]))]


def text(value: str) -> bytes:
    """Return the instruction for a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(path: str) -> bytes:
    """Return the instruction for what has a name."""
    module, _, attribute = path.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def list_payloads(path: str) -> Iterator[tuple[str, bytes]]:
    """Yield, for what has a name, all the ways in which a pickle may have it made, called or changed."""
    module, _, attribute = path.rpartition(".")
    hostile = (
        b"}(" + text("activation") + text(COMMAND) + text("nc") + b"K\x01" + text("anchors") + b"K\x01"
        + text("depth_multiple") + b"G?\xf0" + bytes(6) + text("width_multiple") + b"G?\xf0" + bytes(6)
        + text("backbone") + b"]" + text("head") + b"]" + b"u"
    )  # fmt: skip
    for kind, item in (("text", text(f"touch {TRACE}")), ("yaml", hostile)):
        yield f"{kind} REDUCE", name(path) + item + b"\x85R"
        yield f"{kind} NEWOBJ", name(path) + item + b"\x85\x81"
        yield f"{kind} NEWOBJ_EX", name(path) + b")}" + text("cfg") + item + b"s\x92"
        yield f"{kind} OBJ", b"(" + name(path) + item + b"o"
        yield f"{kind} INST", b"(" + item + f"i{module}\n{attribute}\n".encode()
        yield (
            f"{kind} BUILD",
            name(path) + b")\x81" + b"}" + text("__setstate__") + name("posix.system") + b"sb" + item + b"b",
        )
        yield f"{kind} BUILD of the name", name(path) + item + b"b"
        yield f"{kind} SETITEM", name(path) + b")\x81" + item + name("posix.system") + b"s"
        yield f"{kind} APPEND", name(path) + b")R" + item + b"a"
    yield "REDUCE without arguments", name(path) + b")R"
    yield "NEWOBJ without arguments", name(path) + b")\x81"
    yield "name", name(path)
    yield "STACK_GLOBAL", text(module) + text(attribute) + b"\x93" + text(COMMAND) + b"\x85R"
    yield "STACK_GLOBAL, dotted", text(module.partition(".")[0]) + text(f"{attribute}.__init__.__globals__") + b"\x93"
    yield "memo", name(path) + b"r\xff\xff\xff\x7f" + b"0j\xff\xff\xff\x7f" + text(COMMAND) + b"\x85R"
    yield "DUP", name(path) + b"2" + b"\x86R"


TRICKS = {
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"P../../etc/passwd\n",
    "BINPERSID": text("/etc/passwd") + b"Q",
    "BINPERSID of a call": name("posix.system") + text(COMMAND) + b"\x85RQ",
    "BINPERSID of a module": b"(" + text("module") + name("posix.system") + text("x") + text(COMMAND) + b"tQ",
    "storage elsewhere": b"(" + text("storage") + name("torch.FloatStorage") + text("../x") + text("cpu") + b"K\x01tQ",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"\x98",
    "missing memo": b"h\xee",
    "huge memo": b"Nr\xff\xff\xff\xff",
    "list in itself": b"]q\xf0h\xf0a",
    "dict in itself": b"}q\xf0K\x01h\xf0s",
    "deep tuples": b")" + b"\x85" * 200_000,
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep tuples as a key": b"}" + b")" + b"\x85" * 200_000 + b"K\x01s",
    "marks": b"(" * 50_000 + b"1" * 50_000,
    "doubled lists": b"]q\xf0" + b"(h\xf0h\xf0lq\xf0" * 200,
    "long number": b"\x8b\xff\xff\xff\x7f",
    "number": b"I" + b"9" * 9000 + b"\n",
    "huge number": b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000,
    "huge text": b"X\xff\xff\xff\xff",
    "huge bytes": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "huge bytearray": b"\x96" + b"\xff" * 7 + b"\x7f",
    "frame": b"\x95" + b"\xff" * 8,
    "STOP": b".",
    "set of dicts": b"\x8f(}}\x90",
    "frozenset of dicts": b"(}}\x91",
    "TUPLE2 of nothing": b"\x86",
    "POP of all": b"0" * 1000,
    "surrogate": b"X\x03\x00\x00\x00\xed\xa0\x80",
    "text of code": text(COMMAND),
    "NaN": b"G\x7f\xf8" + bytes(6),
    "infinity": b"G\x7f\xf0" + bytes(6),
    "minus one": b"J\xff\xff\xff\xff",
    "2**31": b"\x8a\x05\x00\x00\x00\x80\x00",
    "None": b"N",
    "true": b"\x88",
    "zero": b"K\x00",
    "lists": b"]]]]aaa",
}
"""Tricks that name nothing, or something else."""


def make_templates() -> dict[str, Source]:
    """Return checkpoints with a placeholder in one place each, by the place."""
    model = build_model().half()
    changes: dict[str, Any] = {
        "an attribute of the model": lambda model: vars(model).update(unknown=PLACEHOLDER),
        "forward of the model": lambda model: vars(model).update(forward=PLACEHOLDER),
        "hooks of the model": lambda model: vars(model)["_forward_hooks"].update({1: PLACEHOLDER}),
        "hooks, replaced": lambda model: vars(model).update(_forward_pre_hooks=PLACEHOLDER),
        "yaml": lambda model: vars(model).update(yaml=PLACEHOLDER),
        "activation in yaml": lambda model: model.yaml.update(activation=PLACEHOLDER),
        "names": lambda model: vars(model).update(names=PLACEHOLDER),
        "a name": lambda model: vars(model).update(names=["a", PLACEHOLDER]),
        "stride": lambda model: vars(model.model[-1]).update(stride=PLACEHOLDER),
        "anchors": lambda model: model.model[-1]._buffers.update(anchors=PLACEHOLDER),
        "a layer": lambda model: model.model._modules.update({"1": PLACEHOLDER}),
        "a layer beside others": lambda model: model.model._modules.update({"9": PLACEHOLDER}),
        "an activation": lambda model: model.model[0]._modules.update(act=PLACEHOLDER),
        "forward of a layer": lambda model: vars(model.model[2].cv1).update(forward=PLACEHOLDER),
        "source of a layer": lambda model: vars(model.model[6]).update(f=[-1, PLACEHOLDER]),
        "number of a layer": lambda model: vars(model.model[0].conv).update(stride=(2, PLACEHOLDER)),
        "padding": lambda model: vars(model.model[0].conv).update(padding=PLACEHOLDER),
        "kernel of a pool": lambda model: vars(model.model[4].m).update(kernel_size=PLACEHOLDER),
        "scale of a layer": lambda model: vars(model.model[5]).update(scale_factor=PLACEHOLDER),
        "weight": lambda model: model.model[0].conv._parameters.update(weight=PLACEHOLDER),
        "running_mean": lambda model: model.model[0].bn._buffers.update(running_mean=PLACEHOLDER),
        "state of a layer": lambda model: vars(model.model[0]).update(_modules=PLACEHOLDER),
    }
    templates = {}
    for place, change in changes.items():
        changed = deepcopy(model)
        change(changed)
        templates[place] = read_source(serialize({"model": changed, "ema": None}))
    good = model
    templates["opt"] = read_source(serialize({"opt": {"x": [PLACEHOLDER]}, "model": good}))
    templates["optimizer, after the model"] = read_source(serialize({"model": good, "optimizer": PLACEHOLDER}))
    templates["ema"] = read_source(serialize({"model": good, "ema": PLACEHOLDER}))
    templates["model"] = read_source(serialize({"model": PLACEHOLDER}))
    templates["whole file"] = read_source(serialize(PLACEHOLDER))
    templates["key"] = read_source(serialize({PLACEHOLDER: 1, "model": good}))
    return templates


def make_samples(places: Sequence[str] = ()) -> Iterator[Sample]:
    """Yield the hand-made checkpoints, of some places only if any are given."""
    templates = make_templates()
    for place, source in templates.items():
        if places and place not in places:
            continue
        for path in (*ALLOWED, *FOREIGN) if place in MAIN_PLACES else MAIN_PATHS:
            for way, payload in list_payloads(path):
                yield Sample(f"{path} by {way} as {place}", partial(put, payload, source))
        for trick, payload in TRICKS.items():
            yield Sample(f"{trick} as {place}", partial(put, payload, source))
    legacy = serialize({"model": build_model(), "opt": PLACEHOLDER}, _use_new_zipfile_serialization=False)
    for path in (*ALLOWED, *FOREIGN):
        for way, payload in list_payloads(path):
            yield Sample(f"{path} by {way} in the format before torch 1.6", partial(replace_text, payload, legacy))
            yield Sample(f"{path} by {way} as a bare pickle", partial(bytes, b"\x80\x02" + payload + b"."))
    yield from make_archives(templates["opt"])


def make_archives(source: Source) -> Iterator[Sample]:
    """Yield checkpoints whose archive is the trick."""
    pickle = put(text("x"), source, is_packed=False)
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            archive.writestr("archive/data.pkl", pickle)
            for member, data in source.members.items():
                archive.writestr(member, bytes(50_000_000) if member.endswith("/data/0") else data)
        yield Sample(f"bomb of compression {compression}", buffer.getvalue)
    for trick, members in {
        "TorchScript": {"archive/constants.pkl": b"", "archive/code/__torch__.py": COMMAND.encode()},
        "two pickles": {"other/data.pkl": pickle},
        "big endian": {"archive/byteorder": b"big"},
        "names upward": {"../../../tmp/depers-weights-were-here": b"x"},
        "absolute names": {TRACE: b"x"},
    }.items():
        yield Sample(trick, partial(pack, pickle, source._replace(members=source.members | members)))
    yield Sample("no members", partial(pack, pickle, source._replace(members={})))
    yield Sample("empty archive", partial(bytes, b"PK\x05\x06" + bytes(18)))


def put(payload: bytes, source: Source, is_packed: bool = True) -> bytes:
    """Return a checkpoint with a payload in the placeholder's place."""
    pickle = replace_text(payload, source.pickle)
    return pack(pickle, source) if is_packed else pickle


def replace_text(payload: bytes, data: bytes) -> bytes:
    """Return bytes with the instruction of the placeholder replaced."""
    instruction = text(PLACEHOLDER)
    assert instruction in data
    return data.replace(instruction, payload)


def mutate(sources: list[Source], seed: int, number: int) -> bytes:
    """Return one of the checkpoints, damaged: its bytes, or the instructions of its pickle."""
    chance = random.Random(f"{seed}/{number}")
    source = sources[number % len(sources)]
    if not source.pickle or chance.random() < 0.2:
        return mutate_bytes(source.data, chance)
    if chance.random() < 0.4:
        return pack(mutate_bytes(source.pickle, chance), source)
    return pack(mutate_instructions(source.pickle, chance), source)


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with some turned, overwritten, cut out, doubled, or the end lost."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(len(content))
        length = min(chance.choice((1, 1, 4, 64, 512)), len(content) - place)
        mutation = chance.randrange(20)
        if mutation < 8:
            content[place] ^= 1 << chance.randrange(8)
        elif mutation < 12:
            content[place : place + length] = chance.randbytes(length)
        elif mutation < 15:
            del content[place : place + length]
        elif mutation < 18:
            content[place:place] = content[place : place + length]
        elif mutation < 19:
            content[place : place + length] = bytes([chance.choice((0, 255))]) * length
        else:
            del content[max(1, place) :]
        content = content or bytearray(b"\0")
    return bytes(content)


def mutate_instructions(pickle: bytes, chance: random.Random) -> bytes:
    """Return a pickle with whole instructions exchanged, doubled, left out, or replaced by payloads and tricks."""
    places = [place or 0 for _, _, place in pickletools.genops(pickle)]
    instructions = [pickle[start:end] for start, end in zip(places, [*places[1:], len(pickle)], strict=True)]
    for _ in range(chance.choice((1, 1, 2, 5))):
        index = chance.randrange(1, len(instructions))
        other = chance.randrange(1, len(instructions))
        mutation = chance.randrange(6)
        if mutation == 0:
            instructions[index], instructions[other] = instructions[other], instructions[index]
        elif mutation == 1:
            instructions[index] = instructions[other]
        elif mutation == 2:
            instructions[index] = b""
        elif mutation == 3:
            instructions.insert(index, instructions[other])
        elif mutation == 4:
            instructions[index] = chance.choice(list(TRICKS.values()))
        else:
            payloads = list(list_payloads(chance.choice((*ALLOWED, *FOREIGN))))
            instructions[index] = chance.choice(payloads)[1]
    return b"".join(instructions)


class Watch:
    """An audit hook that writes down what happens between `start` and `stop`."""

    WATCHED = (
        "open", "exec", "compile", "import", "pickle.find_class", "marshal.", "socket.", "subprocess.", "os.",
        "shutil.", "ctypes.", "urllib.", "ftplib.", "http.", "smtplib.", "webbrowser.", "tempfile.", "sqlite3.",
        "code.", "signal.", "gc.", "cpython.", "mmap.", "sys.addaudithook", "sys.setprofile", "sys.settrace", "fcntl.",
        "glob.", "function.", "object.__setattr__", "object.__delattr__", "setopencodehook", "syslog.", "resource.",
        "pty.", "builtins.input",
    )  # fmt: skip

    def __init__(self) -> None:
        for codec in CODECS:
            "".encode(codec)
        self._is_on, self._events = False, list[str]()
        sys.addaudithook(self._notice)

    def start(self) -> None:
        """Write down from now on."""
        self._events.clear()
        self._is_on = True

    def stop(self) -> list[str]:
        """Return what has happened, and write down no more."""
        self._is_on = False
        return list(self._events)

    def _notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_on and event.startswith(self.WATCHED):
            self._events.append(f"{event} {str(arguments)[:80]}")


def check(data: bytes, watch: Watch, is_state: bool = True) -> str:
    """Return what became of a checkpoint, in a word: `loaded` or `refused`; anything else is wrong.

    With `is_state` it is read as the state of a training too.
    """
    watch.start()
    model: nn.Module | None = None
    outcome = "refused"
    try:
        model = yolo.load("w.pt", data)
        outcome = "loaded"
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 600:
            outcome = f"WRONG: {len(str(error))} characters"
    except Exception as error:
        outcome = f"WRONG: {type(error).__name__}: {error}"
    try:
        if is_state:
            file = CheckpointFile(data)
            file.read_plain(file.content)
    except CheckpointError:
        pass
    except Exception as error:
        outcome = f"WRONG: as a state {type(error).__name__}: {error}"
    events = watch.stop()
    if events or os.path.exists(TRACE):  # noqa: PTH110
        return f"WRONG: {', '.join(events[:3])}"
    if model is not None:
        try:
            with torch.inference_mode():
                compute_reference(model, "w.pt")  # as every verb does first
                yolo.fuse(model)(torch.zeros(1, 3, 64, 64))
        except UserError:
            return "refused"
        except Exception as error:
            return f"WRONG: in use {type(error).__name__}: {error}"
    return outcome


def work(connection: Connection, seed: int, first: int, last: int, step: int, is_handmade: bool) -> None:
    """Check every `step`-th checkpoint, in a process of its own, and tell each beginning and outcome."""
    torch.set_num_threads(1)
    watch = Watch()
    sources = make_sources()
    samples = enumerate(make_samples()) if is_handmade else ((number, None) for number in range(first, last, step))
    for source in sources:
        check(source.data, watch)  # imports what is imported late
    assert [check(source.data, watch) for source in sources] == ["loaded"] * len(sources)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        memory = int(file.read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (memory + MOST_MEMORY, memory + MOST_MEMORY))
    for number, sample in samples:
        if number < first or (number - first) % step:
            continue
        data = sample.make() if sample else mutate(sources, seed, number)
        connection.send((number, sample.name if sample else f"{seed}/{number}", ""))
        connection.send((number, "", check(data, watch, is_state=number % 8 == 0)))
    connection.send((-1, "", ""))


def run(seed: int, count: int, workers: int, is_handmade: bool, every: int = 1) -> Counter[str]:
    """Check all, or `every` so-manieth, in processes that may die or hang; return how many ended how."""
    context = multiprocessing.get_context("spawn")
    outcomes: Counter[str] = Counter()
    firsts, step = {index: index * every for index in range(workers)}, workers * every
    processes: dict[int, tuple[Any, Connection]] = {}
    begun: dict[int, tuple[int, str, float]] = {}
    slowest = 0.0

    def finish(index: int, outcome: str) -> None:
        number, title, _ = begun[index]
        outcomes[outcome if outcome in ("loaded", "refused") else "WRONG"] += 1
        if outcome not in ("loaded", "refused"):
            print(f"{number} {title}: {outcome}", flush=True)

    while firsts:
        for index in list(firsts):
            if index not in processes:
                ours, theirs = context.Pipe()
                arguments = (theirs, seed, firsts[index], count, step, is_handmade)
                process = context.Process(target=work, args=arguments, daemon=True)
                process.start()
                theirs.close()
                processes[index] = process, ours
                begun[index] = (firsts[index], "start", time.monotonic() + 120)
            process, ours = processes[index]
            try:
                while ours.poll(0.02):
                    number, title, outcome = ours.recv()
                    if number < 0:
                        del firsts[index], processes[index]
                        break
                    if outcome:
                        slowest = max(slowest, time.monotonic() - begun[index][2])
                        finish(index, outcome)
                    else:
                        begun[index] = (number, title, time.monotonic())
                        firsts[index] = number + step
                if index in firsts and time.monotonic() - begun[index][2] > LIMIT_SECONDS:
                    process.kill()
                    finish(index, "HANG")
                    del processes[index]
            except (EOFError, ConnectionResetError):
                process.join()
                finish(index, f"CRASH {process.exitcode}")
                del processes[index]
    print(f"the slowest took {slowest:.2f} s")
    return outcomes


def main() -> None:
    """Check the hand-made ones and the mutated ones, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="of so many take one")
    parser.add_argument("--only", choices=("hand-made", "mutated"))
    arguments = parser.parse_args()
    for is_handmade in (True, False):
        if arguments.only not in (None, "hand-made" if is_handmade else "mutated"):
            continue
        started = time.monotonic()
        outcomes = run(arguments.seed, arguments.count, arguments.workers, is_handmade, arguments.every)
        kind = "hand-made" if is_handmade else "mutated"
        print(f"{sum(outcomes.values())} {kind} checkpoints in {time.monotonic() - started:.0f} s: {dict(outcomes)}")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
