"""The shelf: loaded once, bounded by number and size, least recently used out, never what is in use."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from cnnviz_core import images, model_shelf, models
from cnnviz_core.errors import BadCheckpoint
from cnnviz_core.images import InputImage
from cnnviz_core.methods import cam, occlusion, saliency
from cnnviz_core.model_shelf import Shelf
from cnnviz_core.models import LoadedModel

MB = 2**20


class Wide(nn.Module):
    """A convolution, and about as many MB of weights as asked for."""

    def __init__(self, mb: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("ballast", torch.zeros(mb * MB // 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


class Loader:
    """Makes networks by name, counts how often, and lets their weights be watched."""

    def __init__(self, mb: int = 2) -> None:
        self.loads: list[str] = []
        self.nets: dict[str, weakref.ref[nn.Module]] = {}
        self.mb = mb
        self.seeds: dict[str, int] = {}

    def __call__(self, name: str) -> Callable[[], LoadedModel]:
        def load() -> LoadedModel:
            self.loads.append(name)
            net = Wide(self.mb)
            generator = torch.Generator().manual_seed(self.seeds.get(name, len(name)))
            with torch.no_grad():
                net.conv.weight.copy_(torch.randn(net.conv.weight.shape, generator=generator))
                net.fc.weight.copy_(torch.randn(net.fc.weight.shape, generator=generator))
                net.conv.bias.zero_()
                net.fc.bias.zero_()
            half = (0.5,) * 3
            model = models.from_module(net, input_px=16, mean=half, std=half, name=name, device="cpu")
            self.nets[name] = weakref.ref(model.net)
            return model

        return load

    def in_memory(self) -> set[str]:
        return {name for name, net in self.nets.items() if net() is not None}


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def picture() -> InputImage:
    return images.from_pixels(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8), name="noise")


def test_who_asks_again_gets_the_same_network_without_loading(loader: Loader) -> None:
    shelf = Shelf(max_models=3, max_mb=100)
    first = shelf.get("a", loader("a"))
    assert shelf.get("a", loader("a")) is first
    assert first.net is first.net
    assert loader.loads == ["a"]


def test_the_longest_unused_goes_first_and_comes_back_the_same(loader: Loader, picture: InputImage) -> None:
    shelf = Shelf(max_models=2, max_mb=100)
    a = shelf.get("a", loader("a"))
    expected = a.predict(picture).logits
    b = shelf.get("bb", loader("bb"))
    assert a.net is not None  # used: now b is the longest unused
    c = shelf.get("ccc", loader("ccc"))
    assert loader.in_memory() == {"a", "ccc"}
    shelf.get("bb", loader("bb"))  # known: says what it is without its weights
    assert b.num_classes == 3
    assert loader.loads == ["a", "bb", "ccc"]
    assert b.net is not None
    assert loader.loads == ["a", "bb", "ccc", "bb"]
    assert loader.in_memory() == {"ccc", "bb"}
    assert a.predict(picture).logits == expected
    assert c.num_classes == 3


def test_size_bounds_too(loader: Loader) -> None:
    loader.mb = 10
    shelf = Shelf(max_models=100, max_mb=25)
    for name in ("a", "bb", "ccc", "dddd"):
        shelf.get(name, loader(name))
    assert loader.in_memory() == {"ccc", "dddd"}
    assert sum(held.num_bytes for held in shelf.held()) <= 25 * MB
    assert [held.title for held in shelf.held()] == ["dddd", "ccc"]


def test_what_is_in_memory_can_be_asked_for_while_networks_go(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(max_models=2, max_mb=100)
    for name in ("a", "bb"):
        shelf.get(name, loader(name))
    num_bytes, is_asked = model_shelf._Place.num_bytes, threading.Event()
    drops = threading.Thread(target=lambda: is_asked.wait(10) and shelf.get("ccc", loader("ccc")))

    def slow(place: model_shelf._Place) -> int:
        if threading.current_thread() is not drops:
            is_asked.set()
            time.sleep(0.2)  # as long as the other thread needs to drop one, if it may
        return num_bytes(place)

    monkeypatch.setattr(model_shelf._Place, "num_bytes", slow)
    drops.start()
    assert [held.title for held in shelf.held()] == ["bb", "a"]
    drops.join()
    assert loader.in_memory() == {"bb", "ccc"}


def test_one_larger_than_the_bound_is_used_all_the_same(loader: Loader) -> None:
    shelf = Shelf(max_models=5, max_mb=1)
    shelf.get("a", loader("a"))
    shelf.get("bb", loader("bb"))
    assert loader.in_memory() == {"bb"}


def test_one_in_use_stays_and_goes_when_it_is_done(loader: Loader) -> None:
    shelf = Shelf(max_models=1, max_mb=100)
    with shelf.keeping():
        a = shelf.get("a", loader("a"))
        assert a.net is not None
        shelf.get("bb", loader("bb"))
        shelf.get("ccc", loader("ccc"))
        assert loader.in_memory() == {"a", "ccc"}
        assert len(shelf.held()) == 2
    assert loader.in_memory() == {"ccc"}


def test_a_reference_anywhere_counts_as_use(loader: Loader) -> None:
    shelf = Shelf(max_models=1, max_mb=100)
    net = shelf.get("a", loader("a")).net
    shelf.get("bb", loader("bb"))
    assert loader.in_memory() == {"a", "bb"}
    del net
    shelf.trim()
    assert loader.in_memory() == {"bb"}


def test_a_network_whose_parts_refer_to_each_other_goes_too(loader: Loader) -> None:
    shelf = Shelf(max_models=1, max_mb=100)
    model = shelf.get("a", loader("a"))
    object.__setattr__(model.net, "myself", [model.net])
    gc.disable()
    try:
        shelf.get("bb", loader("bb"))
        assert loader.in_memory() == {"bb"}
    finally:
        gc.enable()


def test_many_who_ask_at_once_load_once(loader: Loader) -> None:
    shelf = Shelf(max_models=3, max_mb=100)
    gate = threading.Barrier(8)
    found = []

    def slow() -> LoadedModel:
        time.sleep(0.05)
        return loader("a")()

    def ask() -> None:
        gate.wait()
        found.append(shelf.get("a", slow))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert loader.loads == ["a"]


def test_threads_that_push_each_other_out_all_get_right_answers(loader: Loader, picture: InputImage) -> None:
    names = ["a", "bb", "ccc", "dddd"]
    expected = {name: loader(name)().predict(picture).logits for name in names}
    shelf = Shelf(max_models=1, max_mb=100)
    wrong: list[str] = []

    def work(turn: int) -> None:
        for step in range(12):
            name = names[(turn + step) % 4]
            with shelf.keeping():
                model = shelf.get(name, loader(name))
                logits = model.predict(picture).logits
            if not np.allclose(logits, expected[name], atol=1e-5):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    shelf.trim()
    assert len(shelf.held()) == 1
    assert len(loader.in_memory()) == 1


def test_an_error_of_loading_is_told_and_leaves_nothing(loader: Loader) -> None:
    shelf = Shelf(max_models=1, max_mb=100)

    def fail() -> LoadedModel:
        raise BadCheckpoint("cut short")

    for _ in range(2):
        with pytest.raises(BadCheckpoint):
            shelf.get("a", fail)
    assert shelf.get("a", loader("a")).num_classes == 3


def test_weights_that_changed_meanwhile_are_not_mixed_with_the_old_ones(loader: Loader) -> None:
    shelf = Shelf(max_models=1, max_mb=100)
    old = shelf.get("a", loader("a"))
    shelf.get("bb", loader("bb"))
    loader.seeds["a"] = 99
    with pytest.raises(BadCheckpoint, match="have changed"):
        old.net  # noqa: B018 - fetching is the point
    assert shelf.get("a", loader("a")).spec.weights_hash != old.spec.weights_hash


def test_a_forgotten_network_leaves_memory_and_its_users_finish(loader: Loader) -> None:
    shelf = Shelf(max_models=3, max_mb=100)
    model = shelf.get("a", loader("a"))
    shelf.forget("a")
    assert not loader.in_memory()
    assert not shelf.held()
    assert model.net is not None
    assert shelf.get("a", loader("a")) is not model


def test_a_replaced_copy_holds_its_own_weights(loader: Loader) -> None:
    shelf = Shelf(max_models=1, max_mb=100)
    copy = dataclasses.replace(shelf.get("a", loader("a")), class_names=("x", "y", "z"))
    shelf.get("bb", loader("bb"))
    assert copy.class_names == ("x", "y", "z")
    assert loader.in_memory() == {"a", "bb"}


def test_nothing_that_the_methods_keep_holds_a_network(
    small_net: Callable[[str], nn.Module], picture: InputImage
) -> None:
    shelf = Shelf(max_models=1, max_mb=100)
    nets = []

    def load() -> LoadedModel:
        half = (0.5,) * 3
        model = models.from_module(small_net("plain"), input_px=16, mean=half, std=half, name="plain", device="cpu")
        nets.append(weakref.ref(model.net))
        return model

    model = shelf.get("plain", load)
    weights = shelf.held()[0].num_bytes
    cam.explain(model, picture, method="grad_cam")
    saliency.explain(model, picture, method="smooth_grad")
    occlusion.explain(model, picture, patch_px=4, stride_px=4)
    assert shelf.held()[0].num_bytes > weights  # the faster copy counts
    shelf.get("bb", Loader()("bb"))
    assert nets[0]() is None


def test_the_default_network_can_go(lite0: LoadedModel, picture: InputImage) -> None:
    shelf = Shelf(max_models=1, max_mb=1000)
    model = shelf.get("lite0", lambda: models.load(models.DEFAULT_MODEL, device="cpu"))
    model.predict(picture)
    watch = weakref.ref(model.net)
    shelf.get("a", Loader()("a"))
    assert watch() is None
    assert model.predict(picture) == lite0.predict(picture)
