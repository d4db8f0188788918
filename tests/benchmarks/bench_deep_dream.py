"""DeepDream against the plain loop, in one run, on the same picture and layer with the same allocator.

Run it on a quiet machine: ``python tests/benchmarks/bench_deep_dream.py``. Random weights, which cost the same. The
plain loop does what a first version does: a hook on the layer, the whole network forward, ``backward`` with every
parameter collecting its gradient; the same loop with frozen parameters is printed, too. The bar is 3 times the plain
loop.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from timing import medians_ms
from torch import Tensor

from cnnviz_core import models, photos, startup
from cnnviz_core.methods import deep_dream

CASES = (("torchvision/resnet50", "layer3"), ("timm/tf_efficientnet_lite0", "blocks.4"))
STEPS, SIZE_PX, STRENGTH, ROUNDS = 12, 320, 1.5, 3


def plain_loop(net: torch.nn.Module, layer: str, start: Tensor) -> Tensor:
    """Steps of the whole network, forward and backward."""
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _module, _input, out: kept.append(out))
    x = start.clone()
    for _ in range(STEPS):
        kept.clear()
        x.requires_grad_()
        net((x / 255 - 0.5) / 0.25)
        (kept[-1].square().sum() / 2).backward()
        assert x.grad is not None
        x = (x.detach() + STRENGTH / x.grad.abs().mean() * x.grad).clamp(0, 255)
        net.zero_grad()
    handle.remove()
    return x


def main() -> None:
    startup.prepare()
    image = photos.open_photo("chelsea")
    for model_id, layer in CASES:
        model = models.load(model_id, weights="random:0", device="cpu")
        frozen = copy.deepcopy(model.net)
        trainable = copy.deepcopy(model.net).requires_grad_()
        start = torch.from_numpy(deep_dream.at_size(image, SIZE_PX).copy()).permute(2, 0, 1)[None].float()

        def mine(precision: str, model: models.LoadedModel = model, layer: str = layer) -> object:
            settings = {"size_px": SIZE_PX, "octaves": 1, "steps": STEPS, "strength": STRENGTH}
            return deep_dream.dream(model, image, layer=layer, precision=precision, **settings)

        *mine_ms, plain, plain_frozen = medians_ms(
            *(partial(mine, precision) for precision in deep_dream.PRECISIONS),
            lambda net=trainable, layer=layer, start=start: plain_loop(net, layer, start),
            lambda net=frozen, layer=layer, start=start: plain_loop(net, layer, start),
            rounds=ROUNDS,
        )
        print(f"{model.spec.title}, {layer}, {STEPS} steps at {SIZE_PX} px, {torch.get_num_threads()} threads")
        for precision, ms in zip(deep_dream.PRECISIONS, mine_ms, strict=True):
            print(
                f"  {precision:9} {ms:6.0f} ms: {plain / ms:5.2f} times as fast as the plain loop ({plain:.0f} ms), ",
                end="",
            )
            print(f"{plain_frozen / ms:5.2f} times as it is with frozen parameters ({plain_frozen:.0f} ms)", flush=True)


if __name__ == "__main__":
    main()
