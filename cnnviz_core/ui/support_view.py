"""The support pictures of the few-shot page: which, their masks painted or made otherwise, kept for the link."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import images, masks, photos, render, stereo, store
from cnnviz_core.errors import BadImage, BadSetting, CnnvizError
from cnnviz_core.images import InputImage
from cnnviz_core.methods import segmentation
from cnnviz_core.numerals import format_percent
from cnnviz_core.ui import access, compute, frame, screen, show
from cnnviz_core.ui.components import mask_painter, working_size

Bools = NDArray[np.bool_]

PICTURE_TYPES = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"]
MOST = 10
_LARGEST_UPLOAD_MB = 100
_MASK_MB = 20
_PAINTED_PX = 520
_TILE_PX = 96
_MARK = np.array([50, 80, 255])  # as in the painter

TRUE = "true"
_FIRST = "motorcycle_left~true"
_WRITTEN = re.compile(r"([a-z_]{1,40}|[0-9a-f]{16})~(true|[0-9a-f]{16})?")


@dataclass(frozen=True)
class Choice:
    """A support as it stands in the link.

    Attributes:
        image_id: Bundled photo's id, or an uploaded picture's short digest.
        mask_id: "true" for a bundled photo's true mask, the short digest of a kept mask, or empty.
    """

    image_id: str
    mask_id: str

    def __str__(self) -> str:
        return f"{self.image_id}~{self.mask_id}"


@dataclass(frozen=True, eq=False)
class Support:
    """A picture and what is marked in it.

    Attributes:
        choice: Where both come from.
        image: The picture.
        mask: (H, W) as it was made: the picture's size, or the painter's; None where nothing is marked.
    """

    choice: Choice
    image: InputImage
    mask: Bools | None

    def at_full_size(self) -> Bools:
        """(H, W) of the picture."""
        shape = (self.image.height, self.image.width)
        mask = np.zeros(shape, np.bool_) if self.mask is None else self.mask
        return mask if mask.shape == shape else working_size.coverage(mask, shape) > 127


def draw() -> list[Support]:
    """Pictures to learn from, the chosen one to paint on. Returns those that have a mask."""
    supports = _current()
    st.subheader("Learn from", anchor=False)
    at = min(_chosen(), len(supports) - 1)
    screen.remember("support", str(at) if at else "")
    _wall(supports, at)
    with frame.row():
        _add(supports)
        st.button(
            "Remove this one", key="remove_support", icon=":material/delete:", disabled=len(supports) < 2,
            on_click=_keep, args=([*supports[:at], *supports[at + 1 :]],),
        )  # fmt: skip
    if supports:
        _paint(supports, at)
    unmarked = [support.image.name for support in supports if support.mask is None]
    if unmarked and len(unmarked) < len(supports):
        st.info(f"Without a mask, and so left out: {frame.plain(', '.join(unmarked))}.", icon=":material/info:")
    return [support for support in supports if support.mask is not None]


def _chosen() -> int:
    """The number of the support to paint on, at first that of the link."""
    if "support" not in st.session_state:
        text = st.query_params.get("support", "0")
        is_number = text.isdecimal() and len(text) < 4
        if not is_number:
            frame.notice(f"The link asks for support picture “{text[:40]}”, which is no number; the first is shown.")
        st.session_state["support"] = int(text) if is_number else 0
    number: int = st.session_state["support"]
    return number


def _current() -> list[Support]:
    """The supports of the session, at first those of the link; what this server does not keep any more is left out."""
    if "supports" not in st.session_state:
        st.session_state["supports"] = _linked(st.query_params.get("supports", _FIRST))
    found = []
    for choice in st.session_state["supports"]:
        try:
            found.append(_opened(choice))
        except CnnvizError as error:
            frame.notice(str(error))
    if not found:
        found = [_opened(choice) for choice in _linked(_FIRST)]
    _remember([support.choice for support in found])
    return found


def _linked(text: str) -> list[Choice]:
    """Supports as a link writes them."""
    matches = [_WRITTEN.fullmatch(part) for part in text.split(",")[:MOST]]
    if not all(matches):
        frame.notice("The link names support pictures in a way that this page does not know; the example is shown.")
        return _linked(_FIRST)
    return [Choice(match[1], match[2] or "") for match in matches if match]


def _remember(choices: Sequence[Choice]) -> None:
    st.session_state["supports"] = list(choices)
    written = ",".join(map(str, choices))
    screen.remember("supports", "" if written == _FIRST else written)


def _opened(choice: Choice) -> Support:
    image = compute.photo(choice.image_id)
    if choice.image_id not in photos.PHOTOS:
        st.session_state.setdefault("my_pictures", {}).setdefault(choice.image_id, image.name)
    return Support(choice, image, opened_mask(choice.image_id, choice.mask_id))


def opened_mask(image_id: str, mask_id: str) -> Bools | None:
    """A bundled photo's true mask, or a kept one; None for an empty id.

    Raises:
        BadImage: It is not kept any more.
    """
    if not mask_id:
        return None
    if mask_id == TRUE:
        true = stereo.true_mask(image_id)
        if true is None:
            raise BadImage(f"There is no true mask of {image_id}; mark the object.")
        return true.values
    mask: Bools = store.open_picture(mask_id).pixels[..., 0] > 127
    return mask if mask.any() else None


def kept_mask(mask: Bools) -> str:
    """Keeps a mask for the link; returns its id."""
    pixels = np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2)
    return store.save_picture(images.from_pixels(pixels, name="mask"))


def read_mask(key: str, image: InputImage) -> tuple[Bools, tuple[str, ...]] | None:
    """The mask in an uploader's file, at the picture's size, with what was done to it; None where there is none.

    Raises:
        BadImage: Not a picture.
        BadSetting: It does not fit.
    """
    file = st.session_state[key]
    if file is None:
        return None
    name = f"the mask {file.name}"
    return masks.check(images.open_image(file.getvalue(), name=file.name), (image.height, image.width), name=name)


def _keep(supports: Sequence[Support]) -> None:
    st.session_state["supports"] = [support.choice for support in supports]


# ---- which pictures -------------------------------------------------------------------------------------------------


def _wall(supports: Sequence[Support], at: int) -> None:
    """All supports, with what is marked in each."""

    def select(index: int) -> None:
        st.session_state["support"] = index

    tiles = np.stack([_marked(support) for support in supports])
    mosaic = render.rgb_mosaic(tiles, tile_px=tiles.shape[1])
    labels = ["no mask" if one.mask is None else f"{format_percent(one.mask.mean())} marked" for one in supports]
    show.mosaic_wall(
        mosaic,
        key="supports_wall",
        selected=at,
        labels=labels,
        hints=[support.image.name for support in supports],
        tile_px=_TILE_PX,
        smooth=True,
        aria="Support pictures",
        on_select=select,
    )


def _marked(support: Support) -> show.Pixels:
    """A thumbnail with the mask in blue."""
    picture = support.image.pil()
    picture.thumbnail((512, 512))
    pixels = np.asarray(picture)
    if support.mask is not None:
        inside = working_size.coverage(support.mask, pixels.shape[:2]) > 127
        pixels = np.where(inside[..., None], pixels // 2 + (_MARK // 2).astype(np.uint8), pixels)
    return render.thumbnail(pixels, 2 * _TILE_PX)


def _add(supports: Sequence[Support]) -> None:
    """More pictures to learn from."""
    mine: dict[str, str] = st.session_state.get("my_pictures", {})
    names = {photo_id: photo.title for photo_id, photo in photos.PHOTOS.items()} | mine
    is_full = len(supports) >= MOST
    with st.popover("Add a picture", icon=":material/add_photo_alternate:", key="add_support", disabled=is_full):
        picked = st.selectbox(
            "Bundled or uploaded", list(names), format_func=lambda one: names[one], key="support_to_add"
        )
        if st.button("Add it", key="add_picked") and picked:
            true = TRUE if picked in stereo.PHOTO_IDS else ""
            _append(Choice(picked, true))
            st.rerun()
        if not access.may("upload"):
            st.caption(access.refusal("upload"))
            return
        st.file_uploader(
            "Your own, one or more",
            type=PICTURE_TYPES,
            accept_multiple_files=True,
            key="support_files",
            max_upload_size=_LARGEST_UPLOAD_MB,
            on_change=frame.guarded(_take_pictures),
        )


def _append(choice: Choice) -> None:
    choices: list[Choice] = st.session_state["supports"]
    if len(choices) >= MOST:
        raise BadSetting(f"There are {MOST} pictures to learn from already; remove one first.")
    st.session_state["supports"] = [*choices, choice]
    st.session_state["support"] = len(choices)


def _take_pictures() -> None:
    """Keeps uploaded pictures; those that were there before the last change are not added again."""
    access.require("upload")
    taken: set[str] = st.session_state.setdefault("supports_taken", set())
    for file in st.session_state["support_files"]:
        if file.file_id not in taken:
            taken.add(file.file_id)
            image = images.open_image(file.getvalue(), name=file.name)
            digest = store.save_picture(image)
            st.session_state.setdefault("my_pictures", {})[digest] = image.name
            _append(Choice(digest, ""))


# ---- the mask of one ------------------------------------------------------------------------------------------------


def _paint(supports: Sequence[Support], at: int) -> None:
    """The chosen support, to paint on, and other ways to a mask."""
    support = supports[at]

    def put(mask_id: str, *said: str) -> None:
        changed = replace(support.choice, mask_id=mask_id)
        st.session_state["supports"] = [
            changed if number == at else other.choice for number, other in enumerate(supports)
        ]
        st.session_state["support_said"] = said

    def painted(mask: Bools) -> None:
        frame.guarded(lambda: put(kept_mask(mask) if mask.any() else ""))()

    mask_painter.show(
        show.whole(support.image),
        key="support_painter",
        aria=f"Mark the object in {support.image.name}",
        mask=support.mask,
        max_px=_PAINTED_PX,
        on_paint=painted,
    )

    def cut() -> None:
        put(kept_mask(_cut_out(support)))

    def take() -> None:
        read = read_mask(f"mask_file_{at}", support.image)
        if read is not None:
            put(kept_mask(read[0]), *read[1])

    with frame.row():
        st.button(
            "GrabCut what is marked",
            key="cut_support",
            icon=":material/content_cut:",
            on_click=frame.guarded(cut),
            disabled=support.mask is None,
            help="Mark a rectangle around the object first. What differs in colour from all that is outside becomes "
            "the mask; correct it with brush and eraser. Undo brings the rectangle back.",
        )
        if stereo.true_mask(support.choice.image_id) is not None:
            st.button("True mask", key="true_support", on_click=put, args=(TRUE,), help="From the stereo pair’s depth.")
        with st.popover("From a file", icon=":material/upload:", key="support_mask"):
            st.file_uploader(
                "Mask of this picture",
                type=PICTURE_TYPES,
                key=f"mask_file_{at}",
                max_upload_size=_MASK_MB,
                on_change=frame.guarded(take),
                help="White is the object. It has the picture’s proportions.",
            )
    for sentence in st.session_state.pop("support_said", ()):
        st.info(frame.plain(sentence), icon=":material/info:")


def _cut_out(support: Support) -> Bools:
    """What GrabCut finds inside the smallest rectangle around what is marked."""
    mask = support.at_full_size()
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return segmentation.grabcut_box(support.image, box).values
