"""A report as one HTML file, for people who were not there: text, tables, pictures, settings, links.

Everything lies inside the file: pictures as data, the style in the head, no script, no font, nothing fetched. It opens
from a disk without a network, prints, and goes into a mail. All text is escaped; a policy in the head forbids the
browser to load or run anything else, should some text have found a way to ask for it.

A report is a title and a row of blocks; :func:`write` makes the file. New kinds of blocks are one dataclass with a
method ``html``.
"""

from __future__ import annotations

import base64
import html
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cnnviz_core.errors import BadSetting
from cnnviz_core.numerals import true_minus

_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"<svg": "image/svg+xml"}
_SCHEMES = ("http", "https", "mailto")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c212c; background: #fff; max-width: 1080px;
  margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid #cdd1d9; }
h3 { font-size: 1.1rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; white-space: pre-line; }
.quiet, figcaption { color: #5c6370; font-size: .9rem; }
.note { border-left: 4px solid #d55e00; padding: .25rem .75rem; background: #fdf3ec; }
table { border-collapse: collapse; margin: .75rem 0; font-size: .92rem; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #e3e6eb; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem; margin: .75rem 0; }
figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; }
figcaption { overflow-wrap: anywhere; }
pre { background: #f4f5f7; padding: .75rem; overflow-x: auto; font-size: .85rem; }
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
""".strip()


class Block(Protocol):
    """A part of a report."""

    def html(self) -> str:
        """Itself as HTML, all text escaped."""
        ...


@dataclass(frozen=True)
class Heading:
    """The title of what follows.

    Attributes:
        text: The title.
        level: 2 for a section, 3 for a part of one.
    """

    text: str
    level: int = 2

    def html(self) -> str:
        """Itself as HTML."""
        level = 2 if self.level <= 2 else 3
        return f"<h{level}>{_text(self.text)}</h{level}>"


@dataclass(frozen=True)
class Paragraph:
    """Plain text.

    Attributes:
        text: The text.
        kind: "" for text, "quiet" for what stands below a figure, "note" for what one must not overlook.
    """

    text: str
    kind: str = ""

    def html(self) -> str:
        """Itself as HTML."""
        return f'<p class="{self.kind}">{_text(self.text)}</p>' if self.kind in ("quiet", "note") else _paragraph(self)


@dataclass(frozen=True)
class Table:
    """Rows under a header; columns that hold nothing but numbers stand at the right.

    Attributes:
        columns: Their names.
        rows: Texts, numbers or None for an empty cell; as many as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]

    def html(self) -> str:
        """Itself as HTML."""
        numeric = [
            bool(self.rows) and all(isinstance(row[at], int | float | None) for row in self.rows)
            for at in range(len(self.columns))
        ]

        def line(tag: str, cells: Iterable[object]) -> str:
            marks = (' class="number"' if is_number else "" for is_number in numeric)
            return "".join(
                f"<{tag}{mark}>{_text(_cell(cell))}</{tag}>" for mark, cell in zip(marks, cells, strict=True)
            )

        body = "".join(f"<tr>{line('td', row)}</tr>\n" for row in self.rows)
        return f"<table><thead><tr>{line('th', self.columns)}</tr></thead>\n<tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Settings:
    """Names and values: how something was made.

    Attributes:
        values: In the order in which they are to be read.
    """

    values: Mapping[str, object]

    def html(self) -> str:
        """Itself as HTML."""
        rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(_cell(v))}</td></tr>" for name, v in self.values.items())
        return f"<table><tbody>{rows}</tbody></table>"


@dataclass(frozen=True)
class Picture:
    """A picture or chart with a text below.

    Attributes:
        content: A PNG, a JPEG, or an SVG.
        caption: Below it; also what a screen reader says.
        width_px: Displayed width; None for its own.
    """

    content: bytes
    caption: str = ""
    width_px: int | None = None

    def html(self) -> str:
        """Itself as HTML.

        Raises:
            BadSetting: Neither PNG nor JPEG nor SVG.
        """
        kind = next((kind for start, kind in _KINDS.items() if self.content.startswith(start)), None)
        if kind is None:
            raise BadSetting(f"The picture {self.caption!r} is neither PNG nor JPEG nor SVG; encode it as one of them.")
        data = base64.b64encode(self.content).decode("ascii")
        width = f' width="{int(self.width_px)}"' if self.width_px else ""
        below = f"<figcaption>{_text(self.caption)}</figcaption>" if self.caption else ""
        style = f' style="width: {int(self.width_px)}px"' if self.width_px else ""
        # A picture inside an img element runs no script, whatever it holds.
        image = f'<img src="data:{kind};base64,{data}" alt="{_text(self.caption)}"{width}>'
        return f"<figure{style}>{image}{below}</figure>"


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, going on in the next line.

    Attributes:
        pictures: In reading order.
    """

    pictures: Sequence[Picture]

    def html(self) -> str:
        """Itself as HTML; errors as :meth:`Picture.html`."""
        return f'<div class="pictures">{"".join(picture.html() for picture in self.pictures)}</div>'


@dataclass(frozen=True)
class Code:
    """Lines of a program.

    Attributes:
        lines: The lines.
    """

    lines: Sequence[str]

    def html(self) -> str:
        """Itself as HTML."""
        return f"<pre>{_text(chr(10).join(self.lines))}</pre>"


@dataclass(frozen=True)
class Link:
    """A way out of the report.

    Attributes:
        text: What to call it.
        url: Where it leads: http, https or mailto.
    """

    text: str
    url: str

    def html(self) -> str:
        """Itself as HTML.

        Raises:
            BadSetting: Another kind of address, which might run something.
        """
        if urllib.parse.urlsplit(self.url.strip()).scheme.lower() not in _SCHEMES:
            raise BadSetting(
                f"The link {self.text!r} leads to {self.url!r}; give an address that starts with https://."
            )
        return f'<p><a href="{_text(self.url.strip())}" rel="noreferrer">{_text(self.text)}</a></p>'


def write(title: str, blocks: Iterable[Block], *, subtitle: str = "") -> str:
    """The report as a whole HTML file.

    Args:
        title: Above all, and in the browser's tab.
        blocks: The parts, in order.
        subtitle: Below the title: when, by whom, with what.

    Raises:
        BadSetting: A picture that is none, or a link that leads nowhere safe.
    """
    body = "\n".join(block.html() for block in blocks)
    below = f'<p class="quiet">{_text(subtitle)}</p>\n' if subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{_text(title)}</h1>\n{below}{body}\n</body>\n</html>\n"
    )


def _paragraph(block: Paragraph) -> str:
    return f"<p>{_text(block.text)}</p>"


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return true_minus(f"{value:.4g}") if isinstance(value, float) else str(value)


def _text(text: str) -> str:
    return html.escape(text, quote=True)
