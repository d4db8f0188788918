"""The address of a screen: which page, and its part of the address. What a manifest, a report and a job remember.

Whatever comes from outside, a pasted address or a file, goes through :func:`check`: a page's name and short texts, and
nothing else. Which pages there are is for whoever opens the link to say.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from cnnviz_core.errors import BadLink

_PAGE = re.compile(r"[a-z0-9_]{0,64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_MOST_PARAMS = 100
_MOST_VALUES = 200
_MOST_CHARACTERS = 100_000
# Settings that were called otherwise before: by page, the earlier name and the present one.
_RENAMED: Mapping[str, Mapping[str, str]] = {
    "adversarial": {"steps": "attack_steps", "seed": "attack_seed"},
    "cam": {"classes": "cam_classes"},
    "class_image": {"steps": "class_image_steps", "size": "class_image_size", "seed": "class_image_seed"},
    "embeddings": {"seed": "layout_seed"},
    "feature_visualization": {
        "steps": "visualization_steps",
        "size": "visualization_size",
        "seed": "visualization_seed",
    },
    "few_shot": {"threshold": "few_shot_threshold"},
}
_OF_STREAMLIT = ("embed", "embed_options")  # how the page is framed, not what it shows


@dataclass(frozen=True)
class Link:
    """One screen.

    Attributes:
        page: The page's name in the address, the stem of its script; empty for the start page.
        params: What the page was set to: each name with its values.
    """

    page: str
    params: Mapping[str, list[str]] = field(default_factory=dict)

    def address(self, base: str = "") -> str:
        """The address as a browser takes it.

        Args:
            base: Where the app is, without the slash at its end; empty for an address below wherever the app is.
        """
        query = urllib.parse.urlencode(self.params, doseq=True)
        return f"{base}/{self.page}" + (f"?{query}" if query else "")


def check(page: object, params: object) -> Link:
    """A link out of what may be anything.

    Args:
        page: A name.
        params: Names with a text or a list of texts each.

    Raises:
        BadLink: Something else.
    """
    if not isinstance(page, str) or not _PAGE.fullmatch(page):
        raise BadLink("It names no page; take an address that cnnviz has shown, or a manifest that it has written.")
    if not isinstance(params, Mapping) or len(params) > _MOST_PARAMS:
        raise BadLink(f"A link has up to {_MOST_PARAMS} settings, each with its name; this one has something else.")
    found: dict[str, list[str]] = {}
    for name, value in params.items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadLink(f"The link has a setting called {str(name)[:40]!r}, which is no name.")
        if not isinstance(values, list) or len(values) > _MOST_VALUES or not all(map(_is_text, values)):
            raise BadLink(f"The setting {name} of the link is not a text; take the address as cnnviz has shown it.")
        if name.lower() not in _OF_STREAMLIT:
            found[name] = list(values)
    if sum(len(value) for values in found.values() for value in values) > _MOST_CHARACTERS:
        raise BadLink(f"The link is longer than {_MOST_CHARACTERS:,} characters; cnnviz writes none of that length.")
    return Link(page, found)


def parse(address: str) -> Link:
    """The link in a pasted address, of this server or another one; only page and settings are taken.

    Raises:
        BadLink: Not an address of the app.
    """
    if len(address) > 4 * _MOST_CHARACTERS:
        raise BadLink(f"The link is longer than {_MOST_CHARACTERS:,} characters; cnnviz writes none of that length.")
    try:
        parts = urllib.parse.urlsplit(address.strip())
        params = urllib.parse.parse_qs(parts.query, keep_blank_values=True, max_num_fields=_MOST_PARAMS * _MOST_VALUES)
    except ValueError as error:
        raise BadLink("It is no address; copy the whole line from the browser.") from error
    if parts.scheme not in ("http", "https", "") or not (parts.netloc or parts.path.startswith("/")):
        raise BadLink("It is no address; copy the whole line from the browser, from http on.")
    return check(parts.path.rstrip("/").rpartition("/")[2], params)


def with_present_names(link: Link) -> Link:
    """The link with today's names of its settings, also where it was written when some had others."""
    renamed = _RENAMED.get(link.page, {})
    earlier = {new: link.params[old] for old, new in renamed.items() if old in link.params}
    return Link(link.page, earlier | {name: link.params[name] for name in link.params if name not in renamed})


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character, which no address can hold
        return False
    return True
