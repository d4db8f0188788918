"""The report: all text escaped, all pictures inside, nothing that a browser would fetch or run."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cnnviz_core import html_report, render
from cnnviz_core.errors import BadSetting
from cnnviz_core.html_report import Code, Heading, Link, Paragraph, Picture, Pictures, Settings, Table

NASTY = "<script>alert(1)</script>\"'&"
PNG = render.png(np.zeros((2, 3, 3), np.uint8))


class Reader(HTMLParser):
    """Tags in order, their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_report_holds_everything_and_asks_for_nothing() -> None:
    blocks = [
        Heading("One"),
        Paragraph("Some words.", "note"),
        Table(["layer", "value"], [["a", 1.23456], ["b", None], ["c", float("nan")]]),
        Pictures([Picture(PNG, "a picture", 40)]),
        Settings({"seed": 3}),
        Code(["x = 1", "y = 2"]),
        Link("the project", "https://example.org/a?b=1&c=2"),
    ]
    text = html_report.write("Title", blocks, subtitle="made today")
    found = Reader(text)
    tags = [tag for tag, _ in found.tags]
    assert {"h1", "h2", "table", "img", "figure", "pre", "a"} <= set(tags)
    assert not {"script", "link", "iframe", "object"} & set(tags)
    (image,) = [attributes for tag, attributes in found.tags if tag == "img"]
    assert image["src"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert image["alt"] == "a picture"
    (policy,) = [a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert set(re.findall(r"https?://[^\s\"<]+", text)) == {"https://example.org/a?b=1&amp;c=2"}
    assert "1.235" in found.words
    assert "nan" not in text


def test_text_of_every_block_is_escaped() -> None:
    blocks = [
        Heading(NASTY),
        Paragraph(NASTY),
        Paragraph(NASTY, "quiet"),
        Table([NASTY], [[NASTY]]),
        Settings({NASTY: NASTY}),
        Picture(PNG, NASTY),
        Code([NASTY]),
        Link(NASTY, f"https://x.org/{NASTY}"),
    ]
    found = Reader(html_report.write(NASTY, blocks, subtitle=NASTY))
    assert "script" not in [tag for tag, _ in found.tags]
    assert all(not name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert sum(word == NASTY for word in found.words) == 13  # all but the address and the screen reader's text


@pytest.mark.parametrize("url", ["javascript:alert(1)", " JavaScript:alert(1)", "data:text/html,x", "file:///etc", "x"])
def test_links_that_might_run_something_are_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="https"):
        html_report.write("t", [Link("here", url)])


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(BadSetting, match="neither PNG nor JPEG"):
        html_report.write("t", [Picture(b"GIF89a", "a gif")])


def test_numbers_stand_at_the_right() -> None:
    text = Table(["name", "count"], [["a", 1], ["b", 2.5]]).html()
    assert text.count('class="number"') == 3  # the header and two cells
