"""Looking into a shared network: right values, right gradients, and no trace left, in any number of threads."""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MethodType
from typing import Any, ClassVar

import pytest
import torch
from captum.attr import Deconvolution, GuidedBackprop, LayerGradientXActivation
from torch import Tensor, nn
from torch.nn import functional as F

from cnnviz_core import probe
from cnnviz_core.errors import UnknownLayer
from cnnviz_core.models import LoadedModel

SmallNet = Callable[[str], nn.Module]
Zoo = Callable[[str], LoadedModel]

_NETS = ["plain", "residual", "functional", "in_place", "reused_relu", "gelu", "depth_wise"]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _input(side: int = 16, *, seed: int = 0, num_images: int = 1) -> Tensor:
    return torch.randn(num_images, 3, side, side, generator=torch.Generator().manual_seed(seed))


def _trace(net: nn.Module) -> list[object]:
    """Everything that a look inside must leave as it is."""
    tensors = [*net.named_parameters(), *net.named_buffers()]
    return [
        [(name, id(t), t.data_ptr(), t.requires_grad, t.grad, t.detach().numpy().tobytes()) for name, t in tensors],
        [(name, id(m), m.training, [len(getattr(m, hooks)) for hooks in _HOOKS]) for name, m in net.named_modules()],
        [sorted(vars(m)) for m in net.modules()],
    ]


@pytest.fixture(autouse=True)
def _no_mode_is_left() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled()
    assert torch._C._len_torch_function_stack() == 0
    assert torch._C._len_torch_dispatch_stack() == 0


# ---- private_copy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _NETS)
def test_a_private_copy_shares_all_tensors_and_no_module(name: str, small_net: SmallNet) -> None:
    net = small_net(name)
    before = _trace(net)
    mine = probe.private_copy(net)
    theirs = dict([*net.named_parameters(), *net.named_buffers()])
    ours = dict([*mine.named_parameters(), *mine.named_buffers()])
    assert ours.keys() == theirs.keys()
    assert all(ours[key] is theirs[key] for key in ours)
    assert not {id(m) for m in net.modules()} & {id(m) for m in mine.modules()}
    assert [type(m) for m in net.modules()] == [type(m) for m in mine.modules()]
    assert _trace(net) == before
    assert torch.equal(mine(_input()), net(_input()))


def test_hooks_and_flags_of_a_private_copy_are_its_own(small_net: SmallNet) -> None:
    net = small_net("plain")
    before = _trace(net)
    mine = probe.private_copy(net)
    mine.train().get_submodule("conv1").register_forward_hook(lambda *_: torch.zeros(1, 4, 16, 16))
    assert _trace(net) == before


def test_a_private_copy_follows_weights_written_in_place(small_net: SmallNet) -> None:
    net = small_net("plain")
    mine = probe.private_copy(net)
    with torch.no_grad():
        net.get_parameter("fc.weight").mul_(2)
        assert torch.equal(mine(_input()), net(_input()))


def test_the_time_of_a_private_copy(zoo: Zoo) -> None:
    net = zoo("torchvision/resnet18").net
    start = time.perf_counter()
    mine = probe.private_copy(net)
    print(f"private copy of resnet18: {(time.perf_counter() - start) * 1000:.0f} ms")
    assert sum(p.numel() for p in mine.parameters()) == 11_689_512


# ---- record -------------------------------------------------------------------------------------------------------


def _by_plain_hooks(net: nn.Module, x: Tensor, names: list[str]) -> tuple[dict[str, list[Tensor]], Tensor]:
    """The oracle: ordinary forward hooks on an isolated copy, each output copied at once."""
    own = copy.deepcopy(net)
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}
    for name in names:
        own.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: outputs[name].append(y.clone()))
    return outputs, own(x)


def _check_against_plain_hooks(net: nn.Module, x: Tensor) -> None:
    names = [name for name, _ in net.named_modules()]
    expected, result = _by_plain_hooks(net, x, names)
    recording = probe.record(net, x, names)
    assert torch.equal(recording.result, result)
    assert list(recording.outputs) == names
    for name in names:
        assert len(recording.outputs[name]) == len(expected[name]) > 0
        assert all(torch.equal(*pair) for pair in zip(recording.outputs[name], expected[name], strict=True))


@pytest.mark.parametrize("name", _NETS)
def test_every_layer_of_small_networks(name: str, small_net: SmallNet) -> None:
    _check_against_plain_hooks(small_net(name), _input(num_images=2))


@pytest.mark.parametrize("model_id", ["torchvision/resnet18", "torchvision/densenet121"])
@torch.no_grad()
def test_every_layer_of_real_networks(model_id: str, zoo: Zoo) -> None:
    _check_against_plain_hooks(zoo(model_id).net, _input(64))


@pytest.mark.parametrize(("name", "layer"), [("functional", "norm"), ("residual", "bn2"), ("in_place", "conv1")])
def test_in_place_code_further_on_does_not_rewrite_what_was_kept(name: str, layer: str, small_net: SmallNet) -> None:
    net = small_net(name)
    # What hooks without care see: the tensor that later code wrote into.
    own, seen = copy.deepcopy(net), []
    own.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        own(_input())
    kept = probe.record(net, _input(), [layer]).outputs[layer][0]
    assert not torch.equal(seen[0], kept)
    assert kept.min() < 0


class _PassesOn(nn.Module):
    """A layer that puts out its input itself, which the code around it goes on to overwrite."""

    def __init__(self, through: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.through(x)
        x.fill_(7)
        return y


@pytest.mark.parametrize("through", [nn.Identity(), nn.Dropout(), nn.Flatten()], ids=lambda m: type(m).__name__)
def test_what_passes_its_input_on_is_not_rewritten_either(through: nn.Module) -> None:
    net = _PassesOn(through).eval().requires_grad_(requires_grad=False)
    recording = probe.record(net, _input(), ["conv", "through"])
    expected = net.conv(_input())
    assert torch.equal(recording.outputs["conv"][0], expected)
    assert torch.equal(recording.outputs["through"][0], through(expected))


def test_gradients_with_respect_to_a_kept_tensor_by_hand(small_net: SmallNet) -> None:
    """score = w . mean(ReLU(bn2 + stem)), so its gradient at bn2 is w / (h w) where the sum is above 0."""
    net = small_net("residual")
    recording = probe.record(net, _input(), ["bn2", "stem"])
    bn2, stem = recording.outputs["bn2"][0], recording.outputs["stem"][0]
    (gradient,) = torch.autograd.grad(recording.result[0, 1], bn2)
    expected = net.get_parameter("fc.weight")[1].view(4, 1, 1) / 64 * (bn2 + stem > 0)
    torch.testing.assert_close(gradient, expected)
    assert 0 < gradient.count_nonzero() < gradient.numel()


@pytest.mark.parametrize("layer", ["conv1", "layer1", "layer2.0.conv1", "layer3", "layer4.1.bn2", "avgpool"])
def test_gradients_with_respect_to_a_kept_tensor_against_captum(layer: str, zoo: Zoo) -> None:
    net = zoo("torchvision/resnet18").net
    x = _input(64).requires_grad_()
    recording = probe.record(net, x, [layer])
    (gradient,) = torch.autograd.grad(recording.result[0, 5], recording.outputs[layer][0])

    own = _for_captum(net)  # also without ``+=``, which would overwrite what Captum keeps
    captum = LayerGradientXActivation(own, own.get_submodule(layer), multiply_by_inputs=False)
    torch.testing.assert_close(gradient, captum.attribute(x, target=5), rtol=1e-4, atol=1e-7)


def test_gradients_with_respect_to_the_input_are_those_of_the_network(small_net: SmallNet) -> None:
    for name in _NETS:
        net, x = small_net(name), _input().requires_grad_()
        recording = probe.record(net, x, [n for n, _ in net.named_modules()])
        (through,) = torch.autograd.grad(recording.result[0, 0], x)
        (plain,) = torch.autograd.grad(copy.deepcopy(net)(x)[0, 0], x)
        torch.testing.assert_close(through, plain)


class _Counted(nn.Module):
    num_calls: ClassVar[int] = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).num_calls += 1
        return x


def test_the_forward_ends_with_the_last_layer_needed(small_net: SmallNet) -> None:
    net = nn.Sequential(small_net("plain").conv1, nn.ReLU(), _Counted(), nn.Conv2d(4, 2, 1), _Counted()).eval()
    _Counted.num_calls = 0
    recording = probe.record(net, _input(), ["3", "0"], stop_after={"0": 1, "3": 1})
    assert recording.result is None
    assert _Counted.num_calls == 1
    assert torch.equal(recording.outputs["3"][0], net[:4](_input()))
    _Counted.num_calls = 0
    assert probe.record(net, _input(), ["0"]).result is not None
    assert _Counted.num_calls == 2


def test_a_stop_that_never_comes_runs_to_the_end(small_net: SmallNet) -> None:
    net = small_net("plain")
    recording = probe.record(net, _input(), ["conv1"], stop_after={"conv1": 2})
    assert torch.equal(recording.result, net(_input()))


def test_a_network_that_catches_everything_does_not_catch_the_stop() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.conv(x)
            except Exception:
                return x

    assert probe.record(Stubborn().eval(), _input(), ["conv"], stop_after={"conv": 1}).result is None


def test_a_module_that_is_used_again_gives_one_tensor_per_call(small_net: SmallNet) -> None:
    net = small_net("reused_relu")
    relu = probe.record(net, _input(), ["relu"]).outputs["relu"]
    x = _input()
    for call, conv in enumerate([net.conv1, net.conv2, net.conv2]):
        x = F.relu(conv(x))
        assert torch.equal(relu[call], x)
    assert len(relu) == 3
    stopped = probe.record(net, _input(), ["relu"], stop_after={"relu": 2})
    assert len(stopped.outputs["relu"]) == 2
    assert stopped.result is None


def test_a_layer_named_twice_is_kept_once(small_net: SmallNet) -> None:
    outputs = probe.record(small_net("plain"), _input(), ["conv1", "conv1"]).outputs
    assert {name: len(kept) for name, kept in outputs.items()} == {"conv1": 1}


def test_what_is_no_tensor_is_not_kept() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, -x

    net = nn.Sequential(Both()).eval()
    recording = probe.record(net, _input(), ["0"])
    assert recording.outputs == {"0": []}
    assert torch.equal(recording.result[1], -_input())


def test_an_unknown_layer_is_named_with_near_ones(small_net: SmallNet) -> None:
    net = small_net("plain")
    before = _trace(net)
    with pytest.raises(UnknownLayer, match=r"no layer 'convl'\. Did you mean conv2 or conv1"):
        probe.record(net, _input(), ["conv1", "convl"])
    assert _trace(net) == before
    assert _idle_hooks(net) == 0


# ---- resume -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _NETS)
def test_resuming_without_a_change_is_the_network(name: str, small_net: SmallNet) -> None:
    net = small_net(name)
    for layer, _ in net.named_modules():
        assert torch.equal(probe.resume(net, _input(), layer, lambda y: y), net(_input()))


def test_resuming_goes_on_with_what_was_put_in_place(small_net: SmallNet) -> None:
    net = small_net("plain")
    other = torch.linspace(-1, 1, 256).view(1, 4, 8, 8)
    result = probe.resume(net, _input(), "pool", lambda _: other)
    assert torch.equal(result, net.fc(net.relu2(net.conv2(other)).mean((2, 3))))


@pytest.mark.parametrize("call", [0, 1, 2])
def test_resuming_changes_one_call_of_several(call: int, small_net: SmallNet) -> None:
    net = small_net("reused_relu")
    result = probe.resume(net, _input(), "relu", lambda y: y * 2, call=call)
    x = _input()
    for place, conv in enumerate([net.conv1, net.conv2, net.conv2]):
        x = F.relu(conv(x)) * (2 if place == call else 1)
    torch.testing.assert_close(result, net.fc(x.mean((2, 3))))


def test_resuming_with_more_pictures_than_came_in(small_net: SmallNet) -> None:
    net = small_net("residual")
    result = probe.resume(net, _input(), "stem", lambda y: y * torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1))
    assert result.shape == (3, 3)
    assert torch.allclose(result[1], net(_input())[0], atol=1e-6)


def test_resuming_from_a_new_graph(small_net: SmallNet) -> None:
    net, leaves = small_net("residual"), []

    def start(y: Tensor) -> Tensor:
        leaves.append(y.detach().requires_grad_())
        return leaves[0] * 1

    result = probe.resume(net, _input(), "bn2", start)
    (gradient,) = torch.autograd.grad(result[0, 1], leaves[0])
    recording = probe.record(net, _input(), ["bn2"])
    (expected,) = torch.autograd.grad(recording.result[0, 1], recording.outputs["bn2"][0])
    assert torch.equal(gradient, expected)


def test_resuming_leaves_no_trace(small_net: SmallNet) -> None:
    net = small_net("plain")
    before = _trace(net)
    probe.resume(net, _input(), "conv1", lambda y: y.zero_())
    with pytest.raises(ZeroDivisionError):
        probe.resume(net, _input(), "conv1", lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(UnknownLayer, match="conv1"):
        probe.resume(net, _input(), "conv", lambda y: y)
    assert _trace(net) == before
    assert _idle_hooks(net) == 0


# ---- nothing is left behind ---------------------------------------------------------------------------------------


class _Fails(nn.Module):
    """Raises where the input says so, in the middle of the network."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.second = nn.Conv2d(4, 2, 3, padding=1)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first(x))
        if x.flatten()[0] == 99:
            raise self.error("on purpose")
        return self.second(y)


def _idle_hooks(net: nn.Module) -> int:
    """Hooks on the pooled copies of a network."""
    return sum(len(getattr(m, hooks)) for own in probe._idle.get(net, []) for m in own.modules() for hooks in _HOOKS)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "look",
    [
        lambda net, x: probe.record(net, x, ["first", "second"]),
        lambda net, x: probe.record(net, x, ["second"], stop_after={"second": 1}),
        probe.dry_run,
    ],
)
def test_no_trace_is_left_by_success_or_failure(
    error: type[BaseException], look: Callable[[nn.Module, Tensor], Any]
) -> None:
    net = _Fails(error).eval()
    before = _trace(net)
    expected = net(_input()).detach()
    for _ in range(3):
        look(net, _input())
        bad = _input()
        bad[0, 0, 0, 0] = 99
        with pytest.raises(error, match="on purpose"), probe.relu_rule("guided"):
            look(net, bad)
        assert _trace(net) == before
        assert _idle_hooks(net) == 0
    assert torch.equal(probe.record(net, _input(), []).result, expected)


def test_copies_are_used_again_but_not_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    net, made = _Fails(RuntimeError).eval(), []
    original = probe.private_copy
    monkeypatch.setattr(probe, "private_copy", lambda module: made.append(original(module)) or made[-1])
    for _ in range(3):
        probe.record(net, _input(), ["first"], stop_after={"first": 1})
        probe.dry_run(net, _input())
    assert len(made) == 1
    with pytest.raises(RuntimeError):
        probe.record(net, torch.full((1, 3, 4, 4), 99.0), ["first"])
    probe.record(net, _input(), ["first"])
    assert len(made) == 2


def test_the_pool_is_bounded_and_goes_with_the_network(small_net: SmallNet) -> None:
    everybody_inside = threading.Barrier(8)

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            everybody_inside.wait(timeout=120)
            return x

        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
            return Waits()

    waiting = nn.Sequential(small_net("plain"), Waits()).eval()
    _in_threads([partial(probe.record, waiting, _input(), ["0"])] * 8)
    assert len(probe._idle[waiting]) == probe._MAX_IDLE_COPIES
    gone = weakref.ref(waiting)
    del waiting
    gc.collect()
    assert gone() is None


# ---- threads ------------------------------------------------------------------------------------------------------


def _in_threads(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Runs all at the same time; an exception counts as a result."""
    results: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def work(place: int) -> None:
        start.wait(timeout=120)
        try:
            results[place] = jobs[place]()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _activation(net: nn.Module, layer: str, x: Tensor) -> Tensor:
    with torch.no_grad():
        return probe.record(net, x, [layer], stop_after={layer: 1}).outputs[layer][0]


def _layer_gradient(net: nn.Module, layer: str, x: Tensor) -> Tensor:
    recording = probe.record(net, x.clone().requires_grad_(), [layer])
    return torch.autograd.grad(recording.result[0, 3], recording.outputs[layer][-1])[0]


def _rule_gradient(net: nn.Module, rule: str, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    with probe.relu_rule(rule):
        score = net(x)[0, 7]
    return torch.autograd.grad(score, x)[0]


def _jobs(net: nn.Module, layers: tuple[str, str]) -> list[Callable[[], Tensor]]:
    return [
        lambda: _activation(net, layers[0], _input(64, seed=1)),
        lambda: _activation(net, layers[1], _input(64, seed=2)),
        lambda: _layer_gradient(net, layers[0], _input(64, seed=3)),
        lambda: _layer_gradient(net, layers[1], _input(64, seed=4)),
        lambda: _rule_gradient(net, "guided", _input(64, seed=5)),
        lambda: _rule_gradient(net, "deconvnet", _input(64, seed=6)),
        lambda: _rule_gradient(net, "backprop", _input(64, seed=7)),
        lambda: torch.autograd.grad(net(x := _input(64, seed=8).requires_grad_())[0, 9], x)[0],
    ]


def _one_by_one(jobs: list[Callable[[], Any]]) -> list[Tensor]:
    """Serial results, each from a thread of its own: the main thread may sum with another number of CPU threads."""
    return [_in_threads([job])[0] for job in jobs]


@pytest.mark.parametrize(
    ("model_id", "layers"),
    [
        ("torchvision/resnet18", ("layer1.0.bn2", "layer4")),
        ("torchvision/densenet121", ("features.denseblock1", "features")),
    ],
)
def test_eight_threads_get_what_one_gets(model_id: str, layers: tuple[str, str], zoo: Zoo) -> None:
    net = zoo(model_id).net
    before = _trace(net)
    jobs = _jobs(net, layers)
    alone = _one_by_one(jobs)
    assert all(torch.equal(*pair) for pair in zip(alone, _one_by_one(jobs), strict=True))
    for turn in range(3):
        order = jobs[turn:] + jobs[:turn]
        expected = alone[turn:] + alone[:turn]
        assert [torch.equal(*pair) for pair in zip(_in_threads(order), expected, strict=True)] == [True] * 8
    assert _trace(net) == before
    assert _idle_hooks(net) == 0


def test_threads_that_fail_do_not_disturb_the_others(zoo: Zoo) -> None:
    net = zoo("torchvision/resnet18").net
    before = _trace(net)
    jobs = _jobs(net, ("layer2", "layer3"))
    alone = _one_by_one(jobs)
    grey = torch.zeros(1, 1, 64, 64)
    for _ in range(2):
        jobs[2] = lambda: probe.record(net, grey, ["layer2"])
        jobs[5] = lambda: _activation(net, "layer9", _input(64))
        results = _in_threads(jobs)
        assert isinstance(results[2], RuntimeError)
        assert isinstance(results[5], UnknownLayer)
        assert all(torch.equal(results[i], alone[i]) for i in (0, 1, 3, 4, 6, 7))
    assert _trace(net) == before


# ---- relu_rule: what passes back ----------------------------------------------------------------------------------

RULES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "backprop": lambda r, x: torch.where(x > 0, r, 0.0),
    "deconvnet": lambda r, x: torch.where(r > 0, r, 0.0),
    "guided": lambda r, x: torch.where((x > 0) & (r > 0), r, 0.0),
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("backprop", [0, 1, -1, 0]), ("deconvnet", [1, 1, 0, 0]), ("guided", [0, 1, 0, 0])],
)
def test_the_three_rules_in_one_line(rule: str, expected: list[float]) -> None:
    x = torch.tensor([-1.0, 2.0, 3.0, -4.0], requires_grad=True)
    with probe.relu_rule(rule):
        y = F.relu(x)
    (gradient,) = torch.autograd.grad(y, x, torch.tensor([1.0, 1.0, -1.0, -1.0]))
    assert gradient.tolist() == expected


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_on_convolutions_by_hand(rule: str) -> None:
    """Back through a convolution goes the transposed one; the rule stands between them."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 3, 3, 3, generator=generator) for _ in range(2))
    x = _input(8).requires_grad_()
    with probe.relu_rule(rule) as mode:
        y = F.conv2d(F.relu(F.conv2d(x, first)), second)
    seed = torch.zeros_like(y)
    seed[0, 1, 2, 3] = 1.5
    (gradient,) = torch.autograd.grad(y, x, seed)
    arriving = F.conv_transpose2d(seed, second)
    expected = F.conv_transpose2d(RULES[rule](arriving, F.conv2d(x, first)), first)
    torch.testing.assert_close(gradient, expected)
    assert mode.num_answered == 1


def _as_statement(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What is put out is thrown away: the input must have been overwritten."""

    def run(x: Tensor) -> Tensor:
        function(x)
        return x

    return run


FORMS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "nn.ReLU": (nn.ReLU(), torch.inf),
    "nn.ReLU in place": (_as_statement(nn.ReLU(inplace=True)), torch.inf),
    "F.relu": (F.relu, torch.inf),
    "F.relu by name": (lambda x: F.relu(input=x), torch.inf),
    "F.relu in place": (_as_statement(lambda x: F.relu(x, inplace=True)), torch.inf),
    "F.relu in place by position": (_as_statement(lambda x: F.relu(x, True)), torch.inf),
    "F.relu_": (F.relu_, torch.inf),
    "F.relu_ as a statement": (_as_statement(F.relu_), torch.inf),
    "torch.relu": (torch.relu, torch.inf),
    "torch.relu_": (_as_statement(torch.relu_), torch.inf),
    "Tensor.relu": (lambda x: x.relu(), torch.inf),
    "Tensor.relu_": (_as_statement(lambda x: x.relu_()), torch.inf),
    "nn.ReLU6": (nn.ReLU6(), 6),
    "nn.ReLU6 in place": (_as_statement(nn.ReLU6(inplace=True)), 6),
    "F.relu6": (F.relu6, 6),
    "F.relu6 in place by position": (_as_statement(lambda x: F.relu6(x, True)), 6),
    "nn.Hardtanh": (nn.Hardtanh(0, 4), 4),
    "F.hardtanh by position": (lambda x: F.hardtanh(x, 0.0, 6.0), 6),
    "F.hardtanh by name": (lambda x: F.hardtanh(x, min_val=0.0), 1),
    "F.hardtanh in place by position": (_as_statement(lambda x: F.hardtanh(x, 0.0, 6.0, True)), 6),
    "F.hardtanh_": (_as_statement(lambda x: F.hardtanh_(x, 0.0, 6.0)), 6),
    "F.hardtanh_ by name": (lambda x: F.hardtanh_(x, min_val=0.0, max_val=6.0), 6),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_relu_is_reached(form: str, rule: str) -> None:
    function, limit = FORMS[form]
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 0.9, 3.0, 6.0, 7.0]).repeat(2).requires_grad_()
    arriving = torch.tensor([1.0, -2.0]).repeat_interleave(8)
    with probe.relu_rule(rule) as mode:
        y = function(x * 1)
        z = y * 1
    assert mode.num_answered == 1
    assert torch.equal(y, function(x.detach() * 1))
    (gradient,) = torch.autograd.grad(z, x, arriving)
    is_active = (x > 0) & (x < limit)
    expected = {
        "backprop": arriving * is_active,
        "deconvnet": arriving * (arriving > 0),
        "guided": arriving * (arriving > 0) * is_active,
    }
    assert torch.equal(gradient, expected[rule])
    if rule == "backprop":
        assert torch.equal(gradient, torch.autograd.grad(function(x * 1), x, arriving)[0])


@pytest.mark.parametrize(
    "function",
    [F.gelu, F.leaky_relu, torch.sigmoid, F.hardtanh, nn.Hardtanh(-2, 2), lambda x: F.hardtanh(x, -1.0, max_val=6.0)],
)
def test_other_activations_keep_their_own_gradient(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-3, 3, 13).requires_grad_()
    with probe.relu_rule("guided") as mode:
        y = function(x)
    assert mode.num_answered == 0
    assert torch.equal(torch.autograd.grad(y, x, -x)[0], torch.autograd.grad(function(x), x, -x)[0])


def test_where_all_that_arrives_is_positive_guided_is_backprop() -> None:
    x = _input().requires_grad_()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
    net[2].weight.data.abs_()
    gradients = {rule: _gradient_of_sum(net, x, rule) for rule in RULES}
    assert torch.equal(gradients["guided"], gradients["backprop"])
    assert not torch.equal(gradients["guided"], gradients["deconvnet"])


def test_where_all_inputs_are_positive_guided_is_deconvnet() -> None:
    x = _input().abs().requires_grad_()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
    net[0].weight.data.abs_()
    net[0].bias.data.abs_()
    gradients = {rule: _gradient_of_sum(net, x, rule) for rule in RULES}
    assert torch.equal(gradients["guided"], gradients["deconvnet"])
    assert not torch.equal(gradients["guided"], gradients["backprop"])


def test_without_a_relu_the_rules_are_one(small_net: SmallNet) -> None:
    net, x = small_net("gelu"), _input().requires_grad_()
    gradients = [_gradient_of_sum(net, x, rule) for rule in RULES]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def _gradient_of_sum(net: nn.Module, x: Tensor, rule: str) -> Tensor:
    with probe.relu_rule(rule):
        score = net(x).sum()
    return torch.autograd.grad(score, x)[0]


# ---- relu_rule: against Captum ------------------------------------------------------------------------------------


def _basic_block_with_own_relus(self: Any, x: Tensor) -> Tensor:
    out = self.bn2(self.conv2(self.relu_a(self.bn1(self.conv1(x)))))
    return self.relu_b(out + (x if self.downsample is None else self.downsample(x)))


def _for_captum(net: nn.Module) -> nn.Module:
    """Captum swaps the gradient of ReLU modules, each of which may be called only once."""
    own = copy.deepcopy(net)
    for block in list(own.modules()):
        if type(block).__name__ == "BasicBlock":
            block.relu_a, block.relu_b = nn.ReLU(), nn.ReLU()
            block.forward = MethodType(_basic_block_with_own_relus, block)
    return own


class _DenseNetOfModules(nn.Module):
    """DenseNet with a module in place of its functional ReLU."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = net.get_submodule("features"), net.get_submodule("classifier")
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.relu(self.features(x)), 1).flatten(1))


_CAPTUM = {"guided": GuidedBackprop, "deconvnet": Deconvolution}


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
@pytest.mark.parametrize("rule", _CAPTUM)
@pytest.mark.parametrize("model_id", ["torchvision/vgg11", "torchvision/resnet18", "torchvision/densenet121"])
def test_the_rules_against_captum(model_id: str, rule: str, zoo: Zoo) -> None:
    net = zoo(model_id).net
    gradient = _rule_gradient(net, rule, _input(64))
    oracle = _DenseNetOfModules(copy.deepcopy(net)) if "densenet" in model_id else _for_captum(net)
    captum = _CAPTUM[rule](oracle).attribute(_input(64).requires_grad_(), target=7)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, captum, rtol=1e-4, atol=1e-5 * captum.abs().max().item())


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")
def test_module_swapping_misses_densenets_functional_relu(zoo: Zoo) -> None:
    """So the test above can fail: on DenseNet as it stands, Captum gives something else."""
    net = zoo("torchvision/densenet121").net
    captum = GuidedBackprop(copy.deepcopy(net)).attribute(_input(64).requires_grad_(), target=7)
    gradient = _rule_gradient(net, "guided", _input(64))
    assert (gradient - captum).norm() > 0.05 * gradient.norm()


@pytest.mark.parametrize("rule", RULES)
def test_a_relu_that_serves_three_times(rule: str, small_net: SmallNet) -> None:
    net, x = small_net("reused_relu"), _input().requires_grad_()
    with probe.relu_rule(rule) as mode:
        score = net(x)[0, 2]
    assert mode.num_answered == 3
    (gradient,) = torch.autograd.grad(score, x)

    pre = [net.conv1(x)]
    for _ in range(2):
        pre.append(net.conv2(F.relu(pre[-1])))
    arriving = (net.fc.weight[2].view(4, 1, 1) / 256).expand_as(pre[2])
    for before in reversed(pre[1:]):
        arriving = F.conv_transpose2d(RULES[rule](arriving, before), net.conv2.weight, padding=1)
    expected = F.conv_transpose2d(RULES[rule](arriving, pre[0]), net.conv1.weight, padding=1)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("rule", RULES)
def test_relu6_as_module_and_function_in_a_network(rule: str, small_net: SmallNet) -> None:
    net, x = small_net("depth_wise"), (_input() * 4).requires_grad_()
    (gradient,) = torch.autograd.grad(_score_under(rule, net, x, num_relus=2), x)

    def passed(arriving: Tensor, before: Tensor) -> Tensor:
        if rule != "backprop":
            arriving = arriving.clamp(min=0)
        return arriving if rule == "deconvnet" else arriving * ((before > 0) & (before < 6))

    first = net.expand(x)
    second = net.depthwise(F.relu6(first))
    assert (first > 6).any()
    arriving = (net.fc.weight[1] / 64 @ net.project.weight[:, :, 0, 0]).view(6, 1, 1).expand_as(second)
    arriving = F.conv_transpose2d(
        passed(arriving, second), net.depthwise.weight, stride=2, padding=1, output_padding=1, groups=6
    )
    expected = F.conv_transpose2d(passed(arriving, first), net.expand.weight)
    torch.testing.assert_close(gradient, expected)


def _score_under(rule: str, net: nn.Module, x: Tensor, *, num_relus: int) -> Tensor:
    with probe.relu_rule(rule) as mode:
        score = net(x)[0, 1]
    assert mode.num_answered == num_relus
    return score


# ---- relu_rule: as a mode -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["functional", "in_place", "residual", "plain", "depth_wise"])
def test_values_going_forward_do_not_change(name: str, rule: str, small_net: SmallNet) -> None:
    net = small_net(name)
    expected = net(_input())
    with probe.relu_rule(rule) as mode:
        under = probe.record(net, _input(), ["fc"])
    assert torch.equal(under.result, expected)
    assert mode.num_answered == 2


def test_a_rule_holds_in_its_own_thread_only() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    inside, other_done = threading.Event(), threading.Event()
    gradients: dict[str, float] = {}

    def ruled() -> None:
        with probe.relu_rule("guided") as mode:
            inside.set()
            assert other_done.wait(timeout=120)
            y = F.relu(x)
        gradients["ruled"] = torch.autograd.grad(-y, x)[0].item()
        gradients["answered"] = mode.num_answered

    thread = threading.Thread(target=ruled)
    thread.start()
    assert inside.wait(timeout=120)
    gradients["plain"] = torch.autograd.grad(-F.relu(x), x)[0].item()
    other_done.set()
    thread.join()
    assert gradients == {"ruled": 0, "plain": -1, "answered": 1}


def test_a_rule_ends_with_its_block_and_stays_with_its_forward() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    with probe.relu_rule("guided"):
        under = F.relu(x)
    after = F.relu(x)
    assert torch.autograd.grad(-under, x)[0].item() == 0
    assert torch.autograd.grad(-after, x)[0].item() == -1
    with pytest.raises(ZeroDivisionError), probe.relu_rule("guided"):
        _ = 1 / 0
    assert torch.autograd.grad(-F.relu(x), x)[0].item() == -1


def test_a_rule_counts_what_it_answered(small_net: SmallNet) -> None:
    with probe.relu_rule("deconvnet") as mode:
        small_net("residual")(_input())
        assert mode.num_answered == 2
        small_net("gelu")(_input())
        assert mode.num_answered == 2
        small_net("functional")(_input())
    assert mode.num_answered == 4


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rule is 'lrp', not one of backprop, deconvnet, guided"):
        probe.relu_rule("lrp")


# ---- dry_run ------------------------------------------------------------------------------------------------------


def test_a_dry_run_sees_every_call_in_order(small_net: SmallNet) -> None:
    net = small_net("reused_relu")
    run = probe.dry_run(net, _input())
    assert [call.name for call in run.module_calls] == ["conv1", "relu", "conv2", "relu", "conv2", "relu", "fc", ""]
    assert [call.shape for call in run.module_calls[-3:]] == [(1, 4, 16, 16), (1, 3), (1, 3)]
    assert torch.equal(run.result, net(_input()))
    rectified = [call.name for call in run.module_calls if call.is_rectified]
    assert rectified == ["relu", "relu", "relu"]


def test_a_dry_run_says_where_each_operation_ran(small_net: SmallNet) -> None:
    run = probe.dry_run(small_net("residual"), _input())
    found = [(op.name, op.module) for op in run.operations if op.name not in {"empty", "t", "view"}]
    assert found == [
        ("convolution", "stem"),
        ("convolution", "conv1"),
        ("native_batch_norm", "bn1"),
        ("relu", "relu"),
        ("convolution", "conv2"),
        ("native_batch_norm", "bn2"),
        ("add_", ""),
        ("relu", "relu"),
        ("mean", ""),
        ("addmm", "fc"),
    ]
    calls = {call.name: call for call in run.module_calls}
    assert run.operations[calls["bn2"].num_operations].name == "add_"
    assert [op.shape for op in run.operations if op.name in {"convolution", "mean"}] == [(1, 4, 8, 8)] * 3 + [(1, 4)]


def test_zeros_do_not_count_as_rectified() -> None:
    net = nn.Sequential(nn.ReLU()).eval()
    assert not probe.dry_run(net, torch.zeros(1, 3, 4, 4)).module_calls[0].is_rectified
    assert probe.dry_run(net, torch.ones(1, 3, 4, 4)).module_calls[0].is_rectified


def test_a_dry_run_makes_no_graph(small_net: SmallNet) -> None:
    assert not probe.dry_run(small_net("plain"), _input().requires_grad_()).result.requires_grad


def test_a_trace_can_be_replayed(small_net: SmallNet) -> None:
    """Each operation called again with the tensors it names gives what the network gives for another picture."""
    net = small_net("residual")
    before = _trace(net)
    taken = probe.trace(net, _input())
    assert _trace(net) == before
    tensors = {**taken.fixed, 0: _input(seed=1)}

    def filled(value: Any) -> Any:
        if isinstance(value, probe.Ref):
            return tensors[value.index]
        return [filled(item) for item in value] if isinstance(value, tuple) else value

    for call in taken.calls:
        out = call.func(*map(filled, call.args), **{name: filled(value) for name, value in call.kwargs.items()})
        for ref, tensor in zip(call.outputs, out if isinstance(out, (list, tuple)) else [out], strict=True):
            if ref is not None:
                assert taken.shapes[ref.index] == tuple(tensor.shape)
                tensors[ref.index] = tensor
    assert taken.result is not None
    assert torch.equal(tensors[taken.result.index], net(_input(seed=1)))


def test_a_trace_numbers_what_is_overwritten_anew() -> None:
    class Overwriting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            z = y * 2
            y.relu_()
            return y + z

    taken = probe.trace(Overwriting().eval(), _input())
    ref = probe.Ref
    assert [(call.func.overloadpacket.__name__, call.args, call.outputs) for call in taken.calls] == [
        ("add", (ref(0), 1), (ref(1),)),
        ("mul", (ref(1), 2), (ref(2),)),
        ("relu_", (ref(1),), (ref(3),)),
        ("add", (ref(3), ref(2)), (ref(4),)),
    ]
    assert (taken.result, taken.fixed) == (ref(4), {})


def test_a_trace_keeps_the_input_and_tells_what_does_not_depend_on_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(4.0))

        def forward(self, x: Tensor) -> Tensor:
            x -= 1
            return x * self.table.sum()

    x = _input()
    kept = x.clone()
    net = Scaled().eval()
    taken = probe.trace(net, x)
    assert torch.equal(x, kept)
    assert sorted(tensor.tolist() for tensor in taken.fixed.values() if tensor.ndim == 0) == [6.0]
    assert any(torch.equal(tensor, net.table) for tensor in taken.fixed.values() if tensor.ndim == 1)
    assert 0 not in taken.fixed


# ---- redirected ReLU -------------------------------------------------------------------------------------------------


def redirected(x: list[list[float]], upstream: list[list[float]], function: Callable[[Tensor], Tensor]) -> Tensor:
    leaf = torch.tensor(x).requires_grad_()
    with probe.redirected_relu():
        y = function(leaf)
    return torch.autograd.grad(y, leaf, torch.tensor(upstream))[0]


def test_a_picture_that_learns_nothing_is_let_through_the_others_are_not() -> None:
    """Row 0 is dead and gets all but what would push it lower; row 1 has one gradient of its own and gets only that."""
    found = redirected([[-1.0, -2.0, -3.0], [-1.0, 2.0, -3.0]], [[5.0, -6.0, 0.0], [5.0, 6.0, 7.0]], F.relu)
    assert found.tolist() == [[5.0, 0.0, 0.0], [0.0, 6.0, 0.0]]


def test_active_values_of_a_dead_picture() -> None:
    """What is active but gets no gradient stays without; an active one that gets any makes the picture alive."""
    assert redirected([[1.0, -1.0]], [[0.0, 2.0]], F.relu).tolist() == [[0.0, 2.0]]
    assert redirected([[1.0, -1.0]], [[-3.0, 2.0]], F.relu).tolist() == [[-3.0, 0.0]]


def test_a_saturated_relu6_is_let_back_down() -> None:
    assert redirected([[7.0, 8.0, -1.0]], [[-2.0, 3.0, 4.0]], F.relu6).tolist() == [[-2.0, 0.0, 4.0]]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_relu_is_redirected_and_its_value_stays(form: str) -> None:
    x = torch.tensor([[-1.0, -2.0]]).requires_grad_()
    with probe.redirected_relu() as mode:
        y = FORMS[form][0](x.clone())
    assert y.tolist() == [[0.0, 0.0]]
    assert mode.num_answered == 1
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [[1.0, 1.0]]
