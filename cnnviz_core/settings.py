"""The app's settings, read from ``CNNVIZ_*`` environment variables.

Every field of :class:`Settings` is a variable: ``data_dir`` is ``CNNVIZ_DATA_DIR``. Core functions take what they
need as arguments; only the app and the defaults of safety bounds read this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from cnnviz_core.errors import BadSetting


@dataclass(frozen=True)
class Settings:
    """Settings of one server.

    Attributes:
        data_dir: Folder for uploads and indexes. Created when first needed.
        device: "auto", "cpu", "cuda", "cuda:1", "mps". "auto" takes CUDA, else MPS, else the CPU.
        max_image_megapixels: Pictures above this are refused before they are decoded.
        max_checkpoint_mb: Uploaded weights files above this are refused.
        uploads_mb: Space for uploaded pictures; the oldest go first.
        cache_mb: Memory for computed results.
        collection_roots: Folders on the server, separated as in PATH, below which people may open collections.
        max_zip_mb: Uploaded collections above this are refused.
        max_collection_mb: What one collection may take on disk when it is unpacked or downloaded.
        max_models: Networks kept in memory, least recently used out first.
        threads: CPU threads of one computation; 0 shares the cores among ``parallel_runs``.
        parallel_runs: Computations that run at the same time; the rest wait their turn.
        allow_downloads: Whether a click may fetch published weights from the internet.
    """

    data_dir: Path = Path.home() / ".cnnviz"
    device: str = "auto"
    max_image_megapixels: int = 100
    max_checkpoint_mb: int = 1000
    uploads_mb: int = 500
    cache_mb: int = 512
    collection_roots: tuple[Path, ...] = ()
    max_zip_mb: int = 1000
    max_collection_mb: int = 20_000
    max_models: int = 4
    threads: int = 0
    parallel_runs: int = 2
    allow_downloads: bool = True

    @property
    def threads_per_run(self) -> int:
        """CPU threads of one computation; threads that wait for each other on busy cores cost more than they gain."""
        return self.threads or max(1, (os.cpu_count() or 1) // max(1, self.parallel_runs))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Settings from variables; what is not set keeps its default.

        Raises:
            BadSetting: A value of the wrong kind, or a number below the field's least.
        """
        values = {
            field.name: _parse(f"CNNVIZ_{field.name.upper()}", raw, type(field.default))
            for field in fields(cls)
            if (raw := environment.get(f"CNNVIZ_{field.name.upper()}", "").strip())
        }
        return cls(**values)  # type: ignore[arg-type]


_MAY_BE_ZERO = ("CNNVIZ_UPLOADS_MB", "CNNVIZ_THREADS")


def _parse(variable: str, raw: str, kind: type) -> object:
    if kind is bool:
        if raw.lower() in {"1", "true", "yes", "on"}:
            return True
        if raw.lower() in {"0", "false", "no", "off"}:
            return False
        raise BadSetting(f"{variable} is {raw!r}; write true or false.")
    if kind is int:
        least = 0 if variable in _MAY_BE_ZERO else 1
        if not raw.isdecimal() or int(raw) < least:
            raise BadSetting(f"{variable} is {raw!r}; write a whole number, {least} or more.")
        return int(raw)
    if kind is tuple:
        return tuple(Path(folder).expanduser() for folder in raw.split(os.pathsep) if folder)
    return Path(raw).expanduser() if issubclass(kind, Path) else raw


@cache
def current() -> Settings:
    """The settings of this process, read once."""
    return Settings.from_environment(os.environ)
