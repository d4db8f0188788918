"""What the frozen part of a network makes of pictures, worked out once for each picture and kept for all epochs.

In memory while that is little, else in a file without a name in the data folder; where neither has room, or pictures
are varied anew each time, every batch is read and worked out again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnviz_core import settings
from cnnviz_core.collections import embedding, indexing
from cnnviz_core.collections.augmentation import Augmentation
from cnnviz_core.collections.embedding import File
from cnnviz_core.errors import BadImage
from cnnviz_core.models import LoadedModel
from cnnviz_core.results import FloatArray
from cnnviz_core.tail import Cut

Rows = NDArray[np.intp]
OnBatch = Callable[[int], None]

_BATCH = 16
_MEMORY_BYTES = 1 << 30
_DISK_BYTES = 8 << 30


class PictureFeatures:
    """The pictures of a training at the place where the network is cut; made by :func:`opened`.

    Args:
        model: The network as it was before the training.
        cut: Where it is cut.
        files: The pictures.
        augmentation: How those that are trained on vary.
        seed: Of the variations.
    """

    def __init__(
        self, model: LoadedModel, cut: Cut, files: Sequence[File], augmentation: Augmentation, *, seed: int
    ) -> None:
        self._model = model
        self._cut = cut
        self._files = files
        self._augmentation = augmentation
        self._seed = seed
        self._pool = ThreadPoolExecutor(indexing.num_workers(model), thread_name_prefix="cnnviz-features")
        self._spilled: list[BinaryIO] = []
        self._kept: list[Tensor] = []  # of all pictures as they are, then versions of those that are trained on
        self._places: Mapping[int, int] = {}

    def read(self, layer: str, on_batch: OnBatch) -> tuple[FloatArray, dict[int, str]]:
        """Reads every picture once, and keeps what can be kept.

        Args:
            layer: The classifier.
            on_batch: Told how many pictures were done since the last call; what it raises ends the work.

        Returns:
            (n, D) what the classifier reads of each picture, averaged over the places of a map; and for pictures that
            cannot be read the reason, by position.
        """
        reader = self._cut.reader(layer)
        problems: dict[int, str] = {}
        vectors: FloatArray = np.zeros((0, 0), np.float32)
        if self._cut.place.layer and (room := self._room(len(self._files))) is not None:
            self._kept.append(room)

        def work(rows: Rows) -> tuple[Rows, Tensor]:
            read, x = self._inputs(rows, problems)
            features = self._cut.features(x)
            for room in self._kept:
                room[read] = features.cpu()
            seen = reader.features(features)
            return read, (seen.flatten(2).mean(2) if seen.ndim > 2 else seen)

        for rows, seen in self._each(work, np.arange(len(self._files)), on_batch):
            if not len(vectors):
                vectors = np.zeros((len(self._files), seen.shape[1]), np.float32)
            vectors[rows] = seen.float().cpu().numpy()
        return vectors, problems

    def num_varied(self) -> int:
        """Passes that :meth:`vary` takes for each picture."""
        return (self._augmentation.num_versions or 1) - 1 if self._kept else 0

    def vary(self, rows: Rows, on_batch: OnBatch) -> None:
        """Works out the versions of the pictures that are trained on, where they are fixed and there is room."""
        self._places = {int(row): place for place, row in enumerate(rows)}
        for version in range(1, 1 + self.num_varied()):
            room = self._room(len(rows))
            if room is None:
                del self._kept[1:]
                return

            def work(some: Rows, version: int = version, room: Tensor = room) -> tuple[Rows, Tensor]:
                read, x = self._inputs(some)
                drawn = np.random.SeedSequence((self._seed, version, int(some[0]))).generate_state(1)
                generator = torch.Generator().manual_seed(int(drawn[0]))
                room[[self._places[int(row)] for row in read]] = self._cut.features(
                    self._augmentation.vary(x, version, generator)
                ).cpu()
                return read, x

            for _ in self._each(work, rows, on_batch):
                pass
            self._kept.append(room)

    def batch(self, rows: Rows, generator: torch.Generator | None = None) -> Tensor:
        """(n, ...) of some pictures at the cut, on the network's device.

        Args:
            rows: Positions.
            generator: Draws the variation of each; None takes the pictures as they are.

        Raises:
            BadImage: A picture that was not kept is gone or has changed.
        """
        if generator is not None and self._augmentation.num_versions != 1:
            return self._varied(rows, generator)
        if self._kept:
            return self._kept[0][rows].to(self._model.device)
        return self._anew(rows, lambda x: x)

    def can_be_read(self, row: int) -> bool:
        """Whether a picture is kept, or still there as it was."""
        if self._kept:
            return True
        try:
            self._crop(row)
        except BadImage:
            return False
        return True

    def _varied(self, rows: Rows, generator: torch.Generator) -> Tensor:
        if len(self._kept) > 1:
            drawn = torch.randint(len(self._kept), (len(rows),), generator=generator).tolist()
            chosen = [
                self._kept[version][self._places[int(row)] if version else int(row)]
                for row, version in zip(rows, drawn, strict=True)
            ]
            return torch.stack(chosen).to(self._model.device)
        seed = int(torch.randint(2**62, (), generator=generator))
        is_varied = torch.rand((len(rows),), generator=generator) < 0.5

        def vary(x: Tensor) -> Tensor:
            varied = self._augmentation.vary(x, 1, torch.Generator().manual_seed(seed))
            if self._augmentation.num_versions is None:
                return varied
            return torch.where(is_varied.to(x.device)[:, None, None, None], varied, x)

        return self._anew(rows, vary)

    def _anew(self, rows: Rows, vary: Callable[[Tensor], Tensor]) -> Tensor:
        crops = list(self._pool.map(lambda row: self._crop(int(row)), rows))
        x = vary(self._model.preprocessing.normalise(crops).to(self._model.device))
        parts = x.split(-(-len(x) // indexing.num_workers(self._model)))
        return torch.cat(list(self._pool.map(self._cut.features, parts)))

    def _inputs(self, rows: Rows, problems: dict[int, str] | None = None) -> tuple[Rows, Tensor]:
        """The pictures that can be read, and their inputs."""
        crops, read = [], []
        for row in rows:
            try:
                crops.append(self._crop(int(row)))
                read.append(row)
            except BadImage as error:
                if problems is None:
                    raise
                problems[int(row)] = str(error)
        return np.array(read, np.intp), self._model.preprocessing.normalise(crops).to(self._model.device)

    def _crop(self, row: int) -> NDArray[np.uint8]:
        return embedding.read_crop(self._files[row], self._model.preprocessing)

    def _each(
        self, work: Callable[[Rows], tuple[Rows, Tensor]], rows: Rows, on_batch: OnBatch
    ) -> Iterator[tuple[Rows, Tensor]]:
        """Work on batches by several threads, in order."""
        batches = [rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH)]
        under_way = [self._pool.submit(work, batch) for batch in batches]
        try:
            for batch, future in zip(batches, under_way, strict=True):
                read, values = future.result()
                on_batch(len(batch))
                if len(read):
                    yield read, values
        finally:
            for future in under_way:
                future.cancel()

    def _room(self, num: int) -> Tensor | None:
        """A tensor for so many pictures, in memory or on the disk; None where neither has room."""
        shape = (num, *self._cut.shape)
        size = 4 * int(np.prod(shape))
        taken = sum(4 * room.numel() for room in self._kept)
        if taken + size <= _MEMORY_BYTES:
            return torch.empty(shape)
        if taken + size > _DISK_BYTES or not hasattr(os, "posix_fallocate"):
            return None
        folder = settings.current().data_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed in :meth:`close`
            self._spilled.append(file)
            # Reserved beforehand: writing into a file that a full disk cannot hold ends the process.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            return None
        return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=shape))

    def close(self) -> None:
        """Gives memory, files and threads back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._kept.clear()
        for file in self._spilled:
            file.close()


@contextmanager
def opened(
    model: LoadedModel, cut: Cut, files: Sequence[File], augmentation: Augmentation, *, seed: int
) -> Iterator[PictureFeatures]:
    """The pictures of a training, given back at the end."""
    features = PictureFeatures(model, cut, files, augmentation, seed=seed)
    try:
        yield features
    finally:
        features.close()
