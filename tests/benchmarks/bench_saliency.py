"""Saliency against Captum, in one run, on the same network.

Run it on a quiet machine: ``python tests/benchmarks/bench_saliency.py``. Random weights, which cost the same. In this
process Captum is given what cnnviz has: the network frozen and in eval mode, and its allocator; for guided backprop a
copy of the network, since Captum hooks its modules. Integrated gradients are also measured as a plain script would
make them: in a process of its own, with the allocator as it comes, at the best of several settings; in turns.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from captum.attr import GuidedBackprop, IntegratedGradients, Saliency
from timing import PlainScript, medians_ms

from cnnviz_core import models, photos, startup
from cnnviz_core.images import InputImage
from cnnviz_core.methods import saliency
from cnnviz_core.models import LoadedModel

NETWORKS = ("torchvision/resnet18", "torchvision/resnet50")
INTERNAL_BATCHES = (None, 4, 8, 16)
TARGET = 285
NUM_STEPS = 50
ROUNDS = 3

# Reads an internal batch size a line, 0 for all at once; answers with seconds.
PLAIN = """
import sys, time, warnings
import torch
from cnnviz_core import torchvision_shim
torchvision_shim.install()
import torchvision
from captum.attr import IntegratedGradients
warnings.simplefilter("ignore")
name, num_steps, target, frozen = sys.argv[1:]
net = torchvision.models.get_model(name).eval().requires_grad_(frozen != "frozen")
x = torch.randn(1, 3, 224, 224)
for line in sys.stdin:
    start = time.perf_counter()
    IntegratedGradients(net).attribute(
        x.clone(), target=int(target), n_steps=int(num_steps), internal_batch_size=int(line) or None
    )
    print(time.perf_counter() - start, flush=True)
"""


def report(title: str, mine: float, theirs: float) -> None:
    print(f"  {title:52} {mine:8.1f} ms, Captum {theirs:8.1f} ms, {theirs / mine:5.2f} times as fast", flush=True)


def bench(model: LoadedModel, image: InputImage) -> None:
    print(f"{model.spec.title}, {torch.get_num_threads()} threads")
    x = model.to_input(image)
    guided = GuidedBackprop(copy.deepcopy(model.net))
    for method, peer in (
        ("gradient", lambda: Saliency(model.net).attribute(model.to_input(image), target=TARGET, abs=False)),
        ("guided_backprop", lambda: guided.attribute(model.to_input(image), target=TARGET)),
    ):
        explain = lambda method=method: saliency.explain(model, image, method=method, target=TARGET)  # noqa: E731
        report(method, *medians_ms(explain, peer, rounds=15))

    def mine() -> np.ndarray:
        return saliency.explain(model, image, method="integrated_gradients", target=TARGET, num_steps=NUM_STEPS).values

    def theirs(internal_batch_size: int | None) -> np.ndarray:
        found = IntegratedGradients(model.net).attribute(
            x.clone(), target=TARGET, n_steps=NUM_STEPS, internal_batch_size=internal_batch_size
        )
        return found[0].detach().numpy()

    peers = [lambda size=size: theirs(size) for size in INTERNAL_BATCHES]
    times = medians_ms(mine, *peers, rounds=3)
    for size, peer_time in zip(INTERNAL_BATCHES, times[1:], strict=True):
        batches = "all at once" if size is None else f"internal batch {size}"
        report(f"integrated_gradients, {NUM_STEPS} steps, Captum {batches}", times[0], peer_time)
    one, other = mine(), theirs(8)
    difference, correlation = np.abs(one - other).max() / np.abs(other).max(), np.corrcoef(one.ravel(), other.ravel())
    against_a_plain_script(model, mine)
    print(
        f"  {'difference, as a share of the largest value':52} {difference:8.1e}, correlation {correlation[0, 1]:.6f}"
    )


def against_a_plain_script(model: LoadedModel, mine: Callable[[], object]) -> None:
    """Integrated gradients against Captum in processes of its own, the network frozen or as it comes."""
    name = model.spec.model_id.rpartition("/")[2]
    peers = {
        frozen: PlainScript(PLAIN, name, str(NUM_STEPS), str(TARGET), frozen) for frozen in ("frozen", "as it comes")
    }
    mine_seconds: list[float] = []
    their_seconds: dict[tuple[str, int | None], list[float]] = {}
    for turn in range(ROUNDS + 1):  # the first warms up
        start = time.perf_counter()
        mine()
        mine_seconds.append(time.perf_counter() - start)
        for frozen, peer in peers.items():
            for size in INTERNAL_BATCHES:
                seconds = float(peer(str(size or 0)))
                if turn:
                    their_seconds.setdefault((frozen, size), []).append(seconds)
    for peer in peers.values():
        peer.end()
    times = {settings: 1e3 * statistics.median(seconds) for settings, seconds in their_seconds.items()}
    (frozen, size), best = min(times.items(), key=lambda item: item[1])
    title = f"the same, Captum as a plain script; its best: {frozen}, batch {size}"
    report(title, 1e3 * statistics.median(mine_seconds[1:]), best)


def main() -> None:
    warnings.simplefilter("ignore")
    startup.prepare()
    image = photos.open_photo("chelsea")
    for model_id in NETWORKS:
        bench(models.load(model_id, weights="random:0", device="cpu"), image)


if __name__ == "__main__":
    main()
