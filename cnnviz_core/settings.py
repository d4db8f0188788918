"""The app's settings, read from ``CNNVIZ_*`` environment variables.

Every field of :class:`Settings` is a variable: ``data_dir`` is ``CNNVIZ_DATA_DIR``. Core functions take what they
need as arguments; only the app and the defaults of safety bounds read this.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from cnnviz_core import roles
from cnnviz_core.errors import BadSetting

_PREFIX = "CNNVIZ_"
# Variables of the test suite, which a server started by it inherits.
_OF_TESTS = frozenset({"CNNVIZ_REQUIRE_BROWSER", "CNNVIZ_CHROMIUM"})


@dataclass(frozen=True)
class Settings:
    """Settings of one server.

    Attributes:
        data_dir: Folder for uploads, indexes, results of long work and reports. Created when first needed.
        device: "auto", "cpu", "cuda", "cuda:1", "mps". "auto" takes CUDA, else MPS, else the CPU.
        max_image_megapixels: Pictures above this are refused before they are decoded.
        max_checkpoint_mb: Uploaded weights files above this are refused.
        uploads_mb: Space for uploaded pictures; the oldest go first.
        checkpoints_mb: Space for uploaded weights files; beyond it one must be removed before another comes.
        collections_mb: Space for uploaded and downloaded collections and all indexes; the longest unused go first.
        retention_days: Uploaded pictures and collections, indexes and reports that nobody used for so many days go; 0
            keeps them.
        cache_mb: Memory for computed results, and as much for the finished long work of each kind.
        results_mb: Space on disk for the results of long work; the oldest go first.
        reports_mb: Space for the reports of all people; beyond it no figure can be added.
        collection_roots: Folders on the server, separated as in PATH, below which people may open collections.
        max_zip_mb: Uploaded collections above this are refused.
        max_collection_mb: What one collection may take on disk when it is unpacked or downloaded.
        max_models: Networks kept in memory, least recently used out first.
        models_mb: Memory for them, likewise; one in use stays.
        threads: CPU threads of one computation; 0 shares the cores among ``parallel_runs``.
        parallel_runs: Computations that run at the same time; the rest wait their turn.
        allow_downloads: Whether a click may fetch published weights from the internet.
        demo: Whether the app opens with the guided tour.
        log: "text" for a person, "json" for one JSON object a line.
        allowed_people: Who may enter where sign-in is set up: e-mail addresses and @domains.
        admins: Who looks after the server: e-mail addresses.
        may_upload: Who may bring pictures, weights files and collections.
        may_download: Who may have the server fetch published weights and data sets.
        may_train: Who may start a training.
        may_delete: Who may remove weights files and collections from the server.
        may_see_all_jobs: Who sees the jobs of everybody.
        may_see_host: Who sees the page of the host.
    """

    data_dir: Path = Path.home() / ".cnnviz"
    device: str = "auto"
    max_image_megapixels: int = 100
    max_checkpoint_mb: int = 1000
    uploads_mb: int = 500
    checkpoints_mb: int = 20_000
    collections_mb: int = 50_000
    retention_days: int = 0
    cache_mb: int = 512
    results_mb: int = 2000
    reports_mb: int = 5000
    collection_roots: tuple[Path, ...] = ()
    max_zip_mb: int = 1000
    max_collection_mb: int = 20_000
    max_models: int = 8
    models_mb: int = 2000
    threads: int = 0
    parallel_runs: int = 2
    allow_downloads: bool = True
    demo: bool = False
    log: str = "text"
    allowed_people: tuple[str, ...] = ("everyone",)
    admins: tuple[str, ...] = ()
    may_upload: tuple[str, ...] = ("everyone",)
    may_download: tuple[str, ...] = ("everyone",)
    may_train: tuple[str, ...] = ("everyone",)
    may_delete: tuple[str, ...] = ("everyone",)
    may_see_all_jobs: tuple[str, ...] = ("nobody",)
    may_see_host: tuple[str, ...] = ("admins",)

    @property
    def threads_per_run(self) -> int:
        """CPU threads of one computation; threads that wait for each other on busy cores cost more than they gain."""
        return self.threads or max(1, (os.cpu_count() or 1) // max(1, self.parallel_runs))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Settings from variables; what is not set keeps its default.

        Raises:
            BadSetting: One sentence for each value of the wrong kind, number below the field's least, and variable
                that differs from a known one by a slip.
        """
        values: dict[str, object] = {}
        problems = _slips(environment)
        for field in fields(cls):
            raw = environment.get(variable(field.name), "").strip()
            if not raw:
                continue
            try:
                values[field.name] = _READ[str(field.type)](variable(field.name), raw)
            except BadSetting as error:
                problems.append(str(error))
        if not problems:
            problems = _contradictions({field.name: values.get(field.name, field.default) for field in fields(cls)})
        if problems:
            raise BadSetting("\n".join(problems))
        return cls(**values)  # type: ignore[arg-type]


def variable(name: str) -> str:
    """The variable that sets a field."""
    return f"{_PREFIX}{name.upper()}"


def unknown(environment: Mapping[str, str]) -> list[str]:
    """Variables with the prefix that set nothing."""
    known = {variable(field.name) for field in fields(Settings)} | _OF_TESTS
    return sorted(name for name in environment if name.startswith(_PREFIX) and name not in known)


def _slips(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each unknown variable that is nearly a known one: a bound or a right that would not hold."""
    known = [field.name.upper() for field in fields(Settings)]
    return [
        f"{name} is no setting; write {_PREFIX}{near[0]}, or unset it."
        for name in unknown(environment)
        if (near := difflib.get_close_matches(name.removeprefix(_PREFIX), known, n=1, cutoff=0.7))
    ]


def _contradictions(values: Mapping[str, object]) -> list[str]:
    rules = [name for name, rule in values.items() if name.startswith("may_") and "admins" in tuple(rule)]  # type: ignore[arg-type]
    default = Settings()
    return [
        f"{variable(name)} is 'admins', but CNNVIZ_ADMINS names nobody; write their e-mail addresses there."
        for name in rules
        if not values["admins"] and values[name] != getattr(default, name)
    ]


_LEAST = dict.fromkeys(
    (
        "CNNVIZ_UPLOADS_MB",
        "CNNVIZ_RESULTS_MB",
        "CNNVIZ_REPORTS_MB",
        "CNNVIZ_THREADS",
        "CNNVIZ_RETENTION_DAYS",
    ),
    0,
)
_FORMS = {
    "CNNVIZ_DEVICE": (re.compile(r"auto|cpu|cuda(:\d+)?|mps"), "auto, cpu, cuda, cuda:1 or mps"),
    "CNNVIZ_LOG": (re.compile(r"text|json"), "text or json"),
}
_PLAIN_PEOPLE = frozenset({"CNNVIZ_ADMINS"})  # addresses only: a word would mean itself


def _yes_or_no(variable: str, raw: str) -> bool:
    if raw.lower() in {"1", "true", "yes", "on"}:
        return True
    if raw.lower() in {"0", "false", "no", "off"}:
        return False
    raise BadSetting(f"{variable} is {raw!r}; write true or false.")


def _number(variable: str, raw: str) -> int:
    least = _LEAST.get(variable, 1)
    if not raw.isdecimal() or int(raw) < least:
        raise BadSetting(f"{variable} is {raw!r}; write a whole number, {least} or more.")
    return int(raw)


def _word(variable: str, raw: str) -> str:
    form, wanted = _FORMS[variable]
    if not form.fullmatch(raw):
        raise BadSetting(f"{variable} is {raw!r}; write {wanted}.")
    return raw


def _people(variable: str, raw: str) -> tuple[str, ...]:
    people = tuple(part for part in re.split(r"[,\s]+", raw.lower()) if part)
    only_addresses = variable in _PLAIN_PEOPLE
    if wrong := [one for one in people if not (roles.is_address(one) if only_addresses else roles.is_rule(one))]:
        wanted = "e-mail addresses" if only_addresses else roles.FORM
        raise BadSetting(f"{variable} is {raw!r}; {wrong[0]!r} is none of {wanted}; write these with commas between.")
    return people


_READ: Mapping[str, Callable[[str, str], object]] = {
    "bool": _yes_or_no,
    "int": _number,
    "str": _word,
    "Path": lambda _, raw: Path(raw).expanduser(),
    "tuple[Path, ...]": lambda _, raw: tuple(Path(folder).expanduser() for folder in raw.split(os.pathsep) if folder),
    "tuple[str, ...]": _people,
}


@cache
def current() -> Settings:
    """The settings of this process, read once."""
    return Settings.from_environment(os.environ)
