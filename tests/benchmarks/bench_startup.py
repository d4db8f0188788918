"""What the allocator's tuning buys: the same forwards in a worker thread, without and with it, in fresh processes.

Prints milliseconds and their ratio. Run it on a quiet machine: ``python tests/benchmarks/bench_startup.py``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time

BATCHES = (1, 8, 32)
ROUNDS = 9


def measure(*, tuned: bool) -> dict[str, float]:
    from cnnviz_core import startup, torchvision_shim

    if tuned:
        startup.prepare()
    torchvision_shim.install()
    import torch

    from cnnviz_core import models

    net = models.load(models.DEFAULT_MODEL).net
    found: dict[str, float] = {}

    def work() -> None:
        for batch in BATCHES:
            x = torch.randn(batch, 3, 224, 224)
            seconds = []
            with torch.no_grad():
                net(x)
                for _ in range(ROUNDS):
                    start = time.perf_counter()
                    net(x)
                    seconds.append(time.perf_counter() - start)
            found[f"batch {batch}"] = 1e3 * statistics.median(seconds)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    found["resident MB"] = _resident_mb()
    if tuned:
        startup.release_memory()
    found["resident MB after release"] = _resident_mb()
    return found


def _resident_mb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    rounds: dict[str, list[dict[str, float]]] = {"plain": [], "tuned": []}
    for _ in range(3):  # interleaved, since the machine is noisy
        for mode, results in rounds.items():
            out = subprocess.run([sys.executable, __file__, mode], check=True, capture_output=True, text=True).stdout
            results.append(json.loads(out.splitlines()[-1]))
    for name in rounds["plain"][0]:
        plain, tuned = (statistics.median(result[name] for result in rounds[mode]) for mode in ("plain", "tuned"))
        print(f"{name:28s} plain {plain:8.1f}   tuned {tuned:8.1f}   ratio {plain / tuned:5.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(tuned=sys.argv[1] == "tuned")))
    else:
        main()
