"""A thousand feature maps on one picture, PNG included, against torchvision's make_grid and a default PNG.

Run it on a quiet machine: ``python tests/benchmarks/bench_mosaic.py``.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from cnnviz_core import render, startup


def median_ms(work: Callable[[], object], rounds: int = 9) -> float:
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def ours(values: np.ndarray) -> bytes:
    return render.mosaic(values, scale=render.scale_of(values, mode="channel")).png


def peer(values: np.ndarray) -> bytes:
    from torchvision.utils import make_grid

    grid = make_grid(torch.from_numpy(values[:, None]), nrow=32, normalize=True, scale_each=True, padding=0)
    file = io.BytesIO()
    Image.fromarray((grid.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    startup.prepare()
    for side in (14, 28, 56):
        maps = np.random.default_rng(0).random((1024, side, side), dtype=np.float32)
        mine, theirs = median_ms(lambda maps=maps: ours(maps)), median_ms(lambda maps=maps: peer(maps))
        print(f"1,024 maps of {side:2d} px: {mine:6.1f} ms, make_grid {theirs:7.1f} ms, ratio {theirs / mine:5.1f}")


if __name__ == "__main__":
    main()
