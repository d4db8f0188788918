"""A folder of 500 x 375 JPEGs to embeddings: end to end, against the bare forward, and against a plain DataLoader.

The bare forward is that of the network itself and that of the fast copy that the index uses, both on pictures that lie
in memory, with the same threads and allocator.

Run it on a quiet machine: ``python tests/benchmarks/bench_index.py``, perhaps with the ids of some of the networks;
with ``--memory`` it indexes 1,000 and 100,000 small files instead and tells how much memory each took. The DataLoader
runs in a process of its own, as a plain script would: eager network, torch's own number of threads, one worker process
per core, no tuned allocator.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

NUM_FILES = 1024
BATCH = 16
ROUNDS = 5
NETWORKS = {
    "timm/tf_efficientnet_lite0": "default",
    "torchvision/resnet18": "random:0",
    "torchvision/resnet50": "random:0",
}

PLAIN = """
import sys, time
from pathlib import Path
import torch
from cnnviz_core import models, torchvision_shim
torchvision_shim.install()
from PIL import Image
from torchvision import transforms
model_id, weights, folder = sys.argv[1:]
model = models.load(model_id, weights=weights, device="cpu")
fit = transforms.Compose([
    transforms.Resize(model.preprocessing.input_px[0], transforms.InterpolationMode.BICUBIC),
    transforms.CenterCrop(model.preprocessing.input_px), transforms.ToTensor(),
    transforms.Normalize(model.preprocessing.mean, model.preprocessing.std)])
paths = sorted(Path(folder).iterdir())
class Files(torch.utils.data.Dataset):
    def __len__(self): return len(paths)
    def __getitem__(self, i): return fit(Image.open(paths[i]).convert("RGB"))
start = time.perf_counter()
with torch.no_grad():
    done = sum(len(model.net(x)) for x in torch.utils.data.DataLoader(Files(), batch_size=32, num_workers=2))
print(done / (time.perf_counter() - start))
"""


def make_files(folder: Path, num: int, size: tuple[int, int]) -> None:
    from cnnviz_core import photos

    folder.mkdir()
    pictures = [photos.open_photo(name).pil() for name in list(photos.PHOTOS)[:8]]
    random = np.random.default_rng(0)
    originals = []
    for number in range(min(num, 64)):
        picture = pictures[number % len(pictures)]
        left, top = random.integers(0, 60, 2)
        originals.append(folder / f"{number:06}.jpg")
        picture.crop((left, top, picture.width - 60 + left, picture.height - 60 + top)).resize(size).save(
            originals[-1], quality=90
        )
    for number in range(64, num):
        os.link(originals[number % 64], folder / f"{number:06}.jpg")


def rate(work: Callable[[], object], num: int) -> float:
    start = time.perf_counter()
    work()
    return num / (time.perf_counter() - start)


def bench(model_id: str, weights: str, folder: Path) -> None:
    from cnnviz_core import collections, models
    from cnnviz_core.collections import embedding, indexing

    model = models.load(model_id, weights=weights, device="cpu")
    collection = collections.open_collection(folder)
    layer = embedding.default_layer(model)
    net = embedding.quick_net(model, [layer])
    num_workers = os.cpu_count() or 1
    x = model.preprocessing.normalise(np.zeros((BATCH, *model.preprocessing.input_px, 3), np.uint8))

    @torch.no_grad()
    def forwards(which: torch.nn.Module) -> None:
        for _ in range(NUM_FILES // BATCH // num_workers):
            which(x)

    def bare(which: torch.nn.Module) -> None:
        with ThreadPoolExecutor(num_workers) as pool:
            list(pool.map(forwards, [which] * num_workers))

    def end_to_end() -> None:
        indexing.forget(collection.collection_id)
        indexing.build(collection, model, layers=[layer])

    works = (end_to_end, lambda: bare(net))
    rates = [[rate(work, NUM_FILES) for work in works] for _ in range(ROUNDS + 1)]
    mine, alone = np.median(rates[1:], axis=0).tolist()
    share = np.median([one / other for one, other in rates[1:]])
    untouched = rate(lambda: bare(model.net), NUM_FILES)
    command = [sys.executable, "-c", PLAIN, model_id, weights, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_workers)}
    plain = float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    print(
        f"{model.spec.title}: {mine:.0f} pictures a second end to end; bare forward of the network {untouched:.0f}, "
        f"share {mine / untouched:.2f}; of our fast copy {alone:.0f}, share {share:.3f}; plain DataLoader "
        f"{plain:.0f}, {mine / plain:.1f} times as fast",
        flush=True,
    )


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from torch import nn
torch.set_num_threads(1)
from cnnviz_core import collections, models
from cnnviz_core.collections import indexing
net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).requires_grad_(False)
model = models.from_module(net, input_px=32, mean=(0.5,) * 3, std=(0.5,) * 3, name="small", device="cpu")
collection = collections.open_collection(Path(sys.argv[1]))
scanned = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
indexing.build(collection, model, layers=["1"])
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(f"{len(collection.pictures()):,} files: {scanned} MB after the scan, {most} MB at most in all")
"""


def memory(folder: Path) -> None:
    for num in (1_000, 10_000, 100_000):
        files = folder / f"small{num}"
        make_files(files, num, (48, 36))
        start = time.perf_counter()
        print(
            subprocess.run(
                [sys.executable, "-c", MEMORY, str(files)], check=True, capture_output=True, text=True
            ).stdout.strip(),
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", metavar="network", help=f"of {', '.join(NETWORKS)}; all")
    parser.add_argument("--memory", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CNNVIZ_DATA_DIR"] = f"{folder}/data"
        from cnnviz_core import startup

        if asked.memory:
            memory(Path(folder))
            return
        startup.prepare(threads=1)
        make_files(Path(folder) / "photos", NUM_FILES, (500, 375))
        for model_id in asked.networks or NETWORKS:
            bench(model_id, NETWORKS[model_id], Path(folder) / "photos")


if __name__ == "__main__":
    main()
