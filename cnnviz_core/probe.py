"""The only file with hooks or torch modes: looking into a shared network without leaving a trace.

Many threads use one network at the same time. A hook on a shared module receives every thread's tensors, and swapping
its activations changes everyone's gradients. So everything here works on a private copy: new module objects over
the same weight tensors, cheap to make, on which hooks live and die. Rules for the gradient at a ReLU act through a
thread-local torch mode, which also reaches functional and reused ReLUs that module swapping misses.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from cnnviz_core.errors import UnknownLayer, did_you_mean
from cnnviz_core.receptive_field import ReceptiveField, Tracker

_MAX_IDLE_COPIES = 4


def private_copy(net: nn.Module) -> nn.Module:
    """New module objects over the same parameters and buffers; 3 to 50 ms, no extra weight memory.

    The copy follows what is written into the weights in place, and nothing else that is done to the original later.
    """
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    return copy.deepcopy(net, dict(shared))


def put(net: nn.Module, name: str, module: nn.Module) -> None:
    """Puts a module in the place of that dotted name; only ever into a copy of one's own."""
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, module)


_idle: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()
_idle_lock = threading.Lock()


@contextmanager
def _borrowed_copy(net: nn.Module) -> Iterator[nn.Module]:
    """A private copy that nobody else holds meanwhile; one that saw an error is not used again."""
    with _idle_lock:
        copies = _idle.setdefault(net, [])
        mine = copies.pop() if copies else None
    mine = mine or private_copy(net)
    yield mine
    with _idle_lock:
        if len(copies) < _MAX_IDLE_COPIES:
            copies.append(mine)


class _Stopped(BaseException):
    """The last layer that is needed has answered. Not an Exception, so that no network's own handler takes it."""


@dataclass(frozen=True)
class Recording:
    """What chosen layers put out in one forward.

    Attributes:
        outputs: For each layer its output tensors, one per call, in call order.
        result: What the network returned; None where the forward stopped after the last layer.
    """

    outputs: Mapping[str, Sequence[Tensor]]
    result: Any | None


def record(
    net: nn.Module, x: Tensor, layers: Iterable[str], *, stop_after: Mapping[str, int] | None = None
) -> Recording:
    """Runs a network and keeps what the chosen layers put out.

    The kept tensor is the layer's own; the network goes on with a clone, so that in-place code further on cannot
    rewrite it. With gradients enabled the kept tensors are part of the graph: ``torch.autograd.grad(score, kept)``.
    Calls that put out something other than a tensor are not kept.

    Args:
        net: A network in eval mode. It may be shared by any number of threads and is not touched; nor may anybody else
            change its modules, since copies of them are kept for the next call.
        x: Input, (N, C, H, W).
        layers: Dotted names of modules.
        stop_after: How often each of the layers is called in one forward. If given, the forward ends with the last of
            these calls.

    Raises:
        UnknownLayer: A name that no module of the network has.
    """
    names = list(dict.fromkeys(layers))
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: Sequence[Any], output: Any) -> Any:
            if not isinstance(output, Tensor):
                return output
            # What passes its input on puts out memory that the network's code still holds.
            outputs[name].append(output.clone() if _shares_memory(output, args) else output)
            if stop_after is not None and all(len(outputs[n]) >= stop_after[n] for n in names):
                raise _Stopped
            return outputs[name][-1].clone()

        return hook

    with _borrowed_copy(net) as mine, ExitStack() as hooks:
        for name in names:
            hooks.callback(_find(mine, name).register_forward_hook(keep(name)).remove)
        try:
            return Recording(outputs, mine(x))
        except _Stopped:
            return Recording(outputs, None)


def _find(net: nn.Module, name: str) -> nn.Module:
    try:
        return net.get_submodule(name)
    except AttributeError as error:
        names = [known for known, _ in net.named_modules()]
        raise UnknownLayer(f"The network has no layer {name!r}.{did_you_mean(name, names)}") from error


def _shares_memory(output: Tensor, others: Sequence[Any]) -> bool:
    address = output.untyped_storage().data_ptr()
    return any(isinstance(x, Tensor) and x.untyped_storage().data_ptr() == address for x in others)


def _stopping(num_calls: int) -> Callable[..., None]:
    """A hook that ends the forward at a module's call of that number, counted from 1."""
    calls = itertools.count(1)

    def hook(_module: nn.Module, _args: object, _output: object) -> None:
        if next(calls) >= num_calls:
            raise _Stopped

    return hook


def direct_pairs(
    net: nn.Module,
    x: Tensor,
    first: type[nn.Module],
    then: type[nn.Module] | tuple[type[nn.Module], ...],
    *,
    reused: tuple[type[nn.Module], ...] = (),
    stop_after: tuple[str, int] | None = None,
) -> list[tuple[str, str]]:
    """Names of modules (a, b) where a's output itself is b's input, each called once in a forward.

    Whether something else reads a's output, too, is not looked at.

    Args:
        net: As in :func:`record`.
        x: Input, (N, C, H, W).
        first: Type of a.
        then: Type of b, or types.
        reused: Types of which b may be called elsewhere, too.
        stop_after: A layer and how often it is called; the forward ends with the last of these calls.
    """
    outputs: list[tuple[Tensor, int, str]] = []
    pairs: list[tuple[str, str]] = []
    num_calls: Counter[str] = Counter()
    may_be_reused = {name for name, module in net.named_modules() if isinstance(module, reused)}

    def after(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Sequence[Any], output: Any) -> None:
            num_calls[name] += 1
            if isinstance(output, Tensor):
                outputs.append((output, output._version, name))

        return hook

    def before(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Sequence[Any]) -> None:
            num_calls[name] += 1
            for kept, version, earlier in outputs:
                if args and args[0] is kept and kept._version == version:  # nothing was added to it in place
                    pairs.append((earlier, name))

        return hook

    with torch.inference_mode(mode=False), _borrowed_copy(net) as mine, ExitStack() as hooks:
        for name, module in mine.named_modules():
            if isinstance(module, first):
                hooks.callback(module.register_forward_hook(after(name)).remove)
            elif isinstance(module, then):
                hooks.callback(module.register_forward_pre_hook(before(name)).remove)
        if stop_after is not None:
            hooks.callback(mine.get_submodule(stop_after[0]).register_forward_hook(_stopping(stop_after[1])).remove)
        with suppress(_Stopped), torch.no_grad():
            mine(x)
    return [(a, b) for a, b in pairs if num_calls[a] == 1 and (num_calls[b] == 1 or b in may_be_reused)]


_RELUS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
_HARDTANHS = {F.relu6, F.hardtanh, F.hardtanh_}
_IN_PLACE = {F.relu_, torch.relu_, Tensor.relu_, F.hardtanh_}


class _ReluRule(torch.autograd.Function):
    """Clamps to [low, high] going forward; going back, the rule decides what passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, rule: str) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward((x > low) & (x < high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (was_active,) = ctx.saved_tensors
        return _RULES[ctx.rule](gradient, was_active), None, None, None


_RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "backprop": lambda gradient, was_active: gradient * was_active,
    "deconvnet": lambda gradient, _: gradient.clamp(min=0),
    "guided": lambda gradient, was_active: gradient.clamp(min=0) * was_active,
}


class _RedirectedRelu(torch.autograd.Function):
    """Clamps to [low, high] going forward; going back, a picture that would learn nothing is let through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x <= low, x >= high)  # not x itself: code in place overwrites it
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        is_below, is_above = ctx.saved_tensors
        passed = gradient.masked_fill(is_below | is_above, 0.0)
        is_dead = ~passed.flatten(1).any(dim=1)
        if not is_dead.any():
            return passed, None, None
        leads_away = (is_below & (gradient < 0)) | (is_above & (gradient > 0))
        is_dead = is_dead.view(-1, *[1] * (gradient.ndim - 1))
        return torch.where(is_dead, gradient.masked_fill(leads_away, 0.0), passed), None, None


class _ReluMode(TorchFunctionMode):
    """Answers every ReLU-like call of the forwards made under it, in this thread only; lets all others through.

    Attributes:
        num_answered: ReLU calls answered so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_answered = 0

    def _answer(self, x: Tensor, low: float, high: float) -> Tensor:
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        limits = _relu_limits(func, args, kwargs)
        if limits is None:
            return func(*args, **kwargs)
        self.num_answered += 1
        x = args[0] if args else kwargs["input"]
        y = self._answer(x, *limits)
        in_place = func in _IN_PLACE or kwargs.get("inplace")  # functions in Python pass it on by name
        return x.copy_(y) if in_place else y


class relu_rule(_ReluMode):  # noqa: N801 - used as a function: ``with relu_rule("guided") as rule``
    """Changes what passes back through every ReLU of the forwards made under it, in this thread only.

    With R the gradient arriving from above and f = ReLU(x): backprop gives (x > 0) R, deconvnet (R > 0) R, guided
    backprop (x > 0)(R > 0) R. ReLU6, and hard tanh from 0, count as ReLUs that are active between their limits.
    Modules, functions, methods and in-place forms are all reached; values going forward do not change.

    Attributes:
        num_answered: ReLU calls answered so far; 0 after a forward means that the rule is not defined for the network.

    Source: Springenberg et al. 2015, figure 1; Zeiler and Fergus 2014.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        if rule not in _RULES:
            raise ValueError(f"rule is {rule!r}, not one of {', '.join(_RULES)}")
        self.rule = rule

    def _answer(self, x: Tensor, low: float, high: float) -> Tensor:
        return _ReluRule.apply(x, low, high, self.rule)  # type: ignore[no-untyped-call, no-any-return]


class redirected_relu(_ReluMode):  # noqa: N801 - used as a function, as relu_rule
    """Lets a picture that excites nothing find a way: for the gradient of something that is to grow.

    Where no gradient at all passes a ReLU for one picture of the batch (the first dimension), the gradient passes as
    if the ReLU were not there, unless it drives a value that is below the lower limit further down, or one above the
    upper limit of a ReLU6 further up. The other pictures of the batch are not touched.

    Attributes:
        num_answered: ReLU calls answered so far.

    Source: Lucid, misc/redirected_relu_grad.py; there the decision is made per batch.
    """

    def _answer(self, x: Tensor, low: float, high: float) -> Tensor:
        return _RedirectedRelu.apply(x, low, high)  # type: ignore[no-untyped-call, no-any-return]


def _relu_limits(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[float, float] | None:
    """(low, high) if the call is a ReLU of some kind."""
    if func in _RELUS:
        return 0.0, torch.inf
    if func not in _HARDTANHS:
        return None
    if func is F.relu6:
        return 0.0, 6.0
    low = kwargs.get("min_val", args[1] if len(args) > 1 else -1.0)
    high = kwargs.get("max_val", args[2] if len(args) > 2 else 1.0)
    return (0.0, float(high)) if low == 0 else None


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module in a dry run.

    Attributes:
        name: Dotted name; empty for the network itself.
        shape: Shape of the output with the batch dimension.
        window: Where the output's cells lie and what they see; None where not even the first is known.
        num_operations: Operations of the whole network that had run when it returned.
        is_rectified: Whether no value of the output was negative and some were not zero.
    """

    name: str
    shape: tuple[int, ...]
    window: ReceptiveField | None
    num_operations: int
    is_rectified: bool


@dataclass(frozen=True)
class Operation:
    """One tensor operation of a dry run.

    Attributes:
        name: Its aten name without overload; in-place operations end in an underscore.
        module: Dotted name of the innermost module it ran in.
        shape: Shape of its (first) output.
    """

    name: str
    module: str
    shape: tuple[int, ...]


@dataclass
class DryRun:
    """One forward, watched: every module's calls and every tensor operation, in order."""

    module_calls: list[ModuleCall] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    result: Any = None


class _LinearKeepsPlaces(TorchFunctionMode):
    """A linear layer on (N, h, w, C) acts on each position alone; underneath it looks like a flattening."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is F.linear:
            x = args[0] if args else kwargs["input"]
            if x.ndim > 2:
                self.tracker.note_linear(x, out)
        return out


class _Watch(TorchDispatchMode):
    """Notes every operation and carries receptive fields from tensor to tensor."""

    def __init__(self, tracker: Tracker, run: DryRun, inside: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracker, self.run, self.inside = tracker, run, inside
        self.is_paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.is_paused:
            return out
        tensors = [t for t in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(t, Tensor)]
        self.tracker.note(func, args, kwargs, tensors)
        if tensors:
            self.run.operations.append(
                Operation(func.overloadpacket.__name__, self.inside[-1], tuple(tensors[0].shape))
            )
        return out


@torch.no_grad()
def dry_run(net: nn.Module, x: Tensor) -> DryRun:
    """Runs a network once and notes its modules, operations and receptive fields.

    Args:
        net: A network in eval mode; not touched.
        x: Input, (1, C, H, W).
    """
    run, tracker, inside = DryRun(), Tracker(x), [""]
    watch = _Watch(tracker, run, inside)

    def enter(name: str) -> Callable[..., None]:
        return lambda _module, _args: inside.append(name)

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: Any) -> None:
            inside.pop()
            if isinstance(output, Tensor):
                watch.is_paused = True
                is_rectified = bool((output >= 0).all() and output.any())
                watch.is_paused = False
                run.module_calls.append(
                    ModuleCall(name, tuple(output.shape), tracker.window(output), len(run.operations), is_rectified)
                )

        return hook

    with _borrowed_copy(net) as mine, ExitStack() as hooks:
        for name, module in mine.named_modules():
            hooks.callback(module.register_forward_pre_hook(enter(name)).remove)
            hooks.callback(module.register_forward_hook(leave(name)).remove)
        with watch, _LinearKeepsPlaces(tracker):
            run.result = mine(x)
    return run


def resume(net: nn.Module, x: Tensor, layer: str, change: Callable[[Tensor], Tensor], *, call: int = 0) -> Any:
    """What the network returns if one layer's output is changed on the way.

    The change may read the output, put another in its place, start a graph there (so that only the rest of the
    network is differentiated), or give more pictures than came in (so that only the rest runs for each of them).

    Args:
        net: As in :func:`record`.
        x: Input, (N, C, H, W).
        layer: Dotted name of a module.
        change: Gets a copy of what the layer put out and returns what the network goes on with. The network's own code
            may overwrite that.
        call: Which of the layer's calls, counted from 0.

    Raises:
        UnknownLayer: A name that no module of the network has.
    """
    num_calls = 0

    def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        return change(output.clone()) if num_calls == call + 1 else output

    with _borrowed_copy(net) as mine, ExitStack() as hooks:
        hooks.callback(_find(mine, layer).register_forward_hook(hook).remove)
        return mine(x)


@dataclass(frozen=True)
class Ref:
    """A tensor of a trace, by its number."""

    index: int


@dataclass(frozen=True)
class TracedCall:
    """One tensor operation of a trace.

    Attributes:
        func: The aten operator.
        args: As it was called, with a Ref in place of each tensor.
        kwargs: Likewise.
        outputs: What it put out; None for what is not a tensor.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Ref | None, ...]


@dataclass
class Trace:
    """The tensor operations of one forward, with who takes what from whom. Tensor 0 is the input.

    A tensor that is overwritten has a new number from there on.

    Attributes:
        calls: In order.
        shapes: Of every tensor.
        fixed: The tensors that the input has no part in.
        result: What the network returned; None where that was not one of these tensors.
    """

    calls: list[TracedCall] = field(default_factory=list)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    fixed: dict[int, Tensor] = field(default_factory=dict)
    result: Ref | None = None


class _Tape(TorchDispatchMode):
    """Writes a trace."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace(shapes={0: tuple(x.shape)})
        self.numbers = WeakTensorKeyDictionary({x: 0})

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs: list[int] = []
        noted_args, noted_kwargs = self._noted(tuple(args), inputs), self._noted(dict(kwargs), inputs)
        out = func(*args, **kwargs)
        is_fixed = all(number in self.trace.fixed for number in inputs)
        outputs = tuple(
            self._number(value, is_fixed=is_fixed) if isinstance(value, Tensor) else None
            for value in (out if isinstance(out, (list, tuple)) else [out])
        )
        self.trace.calls.append(TracedCall(func, noted_args, noted_kwargs, outputs))
        return out

    def _noted(self, value: Any, inputs: list[int]) -> Any:
        if isinstance(value, Tensor):
            # What nobody has put out before is a weight, or made outside the forward.
            ref = Ref(self.numbers[value]) if value in self.numbers else self._number(value, is_fixed=True)
            inputs.append(ref.index)
            return ref
        if isinstance(value, (list, tuple)):
            return tuple(self._noted(item, inputs) for item in value)
        if isinstance(value, dict):
            return {name: self._noted(item, inputs) for name, item in value.items()}
        return value

    def _number(self, tensor: Tensor, *, is_fixed: bool) -> Ref:
        number = len(self.trace.shapes)
        self.numbers[tensor] = number
        self.trace.shapes[number] = tuple(tensor.shape)
        if is_fixed:
            self.trace.fixed[number] = tensor
        return Ref(number)


@torch.no_grad()
def trace(net: nn.Module, x: Tensor) -> Trace:
    """Runs a network once and notes every tensor operation with its arguments.

    Args:
        net: As in :func:`record`.
        x: Input, (N, C, H, W).
    """
    x = x.clone()
    tape = _Tape(x)
    with _borrowed_copy(net) as mine, tape:
        result = mine(x)
    if isinstance(result, Tensor) and result in tape.numbers:
        tape.trace.result = Ref(tape.numbers[result])
    return tape.trace
