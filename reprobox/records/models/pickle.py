"""A pickle read as data: what it would build, as inert values. Pure; nothing is imported, called or executed.

A pickle is a program that may call anything. This interpreter knows its stack and its memo, but where the program
names a class or function it keeps the name (`Global`), where it calls one it keeps what was called with what (`Call`),
and where it asks the outside for an object it keeps the id (`Persistent`). Whoever knows what a call means, as
`torch` does for tensors, looks at these.

Dictionaries are lists of pairs: nothing is ever hashed or compared, so no value made to do harm costs more than its
bytes. Values may contain themselves; whoever walks them has to expect that.

Source: https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import BinaryIO, Final, TypeAlias

from reprobox.errors import ContentRefused

MAX_PICKLE_BYTES: Final = 64 << 20
MAX_VALUES: Final = 6_000_000
"""How many values one pickle may push: a dictionary of 200,000 tensors takes about 5 million."""


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A class or function that the pickle names.

    Attributes:
        name: Module and qualified name, joined by a dot.
    """

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """An object that lies outside of the pickle.

    Attributes:
        id: What the pickle calls it.
    """

    id: Value


@dataclass(slots=True, eq=False)
class Dictionary:
    """A dictionary, as the pairs that were set, in order; a key that was set twice stands twice.

    Attributes:
        pairs: Keys and values.
    """

    pairs: list[tuple[Value, Value]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """An object that a call would make, and what would be put into it.

    Attributes:
        function: What is called.
        arguments: With what.
        state: What would become its attributes, or be given to its `__setstate__`; None if nothing.
        pairs: Items set in it, as in a dictionary.
        elements: Items appended to it, as to a list.
    """

    function: Value
    arguments: Value
    state: Value = None
    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    elements: list[Value] = field(default_factory=list)


Value: TypeAlias = (
    "bool | int | float | str | bytes | bytearray | list[Value] | tuple[Value, ...] "
    "| Dictionary | Global | Call | Persistent | None"
)
"""What a pickle holds. Sets are lists here."""

_CONSTANTS: Final[dict[str, Value]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_PUTS: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS: Final = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SETS: Final = frozenset(
    {f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("set", "frozenset")}
)
_IGNORED: Final = frozenset({"PROTO", "FRAME"})


def parse_pickle(path: str, stream: BinaryIO) -> Value:
    """Read one pickle, up to its STOP.

    Args:
        path: The file, for messages.
        stream: Where it starts; afterwards, where it has ended.

    Returns:
        What unpickling would give, with inert values in the place of all that would need code.

    Raises:
        ContentRefused: It pushes more than `MAX_VALUES` values, or uses buffers outside of the pickle.
        ValueError, IndexError, LookupError, TypeError: It is no pickle, or damaged.
    """
    return _Machine(path).run(stream)


class _Machine:
    """The stack machine of pickle, without the parts that could do something."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stack: list[Value] = []
        self._marks: list[int] = []
        self._memo: dict[int, Value] = {}
        self._pushed = 0

    def run(self, stream: BinaryIO) -> Value:
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                return self._pop()
            if name in _LITERALS:
                self._push(argument)
            elif name in _GETS:
                self._push(self._memo[int(argument or 0)])
            elif name in _PUTS:
                self._put(int(argument or 0))
            elif name == "MEMOIZE":
                self._put(len(self._memo))
            elif name not in _IGNORED and not (self._build(name, argument) or self._fill(name)):
                raise ContentRefused(self._path, f"its pickle has the instruction {name}")
        raise ValueError("the pickle has no end")

    def _push(self, value: Value) -> None:
        self._pushed += 1
        if self._pushed > MAX_VALUES:
            raise ContentRefused(self._path, f"its pickle makes more than {MAX_VALUES} values")
        self._stack.append(value)

    def _pop(self) -> Value:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise ValueError("the pickle takes more than there is behind its last mark")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Value]:
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _top(self) -> Value:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise ValueError("the pickle uses what is not behind its last mark")
        return self._stack[-1]

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _build(self, name: str, argument: object) -> bool:
        """Do an instruction that makes a value; False if it is none."""
        match name:
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self._push(_CONSTANTS[name])
            case "MARK":
                self._pushed += 1
                self._marks.append(len(self._stack))
            case "EMPTY_LIST" | "EMPTY_SET":
                self._push([])
            case "EMPTY_TUPLE":
                self._push(())
            case "EMPTY_DICT":
                self._push(Dictionary())
            case "LIST" | "FROZENSET":
                self._push(self._pop_to_mark())
            case "TUPLE":
                self._push(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [self._pop() for _ in range(_TUPLES[name])]
                self._push(tuple(reversed(values)))
            case "DICT":
                self._push(Dictionary(pairs=_pair(self._pop_to_mark())))
            case "DUP":
                self._push(self._top())
            case "POP":
                if self._marks and self._marks[-1] == len(self._stack):
                    self._marks.pop()
                else:
                    self._pop()
            case "POP_MARK":
                self._pop_to_mark()
            case _:
                return self._build_call(name, argument)
        return True

    def _build_call(self, name: str, argument: object) -> bool:
        """Do an instruction that names, calls or asks for something; False if it is none."""
        match name:
            case "GLOBAL":
                self._push(Global(".".join(str(argument).split(" ", 1))))
            case "STACK_GLOBAL":
                qualified, module = self._pop(), self._pop()
                if not isinstance(module, str) or not isinstance(qualified, str):
                    raise ValueError("the pickle names a class by something that is no text")
                self._push(Global(f"{module}.{qualified}"))
            case "REDUCE" | "NEWOBJ":
                arguments, function = self._pop(), self._pop()
                self._push(_call(function, arguments))
            case "NEWOBJ_EX":
                keywords, arguments, function = self._pop(), self._pop(), self._pop()
                self._push(Call(function=function, arguments=(arguments, keywords)))
            case "INST":
                inner = tuple(self._pop_to_mark())
                self._push(_call(Global(".".join(str(argument).split(" ", 1))), inner))
            case "OBJ":
                function, *values = self._pop_to_mark()
                self._push(_call(function, tuple(values)))
            case "EXT1" | "EXT2" | "EXT4":
                self._push(Global(f"copyreg.extension.{argument}"))
            case "PERSID":
                self._push(Persistent(str(argument)))
            case "BINPERSID":
                self._push(Persistent(self._pop()))
            case _:
                return False
        return True

    def _fill(self, name: str) -> bool:
        """Do an instruction that puts something into the value below; False if it is none."""
        match name:
            case "APPEND":
                value = self._pop()
                _elements(self._top()).append(value)
            case "APPENDS" | "ADDITEMS":
                values = self._pop_to_mark()
                _elements(self._top()).extend(values)
            case "SETITEM":
                item, key = self._pop(), self._pop()
                _pairs(self._top()).append((key, item))
            case "SETITEMS":
                values = self._pop_to_mark()
                _pairs(self._top()).extend(_pair(values))
            case "BUILD":
                state, target = self._pop(), self._top()
                # An OrderedDict may have attributes; what it holds is in its pairs.
                if isinstance(target, Call):
                    target.state = state
                elif not isinstance(target, Dictionary):
                    raise ValueError("the pickle gives attributes to what has none")
            case _:
                return False
        return True


def _call(function: Value, arguments: Value) -> Value:
    """Keep a call, but for those that only say what a plain value of Python 2 or an ordered dictionary is."""
    if isinstance(function, Global) and isinstance(arguments, tuple):
        if function.name == "collections.OrderedDict" and not arguments:
            return Dictionary()
        if function.name == "_codecs.encode" and len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
            text = arguments[0]
            return text.encode("latin-1") if isinstance(text, str) else Call(function=function, arguments=arguments)
        if function.name in _SETS and len(arguments) == 1 and isinstance(arguments[0], list):
            return arguments[0]
    return Call(function=function, arguments=arguments)


def _pair(values: list[Value]) -> list[tuple[Value, Value]]:
    return list(zip(values[::2], values[1::2], strict=True))


def _elements(target: Value) -> list[Value]:
    if isinstance(target, list):
        return target
    if isinstance(target, Call):
        return target.elements
    raise ValueError("the pickle appends to what is no list")


def _pairs(target: Value) -> list[tuple[Value, Value]]:
    if isinstance(target, Dictionary | Call):
        return target.pairs
    raise ValueError("the pickle sets items of what is no dictionary")
