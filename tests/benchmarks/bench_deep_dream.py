"""DeepDream against the plain loop, in turns, on the same picture and layer.

Run it on a quiet machine: ``python tests/benchmarks/bench_deep_dream.py``. Random weights, which cost the same. The
plain loop does what a first version does: a hook on the layer, the whole network forward, ``backward`` with every
parameter collecting its gradient. It is timed as a plain script in a process of its own, of which 3 times is the bar;
and in this process, where our allocator serves it, too, as it is and with frozen parameters.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from timing import PlainScript, medians_ms
from torch import Tensor

from cnnviz_core import models, photos, startup
from cnnviz_core.methods import deep_dream

CASES = (("torchvision/resnet50", "layer3"), ("timm/tf_efficientnet_lite0", "blocks.4"))
SIZES = ((320, 12), (1200, 2))  # longer side in pixels, steps
STRENGTH, ROUNDS = 1.5, 3

PLAIN = """
import torch
import bench_deep_dream
from cnnviz_core import models, torchvision_shim
torchvision_shim.install()
model_id, layer, height, width, steps = sys.argv[1:]
net = models.load(model_id, weights="random:0", device="cpu").net.requires_grad_()
start = 255 * torch.rand(1, 3, int(height), int(width))
for line in sys.stdin:
    bench_deep_dream.plain_loop(net, layer, start, int(steps))
    print(flush=True)
"""


def plain_loop(net: torch.nn.Module, layer: str, start: Tensor, steps: int) -> Tensor:
    """Steps of the whole network, forward and backward."""
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _module, _input, out: kept.append(out))
    x = start.clone()
    for _ in range(steps):
        kept.clear()
        x.requires_grad_()
        net((x / 255 - 0.5) / 0.25)
        (kept[-1].square().sum() / 2).backward()
        assert x.grad is not None
        x = (x.detach() + STRENGTH / x.grad.abs().mean() * x.grad).clamp(0, 255)
        net.zero_grad()
    handle.remove()
    return x


def bench(model: models.LoadedModel, layer: str, size_px: int, steps: int) -> None:
    image = photos.open_photo("chelsea")
    frozen = copy.deepcopy(model.net)
    trainable = copy.deepcopy(model.net).requires_grad_()
    start = torch.from_numpy(deep_dream.at_size(image, size_px).copy()).permute(2, 0, 1)[None].float()

    def mine(precision: str) -> object:
        settings = {"size_px": size_px, "octaves": 1, "steps": steps, "strength": STRENGTH}
        return deep_dream.dream(model, image, layer=layer, precision=precision, **settings)

    script = PlainScript(PLAIN, model.spec.model_id, layer, *map(str, start.shape[2:]), str(steps))
    *mine_ms, alone, plain, plain_frozen = medians_ms(
        *(partial(mine, precision) for precision in deep_dream.PRECISIONS),
        script,
        lambda: plain_loop(trainable, layer, start, steps),
        lambda: plain_loop(frozen, layer, start, steps),
        rounds=ROUNDS,
    )
    script.end()
    print(f"{model.spec.title}, {layer}, {steps} steps at {size_px} px, {torch.get_num_threads()} threads")
    for precision, ms in zip(deep_dream.PRECISIONS, mine_ms, strict=True):
        print(
            f"  {precision:9} {ms:6.0f} ms: {alone / ms:5.2f} times as fast as the plain script ({alone:.0f} ms), "
            f"{plain / ms:5.2f} times as its loop in this process ({plain:.0f} ms), "
            f"{plain_frozen / ms:5.2f} times as that with frozen parameters ({plain_frozen:.0f} ms)",
            flush=True,
        )


def main() -> None:
    startup.prepare()
    for model_id, layer in CASES:
        model = models.load(model_id, weights="random:0", device="cpu")
        for size_px, steps in SIZES:
            bench(model, layer, size_px, steps)


if __name__ == "__main__":
    main()
