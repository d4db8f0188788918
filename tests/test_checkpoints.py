"""Checkpoints: nothing in a file is run, prefixes are repaired, and what does not fit is said in words."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cnnviz_core import catalogue, checkpoints
from cnnviz_core.errors import BadCheckpoint

MAX_MB = 50


def tiny_net(num_classes: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, num_classes),
    )


def read(path: Path) -> dict[str, Tensor]:
    return checkpoints.read_state_dict(path, max_mb=MAX_MB)


def same(state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


class Evil:
    """Unpickling this the ordinary way creates a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


# --- reading what is fine ---


def test_safetensors_and_torch_files_give_the_same_tensors(tmp_path: Path) -> None:
    state = tiny_net().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save(state, tmp_path / "c.pth.tar", _use_new_zipfile_serialization=False)
    for file in tmp_path.iterdir():
        assert same(read(file), state), file.name


def test_the_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    state = tiny_net().state_dict()
    save_file(state, tmp_path / "really_safetensors.bin")
    assert same(read(tmp_path / "really_safetensors.bin"), state)


def test_safetensors_do_not_depend_on_the_file_afterwards(tmp_path: Path) -> None:
    state = {"w": torch.arange(100_000.0)}
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    loaded = read(file)
    with file.open("r+b") as handle:
        handle.truncate(200)
    assert torch.equal(loaded["w"], state["w"])


def test_parameters_come_out_without_gradients(tmp_path: Path) -> None:
    torch.save(dict(tiny_net().named_parameters()), tmp_path / "p.pth")
    assert not any(tensor.requires_grad for tensor in read(tmp_path / "p.pth").values())


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "ema", "my_own_name"])
def test_containers_are_opened(tmp_path: Path, key: str) -> None:
    net = tiny_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    torch.save(
        {
            "epoch": 3,
            key: net.state_dict(),
            "best_acc": torch.tensor(0.5),
            "optimizer": optimizer.state_dict(),
            "args": argparse.Namespace(lr=0.1),
        }
        if key != "my_own_name"
        else {"epoch": 3, key: net.state_dict(), "optimizer": optimizer.state_dict()},
        tmp_path / "c.ckpt",
    )
    assert same(read(tmp_path / "c.ckpt"), net.state_dict())


def test_nested_containers_and_trained_weights_before_averages(tmp_path: Path) -> None:
    trained, averaged = tiny_net().state_dict(), tiny_net().state_dict()
    torch.save({"ema": {"module": averaged}, "model": {"net": trained}}, tmp_path / "n.pth")
    assert same(read(tmp_path / "n.pth"), trained)


def test_several_networks_in_one_file_are_named(tmp_path: Path) -> None:
    torch.save({"generator": tiny_net().state_dict(), "discriminator": tiny_net().state_dict()}, tmp_path / "gan.pth")
    with pytest.raises(BadCheckpoint, match=r"several sets of weights \(generator, discriminator\)"):
        read(tmp_path / "gan.pth")


def test_non_finite_values_are_counted() -> None:
    state = tiny_net().state_dict()
    state["0.weight"][0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    state["half"] = torch.tensor([1.0, -float("inf")], dtype=torch.bfloat16)
    state["eighth"] = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    state["counts"] = torch.tensor([1, 2])
    assert checkpoints.count_non_finite(state) == 4


# --- reading what is not ---


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.pth.tar", "evil.bin", "evil.tar", "evil.ckpt"])
def test_code_in_a_file_is_not_run(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    evil = {"state_dict": {"w": torch.ones(2)}, "extra": Evil(marker)}
    file = tmp_path / name
    if name == "evil.bin":
        file.write_bytes(pickle.dumps(Evil(marker)))
    elif name == "evil.tar":
        _old_tar_format(file, pickle.dumps(Evil(marker)))
    else:
        torch.save(evil, file, _use_new_zipfile_serialization=name in {"evil.pth", "evil.ckpt"})
    with pytest.raises(BadCheckpoint, match=name):
        read(file)
    assert not marker.exists()


def test_the_trap_would_have_sprung(tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "marker"), tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "marker").exists()


def test_code_is_named_with_the_line_that_saves_a_safe_file(tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "marker"), tmp_path / "evil.pth")
    with pytest.raises(BadCheckpoint) as caught:
        read(tmp_path / "evil.pth")
    assert "mkdir" in str(caught.value)
    assert "Nothing in it was run" in str(caught.value)
    assert 'torch.save(model.state_dict(), "weights.pth")' in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_network_is_refused(tmp_path: Path, zipped: bool) -> None:
    torch.save(tiny_net(), tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadCheckpoint, match="whole pickled network"):
        read(tmp_path / "whole.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_is_refused_by_name(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(tiny_net().eval(), torch.rand(1, 3, 8, 8)), tmp_path / "script.pt")
    with pytest.raises(BadCheckpoint, match="TorchScript program"):
        read(tmp_path / "script.pt")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("kept", [1, 5, 9, 60, 0.3, 0.7, 0.95, -1])
def test_a_cut_file_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    file = tmp_path / f"cut.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(tiny_net().state_dict(), file)
    else:
        torch.save(tiny_net().state_dict(), file, _use_new_zipfile_serialization=kind == "zip")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(BadCheckpoint, match=r"damaged or cut short|not a weights file"):
        read(file)


def _safetensors(header: dict[str, object] | bytes, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "content",
    [
        _safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),  # data missing
        _safetensors({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 16]}}, b"\0" * 16),  # shape lies
        _safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**60]}}, b"\0" * 16),
        _safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, b"\0" * 16),
        _safetensors({"w": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16),
        _safetensors({}, b"", length=2**62),
        _safetensors(b"{not json", b""),
        b"no header at all, just text",
    ],
)
def test_a_lying_safetensors_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lie.safetensors").write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"lie\.safetensors"):
        read(tmp_path / "lie.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.pth", b"", "is empty"),
        ("photo.pth", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "not a weights file"),
        ("text.bin", b"just some text, nothing else", "not a weights file"),
        ("page.pth", b"<!DOCTYPE html><html>Not found</html>", "not a weights file"),
        ("other.pth", b"\x80\x04\x95" + b"\xff" * 40, "damaged or cut short"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadCheckpoint, match=said) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(BadCheckpoint, match="cannot be opened"):
            read(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("cat.jpg", b"1234")
    with pytest.raises(BadCheckpoint, match="archive without weights"):
        read(tmp_path / "photos.zip")


def test_too_large_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.pth").open("wb") as file:
        file.truncate((MAX_MB + 1) << 20)
    with pytest.raises(BadCheckpoint, match=f"51 MB, more than the {MAX_MB} MB"):
        read(tmp_path / "huge.pth")


def test_a_small_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes((MAX_MB + 1) << 20))
    assert file.stat().st_size < 1 << 20
    with pytest.raises(BadCheckpoint, match="more than the"):
        read(file)


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, [torch.ones(2)], torch.ones(2), {0: torch.ones(2)}, {"model": {}}]
)
def test_files_without_named_tensors_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "none.pth")
    with pytest.raises(BadCheckpoint, match="no named tensors"):
        read(tmp_path / "none.pth")


_COSTLY = {
    "builtins.bytearray": b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R",  # 64 GB of zeros
    "nested tuples": b")q\x01" + 60 * b"h\x01h\x01\x86q\x01" + b"}h\x01K\x01s",  # a key of 2 ** 60 parts
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("named", list(_COSTLY))
def test_a_small_file_that_would_fill_the_memory_or_never_end_is_refused(
    tmp_path: Path, named: str, zipped: bool
) -> None:
    program = b"\x80\x02" + _COSTLY[named] + b"."
    file = tmp_path / "costly.pth"
    if zipped:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", program)
            archive.writestr("a/version", b"3\n")
    else:
        file.write_bytes(b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})) + program)
    with pytest.raises(BadCheckpoint, match=named):
        read(file)


def test_what_is_shared_in_moderation_is_read(tmp_path: Path) -> None:
    """The sizes of many tensors are one tuple, and training programs keep nested settings."""
    shape = (3, (1, 2), ((4, 5), (6, 7)))
    state = {f"layer{i}.weight": torch.ones(2, 3) for i in range(300)}
    torch.save({"state_dict": state, "settings": {(i, shape): shape for i in range(50)}}, tmp_path / "many.pth")
    assert read(tmp_path / "many.pth").keys() == state.keys()


def test_a_file_that_contains_itself_is_refused(tmp_path: Path) -> None:
    loop: dict[str, object] = {"epoch": 1}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    with pytest.raises(BadCheckpoint, match="no named tensors"):
        read(tmp_path / "loop.pth")


def test_tensors_that_are_not_plain_numbers_are_refused(tmp_path: Path) -> None:
    odd = {
        "sparse": torch.eye(3).to_sparse(),
        "complex": torch.ones(2, dtype=torch.complex64),
        "meta": torch.empty(3, device="meta"),
        "expanded": torch.ones(1).expand(1_000_000_000, 1000),
    }
    for name, tensor in odd.items():
        torch.save({name: tensor}, tmp_path / "odd.pth")
        with pytest.raises(BadCheckpoint, match=f'The tensor "{name}" in odd.pth'):
            read(tmp_path / "odd.pth")


def _old_tar_format(file: Path, pickled: bytes) -> None:
    """The layout that torch wrote before 2017: a tar archive with pickles in it."""
    with tarfile.open(file, "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(name)
            info.size = len(pickled)
            archive.addfile(info, io.BytesIO(pickled))


# --- fitting ---


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "model.",
        "net.",
        "backbone.",
        "encoder.",
        "_orig_mod.",
        "student.",
        "module._orig_mod.",
        "any.x.y.",
    ],
)
def test_prefixes_are_removed_or_added(prefix: str) -> None:
    state = tiny_net().state_dict()
    prefixed = {prefix + name: tensor for name, tensor in state.items()}
    removed = checkpoints.match(prefixed, state)
    assert (removed.removed_prefix, removed.added_prefix) == (prefix, "")
    added = checkpoints.match(state, prefixed)
    assert (added.removed_prefix, added.added_prefix) == ("", prefix)
    assert removed.fits
    assert added.fits
    assert same(removed.state, state)
    assert same(added.state, prefixed)


def test_one_prefix_can_replace_another() -> None:
    state = tiny_net().state_dict()
    fitted = checkpoints.match(
        {"module." + name: tensor for name, tensor in state.items()},
        {"backbone." + name: tuple(tensor.shape) for name, tensor in state.items()},
    )
    assert fitted.fits
    assert (fitted.removed_prefix, fitted.added_prefix) == ("module.", "backbone.")


def test_the_first_of_two_networks_is_taken_and_the_other_left_out() -> None:
    student, teacher = tiny_net().state_dict(), tiny_net().state_dict()
    both = {f"student.{n}": t for n, t in student.items()} | {f"teacher.{n}": t for n, t in teacher.items()}
    fitted = checkpoints.match(both, student)
    assert fitted.fits
    assert same(fitted.state, student)
    assert len(fitted.left_out) == len(teacher)
    assert "student." in fitted.report()
    assert "teacher.0.weight" in fitted.report()


def test_a_head_outside_the_prefix_is_kept() -> None:
    state = tiny_net().state_dict()
    split = {name if name.startswith("5.") else f"backbone.{name}": tensor for name, tensor in state.items()}
    fitted = checkpoints.match(split, state)
    assert fitted.fits
    assert same(fitted.state, state)


def test_batch_counters_are_no_difference_and_the_result_loads_strictly() -> None:
    net = tiny_net()
    without = {name: tensor for name, tensor in net.state_dict().items() if "num_batches" not in name}
    fitted = checkpoints.match(without, net.state_dict())
    assert fitted.fits
    tiny_net().load_state_dict(fitted.state)
    assert checkpoints.match(net.state_dict(), without).fits


def test_networks_that_ask_for_version_numbers_load() -> None:
    net = catalogue.create("torchvision/mnasnet0_5")
    fitted = checkpoints.match(dict(net.state_dict()), net.state_dict())
    catalogue.create("torchvision/mnasnet0_5").load_state_dict(fitted.state)


def test_another_number_of_classes_is_recognised() -> None:
    fitted = checkpoints.match(tiny_net(7).state_dict(), tiny_net(3).state_dict())
    assert not fitted.fits
    assert fitted.head_classes == (7, 3)
    assert "the file has 7 classes, the network 3" in fitted.report()


def test_differences_are_named_and_counted() -> None:
    expected = tiny_net().state_dict()
    state = dict(expected)
    del state["0.bias"]
    state["0.weight"] = torch.zeros(4, 3, 5, 5)
    state["extra.weight"] = torch.zeros(1)
    fitted = checkpoints.match(state, expected)
    assert fitted.missing == ("0.bias",)
    assert fitted.unexpected == ("extra.weight",)
    assert [str(shape) for shape in fitted.wrong_shape] == ["0.weight (4x3x5x5 in the file, 4x3x3x3 in the network)"]
    assert not fitted.fits
    assert fitted.head_classes is None
    for part in ("6 of 8 tensors fit.", "Missing in the file (1): 0.bias.", "extra.weight", "4x3x5x5"):
        assert part in fitted.report()


def test_another_architecture_is_called_that() -> None:
    resnet = catalogue.create("torchvision/resnet18").state_dict()
    squeezenet = catalogue.create("torchvision/squeezenet1_1").state_dict()
    fitted = checkpoints.match(squeezenet, resnet)
    assert not fitted.fits
    assert "another architecture" in fitted.report()
    assert len(fitted.report()) < 600


def test_a_deeper_network_of_the_family_does_not_fit() -> None:
    # Every tensor of ResNet-18 is in ResNet-34 with the same name and shape.
    fitted = checkpoints.match(
        catalogue.create("torchvision/resnet34").state_dict(), catalogue.create("torchvision/resnet18").state_dict()
    )
    assert not fitted.missing
    assert not fitted.wrong_shape
    assert not fitted.fits


def test_auxiliary_heads_are_not_asked_for() -> None:
    expected = catalogue.create("torchvision/googlenet").state_dict()
    trained = catalogue.create("torchvision/googlenet", aux_logits=True).state_dict()
    assert trained.keys() > expected.keys()
    assert checkpoints.match(trained, expected).fits


def test_a_block_that_happens_to_fit_is_no_prefix() -> None:
    def net(*widths: int) -> nn.Sequential:
        pairs = zip((3, *widths), widths, strict=False)
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 3), nn.BatchNorm2d(b)) for a, b in pairs))

    fitted = checkpoints.match(net(5, 5, 5).state_dict(), net(4, 8, 16, 5, 5).state_dict())
    assert (fitted.removed_prefix, fitted.added_prefix) == ("", "")
    assert "another architecture" in fitted.report()


def test_nothing_at_all_fits_nothing() -> None:
    fitted = checkpoints.match({}, tiny_net().state_dict())
    assert not fitted.fits
    assert fitted.report().startswith("0 of 8 tensors fit")


# --- class lists ---


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nnewt",
        "cat\r\ndog\r\nnewt\r\n",
        "\ufeffcat\ndog\nnewt\n",
        "0 cat\n1 dog\n2 newt",
        "0: cat\n1: dog\n2: newt",
        '["cat", "dog", "newt"]',
        '{"0": "cat", "2": "newt", "1": "dog"}',
        '{"0": ["n1", "cat"], "1": ["n2", "dog"], "2": ["n3", "newt"]}',
        '{"dog": 1, "cat": 0, "newt": 2}',
        '[["n1", "cat"], ["n2", "dog"], ["n3", "newt"]]',
    ],
)
def test_class_lists_are_understood(tmp_path: Path, text: str) -> None:
    assert checkpoints.read_class_names(text.encode()) == ("cat", "dog", "newt")
    (tmp_path / "classes").write_bytes(text.encode())
    assert checkpoints.read_class_names(tmp_path / "classes") == ("cat", "dog", "newt")


def test_names_that_are_or_start_with_numbers_stay() -> None:
    assert checkpoints.read_class_names(b"0\n1\n2") == ("0", "1", "2")
    assert checkpoints.read_class_names(b"7 up\n0 cat") == ("7 up", "0 cat")
    assert checkpoints.read_class_names("Käfer\n猫".encode()) == ("Käfer", "猫")


def test_class_names_are_made_fit_to_be_shown() -> None:
    content = json.dumps(["a\nb", "half \ud800", "\u202egnp", "<b>"]).encode()
    assert checkpoints.read_class_names(content) == ("a b", "half ?", " gnp", "<b>")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"  \n ", "empty"),
        (b"cat\n\ndog", "Line 2"),
        (b"\xff\xfec\0a\0t\0", "UTF-8"),
        (b'{"0": "cat", "2": "dog"}', "do not run from 0 to 1"),
        (b'{"cat": 0, "dog": 0}', "do not run from 0 to 1"),
        (b'{"a": "cat"}', "do not run from 0"),
        (b'{"' + b"9" * 5000 + b'": "cat"}', "do not run from 0"),
        (b'["cat", null]', "not names"),
        (b'["cat", ""]', "not names"),
        (b"[]", "not names"),
        (b"{}", "not names"),
        (b'["cat", ', "JSON"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_bad_class_lists_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(BadCheckpoint, match=said):
        checkpoints.read_class_names(data)


def test_class_lists_have_one_name_per_class() -> None:
    checkpoints.check_class_names(("a", "b"), 2)
    with pytest.raises(BadCheckpoint, match="2 names, but the network has 3 classes"):
        checkpoints.check_class_names(("a", "b"), 3)
