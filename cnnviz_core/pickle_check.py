"""Whether a pickle is safe to read even without running code: what it would cost is told from its opcodes alone.

torch's reader builds nothing but tensors and plain containers, yet plain Python can be made to fill the memory
(``bytearray(10**10)``) or to compute for ever: a tuple that holds another one twice, which holds another one twice, and
so on, has as many parts as two to the power of its depth, and all are visited where it is the key of a mapping.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import BinaryIO

# Names that torch's reader would call, with any argument.
_REFUSED = {"builtins bytearray": "builtins.bytearray", "__builtin__ bytearray": "builtins.bytearray"}
_MOST_PARTS = 1_000_000  # of one tuple, each counted as often as it would be visited
_PICKLES = 5  # in a file that torch wrote without ZIP; its tensors' numbers follow

_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_POPPED_TO_MARK = {"APPENDS", "SETITEMS", "ADDITEMS"}
_POPPED = {"APPEND": 1, "SETITEM": 2, "BUILD": 1, "STOP": 1, "POP": 1}
_REPLACED = {"REDUCE": 2, "NEWOBJ": 2, "BINPERSID": 1}  # so many things become one
_NOTED = {"BINPUT", "LONG_BINPUT"}
_FETCHED = {"BINGET", "LONG_BINGET"}
_NOTHING = {"PROTO", "FRAME"}
_MARK = -1


class Refused(ValueError):
    """Reading it would cost too much; the message is the name of what it would call, or empty."""


def check(stream: BinaryIO) -> None:
    """Goes through the pickles at the start of a stream, up to as many as torch writes.

    Raises:
        Refused: It would fill the memory or compute without end.
        ValueError: It is no pickle, or a damaged one.
    """
    for _ in range(_PICKLES):
        start = stream.tell()
        if stream.read(1) != b"\x80":
            return
        stream.seek(start)
        _check_one(pickletools.genops(stream))


def _check_one(operations: Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]) -> None:
    """Runs a pickle on the sizes of things in place of the things."""
    stack: list[int] = []
    memo: dict[object, int] = {}
    for operation, argument, _ in operations:
        name = operation.name
        if name in ("GLOBAL", "INST") and argument in _REFUSED:
            raise Refused(_REFUSED[str(argument)])
        if name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES or name == "TUPLE":
            size = 1 + sum(_taken(stack, _TUPLES.get(name)))
            if size > _MOST_PARTS:
                raise Refused
            stack.append(size)
        elif name in _POPPED_TO_MARK:
            _taken(stack, None)
        elif name in _POPPED:
            _taken(stack, _POPPED[name])
        elif name in _REPLACED:
            _taken(stack, _REPLACED[name])
            stack.append(1)
        elif name in _NOTED:
            memo[argument] = _top(stack)
        elif name in _FETCHED:
            stack.append(memo.get(argument, 1))
        elif name not in _NOTHING:  # numbers, texts, names, empty containers; what else there is, torch does not read
            stack.append(1)


def _taken(stack: list[int], num: int | None) -> list[int]:
    """Takes so many sizes off the stack, or all down to the last mark."""
    taken: list[int] = []
    while num is None or len(taken) < num:
        if not stack:
            raise ValueError("The pickle takes more than it made.")
        size = stack.pop()
        if size == _MARK:
            if num is None:
                break
            raise ValueError("The pickle takes a mark for a thing.")
        taken.append(size)
    return taken


def _top(stack: list[int]) -> int:
    if not stack:
        raise ValueError("The pickle keeps what it never made.")
    return stack[-1]
