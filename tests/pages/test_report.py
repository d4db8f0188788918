"""The report's page: figures come from others, move, go and are commented; links and manifests open screens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cnnviz_core import render, reports
from cnnviz_core.links import Link
from cnnviz_core.ui import person

Open = Callable[..., AppTest]
Check = Callable[[AppTest], set[str]]
PAGE = "share/report"
ME = f"browser-{'a' * 32}"
PNG = render.png(np.zeros((4, 4, 3), np.uint8))


@pytest.fixture(autouse=True)
def me(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person, "me", lambda: ME)


def fill(*titles: str) -> list[str]:
    for title in titles:
        report = reports.add(ME, PNG, title=title, link=Link("feature_maps", {"channel": ["3"]}))
    return [entry.entry_id for entry in report.entries]


def titles() -> list[str]:
    return [entry.title for entry in reports.load(ME).entries]


def words(app: AppTest) -> str:
    return " ".join(element.value for element in [*app.markdown, *app.caption, *app.info, *app.warning, *app.error])


def test_a_figure_goes_into_the_report_with_its_settings_and_its_screen_comes_back(open_page: Open) -> None:
    app = open_page("look/feature_maps", channel="7")
    app.button(key="enlarged_report").click().run()
    assert not app.exception
    (entry,) = reports.load(ME).entries
    assert entry.title == "blocks.3.0.bn1 channel 7"
    assert entry.settings["layer"] == "blocks.3.0.bn1"
    assert entry.settings["picture"] == "Chelsea the cat"
    assert entry.link == Link("feature_maps", {"channel": ["7"]})
    app = open_page(PAGE)
    assert "blocks.3.0.bn1 channel 7" in words(app)
    app.button(key=f"open_{entry.entry_id}").click().run()
    app.run()  # as the browser asks for by itself
    assert app.number_input(key="channel").value == 7


def test_a_chart_goes_into_the_report_as_a_drawing(open_page: Open) -> None:
    open_page().button(key="answer_report").click().run()
    (entry,) = reports.load(ME).entries
    assert (entry.ending, entry.page) == (".svg", "")
    assert b"Egyptian cat" in reports.picture(ME, entry)
    assert "What tf\\_efficientnet\\_lite0 says of Chelsea the cat" in words(open_page(PAGE))


@pytest.mark.parametrize(
    ("page", "link", "charts"),
    [
        ("", {}, {"answer"}),
        ("look/feature_maps", {}, {"histogram"}),
        ("look/filters", {"kernel": "3"}, {"frequencies"}),
        ("explain/occlusion", {"hand": "2~3"}, {"agreement", "probabilities", "winners", "hand_bars"}),
        ("compare/similarity", {}, {"self_similarity"}),
        ("compare/comparison", {"part": "This picture", "other": "itself"}, {"answer_base", "answer_tuned"}),
        ("create/adversarial", {}, {"answers_before", "answers_after", "way", "drift"}),
    ],
)
def test_every_chart_has_its_files_its_link_and_the_way_into_the_report(
    open_page: Open, check_charts: Check, page: str, link: dict[str, str], charts: set[str]
) -> None:
    assert check_charts(open_page(page, **link)) == charts


def test_the_map_in_space_and_the_layers_have_them_too(open_explore: Open, check_charts: Check) -> None:
    assert check_charts(open_explore("explore/embeddings", three="true")) == {"space", "separation"}
    assert check_charts(open_explore("explore/neighbors")) == {"distances"}


def test_figures_are_arranged_commented_removed_and_put_back(open_page: Open) -> None:
    assert "press **Add to report** below a figure" in words(open_page(PAGE))
    a, b = fill("a", "*b* <b>")
    app = open_page(PAGE)
    assert r"\*b\* \<b\>" in words(app)
    assert app.button(key=f"up_{a}").disabled
    app.button(key=f"up_{b}").click().run()
    assert titles() == ["*b* <b>", "a"]
    app.text_area(key=f"comment_{a}").set_value("What is this?").run()
    app.text_input(key="report_title").set_value("Cats").run()
    report = reports.load(ME)
    assert (report.title, report.entries[1].comment) == ("Cats", "What is this?")
    app.button(key=f"remove_{a}").click().run()
    assert titles() == ["*b* <b>"]
    app.button(key="report_undo").click().run()
    assert titles() == ["*b* <b>", "a"]
    assert app.text_area(key=f"comment_{a}").value == "What is this?"
    app.button(key="report_clear").click().run()
    assert titles() == []
    assert not app.exception


def test_damage_is_said_and_the_rest_stays(open_page: Open, data_dir: Path) -> None:
    a, _ = fill("a", "b")
    (data_dir / "reports" / ME / f"{a}.png").write_bytes(b"\x89PNG")
    app = open_page(PAGE)
    assert "The picture of “a” is missing or damaged" in words(app)
    (data_dir / "reports" / ME / "report.json").write_text("{")
    assert "list of your report was damaged" in words(open_page(PAGE))


def test_a_figure_removed_in_another_window_is_said(open_page: Open) -> None:
    a, _ = fill("a", "b")
    app = open_page(PAGE)
    reports.remove(ME, a)
    app.button(key=f"down_{a}").click().run()
    assert "taken out in another window" in words(app)
    assert titles() == ["b"]


def test_what_was_kept_when_settings_had_other_names_opens_with_their_values(open_page: Open) -> None:
    account = {"link": {"page": "adversarial", "parameters": {"steps": ["3"], "seed": ["9" * 400]}}}
    account["versions"] = {"torch": "1.0"}
    app = open_page(PAGE)
    app.file_uploader(key="manifest_0").upload("m.json", json.dumps(account).encode(), "application/json").run()
    app.run()
    assert app.slider(key="attack_steps").value == 3
    assert "torch 1.0, here" in words(app)
    assert r"no usable number for attack\_seed" in words(app)
    app.text_input(key="link_1").set_value("https://x.org/class_image?steps=0&size=64&seed=7&classes=3+shark").run()
    app.run()
    assert app.slider(key="class_image_steps").value == 0
    assert app.number_input(key="class_image_seed").value == 7
    assert (app.query_params["class_image_size"], "size" in app.query_params) == ("64", False)
    assert not app.exception


def test_a_manifest_opens_its_screen_and_a_bad_one_is_said(open_page: Open) -> None:
    app = open_page(PAGE)
    account = {
        "link": {"page": "feature_maps", "parameters": {"channel": ["5"], "layer": "<img src=x> [a](b)"}},
        "versions": {"torch": "1.0 **x**"},
    }
    app.file_uploader(key="manifest_0").upload("m.json", json.dumps(account).encode(), "application/json").run()
    app.run()
    assert app.number_input(key="channel").value == 5
    assert r"torch 1.0 \*\*x\*\*, here" in words(app)
    assert r"layer “\<img src=x\> \[a\](b)”" in words(app)
    app.file_uploader(key="manifest_1").upload("m.json", b"{}", "application/json").run()
    assert "no link to a screen" in words(app)
    app.text_input(key="link_2").set_value("https://x.org/no_such_page").run()
    assert "which is not here" in words(app)
    app.text_input(key="link_3").set_value("/feature_maps?image=cat+(0123456789abcdef)").run()
    app.run()
    assert "does not keep any more" in words(app)
    assert app.selectbox(key="image").value == "chelsea"
    assert not app.exception
