"""The parts of the class image page: which classes, and the two ways of making their pictures side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import streamlit as st

from cnnviz_core.methods import class_image
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import ClassImages, Step
from cnnviz_core.ui import compute, frame, pickers, synthesis_view, work
from cnnviz_core.ui.pickers import Selection

_MOST_CLASSES = 12
_QUICK = {"steps": 24, "size_px": 96}
_SIZES = (64, 96, 128, 160, 224, 320, 448)
_HINT = "Choose fewer classes or a smaller size"


@dataclass(frozen=True)
class Asked:
    """What is to be made.

    Attributes:
        classes: Class indices.
        steps: Of the modern way; the textbook's takes as many.
        size_px: Side of the pictures.
        seed: Of both.
        simple: The textbook way's own settings.
    """

    classes: tuple[int, ...]
    steps: int
    size_px: int
    seed: int
    simple: Mapping[str, float]

    def settings(self, method: str, **changes: object) -> dict[str, Any]:
        """Arguments of :func:`class_image.synthesize`."""
        own = self.simple if method == "simple" else {}
        usual = {"steps": self.steps, "size_px": self.size_px, "seed": self.seed}
        return {"classes": list(self.classes), "method": method, **usual, **own, **changes}


def question(chosen: Selection) -> Asked:
    """Asks for classes and settings; at first the network's two best answers to the picture."""
    model = chosen.model
    class_image.check_has_classes(model)
    classes = pickers.several_classes(chosen, most=_MOST_CLASSES)
    with frame.row():
        steps = st.slider(
            "Steps", 0, 512, 128, 8, key="class_image_steps", bind="query-params", help="More steps, clearer pictures."
        )
        size = pickers.choose(
            "Size, pixels",
            _SIZES,
            key="class_image_size",
            default=160,
            help="Side of the pictures, and of what the network sees.",
        )
        with st.popover("How they are made", icon=":material/tune:"):
            seed = st.number_input(
                "Seed", 0, 9999, 0, key="class_image_seed", bind="query-params", help="Of noise and views."
            )
            st.caption("Of the textbook’s way:")
            defaults = class_image.METHODS["simple"].defaults
            simple = {
                "learning_rate": st.number_input(
                    "Length of a step",
                    0.0,
                    10.0,
                    defaults["learning_rate"],
                    step=0.01,
                    key="simple_rate",
                    bind="query-params",
                    help="Root mean square of what a step adds, in units of the network’s normalised input.",
                ),
                "l2": st.number_input(
                    "Penalty on squares",
                    0.0,
                    1.0,
                    defaults["l2"],
                    format="%.4f",
                    key="l2",
                    bind="query-params",
                    help="Pulls every pixel towards the mean colour.",
                ),
                "blur_every": int(
                    st.number_input(
                        "Blur every so many steps",
                        0,
                        100,
                        int(defaults["blur_every"]),
                        key="blur_every",
                        bind="query-params",
                        help="0 never blurs.",
                    )
                ),
                "jitter_px": int(
                    st.number_input(
                        "Jitter, pixels",
                        0,
                        32,
                        int(defaults["jitter_px"]),
                        key="jitter_px",
                        bind="query-params",
                        help="Largest random shift before a step, undone after it.",
                    )
                ),
            }
    return Asked(tuple(classes), steps, size, int(seed), simple)


def draw(chosen: Selection, asked: Asked) -> None:
    """Both ways side by side: the modern one quick at once, both in full on demand."""
    sides = st.columns(2, gap="medium")
    for side, (method, about) in zip(sides, class_image.METHODS.items(), strict=True):
        with side:
            st.subheader(f"The {about.title} way", anchor=False, help=about.help)
            found = _find(chosen, asked, method)
            if found is not None:
                _show(chosen, found)
    st.caption(
        "Below each picture: the probability that the network gives its class. Near 100 % it is surer of these than of "
        "most photos, although no one would take them for the thing: the score asks for evidence, not for a picture."
    )


def _find(chosen: Selection, asked: Asked, method: str) -> ClassImages | None:
    """The pictures of one way: small ones at once, the asked ones on demand, both live."""
    title = class_image.METHODS[method].title
    quick = {name: min(getattr(asked, name), most) for name, most in _QUICK.items()}
    return work.asked_or_quick(
        partial(_make, chosen),
        asked.settings(method),
        asked.settings(method, **quick),
        name=f"{method}_images",
        title=f"The {title} images",
        quick_title=f"Quick {title} images",
        below=f"quick, small pictures of {quick['steps']} steps",
    )


def _make(
    chosen: Selection, settings: dict[str, Any], *, name: str, title: str, at_once: bool | None
) -> ClassImages | None:
    model = chosen.model

    def make(on_step: Callable[[Step], None]) -> ClassImages:
        return class_image.synthesize(model, on_step=on_step, **settings)

    one = compute.run(class_image.seconds_per_step, model, size_px=settings["size_px"])
    seconds = one * len(settings["classes"]) * settings["steps"]
    found: ClassImages | None = work.until_done(
        make,
        key=work.key_of(class_image.synthesize, model, None, settings),
        name=name,
        title=title,
        cost=f"{len(settings['classes'])} × {settings['steps']} steps at {settings['size_px']} pixels: about "
        f"{work.duration(seconds)}.",
        show=partial(synthesis_view.so_far, key=f"{name}_so_far"),
        at_once=at_once,
        hint=_HINT,
        about=work.described(model, None, settings),
    )
    return found


def _show(chosen: Selection, found: ClassImages) -> None:
    pictures = found.pictures
    notes = [format_percent(probability) for probability in found.probabilities]
    key = f"class_{found.method}"
    place = synthesis_view.wall(pictures, key=key, what=f"Class images, {found.method}", notes=notes)
    synthesis_view.caption(chosen, pictures)
    name = f"{found.method} class image of {pictures.names[place]}"
    synthesis_view.enlarged(chosen, pictures, place, title=name, code="result.pictures.images[{}]", key=key)
