"""Results on disk: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from cnnviz_core import result_files, store
from cnnviz_core.images import InputImage, from_pixels
from cnnviz_core.methods import adversarial, cam, deep_dream, occlusion, saliency, trust
from cnnviz_core.models import LoadedModel
from cnnviz_core.result_files import CannotBeKept, Damaged, Kept, ResultFiles, decode, encode, fits
from cnnviz_core.results import Heatmap, Occlusion, Run, Step

NAME = "0123456789abcdef" * 2
RUN = Run(
    "timm/x", "default", "abc", "cam.explain", MappingProxyType({"layers": ("a", "b"), "p": np.float32(0.5)}), 1.5
)
HEATMAP = Heatmap(np.arange(6, dtype=np.float32).reshape(2, 3), "conv", 3, "cat", "grad_cam", RUN)


def same(one: object, other: object) -> bool:
    """Equal, with arrays bit for bit and a not-a-number equal to itself."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)
        )
    if isinstance(one, dict | MappingProxyType):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        2**80,
        0.1,
        math.nan,
        -math.inf,
        "naïve \x00 \ud800",
        b"\x00\xff",
        (),
        [1, (2, [3])],
        {("grad_cam", 3): HEATMAP, None: []},
        HEATMAP,
        Step(1, 4, partial=HEATMAP),
        from_pixels(np.zeros((4, 5, 3), np.uint8), name="a <b>"),
        np.zeros((0, 3), np.float16),
        np.array(["a", "bc"]),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.float32(2.5),
        np.array([1 + 2j]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_goes_in_comes_out(value: object) -> None:
    assert same(value, decode(encode(value)))


@dataclass(frozen=True)
class NotOfThePackage:
    value: int = 1


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        lambda: 1,
        np.array([object()], dtype=object),
        np.zeros(2, [("a", int)]),
        NotOfThePackage(),
        Path("/etc/passwd"),
        Heatmap([1.0], "conv", 3, "cat", "grad_cam", RUN),  # type: ignore[arg-type]
        Heatmap(np.zeros((2, 2)), "conv", 3, "cat", "grad_cam", RUN),  # float64
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_data_is_refused_when_it_is_written(value: object) -> None:
    with pytest.raises(CannotBeKept):
        encode({"inside": [value]})


def sealed(tree: object, **arrays: np.ndarray) -> bytes:
    """A file with a checksum that fits, whatever is in it."""
    import io

    file = io.BytesIO()
    np.savez(file, tree=np.frombuffer(json.dumps(tree).encode(), np.uint8), **arrays)
    body = file.getvalue()
    return b"cnnviz result 1\n" + hashlib.blake2b(body, digest_size=16).digest() + body


HEAT = {"values": {"array": "a0"}, "layer": "conv", "target": 3, "target_label": "cat", "method": "cam", "run": None}


@pytest.mark.parametrize(
    "tree",
    [
        [],
        {},
        {"a": 1, "b": 2},
        {"unknown": 1},
        {"array": "a9"},
        {"float": "1"},
        {"tuple": 3},
        {"mapping": [[{"list": []}, 1]]},
        {"class": "os:system", "fields": {}},
        {"class": "cnnviz_core.results:Run.__init__", "fields": {}},
        {"class": "cnnviz_core.results:np", "fields": {}},
        {"class": "cnnviz_core.nowhere:Run", "fields": {}},
        {"class": "cnnviz_core.jobs:Job", "fields": {"key": "a", "title": "b"}},  # not frozen
        {"class": "cnnviz_core.store:InputImage", "fields": {}},  # another module's
        {"class": "cnnviz_core.results:Heatmap", "fields": {"values": {"array": "a0"}}},  # of an older version
        {"class": "cnnviz_core.results:Heatmap", "fields": HEAT},  # no Run
        {"class": "cnnviz_core.results:Step", "fields": {"done": "1", "total": 2, "partial": None}},
        {"class": ["cnnviz_core.results:Step"], "fields": {}},
        json.loads("[" * 500 + "]" * 500),
    ],
    ids=lambda tree: str(tree)[:60],
)
def test_a_tree_that_says_something_else_is_damaged(tree: object) -> None:
    with pytest.raises(Damaged):
        decode(sealed(tree, a0=np.zeros((2, 3), np.float32)))


def test_files_cut_short_or_with_a_bit_turned_are_damaged() -> None:
    content, random = encode({"a": HEATMAP}), np.random.default_rng(0)
    for length in {0, 1, 15, 16, 31, 32, len(content) - 1, *random.integers(0, len(content), 20).tolist()}:
        with pytest.raises(Damaged):
            decode(content[:length])
    for place in random.integers(0, 8 * len(content), 200).tolist():
        turned = bytearray(content)
        turned[place // 8] ^= 1 << place % 8
        with pytest.raises(Damaged):
            decode(bytes(turned))


def test_behind_a_checksum_that_fits_damage_is_still_no_crash() -> None:
    """Bytes turned inside the archive: whole or refused, never another error."""
    content, random = encode({"a": HEATMAP, "b": [1, "x"]})[32:], np.random.default_rng(1)
    for place in random.integers(0, 8 * len(content), 300).tolist():
        turned = bytearray(content)
        turned[place // 8] ^= 1 << place % 8
        body = bytes(turned)
        try:
            decode(b"cnnviz result 1\n" + hashlib.blake2b(body, digest_size=16).digest() + body)
        except Damaged:
            continue


@pytest.mark.parametrize(
    ("value", "hint", "is_of_it"),
    [
        (1, int, True), (True, int, False), (1, float, True), ("1", float, False), (np.float32(1), float, True),
        (None, int | None, True), ("a", int | None, False), ((1, 2), tuple[int, ...], True),
        ((1, "a"), tuple[int, ...], False), ((1, "a"), tuple[int, str], True), ((1,), tuple[int, str], False),
        ({"a": 1}, dict[str, int], True), ({1: 1}, dict[str, int], False), ([1], list[int], True),
        (["a"], list[int], False), (HEATMAP, Heatmap, True), (HEATMAP, Occlusion, False), (HEATMAP, object, True),
        (from_pixels(np.zeros((2, 2, 3), np.uint8), name=""), InputImage, True),
    ],
)  # fmt: skip
def test_values_are_held_to_their_annotations(value: object, hint: object, is_of_it: bool) -> None:
    assert fits(value, hint) is is_of_it


def test_a_folder_keeps_finds_and_forgets(tmp_path: Path) -> None:
    files = ResultFiles(tmp_path / "new", max_mb=1)
    assert files.load(NAME) is None
    assert files.save(NAME, None)
    assert files.load(NAME) == Kept(None)
    assert files.has(NAME)
    files.remove(NAME)
    assert not files.has(NAME)
    assert not files.save(NAME, object())
    assert not files.save(NAME, np.zeros(2**18 + 1))  # more than all the room
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(ValueError, match="no name"):
        files.load("../../etc/passwd")


def test_the_room_is_bounded_and_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    files = ResultFiles(tmp_path, max_mb=1)
    names = [f"{number:032x}" for number in range(4)]
    import os

    for age, name in enumerate(names[:3]):
        files.save(name, np.zeros(2**15, np.uint8).repeat(10))  # 0.31 MB
        os.utime(tmp_path / f"{name}.result", (1000 + age, 1000 + age))
    assert files.load(names[0]) is not None  # used again just now
    files.save(names[3], np.zeros(2**15, np.uint8).repeat(10))
    assert [files.has(name) for name in names] == [True, False, True, True]


def test_a_damaged_file_is_not_there_and_is_written_anew(tmp_path: Path) -> None:
    files = ResultFiles(tmp_path, max_mb=1)
    files.save(NAME, 1)
    (tmp_path / f"{NAME}.result").write_bytes(b"cnnviz result 1\n" + bytes(40))
    assert files.load(NAME) is None
    files.save(NAME, 2)
    assert files.load(NAME) == Kept(2)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(store.StorageFailed, match="No space left"):
        ResultFiles(tmp_path, max_mb=1).save(NAME, 1)
    assert list(tmp_path.iterdir()) == []


def test_every_result_type_of_the_core_can_be_kept() -> None:
    """The classes are frozen, and their annotations are known when they are read."""
    from cnnviz_core import results

    kinds = [kind for kind in vars(results).values() if is_dataclass(kind) and kind.__module__ == results.__name__]
    assert len(kinds) > 20
    for kind in kinds:
        assert result_files._fields_of(result_files._class_of(f"{kind.__module__}:{kind.__name__}"))


SLOW: dict[str, Callable[[LoadedModel, InputImage], object]] = {
    "occlusion": lambda model, image: occlusion.explain(model, image, patch_px=4, stride_px=4),
    "score_cam": lambda model, image: cam.explain_many(
        model, image, methods=("score_cam",), targets=(1,), layer="conv2", signed=False
    ),
    "smooth_grad": lambda model, image: saliency.explain(model, image, method="smooth_grad", num_samples=2),
    "deletion": lambda model, image: trust.deletion_insertion(model, image, grad_cam(model, image), steps=4),
    "randomization": lambda model, image: trust.randomization(model, image, explain=grad_cam),
    "dream": lambda model, image: deep_dream.dream(model, image, layer="conv1", octaves=1, steps=1),
    "pgd": lambda model, image: adversarial.attack(model, image, method="pgd", target=1, epsilon=4, steps=1),
}


def grad_cam(model: LoadedModel, image: InputImage) -> Heatmap:
    return cam.explain(model, image, method="grad_cam")


@pytest.mark.parametrize("name", SLOW)
def test_what_slow_methods_give_can_be_kept(
    name: str, tiny_model: LoadedModel, noise_image: Callable[..., InputImage]
) -> None:
    result = SLOW[name](tiny_model, noise_image(16, 16))
    assert same(result, decode(encode(result)))
