"""Saliency against Captum, in one run, on the same network with the same allocator.

Run it on a quiet machine: ``python tests/benchmarks/bench_saliency.py``. Random weights, which cost the same. Captum is
given the network as cnnviz holds it, frozen and in eval mode; for guided backprop a copy of it, since Captum hooks its
modules.
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from captum.attr import GuidedBackprop, IntegratedGradients, Saliency
from timing import medians_ms

from cnnviz_core import models, photos, startup
from cnnviz_core.images import InputImage
from cnnviz_core.methods import saliency
from cnnviz_core.models import LoadedModel

NETWORKS = ("torchvision/resnet18", "torchvision/resnet50")
INTERNAL_BATCHES = (None, 4, 8, 16)
TARGET = 285
NUM_STEPS = 50


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
    print(
        f"  {'difference, as a share of the largest value':52} {difference:8.1e}, correlation {correlation[0, 1]:.6f}"
    )


def main() -> None:
    warnings.simplefilter("ignore")
    startup.prepare()
    image = photos.open_photo("chelsea")
    for model_id in NETWORKS:
        bench(models.load(model_id, weights="random:0", device="cpu"), image)


if __name__ == "__main__":
    main()
