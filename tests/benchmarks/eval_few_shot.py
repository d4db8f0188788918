"""How well a few masks find an object without training: IoU tables.

``python tests/benchmarks/eval_few_shot.py [motorcycle] [aeroplanes] [sizes]``; all of them by default. Each picture
goes through the network once. The aeroplanes lie beside the repository. ``honest`` is the mean IoU at the threshold
that serves the supports best, each found from the others; ``oracle`` at the best threshold for each query, chosen with
its truth in hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from cnnviz_core import features, images, mask_transfer, masks, models, startup, stereo
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FewShot, PictureMaps

EVALDATA = Path(__file__).parents[3] / "shared" / "evaldata"
SEED, NUM_DRAWS, NUM_QUERIES = 0, 10, 8

Example = tuple[PictureMaps, np.ndarray]


def both_ious(result: FewShot, truth: np.ndarray) -> tuple[float, float]:
    return masks.iou(result.mask.values, truth), masks.iou_curve(result.score_map, truth).best_iou


def motorcycle(model: LoadedModel) -> None:
    """The left photo as the only support, the right as the query."""
    (left, left_mask), (right, right_mask) = stereo.motorcycle_pair()
    stages = features.stage_layers(model)
    support, query = (features.record(model, image, layers=stages) for image in (left, right))
    print("Motorcycle, left to right: honest / oracle IoU, with the background's score subtracted | without")
    print(f"{'layers':45} " + " ".join(f"{name:>29}" for name in mask_transfer.SCORES))
    for layers in (*((name,) for name in stages), stages[-2:], stages[-3:]):
        cells = []
        for score in mask_transfer.SCORES:
            found = [
                both_ious(
                    mask_transfer.apply(
                        model,
                        mask_transfer.fit([(support, left_mask)], layers=layers, score=score, background=background),
                        query,
                    ),
                    right_mask.values,
                )
                for background in (True, False)
            ]
            cells.append(" | ".join(f"{honest:.3f} / {oracle:.3f}" for honest, oracle in found))
        print(f"{' + '.join(layers):45} " + " ".join(f"{cell:>29}" for cell in cells), flush=True)


def aeroplanes(model: LoadedModel, *, size_px: int | None = None, dilate_last: bool = False) -> list[Example]:
    """Every photo with its mask, recorded once."""
    layers = features.stage_layers(model)[-1:] if dilate_last else features.stage_layers(model)[-3:]
    examples = []
    for path in sorted((EVALDATA / "images" / "caltech101" / "airplanes").glob("*.jpg")):
        (mask_path,) = (EVALDATA / "masks" / "caltech101_airplanes_pseudo").glob(f"{path.stem}.*")
        image = images.open_image(path)
        truth, _ = masks.check(images.open_image(mask_path), (image.height, image.width))
        recorded = features.record(model, image, layers=layers, size_px=size_px, dilate_last=dilate_last)
        examples.append((recorded, truth))
    return examples


def mean_iou(
    model: LoadedModel, examples: Sequence[Example], num_supports: int, *, draws: int = NUM_DRAWS, **settings: object
) -> np.ndarray:
    """(draws, queries, 2) honest and oracle IoU."""
    generator = np.random.default_rng(SEED)
    found = []
    for _ in range(draws):
        order = [examples[index] for index in generator.permutation(len(examples))]
        fitted = mask_transfer.fit(order[:num_supports], **settings)  # type: ignore[arg-type]
        queries = order[-NUM_QUERIES:]
        found.append([both_ious(mask_transfer.apply(model, fitted, query), truth) for query, truth in queries])
    return np.array(found)


def report(title: str, found: Sequence[np.ndarray]) -> None:
    """A line: mean over draws, with the spread of the draws' means."""
    cells = [f"{f[..., 0].mean():.3f} ± {f[..., 0].mean(1).std():.3f} / {f[..., 1].mean():.3f}" for f in found]
    print(f"{title:66} " + " ".join(f"{cell:>24}" for cell in cells), flush=True)


def aeroplane_tables(model: LoadedModel) -> None:
    examples = aeroplanes(model)
    *_, middle, last = stages = features.stage_layers(model)[-3:]
    print(
        f"\nAeroplanes, {NUM_DRAWS} draws of supports and {NUM_QUERIES} queries, seed {SEED}: honest ± spread / oracle"
    )
    print(f"{'':66} " + " ".join(f"{f'{n} supports':>24}" for n in (1, 3, 5)))
    shots = (1, 3, 5)
    for layers in ((last,), (middle,), (stages[0],), (middle, last)):
        report(" + ".join(layers), [mean_iou(model, examples, n, layers=layers) for n in shots])
    report(f"{' + '.join(stages)}, 3 draws", [mean_iou(model, examples, n, draws=3, layers=stages) for n in shots])
    variants: dict[str, dict[str, object]] = {
        "max": {"score": "max"},
        "max, most similar support": {"score": "max", "shots": "max"},
        "mean": {"score": "mean"},
        "prototype": {"score": "prototype"},
        "mean vector not subtracted": {"centre": False},
        "threshold 0": {"threshold": 0.0},
        "mean vector not subtracted, threshold 0": {"centre": False, "threshold": 0.0},
        "background not subtracted": {"background": False},
        "max, background not subtracted": {"score": "max", "background": False},
        "mean, background not subtracted": {"score": "mean", "background": False},
        "prototype, background not subtracted": {"score": "prototype", "background": False},
    }
    for title, settings in variants.items():
        both = (middle, last)
        report(f"last two stages, {title}", [mean_iou(model, examples, n, layers=both, **settings) for n in shots])
    untrained = models.load(model.spec.model_id, weights="random:0", device="cpu")
    report(
        "last two stages, untrained",
        [
            mean_iou(untrained, examples, n, layers=(middle, last))
            for examples in [aeroplanes(untrained)]
            for n in shots
        ],
    )


def aeroplane_sizes(model: LoadedModel) -> None:
    print("\nAeroplanes, 5 supports, 5 draws: working sizes, and the last stage without its stride")
    pair = features.stage_layers(model)[-2:]
    for size_px in (256, 384, 512, 768):
        examples = aeroplanes(model, size_px=size_px)
        report(f"last two stages, {size_px} px", [mean_iou(model, examples, 5, draws=5, layers=pair)])
    for size_px in (512, 768):
        examples = aeroplanes(model, size_px=size_px, dilate_last=True)
        report(f"last stage without stride, {size_px} px", [mean_iou(model, examples, 5, draws=5)])


TABLES: dict[str, Callable[[LoadedModel], None]] = {
    "motorcycle": motorcycle,
    "aeroplanes": aeroplane_tables,
    "sizes": aeroplane_sizes,
}


def main() -> None:
    startup.prepare()
    torch.set_num_threads(1)
    model = models.load(models.DEFAULT_MODEL, device="cpu")
    for name in sys.argv[1:] or TABLES:
        TABLES[name](model)


if __name__ == "__main__":
    main()
