"""Indexing from a terminal, for big folders overnight: ``python -m cnnviz_core.collections index FOLDER``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cnnviz_core import startup
from cnnviz_core.errors import CnnvizError
from cnnviz_core.results import Step


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    asked = _parser().parse_args(arguments)
    startup.prepare(threads=1)  # as many workers as cores, each on one
    try:
        return _index(asked)
    except CnnvizError as error:
        print(f"cnnviz: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What is indexed so far is kept; the same command goes on from there.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cnnviz_core.collections", description="Collections of pictures.")
    command = parser.add_subparsers(required=True).add_parser(
        "index", help="look through a folder of pictures and index it; the app picks the index up"
    )
    command.add_argument("collection", metavar="FOLDER", help="a folder, or the id of a collection: bundled/photos")
    command.add_argument("--model", help="a name as on the page Networks: timm/resnet18; default: the bundled one")
    command.add_argument("--weights", default="default", help="default, random:SEED, or a checkpoint file")
    command.add_argument(
        "--layer", action="append", dest="layers", metavar="LAYER",
        help="dotted name, pixels or scores; may be given several times; default: what the pages use",
    )  # fmt: skip
    command.add_argument("--pooling", default="mean", help="mean, max or flat")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    return parser


def _index(asked: argparse.Namespace) -> int:
    # Torch and the networks are imported late, so that --help answers at once.
    from cnnviz_core import collections, models
    from cnnviz_core.collections import embedding, indexing

    is_file = Path(asked.weights).suffix in {".safetensors", ".pth", ".pt", ".bin"}
    model = models.load(
        asked.model or models.DEFAULT_MODEL,
        weights=Path(asked.weights) if is_file else asked.weights,
        device=asked.device,
    )
    layers = asked.layers or embedding.standard_layers(model)
    embedding.check(model, layers, asked.pooling)
    folder = Path(asked.collection)
    collection = collections.open_collection(folder if folder.is_dir() else asked.collection)
    collection.scan(on_step=_Progress("files"))
    pictures = collection.pictures()
    print(f"{collection.title}: {len(pictures):,} pictures; {len(collection.problems()):,} files cannot be used.")
    if reason := collection.why_empty():
        print(f"cnnviz: {reason}", file=sys.stderr)
        return 1
    missed = indexing.build(collection, model, layers=layers, pooling=asked.pooling, on_step=_Progress("pictures"))
    for reason in missed:
        print(f"missed this time: {reason}")
    for layer in layers:
        index = indexing.read(collection, model, layer=layer, pooling=asked.pooling)
        print(f"{layer}: {len(index.rows):,} vectors of {index.vectors.shape[1]:,} values.")
    for problem in collection.problems():
        print(f"left out: {problem.path}: {problem.reason}")
    if collection.collection_id.startswith("folder/"):
        print("The app offers this folder where CNNVIZ_COLLECTION_ROOTS names it or a folder above it.")
    return 0


class _Progress:
    """A line that tells how far the work has come: written over on a terminal, one a minute elsewhere."""

    def __init__(self, things: str) -> None:
        self._things = things
        self._start = time.monotonic()
        self._told = 0.0
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        if now - self._told < (1 if self._is_terminal else 60) and step.done < step.total:
            return
        self._told = now
        rate = step.done / max(1e-9, now - self._start)
        left = f", {(step.total - step.done) / rate:,.0f} s left" if rate else ""
        line = f"{step.done:,} of {step.total:,} {self._things}, {rate:,.1f} a second{left}"
        print(f"\r{line:70}" if self._is_terminal else line, end="" if self._is_terminal else "\n", file=sys.stderr)
        if self._is_terminal and step.done >= step.total:
            print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
