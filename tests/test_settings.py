"""Settings from variables: defaults, every kind of value, and what a bad one is answered with."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from cnnviz_core import settings
from cnnviz_core.errors import BadSetting
from cnnviz_core.settings import Settings

README = Path(__file__).parents[1] / "README.md"


def test_without_variables_all_is_default() -> None:
    assert Settings.from_environment({}) == Settings()


def test_every_kind_of_value_is_read() -> None:
    read = Settings.from_environment(
        {
            "CNNVIZ_DATA_DIR": "/somewhere",
            "CNNVIZ_DEVICE": " cuda:1 ",
            "CNNVIZ_MAX_MODELS": "7",
            "CNNVIZ_UPLOADS_MB": "0",
            "CNNVIZ_RESULTS_MB": "0",
            "CNNVIZ_THREADS": "0",
            "CNNVIZ_ALLOW_DOWNLOADS": "No",
            "CNNVIZ_COLLECTION_ROOTS": os.pathsep.join(["/photos", "", "/more photos"]),
        }
    )
    assert read == Settings(
        data_dir=Path("/somewhere"),
        device="cuda:1",
        max_models=7,
        uploads_mb=0,
        results_mb=0,
        threads=0,
        allow_downloads=False,
        collection_roots=(Path("/photos"), Path("/more photos")),
    )


@pytest.mark.parametrize("written", ["1", "true", "YES", "on"])
def test_words_for_yes(written: str) -> None:
    assert Settings.from_environment({"CNNVIZ_ALLOW_DOWNLOADS": written}).allow_downloads


@pytest.mark.parametrize("written", ["0", "false", "No", "off"])
def test_words_for_no(written: str) -> None:
    assert not Settings.from_environment({"CNNVIZ_ALLOW_DOWNLOADS": written}).allow_downloads


def test_the_home_folder_may_be_abbreviated() -> None:
    assert Settings.from_environment({"CNNVIZ_DATA_DIR": "~/x"}).data_dir == Path.home() / "x"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment({"CNNVIZ_MAX_MODELS": "  "}) == Settings()


def test_variables_of_other_programs_are_left_alone() -> None:
    assert Settings.from_environment({"MAX_MODELS": "x", "CNNVIZ_REQUIRE_BROWSER": "1"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "raw"),
    [
        ("CNNVIZ_MAX_MODELS", "many"),
        ("CNNVIZ_MAX_MODELS", "-1"),
        ("CNNVIZ_MAX_MODELS", "0"),
        ("CNNVIZ_CACHE_MB", "1.5"),
        ("CNNVIZ_MAX_IMAGE_MEGAPIXELS", "0"),
        ("CNNVIZ_MAX_CHECKPOINT_MB", "1 GB"),
        ("CNNVIZ_PARALLEL_RUNS", "0"),
        ("CNNVIZ_UPLOADS_MB", "-5"),
        ("CNNVIZ_THREADS", "two"),
        ("CNNVIZ_ALLOW_DOWNLOADS", "maybe"),
        ("CNNVIZ_DEVICE", "gpu"),
        ("CNNVIZ_RETENTION_DAYS", "never"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(variable: str, raw: str) -> None:
    with pytest.raises(BadSetting) as caught:
        Settings.from_environment({variable: raw})
    assert str(caught.value).startswith(f"{variable} is '{raw}'; write ")


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(BadSetting) as caught:
        Settings.from_environment({"CNNVIZ_MAX_MODELS": "x", "CNNVIZ_LOG": "xml", "CNNVIZ_MAY_UPLAOD": "admins"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any(line.startswith("CNNVIZ_MAY_UPLAOD is no setting; write CNNVIZ_MAY_UPLOAD") for line in lines)


def test_an_unknown_variable_that_is_near_none_is_reported_only() -> None:
    environment = {"CNNVIZ_FLAVOUR": "mint", "CNNVIZ_CHROMIUM": "/usr/bin/chromium", "CNNVIZ_DEVICE": "cpu"}
    assert Settings.from_environment(environment) == Settings(device="cpu")
    assert settings.unknown(environment) == ["CNNVIZ_FLAVOUR"]


def test_people_are_words_addresses_and_domains() -> None:
    read = Settings.from_environment({"CNNVIZ_MAY_TRAIN": "Ann@Lab.org, @firm.com signed-in", "CNNVIZ_ADMINS": "a@b.c"})
    assert read.may_train == ("ann@lab.org", "@firm.com", "signed-in")
    assert read.admins == ("a@b.c",)


@pytest.mark.parametrize(
    ("variable", "raw"),
    [
        ("CNNVIZ_MAY_DELETE", "admin"),
        ("CNNVIZ_MAY_DELETE", "ann@"),
        ("CNNVIZ_ADMINS", "everyone"),
        ("CNNVIZ_ADMINS", "@b.c"),
    ],
)
def test_a_rule_that_would_fit_nobody_is_refused(variable: str, raw: str) -> None:
    with pytest.raises(BadSetting, match=f"^{variable} is '{raw}'; '{raw}' is none of"):
        Settings.from_environment({variable: raw})


def test_a_right_of_admins_needs_admins() -> None:
    with pytest.raises(BadSetting, match="CNNVIZ_MAY_UPLOAD is 'admins', but CNNVIZ_ADMINS names nobody"):
        Settings.from_environment({"CNNVIZ_MAY_UPLOAD": "admins"})
    assert Settings.from_environment({"CNNVIZ_MAY_UPLOAD": "admins", "CNNVIZ_ADMINS": "a@b.c"}).may_upload == (
        "admins",
    )


def test_the_readme_lists_every_setting_with_its_default() -> None:
    table = re.findall(r"^\| `(CNNVIZ_\w+)` \| (.+?) \| .+ \|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, _ in table} == {settings.variable(name) for name in vars(Settings())}
    written = {name: default.strip("`") for name, default in table if default != "none"}
    assert Settings.from_environment(written) == Settings()


def test_computations_at_the_same_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.os, "cpu_count", lambda: 8)
    assert Settings(parallel_runs=2).threads_per_run == 4
    assert Settings(parallel_runs=100).threads_per_run == 1
    assert Settings(threads=3, parallel_runs=2).threads_per_run == 3


def test_the_process_reads_its_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.current.cache_clear()
    monkeypatch.setenv("CNNVIZ_MAX_MODELS", "3")
    try:
        assert settings.current().max_models == 3
        monkeypatch.setenv("CNNVIZ_MAX_MODELS", "4")
        assert settings.current().max_models == 3
    finally:
        settings.current.cache_clear()
