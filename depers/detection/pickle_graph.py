"""Pickles as inert data: what a pickle asks to be called, made or changed is written down, and nothing of it is done.

A pickle is a list of instructions for a stack machine (`pickletools` in Python's library describes them). Here no class
is looked up, nothing is imported, hashed or compared, and no depth of nesting is followed: all that becomes of a pickle
are numbers, texts, lists, tuples and the four nodes below.
"""

import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO

_MOST_INSTRUCTIONS = 2_000_000  # a cut-off training of the largest YOLOv5 has a fifth of them


class PickleError(ValueError):
    """Why something is no pickle of data; the message goes on after the file's name."""


@dataclass(slots=True, eq=False, repr=False)
class Global:
    """What a pickle calls by its name."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The full name."""
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)
class Dictionary:
    """A dict; keys may be anything, and be there twice."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """What a pickle asks to be made, and to be put into the result."""

    function: Any
    arguments: Any
    is_new: bool = False
    """An empty object of the class `function`, in place of what `function` returns."""
    state: Any = None
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    elements: list[Any] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Reference:
    """What lies outside the pickle: for torch, the numbers of a tensor."""

    value: Any


def read_pickle(stream: BinaryIO) -> tuple[Any, list[Reference]]:
    """Return what a pickle describes, and all that it refers to; the stream is left behind the pickle's end.

    Raise PickleError.
    """
    machine = _Machine()
    instructions = pickletools.genops(stream)
    for _ in range(_MOST_INSTRUCTIONS):
        try:
            opcode, argument, _position = next(instructions)
        except (StopIteration, ValueError, OverflowError):  # of unknown, endless and cut-off instructions
            raise PickleError("its pickle is cut off or damaged") from None
        if opcode.name in _LITERALS:
            machine.stack.append(argument)
            continue
        if opcode.name == "STOP" and machine.stack:
            return machine.stack[-1], machine.references
        try:
            machine.do(opcode.name, argument)
        except (IndexError, KeyError, TypeError, ValueError):
            raise PickleError(f"its pickle is damaged at an instruction {opcode.name}") from None
    raise PickleError(f"its pickle must have at most {_MOST_INSTRUCTIONS} instructions, but has more")


_LITERALS = frozenset(
    (
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
        "BINBYTES8", "BYTEARRAY8",
    )
)  # fmt: skip


class _Machine:
    """The stack, those below open marks, the memo, and what was referred to."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.lower_stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.references: list[Reference] = []

    def do(self, instruction: str, argument: Any) -> None:
        """Follow one instruction, those first that are frequent.

        Raise IndexError, KeyError, TypeError or ValueError where the stack does not hold what it needs.
        """
        push, pop = self.stack.append, self.stack.pop
        match instruction:
            case "BINGET" | "LONG_BINGET" | "GET":
                push(self.memo[argument])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "REDUCE":
                arguments, function = pop(), pop()
                push(Call(function, arguments))
            case "EMPTY_TUPLE":
                push(())
            case "MARK":
                self.lower_stacks.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self._pop_to_mark()
                self.stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [pop() for _ in range(int(instruction[-1]))]
                push(tuple(reversed(items)))
            case "NEWFALSE" | "NEWTRUE" | "NONE":
                push({"NEWFALSE": False, "NEWTRUE": True, "NONE": None}[instruction])
            case "SETITEM":
                value, key = pop(), pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "BINPERSID" | "PERSID":
                self._refer(pop() if instruction == "BINPERSID" else argument)
            case "EMPTY_DICT":
                push(Dictionary())
            case "EMPTY_LIST":
                push([])
            case "NEWOBJ":
                arguments, function = pop(), pop()
                push(Call(function, arguments, is_new=True))
            case "BUILD":
                self._set_state(pop())
            case "APPEND":
                self._extend([pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._pop_to_mark())
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                push(Global(module, name))
            case _:
                self._do_rarely(instruction, argument)

    def _do_rarely(self, instruction: str, argument: Any) -> None:
        """Follow an instruction that torch does not write by itself."""
        push, pop = self.stack.append, self.stack.pop
        match instruction:
            case "STACK_GLOBAL":
                name, module = pop(), pop()
                if not isinstance(name, str) or not isinstance(module, str):
                    raise TypeError
                push(Global(module, name))
            case "NEWOBJ_EX":
                keywords, arguments, function = pop(), pop(), pop()
                is_plain = isinstance(keywords, Dictionary) and not keywords.pairs
                push(Call(function, arguments if is_plain else (arguments, keywords), is_new=True))
            case "OBJ":
                function, *items = self._pop_to_mark()
                self.stack.append(Call(function, tuple(items)))
            case "INST":
                module, _, name = argument.partition(" ")
                items = self._pop_to_mark()
                self.stack.append(Call(Global(module, name), tuple(items)))
            case "LIST":
                items = self._pop_to_mark()
                self.stack.append(items)
            case "DICT":
                items = self._pop_to_mark()
                self.stack.append(Dictionary())
                self._set_items(items)
            case "EMPTY_SET":
                push(Call(Global("builtins", "set"), ()))
            case "FROZENSET":
                items = self._pop_to_mark()
                self.stack.append(Call(Global("builtins", "frozenset"), (items,)))
            case "POP":
                if self.stack:
                    pop()
                else:
                    self._pop_to_mark()
            case "POP_MARK":
                self._pop_to_mark()
            case "DUP":
                push(self.stack[-1])
            case "PROTO" | "FRAME":
                pass
            case _:  # registered extensions, and buffers that are handed over beside the pickle
                raise TypeError

    def _pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.lower_stacks.pop()
        return items

    def _refer(self, value: Any) -> None:
        # Before torch 1.6 a class came as ("module", class, file, source).
        if isinstance(value, tuple) and len(value) == 4 and value[0] == "module":
            self.stack.append(value[1])
        else:
            self.references.append(Reference(value))
            self.stack.append(self.references[-1])

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, (list, Call)):
            raise TypeError
        (target.elements if isinstance(target, Call) else target).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, (Dictionary, Call)):
            raise TypeError
        target.pairs.extend(zip(items[::2], items[1::2], strict=True))

    def _set_state(self, state: Any) -> None:
        target = self.stack[-1]
        if not isinstance(target, Call) or target.state is not None:
            raise TypeError
        target.state = state
