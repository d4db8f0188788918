"""Weights of one's own: reading a file without running it, and fitting its tensors to a network.

A ``.pth`` file is a pickle, a small program that builds Python objects; opening it the ordinary way runs that program.
Here only tensors and plain containers are ever built (torch's ``weights_only`` reader), and ``.safetensors`` files
cannot hold code at all. A file with anything else in it is refused with the line that saves a safe one.

The names inside a checkpoint depend on how it was trained: data-parallel training puts ``module.`` before every name,
compiling puts ``_orig_mod.``, a training class puts its attribute's name. :func:`match` finds the prefix whose removal
or addition makes most tensors fit and says in words what is left over. Equal names and shapes do not prove that the
weights belong to the network: two trainings of one architecture look the same.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import re
import zipfile
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cnnviz_core import pickle_check
from cnnviz_core.errors import BadCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

_MB = 1 << 20
_SAVE_LINE = 'torch.save(model.state_dict(), "weights.pth")'

# Where training programs put the weights; the trained ones come before their running averages.
_WEIGHTS_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "params_ema",
    "ema",
)
# Heads that take part in training only; torchvision and timm leave them out when a network is used.
_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.")
_BATCH_COUNTER = "num_batches_tracked"
_MAX_CLASS_LIST_BYTES = 8 * _MB
_SHOWN = 3
_NUMBER = re.compile(r"[0-9]{1,9}")


def read_state_dict(path: Path, *, max_mb: int) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU; nothing in the file is executed.

    The format is told by the content, not by the file name. Containers that training programs write around the weights
    ("state_dict", "model", ...) are opened; counters, settings and optimiser states are left out.

    Args:
        path: A ``.safetensors`` file or one written by ``torch.save``.
        max_mb: Files, and weights packed inside them, above this are refused; MB of 1024 * 1024 bytes.

    Raises:
        BadCheckpoint: Code or Python objects in the file, not a weights file, cut short, empty, too large, no tensors.
    """
    head = _first_bytes(path, max_mb)
    if _looks_like_safetensors(head, path):
        content: object = _read_safetensors(path)
    else:
        content = _read_torch(path, head, max_mb)
    state = _find_state(content, path.name)
    _refuse_unusable(state, path.name)
    return {name: tensor.detach() for name, tensor in state.items()}


def count_non_finite(state: Mapping[str, Tensor]) -> int:
    """How many values are NaN or infinite; a training that diverged leaves such weights behind."""
    total = 0
    for tensor in state.values():
        if tensor.is_floating_point():
            # Eight-bit floats have no isfinite of their own.
            values = tensor.float() if tensor.element_size() == 1 else tensor
            total += values.numel() - int(values.isfinite().sum())
    return total


@dataclass(frozen=True)
class WrongShape:
    """A tensor that the file and the network size differently.

    Attributes:
        name: Name in the network.
        found: Shape in the file.
        expected: Shape in the network.
    """

    name: str
    found: tuple[int, ...]
    expected: tuple[int, ...]

    def __str__(self) -> str:
        found, expected = ("x".join(map(str, shape)) or "one number" for shape in (self.found, self.expected))
        return f"{self.name} ({found} in the file, {expected} in the network)"


@dataclass(frozen=True)
class Match:
    """How a checkpoint's tensors fit a network.

    Attributes:
        state: The tensors that fit, under the network's names. Where ``fits`` holds this is the complete state dict.
        missing: Names that the network has and the file lacks.
        unexpected: Names that the file has and the network lacks.
        wrong_shape: Names that both have, with different shapes.
        left_out: Names in the file outside ``removed_prefix``, such as a second network or a loss.
        removed_prefix: What was taken off the file's names.
        added_prefix: What was put before the file's names.
    """

    state: dict[str, Tensor]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[WrongShape, ...] = ()
    left_out: tuple[str, ...] = ()
    removed_prefix: str = ""
    added_prefix: str = ""

    @property
    def fits(self) -> bool:
        """Whether every tensor of the network is in the file with its shape, and nothing else is."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    @property
    def head_classes(self) -> tuple[int, int] | None:
        """Numbers of classes in the file and in the network, where they are the only difference, else None."""
        sizes = {(shape.found[:1], shape.expected[:1]) for shape in self.wrong_shape}
        inner_equal = all(shape.found[1:] == shape.expected[1:] for shape in self.wrong_shape)
        if self.missing or self.unexpected or len(sizes) != 1 or not inner_equal:
            return None
        ((found, expected),) = sizes
        return (found[0], expected[0]) if found and expected else None

    def report(self) -> str:
        """What fits and what does not, in a few short sentences."""
        parts = [self._verdict()]
        if not self.fits and self.head_classes is None:
            parts += [
                _some("Missing in the file", self.missing),
                _some("Unknown to the network", self.unexpected),
                _some("Other shape", [str(shape) for shape in self.wrong_shape]),
            ]
        if self.removed_prefix:
            parts.append(f'"{self.removed_prefix}" was taken off the names.')
        if self.added_prefix:
            parts.append(f'"{self.added_prefix}" was put before the names.')
        if self.left_out:
            parts.append(_some(f'Left out, since outside "{self.removed_prefix}"', self.left_out))
        return " ".join(part for part in parts if part)

    def _verdict(self) -> str:
        num_fitting = sum(not name.endswith(_BATCH_COUNTER) for name in self.state)
        num_expected = num_fitting + len(self.missing) + len(self.wrong_shape)
        if self.fits:
            return f"All {num_expected} tensors fit."
        if self.head_classes is not None:
            found, expected = self.head_classes
            return f"Only the last layer differs: the file has {found} classes, the network {expected}."
        verdict = f"{num_fitting} of {num_expected} tensors fit"
        return f"{verdict}: this looks like another architecture." if 2 * num_fitting < num_expected else f"{verdict}."


def match(state: Mapping[str, Tensor], expected: Mapping[str, Tensor | tuple[int, ...]]) -> Match:
    """The checkpoint's tensors under the network's names, with all differences.

    Of all prefixes that many names in the file or in the network share, the pair "remove one, add one" is taken
    that makes most tensors fit by name and shape; none where that is as good, or where less than half fits. Batch
    norm's batch counters never count as a difference: outputs do not depend on them, and old files lack them.

    Args:
        state: Tensors by name, as :func:`read_state_dict` returns them.
        expected: The network's state dict, or shapes by name.
    """
    import torch

    shapes = {name: tuple(getattr(value, "shape", value)) for name, value in expected.items()}
    removed, added = _best_prefixes({name: tuple(tensor.shape) for name, tensor in state.items()}, shapes)
    renamed: dict[str, Tensor] = {}
    left_out = []
    for name, tensor in state.items():
        if name.startswith(removed):
            renamed[added + name.removeprefix(removed)] = tensor
        elif name in shapes:
            renamed.setdefault(name, tensor)
        else:
            left_out.append(name)
    for name in shapes:
        if name.endswith(_BATCH_COUNTER):
            renamed.setdefault(name, torch.zeros(shapes[name], dtype=torch.int64))
    fitting = OrderedDict((name, renamed[name]) for name, shape in shapes.items() if _shape(renamed.get(name)) == shape)
    # Version numbers of the modules, without which some networks refuse to load: what fits is of the present version.
    fitting._metadata = getattr(expected, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    return Match(
        state=fitting,
        missing=tuple(name for name in shapes if name not in renamed),
        unexpected=tuple(name for name in renamed if name not in shapes and not _unimportant(name)),
        wrong_shape=tuple(
            WrongShape(name, tuple(renamed[name].shape), shape)
            for name, shape in shapes.items()
            if name in renamed and name not in fitting
        ),
        left_out=tuple(left_out),
        removed_prefix=removed,
        added_prefix=added,
    )


def read_class_names(source: bytes | Path) -> tuple[str, ...]:
    """Class names in the order of the network's outputs.

    Understood are one name per line (a leading line number is dropped where every line has its own), a JSON list, and
    JSON objects: index to name, index to [code, name], or name to index.

    Args:
        source: A UTF-8 text file or its bytes.

    Raises:
        BadCheckpoint: Not such a list.
    """
    data = source if isinstance(source, bytes) else _read_small(source)
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadCheckpoint("The class list is not UTF-8 text. Save it as plain text in UTF-8.") from error
    if not text:
        raise BadCheckpoint("The class list is empty. Write one class name per line.")
    names = _names_from_json(text) if text[0] in "[{" else _names_from_lines(text)
    return tuple(map(_printable, names))


def _printable(name: str) -> str:
    """A name on one line; halves of characters, which JSON can hold and no page can show, become question marks."""
    return re.sub(r"[\x00-\x1f\x7f\u2028-\u202e\u2066-\u2069]+", " ", name).encode("utf-8", "replace").decode()


def check_class_names(names: Sequence[str], num_classes: int) -> None:
    """Accepts a class list of the right length.

    Raises:
        BadCheckpoint: Another length than the network's number of classes.
    """
    if len(names) != num_classes:
        raise BadCheckpoint(
            f"The class list has {len(names)} names, but the network has {num_classes} classes. "
            "Write one name per class, in the order of the network's outputs."
        )


def _first_bytes(path: Path, max_mb: int) -> bytes:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise BadCheckpoint(f"{path.name} cannot be opened: {error.strerror}. Choose another file.") from error
    if size == 0:
        raise BadCheckpoint(f"{path.name} is empty. Copy or save it again.")
    if size > max_mb * _MB:
        _too_large(path.name, size, max_mb)
    return head


def _too_large(name: str, size: int, max_mb: int) -> NoReturn:
    raise BadCheckpoint(
        f"{name} holds {size / _MB:.0f} MB, more than the {max_mb} MB allowed here. "
        f"Save the weights alone, without the optimiser: {_SAVE_LINE}"
    )


def _damaged(name: str) -> str:
    return f"{name} is damaged or cut short. Copy, download or save it again."


def _not_weights(name: str) -> str:
    return f"{name} is not a weights file. Use a .safetensors file, or save one in Python: {_SAVE_LINE}"


def _looks_like_safetensors(head: bytes, path: Path) -> bool:
    # Eight bytes of header length, then the header, a JSON object.
    return head[8:9] == b"{" or path.suffix.lower() == ".safetensors"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Copies: the reader's tensors are windows on the file, and a file that shrinks later would end the process.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadCheckpoint(f"{_damaged(path.name)} Its safetensors header does not describe its content.") from error


def _read_torch(path: Path, head: bytes, max_mb: int) -> object:
    import torch

    if head.startswith(b"PK"):
        _check_zip(path, max_mb)
    _check_cost(path, head)
    # Many training programs store their command line; the class only holds attributes.
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(_explain_refusal(path.name, head, str(error))) from error
    except MemoryError as error:
        raise BadCheckpoint(f"{path.name} needs more memory than there is. Use a smaller network.") from error
    except Exception as error:  # a crafted or cut pickle can raise anything while it is read
        raise BadCheckpoint(_damaged(path.name) if head[:1] == b"\x80" else _not_weights(path.name)) from error


def _check_zip(path: Path, max_mb: int) -> None:
    """Refuses archives that torch cannot read, or that unpack to more than is allowed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise BadCheckpoint(_damaged(path.name)) from error
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        raise BadCheckpoint(
            f"{path.name} is a TorchScript program, and programs are not run here. "
            "If you trust it, save its weights alone: "
            f'torch.save(torch.jit.load("{path.name}").state_dict(), "weights.pth")'
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise BadCheckpoint(f"{path.name} is an archive without weights in it. Unpack it and choose the weights file.")
    unpacked = sum(member.file_size for member in members)
    if unpacked > max_mb * _MB:
        _too_large(path.name, unpacked, max_mb)


def _check_cost(path: Path, head: bytes) -> None:
    """Refuses pickles that would fill the memory or compute without end, though they hold no code."""
    import torch

    try:
        if head.startswith(b"PK"):
            # torch's own view of the archive: another reader may be shown another one.
            pickle_check.check(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
        elif head.startswith(b"\x80"):
            with path.open("rb") as file:
                pickle_check.check(file)
    except pickle_check.Refused as error:
        raise BadCheckpoint(_holds(path.name, "Python objects or code", str(error) or "nested tuples")) from error
    except (OSError, ValueError, EOFError, RuntimeError) as error:
        raise BadCheckpoint(_damaged(path.name)) from error


def _explain_refusal(name: str, head: bytes, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None:
        return _damaged(name) if head[:1] == b"\x80" or head.startswith(b"PK") else _not_weights(name)
    what = "a whole pickled network" if found[1].startswith("torch.nn.") else "Python objects or code"
    return _holds(name, what, found[1])


def _holds(name: str, what: str, which: str) -> str:
    return (
        f"{name} holds {what} ({which}) and not only weights. Nothing in it was run. "
        f"If you trust it, open it where it was made and save the weights alone: {_SAVE_LINE}"
    )


def _find_state(content: object, name: str) -> dict[str, Tensor]:
    """The named tensors of the container that holds the network's weights."""
    groups = {path: tensors for path, tensors in _tensor_groups(content) if not path or not path[0].startswith("optim")}
    named = [path for path in groups if path and path[0] in _WEIGHTS_KEYS]
    if named:
        return groups[min(named, key=lambda path: [_weights_rank(key) for key in path])]
    if () in groups:
        return groups[()]
    if len(groups) == 1:
        return groups.popitem()[1]
    if groups:
        raise BadCheckpoint(
            f"{name} holds several sets of weights ({', '.join('.'.join(path) for path in list(groups)[:_SHOWN])}). "
            "Save the one that you want to look at in a file of its own."
        )
    raise BadCheckpoint(f"{name} holds no named tensors. Save the weights by name: {_SAVE_LINE}")


def _tensor_groups(content: object) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every container with named tensors in it, with the keys that lead there; the outermost first."""
    import torch

    queue: deque[tuple[tuple[str, ...], object]] = deque([((), content)])
    seen = set()  # a crafted file can contain itself
    while queue:
        path, container = queue.popleft()
        if not isinstance(container, Mapping) or id(container) in seen:
            continue
        seen.add(id(container))
        tensors = {key: value for key, value in container.items() if isinstance(value, torch.Tensor)}
        if tensors and all(isinstance(key, str) for key in tensors):
            yield path, tensors
        queue.extend(((*path, str(key)), value) for key, value in container.items() if isinstance(value, Mapping))


def _weights_rank(key: str) -> int:
    return _WEIGHTS_KEYS.index(key) if key in _WEIGHTS_KEYS else len(_WEIGHTS_KEYS)


def _refuse_unusable(state: Mapping[str, Tensor], name: str) -> None:
    """Refuses tensors without plain stored numbers, and those that claim more numbers than the file holds."""
    import torch

    for key, tensor in state.items():
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.is_complex():
            raise BadCheckpoint(
                f'The tensor "{key}" in {name} is not stored as plain real numbers (quantised, sparse or complex). '
                "Save the network's ordinary float weights."
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise BadCheckpoint(f'The tensor "{key}" in {name} claims more values than are stored. {_damaged(name)}')


def _unimportant(name: str) -> bool:
    return name.endswith(_BATCH_COUNTER) or name.startswith(_TRAINING_ONLY)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _best_prefixes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """The prefix to remove from the file's names and the one to add; none unless half of the network then fits."""
    pairs = [(removed, added) for removed in _shared_prefixes(found) for added in _shared_prefixes(expected)]

    def fitting(pair: tuple[str, str]) -> tuple[int, int]:
        removed, added = pair
        renamed = (
            (added + name.removeprefix(removed), shape) for name, shape in found.items() if name.startswith(removed)
        )
        known = [expected[name] == shape for name, shape in renamed if name in expected]
        return sum(known), len(known)

    # max keeps the first of equals, and the pairs start with the empty ones.
    best = max(pairs, key=fitting)
    return best if 2 * fitting(best)[0] >= len(expected) else ("", "")


def _shared_prefixes(names: Iterable[str]) -> list[str]:
    """The empty prefix, then leading parts of names that at least an eighth of them share, shortest first."""
    names = list(names)
    counts = Counter(prefix for name in names for prefix in _leading_parts(name))
    shared = [prefix for prefix, count in counts.items() if 8 * count >= len(names)]
    return ["", *sorted(shared, key=lambda prefix: prefix.count("."))]


def _leading_parts(name: str) -> Iterator[str]:
    parts = name.split(".")
    for depth in range(1, min(4, len(parts))):
        yield ".".join(parts[:depth]) + "."


def _some(label: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    end = ", ..." if len(names) > _SHOWN else "."
    return f"{label} ({len(names)}): {', '.join(names[:_SHOWN])}{end}"


def _read_small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CLASS_LIST_BYTES + 1)
    except OSError as error:
        raise BadCheckpoint(f"{path.name} cannot be opened: {error.strerror}. Choose another file.") from error
    if len(data) > _MAX_CLASS_LIST_BYTES:
        raise BadCheckpoint(f"{path.name} is too large for a class list. Write one class name per line.")
    return data


def _names_from_lines(text: str) -> tuple[str, ...]:
    names = [line.strip() for line in text.splitlines()]
    for number, name in enumerate(names, start=1):
        if not name:
            raise BadCheckpoint(f"Line {number} of the class list is empty, so the later names would move up. Fill it.")
    numbered = [re.match(rf"{index}\s*[:,;\s]\s*(?=\S)", name) for index, name in enumerate(names)]
    if all(numbered):
        return tuple(name[found.end() :] for name, found in zip(names, numbered, strict=True) if found)
    return tuple(names)


def _names_from_json(text: str) -> tuple[str, ...]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"The class list starts like JSON but is not: {error}. Correct it.") from error
    if isinstance(content, dict):
        content = _in_order(content)
    names = [entry[-1] if isinstance(entry, list) and entry else entry for entry in content]
    if not names or not all(isinstance(name, str | int) and str(name).strip() for name in names):
        raise BadCheckpoint("The class list holds entries that are not names. Write a list of texts.")
    return tuple(str(name).strip() for name in names)


def _in_order(table: dict[str, Any]) -> list[Any]:
    """The names of an index-to-name or a name-to-index table, by index."""
    pairs = [(value, key) if isinstance(value, int) else (key, value) for key, value in table.items()]
    by_index = {int(index): name for index, name in pairs if _NUMBER.fullmatch(str(index).strip())}
    if sorted(by_index) != list(range(len(table))):
        raise BadCheckpoint(
            f"The class list has {len(table)} entries, but their numbers do not run from 0 to {len(table) - 1}. "
            "Number every class once, starting at 0."
        )
    return [by_index[index] for index in range(len(table))]
