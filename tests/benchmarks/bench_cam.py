"""The CAM family against pytorch-grad-cam and against the bare forward, in one run.

Run it on a quiet machine: ``python tests/benchmarks/bench_cam.py``. Random weights, which cost the same; the peer's
maps are resized to the picture, as it does by itself. Score-CAM is timed at a layer of 64 channels, since both run the
whole network once per channel.
"""

from __future__ import annotations

import copy
import warnings

import torch
from timing import medians_ms

from cnnviz_core import models, photos, startup
from cnnviz_core.images import InputImage
from cnnviz_core.methods import cam
from cnnviz_core.models import LoadedModel

NETWORKS = (("torchvision/resnet18", "layer4", "layer1"), ("timm/tf_efficientnet_lite0", "bn2", "blocks.1"))
FOUR = {"grad_cam": "GradCAM", "grad_cam_pp": "GradCAMPlusPlus", "hires_cam": "HiResCAM", "layer_cam": "LayerCAM"}
CLASSES = (3, 100, 285, 700, 999)


class Peer:
    """pytorch-grad-cam on a copy of the network with gradients, as it is meant to be used."""

    def __init__(self, model: LoadedModel, image: InputImage, layer: str) -> None:
        self.net = copy.deepcopy(model.net).requires_grad_()
        self.layer, self.model, self.image = self.net.get_submodule(layer), model, image

    def run(self, name: str, targets: tuple[int, ...]) -> None:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with getattr(pytorch_grad_cam, name)(self.net, [self.layer]) as peer:
            for target in targets:
                peer(self.model.to_input(self.image), [ClassifierOutputTarget(target)])


def report(title: str, mine: float, theirs: float, other: str) -> None:
    print(f"  {title:42} {mine:9.1f} ms, {other} {theirs:9.1f} ms, {theirs / mine:6.1f} times as fast", flush=True)


def bench(model: LoadedModel, image: InputImage, layer: str, wide: str) -> None:
    print(f"{model.spec.title}, {layer}: {model.layers[layer].num_channels} channels")
    peer = Peer(model, image, layer)

    def single() -> object:
        return cam.explain(model, image, method="grad_cam", target=CLASSES[0])

    @torch.no_grad()
    def bare() -> object:
        return model.net(model.to_input(image))

    mine, forward, theirs = medians_ms(single, bare, lambda: peer.run("GradCAM", CLASSES[:1]), rounds=9)
    report("one Grad-CAM", mine, theirs, "pytorch-grad-cam")
    print(f"  {'one Grad-CAM':42} {mine / forward:9.2f} times the bare forward of {forward:.1f} ms")
    mine, theirs = medians_ms(
        lambda: cam.explain_many(model, image, methods=list(FOUR), targets=CLASSES),
        lambda: [peer.run(name, CLASSES) for name in FOUR.values()],
        rounds=3,
    )
    report("four methods, five classes", mine, theirs, "pytorch-grad-cam")
    mine, theirs = medians_ms(
        lambda: cam.explain(model, image, method="ablation_cam", target=3),
        lambda: peer.run("AblationCAM", (3,)),
        rounds=1,
    )
    report("Ablation-CAM", mine, theirs, "pytorch-grad-cam")

    at_wide = Peer(model, image, wide)
    for method, name in (("ablation_cam", "AblationCAM"), ("score_cam", "ScoreCAM")):
        mine, theirs = medians_ms(
            lambda method=method: cam.explain(model, image, method=method, target=3, layer=wide),
            lambda name=name: at_wide.run(name, (3,)),
            rounds=1,
        )
        title = f"{cam.METHODS[method].title} at {wide}, {model.layers[wide].num_channels} channels"
        report(title, mine, theirs, "pytorch-grad-cam")


def main() -> None:
    warnings.simplefilter("ignore")
    startup.prepare()
    image = photos.open_photo("chelsea")
    for model_id, layer, wide in NETWORKS:
        bench(models.load(model_id, weights="random:0", device="cpu"), image, layer, wide)


if __name__ == "__main__":
    main()
