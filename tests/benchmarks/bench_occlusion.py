"""Occlusion against Captum at its defaults, in one run, and its scores against whole pictures.

Run it on a quiet machine: ``python tests/benchmarks/bench_occlusion.py [threads]``. Random weights, which cost the
same, but for the default network. Captum moves its last windows past the border, which costs the same, too. The first
run works out how to run the network and is given apart. Where other work shares the cores, take one thread: the
figures in brackets are the processor's time, which counts only what this process did.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from cnnviz_core import models, photos, startup
from cnnviz_core.images import InputImage
from cnnviz_core.methods import occlusion
from cnnviz_core.models import LoadedModel

# Network, weights, stride; the patch is 16 px. The share of Captum's time is the bar.
NETWORKS = (
    ("timm/tf_efficientnet_lite0", "default", 8, 6),
    ("torchvision/resnet18", "random:0", 8, 4),
    ("torchvision/vgg16", "random:0", 16, 5),
)
PATCH_PX, TARGET, ROUNDS = 16, 285, 3


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def peer(model: LoadedModel, image: InputImage, stride: int) -> Callable[[], object]:
    from captum.attr import Occlusion

    windows = {"sliding_window_shapes": (3, PATCH_PX, PATCH_PX), "strides": (3, stride, stride)}

    @torch.no_grad()
    def run() -> object:
        return Occlusion(model.net).attribute(model.to_input(image), target=TARGET, **windows)

    return run


def median(times: list[tuple[float, float]]) -> tuple[float, float]:
    wall, processor = zip(*times, strict=True)
    return statistics.median(wall), statistics.median(processor)


def bench(model: LoadedModel, image: InputImage, stride: int, bar: int) -> None:
    settings = {"patch_px": PATCH_PX, "stride_px": stride, "target": TARGET}
    found = []

    def ours() -> object:
        return found.append(occlusion.explain(model, image, **settings))

    theirs = peer(model, image, stride)
    first = timed(ours)
    pairs = [(timed(ours), timed(theirs)) for _ in range(ROUNDS)]
    mine, other = (median(list(times)) for times in zip(*pairs, strict=True))
    rows, cols = found[-1].scores.shape
    print(f"{model.spec.title}, {rows} x {cols} places, patch {PATCH_PX} px")
    print(f"  ours, first run {first[0]:6.2f} s ({first[1]:.2f})")
    print(f"  ours            {mine[0]:6.2f} s ({mine[1]:.2f})")
    print(f"  Captum          {other[0]:6.2f} s ({other[1]:.2f})")
    print(f"  times as fast   {other[0] / mine[0]:6.1f}   ({other[1] / mine[1]:.1f}); bar {bar}", flush=True)

    whole = occlusion.explain(model, image, incremental=False, **settings)
    difference = np.abs(found[-1].scores - whole.scores).max() / np.ptp(whole.scores)
    print(f"  largest difference to whole pictures: {difference:.1e} of the scores' range", flush=True)


def main() -> None:
    startup.prepare(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    image = photos.open_photo("chelsea")
    for model_id, weights, stride, bar in NETWORKS:
        bench(models.load(model_id, weights=weights, device="cpu"), image, stride, bar)


if __name__ == "__main__":
    main()
