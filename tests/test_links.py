"""Addresses of screens: what cnnviz writes is read again, and nothing else gets in."""

from __future__ import annotations

import pytest

from cnnviz_core import links
from cnnviz_core.errors import BadLink
from cnnviz_core.links import Link

PARAMS = {"layer": ["blocks.2"], "maps": ["a & b", "ü ~", ""], "image": ["my cat (0123456789abcdef)"]}


def test_an_address_is_read_as_it_was_written() -> None:
    link = Link("cam", PARAMS)
    for base in ("", "https://x.org", "http://localhost:8501/lens"):
        assert links.parse(link.address(base)) == link
    assert links.parse(f"  {Link('').address('https://x.org')}\n") == Link("")
    assert Link("cam").address() == "/cam"


def test_how_the_page_is_framed_is_no_part_of_the_screen() -> None:
    assert links.parse("https://x.org/cam?embed=true&Embed_Options=dark_theme&layer=a") == Link("cam", {"layer": ["a"]})
    assert links.parse("https://x.org/cam/?layer=a#below") == Link("cam", {"layer": ["a"]})


@pytest.mark.parametrize(
    "address",
    [
        "", "cam", "hello world", "javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "ftp://x.org/cam",
        "https://[x/cam", "https://x.org/cam%2f", "https://x.org/../CAM", "https://x.org/cam?<b>=1",
        "https://x.org/cam?" + "&".join(f"a{i}=1" for i in range(101)), "https://x.org/cam?a=" + "x" * 100_001,
        "https://x.org/" + "c" * 500_000,
    ],
)  # fmt: skip
def test_what_is_no_address_of_the_app_is_refused(address: str) -> None:
    with pytest.raises(BadLink):
        links.parse(address)


@pytest.mark.parametrize(
    ("page", "params"),
    [
        (None, {}), (3, {}), ("../cam", {}), ("pages/explain/cam.py", {}), ("cam\n", {}), ("c" * 65, {}),
        ("cam", None), ("cam", []), ("cam", {"a": 1}), ("cam", {"a": [1]}), ("cam", {"a": {"b": "c"}}),
        ("cam", {"a b": "c"}), ("cam", {"": "c"}), ("cam", {3: "c"}), ("cam", {"__class__ ": "c"}),
        ("cam", {"a": "\ud800"}), ("cam", {"a": ["x"] * 201}), ("cam", {"x" * 65: "c"}),
    ],
)  # fmt: skip
def test_what_is_no_link_is_refused(page: object, params: object) -> None:
    with pytest.raises(BadLink):
        links.check(page, params)


@pytest.mark.parametrize(
    ("page", "written", "now"),
    [
        ("adversarial", {"steps": ["7"], "seed": ["2"]}, {"attack_steps": ["7"], "attack_seed": ["2"]}),
        ("cam", {"classes": ["1 a", "2 b"], "layer": ["x"]}, {"cam_classes": ["1 a", "2 b"], "layer": ["x"]}),
        ("class_image", {"size": ["64"], "classes": ["1 a"]}, {"class_image_size": ["64"], "classes": ["1 a"]}),
        ("embeddings", {"seed": ["3"]}, {"layout_seed": ["3"]}),
        ("feature_visualization", {"steps": ["8"]}, {"visualization_steps": ["8"]}),
        ("few_shot", {"threshold": ["0.5"]}, {"few_shot_threshold": ["0.5"]}),
        ("few_shot", {"threshold": ["0.5"], "few_shot_threshold": ["0.6"]}, {"few_shot_threshold": ["0.6"]}),
        ("saliency", {"threshold": ["20"], "steps": ["8"]}, {"threshold": ["20"], "steps": ["8"]}),
    ],
)
def test_settings_of_an_earlier_address_have_their_present_names(
    page: str, written: dict[str, list[str]], now: dict[str, list[str]]
) -> None:
    assert links.with_present_names(Link(page, written)) == Link(page, now)
    assert links.with_present_names(Link(page, now)) == Link(page, now)
