"""Feature visualisation against torch-lucent's render_vis, in turns, on the same network.

Run it on a quiet machine, with the extra ``bench`` installed:
``python tests/benchmarks/bench_feature_visualization.py``. Cost is per channel and step. At the same size both show the
network pictures of 224 pixels; lucent's default picture has 128, which it enlarges to 224 before the network, and ours
of 128 is shown as it is. Lucent runs as a plain script in a process of its own, and in this process, where our
allocator serves it, too. Random weights of ResNet-50, which cost the same, and the real ones of EfficientNet-Lite0,
with which the mean activation that each reaches after equal steps at the same size is compared as well: of the last
picture seen straight by the network itself.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from timing import PlainScript, medians_ms

from cnnviz_core import models, probe, startup, torchvision_shim
from cnnviz_core.methods import feature_visualization
from cnnviz_core.models import LoadedModel

torchvision_shim.install()
from lucent.optvis import param, render, transform

CASES = (("torchvision/resnet50", "random:0", "layer3"), (models.DEFAULT_MODEL, "default", "blocks.4.2"))
CLIMBED_LAYERS = ("blocks.2.1", "blocks.4.2", "blocks.6.0")
CHANNELS = tuple(range(8))
STEPS = 4
SAME_PX, DEFAULT_PX = 224, 128
CLIMB_STEPS = 64

PLAIN = """
import warnings
import bench_feature_visualization
from cnnviz_core import models
warnings.simplefilter("ignore")
model_id, weights, layer, size_px = sys.argv[1:]
model = models.load(model_id, weights=weights, device="cpu")
for steps in sys.stdin:
    bench_feature_visualization.peer(model, layer, 0, size_px=int(size_px), steps=int(steps))
    print(flush=True)
"""


def peer(model: LoadedModel, layer: str, channel: int, *, size_px: int, steps: int) -> np.ndarray:
    """Lucent's picture, (H, W, 3). It hooks the network, so it is given a copy; and ours normalises otherwise."""
    net = copy.deepcopy(model.net)
    normalise = lambda x: (x - mean(model)) / std(model)  # noqa: E731
    images = render.render_vis(
        net,
        f"{layer.replace('.', '_')}:{channel}",
        lambda: param.image(size_px),
        transforms=[*transform.standard_transforms, normalise],
        preprocess=False,
        thresholds=(steps,),
        progress=False,
        show_image=False,
    )
    return np.asarray(images[-1][0])


def mean(model: LoadedModel) -> torch.Tensor:
    return torch.tensor(model.preprocessing.mean).view(-1, 1, 1)


def std(model: LoadedModel) -> torch.Tensor:
    return torch.tensor(model.preprocessing.std).view(-1, 1, 1)


def mine(model: LoadedModel, layer: str, channels: Sequence[int], *, size_px: int, steps: int) -> np.ndarray:
    """Our pictures, (n, H, W, 3)."""
    made = feature_visualization.synthesize(model, layer=layer, channels=channels, size_px=size_px, steps=steps)
    return made.images


@torch.no_grad()
def activation(model: LoadedModel, layer: str, channel: int, image: np.ndarray) -> float:
    """Mean of the channel, by the plain network, for a picture (H, W, 3)."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    maps = probe.record(model.net, (pixels - mean(model)) / std(model), [layer]).outputs[layer][-1]
    return float(maps[0, channel].mean())


def cost(model: LoadedModel, weights: str, layer: str) -> None:
    """Per channel and step: the difference of a longer and a shorter run, so that setting up is left out."""
    for title, size_px in (("same size", SAME_PX), ("lucent's default", DEFAULT_PX)):
        script = PlainScript(PLAIN, model.spec.model_id, weights, layer, str(size_px))
        works: list[Callable[[], object]] = []
        for steps in (1, 1 + STEPS):
            works += [
                partial(mine, model, layer, CHANNELS, size_px=size_px, steps=steps),
                partial(mine, model, layer, CHANNELS[:1], size_px=size_px, steps=steps),
                partial(peer, model, layer, 0, size_px=size_px, steps=steps),
                partial(script, str(steps)),
            ]
        short, long = (times for times in np.split(np.array(medians_ms(*works, rounds=5)), 2))
        script.end()
        batch, alone, here, theirs = (long - short) / STEPS / (len(CHANNELS), 1, 1, 1)
        print(
            f"  {title:18} {batch:6.1f} ms in a batch of {len(CHANNELS)}, {alone:6.1f} alone; lucent {theirs:6.1f}: "
            f"{theirs / batch:5.2f} and {theirs / alone:5.2f} times as fast; lucent in this process {here:6.1f}: "
            f"{here / batch:5.2f} and {here / alone:5.2f}",
            flush=True,
        )


def climbed(model: LoadedModel, layer: str, channels: Sequence[int]) -> None:
    ours = mine(model, layer, channels, size_px=SAME_PX, steps=CLIMB_STEPS)
    theirs = [peer(model, layer, channel, size_px=SAME_PX, steps=CLIMB_STEPS) for channel in channels]
    reached = [
        [activation(model, layer, channel, image) for channel, image in zip(channels, images, strict=True)]
        for images in (ours, theirs)
    ]
    print(
        f"  {layer}, mean activation after {CLIMB_STEPS} steps, channels {channels}: {np.round(reached[0], 1)}, "
        f"lucent {np.round(reached[1], 1)}; on average {np.mean(reached[0]):.1f}, lucent {np.mean(reached[1]):.1f}",
        flush=True,
    )


def main() -> None:
    warnings.simplefilter("ignore")
    startup.prepare()
    for model_id, weights, layer in CASES:
        model = models.load(model_id, weights=weights, device="cpu")
        print(f"{model.spec.title}, {layer}, {torch.get_num_threads()} threads")
        cost(model, weights, layer)
        if model.spec.is_trained:
            for depth in CLIMBED_LAYERS:
                climbed(model, depth, CHANNELS[:4])


if __name__ == "__main__":
    main()
