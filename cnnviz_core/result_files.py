"""Finished results on disk, without pickle: arrays as they are, the rest as JSON, under a checksum.

A result is a tree of numbers, strings, arrays, tuples, lists, mappings and frozen dataclasses of this package. Reading
is strict: a file that is damaged, names an unknown class, or whose fields are not what the class says now, is treated
as not there. Nothing that a file says is run or imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnviz_core import journal, store

_MAGIC = b"cnnviz result 1\n"
_DIGEST_BYTES = 16
_TREE = "tree"
_NAME = re.compile(r"[0-9a-f]{32}")
_CLASS = re.compile(r"(cnnviz_core(?:\.[a-z_0-9]+)+):([A-Za-z_0-9]+)")
_ARRAYS = "biufcSU"  # kinds of numpy types that hold plain data


class CannotBeKept(TypeError):
    """A result that holds something else than plain data."""


class Damaged(ValueError):
    """A file that holds no result."""


def encode(result: object) -> bytes:
    """A result as bytes.

    Raises:
        CannotBeKept: It holds something else than plain data.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(_to_tree(result, arrays), allow_nan=False)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{_TREE: np.frombuffer(tree.encode(), np.uint8)}, **arrays)
    body = file.getvalue()
    return b"".join((_MAGIC, hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest(), body))


def decode(content: bytes) -> object:
    """What was encoded.

    Raises:
        Damaged: The bytes are anything else.
    """
    start = len(_MAGIC) + _DIGEST_BYTES
    digest, body = content[len(_MAGIC) : start], content[start:]
    if not content.startswith(_MAGIC) or hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise Damaged("The checksum does not fit.")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            return _from_tree(json.loads(arrays[_TREE].tobytes()), arrays)
    except Exception as error:  # zip, npy, JSON and dataclasses each have errors of their own; all mean the same here
        raise Damaged(f"{type(error).__name__}: {error}") from error


def num_bytes(value: object) -> int:
    """About what a result takes in memory: its arrays, bytes and texts."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(num_bytes(key) + num_bytes(item) for key, item in value.items())
    if isinstance(value, tuple | list):
        return sum(map(num_bytes, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(num_bytes(getattr(value, field.name)) for field in dataclasses.fields(value))
    return 0


def _to_tree(value: object, arrays: dict[str, np.ndarray]) -> object:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if isinstance(value, float) and kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _ARRAYS and value.dtype.names is None:
        name = f"a{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"array" if isinstance(value, np.ndarray) else "scalar": name}
    if isinstance(value, bytes):
        name = f"a{len(arrays)}"
        arrays[name] = np.frombuffer(value, np.uint8)
        return {"bytes": name}
    if isinstance(value, tuple | list) and kind in (tuple, list):
        return {kind.__name__: [_to_tree(item, arrays) for item in value]}
    if isinstance(value, dict | types.MappingProxyType):
        return {"mapping": [[_to_tree(key, arrays), _to_tree(item, arrays)] for key, item in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _object_to_tree(value, arrays)
    raise CannotBeKept(f"{kind.__module__}.{kind.__qualname__} is no plain data.")


def _object_to_tree(value: object, arrays: dict[str, np.ndarray]) -> object:
    kind = type(value)
    name = f"{kind.__module__}:{kind.__qualname__}"
    try:
        fields = _fields_of(_class_of(name))
    except Damaged as error:
        raise CannotBeKept(str(error)) from error
    values = {field: getattr(value, field) for field in fields}
    for field, hint in fields.items():
        if not fits(values[field], hint):
            raise CannotBeKept(f"{name}.{field} is {type(values[field]).__name__}, which is not what it says.")
    return {"class": name, "fields": {field: _to_tree(item, arrays) for field, item in values.items()}}


def _from_tree(tree: object, arrays: Mapping[str, np.ndarray]) -> object:
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if not isinstance(tree, dict):
        raise Damaged(f"{type(tree).__name__} stands for nothing.")
    if set(tree) == {"class", "fields"}:
        return _object_from_tree(tree["class"], tree["fields"], arrays)
    ((tag, content),) = tree.items()
    return _READERS[tag](content, arrays)


def _object_from_tree(name: str, trees: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> object:
    kind = _class_of(name)
    fields = _fields_of(kind)
    if set(trees) != set(fields):
        raise Damaged(f"{name} has other fields now.")
    values = {field: _from_tree(tree, arrays) for field, tree in trees.items()}
    for field, hint in fields.items():
        if not fits(values[field], hint):
            raise Damaged(f"{name}.{field} is no {hint}.")
    return kind(**values)


_READERS: dict[str, typing.Callable[[typing.Any, Mapping[str, np.ndarray]], object]] = {
    "float": lambda text, _: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text],
    "array": lambda name, arrays: arrays[name],
    "scalar": lambda name, arrays: arrays[name][()],
    "bytes": lambda name, arrays: arrays[name].tobytes(),
    "tuple": lambda items, arrays: tuple(_from_tree(item, arrays) for item in items),
    "list": lambda items, arrays: [_from_tree(item, arrays) for item in items],
    "mapping": lambda pairs, arrays: {_from_tree(key, arrays): _from_tree(item, arrays) for key, item in pairs},
}


def _class_of(name: str) -> type:
    """The frozen dataclass of this package that a file names, if its module is in use already."""
    match = _CLASS.fullmatch(name)
    kind = getattr(sys.modules.get(match[1]), match[2], None) if match else None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and f"{kind.__module__}:" in name):
        raise Damaged(f"{name} is no dataclass of this package.")
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise Damaged(f"{name} is not frozen.")
    return kind


def _fields_of(kind: type) -> dict[str, object]:
    """Names and types of the arguments that make an object."""
    try:
        hints = typing.get_type_hints(kind)
    except NameError as error:
        raise Damaged(f"{kind.__name__} names a type that is not known when it runs.") from error
    fields = dataclasses.fields(kind)
    if not all(field.init for field in fields):
        raise Damaged(f"{kind.__name__} has fields that are not given to it.")
    return {field.name: hints[field.name] for field in fields}


def fits(value: object, hint: object) -> bool:
    """Whether a value is of an annotated type; what an annotation does not say is not asked for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is object or hint is typing.Any or isinstance(hint, typing.TypeVar):
        return True
    if hint is None or hint is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and _is_of_dtype(value, arguments[-1])
    if origin is tuple:
        return isinstance(value, tuple) and _items_fit(value, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, item = arguments
        return isinstance(value, Mapping) and all(fits(k, key) and fits(v, item) for k, v in value.items())
    if isinstance(origin, type) and issubclass(origin, Sequence):
        is_one = isinstance(value, origin) and not isinstance(value, str)
        return is_one and all(fits(item, arguments[0]) for item in value)  # type: ignore[attr-defined]
    if hint is float:
        return isinstance(value, float | int | np.floating) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    kind = origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_of_dtype(array: np.ndarray, hint: object) -> bool:
    wanted = typing.get_args(hint)
    is_named = len(wanted) == 1 and isinstance(wanted[0], type)
    return not is_named or issubclass(array.dtype.type, wanted[0])


def _items_fit(values: tuple[object, ...], hints: tuple[object, ...]) -> bool:
    if len(hints) == 2 and hints[1] is ...:
        return all(fits(value, hints[0]) for value in values)
    return len(values) == len(hints) and all(map(fits, values, hints))


def is_name(text: str) -> bool:
    """Whether a result may be called so: 32 hexadecimal digits."""
    return bool(_NAME.fullmatch(text))


@dataclass(frozen=True)
class Kept:
    """A result that was found; None may be one."""

    value: object


class ResultFiles:
    """A folder of results by name; the oldest go where they need more room than there is.

    Args:
        folder: Created when first needed.
        max_mb: Room for all of them.
    """

    def __init__(self, folder: Path, *, max_mb: int) -> None:
        self._folder, self._max_mb = folder, max_mb

    def save(self, name: str, result: object) -> bool:
        """Keeps a result. Returns whether it could be: no plain data, or too large for the folder, cannot.

        Args:
            name: 32 hexadecimal digits.
            result: Any value.

        Raises:
            StorageFailed: The data folder cannot be written.
        """
        try:
            content = encode(result)
        except CannotBeKept as error:
            journal.event("result kept in memory only", why=str(error))
            return False
        if len(content) > self._max_mb * 2**20:
            return False
        path = self._path(name)
        with store.written_aside(path) as aside:
            aside.write_bytes(content)
        store.drop_oldest(self._folder, "*.result", max_mb=self._max_mb, keep=path)
        return True

    def load(self, name: str) -> Kept | None:
        """The result of that name; None where there is none or no whole one."""
        path = self._path(name)
        try:
            kept = Kept(decode(path.read_bytes()))
        except OSError:
            return None
        except Damaged as error:
            journal.event("kept result does not count", name=name, why=str(error))
            return None
        store.touch(path)
        return kept

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self._path(name).is_file()

    def remove(self, name: str) -> None:
        """Takes one away."""
        with contextlib.suppress(OSError):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not is_name(name):
            raise ValueError(f"{name!r} is no name of a result.")
        return self._folder / f"{name}.result"
