"""The parts of the strongest patches page: the wall of channels, one channel's patches, channels like a drawn part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cnnviz_core import render
from cnnviz_core.collections.indexing import Index
from cnnviz_core.errors import CnnvizError
from cnnviz_core.images import InputImage
from cnnviz_core.layers import LayerInfo
from cnnviz_core.methods import feature_maps, saliency, top_patches
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import TopPatches
from cnnviz_core.ui import charts, closeup, compute, frame, pickers, show, take_away
from cnnviz_core.ui.collection_view import Indexed
from cnnviz_core.ui.components import heat_view
from cnnviz_core.ui.pickers import Selection

_ON_WALL = 4  # patches of a channel on the wall
_PER_PAGE = 60
_WALL_PATCH_PX = 64
_WALL_TILE_PX = 104
_PATCH_PX = 160
_TILE_PX = 98
_NUM_LIKE = 12
_PHOTO_PX = 420
_DIMMED = "dimmed where it is quiet"
_BESIDE: Mapping[str, str] = {
    _DIMMED: "",
    "deconvnet": "deconvnet",
    "guided backprop": "guided_backprop",
    "gradient": "gradient",
}


def layer(model: LoadedModel) -> LayerInfo:
    """Asks for the layer; at first one in the middle, whose units see a part of the picture."""
    top_patches.default_layer(model)  # says so where there is none
    landmarks = model.layers.landmarks
    return model.layers[pickers.layer(model, default=landmarks[len(landmarks) // 2])]


def how_many() -> int:
    """Asks for the number of patches of a channel."""
    return st.slider("Patches of a channel", 4, 16, 9, key="num_patches", bind="query-params", width=280)


def search(found: Indexed, info: LayerInfo, k: int) -> TopPatches:
    """The k strongest patches of all channels."""
    index = found.indexes[info.name]
    return _search(index.digest, index.num_pictures, k, found.model, index)


@st.cache_data(max_entries=8, show_spinner=False)
def _search(digest: str, num_pictures: int, k: int, _model: LoadedModel, _index: Index) -> TopPatches:  # noqa: ARG001
    return top_patches.from_index(_model, _index, k=k)


# ---- the wall -------------------------------------------------------------------------------------------------------


def wall(found: Indexed, patches: TopPatches) -> int:
    """Channels by their four strongest patches, a page at a time; returns the chosen channel."""
    strongest = patches.value[:, 0]
    orders = {
        "strongest first": np.argsort(-np.nan_to_num(strongest, nan=-np.inf), kind="stable"),
        "by number": np.arange(len(strongest)),
    }
    num_pages = -(-len(strongest) // _PER_PAGE)
    with frame.row():
        by = pickers.choose("Order", list(orders), key="order_of_channels", help="By strongest answer, or by number.")
        pickers.start_again("page_of_channels", patches.layer, 1)
        page = 1
        if num_pages > 1:
            page = int(st.number_input(f"Page, 1 to {num_pages}", 1, num_pages, 1, key="page_of_channels"))
        first, of = int(orders[by][0]), f"{patches.layer} {found.collection.title}"
        channel = pickers.number("Channel", len(strongest), key="channel", default=first, of=of)
    ids = orders[by][(page - 1) * _PER_PAGE : page * _PER_PAGE]
    mosaic = _channel_tiles(found, patches.layer, ids.tolist())
    show.wall(
        mosaic,
        ids,
        key="channel",
        selected=channel,
        what=f"Channels of {patches.layer} by their strongest patches",
        hints=[f"channel {c}: up to {render.format_value(float(strongest[c]))}" for c in ids],
        tile_px=_WALL_TILE_PX,
    )
    _about(found, patches)
    return channel


def _of_channels(found: Indexed, layer: str, channels: Sequence[int], k: int) -> TopPatches:
    return top_patches.from_index(found.model, found.indexes[layer], channels=channels, k=k)


def _channel_tiles(found: Indexed, layer: str, channels: Sequence[int]) -> render.Mosaic:
    """One tile per channel, made of two by two patches."""
    return _mosaic(found.indexes[layer].digest, layer, tuple(channels), found)


@st.cache_data(max_entries=32, show_spinner="Cutting patches")
def _mosaic(digest: str, layer: str, channels: tuple[int, ...], _found: Indexed) -> render.Mosaic:  # noqa: ARG001
    patches = _of_channels(_found, layer, channels, _ON_WALL)
    cut = top_patches.wall(_found.model, _found.collection, patches, size_px=_WALL_PATCH_PX).tiles
    num, _, height, width, _ = cut.shape
    square = cut.reshape(num, 2, 2, height, width, 3).transpose(0, 1, 3, 2, 4, 5)
    return render.rgb_mosaic(square.reshape(num, 2 * height, 2 * width, 3), tile_px=2 * _WALL_PATCH_PX)


def _about(found: Indexed, patches: TopPatches) -> None:
    """How patches are cut, and which channels say nothing."""
    info = found.model.layers[patches.layer]
    if reason := top_patches.why_not_exact(found.model, layer=patches.layer):
        st.caption(frame.plain(reason))
    else:
        side = info.receptive_field.axes()[0].size if info.receptive_field else 0
        st.caption(
            f"Cut at what a unit of {frame.plain(patches.layer)} can see: {side:.0f} × {side:.0f} pixels of the input. "
            "Grey is padding, or a part of the photo that the network does not see."
        )
    silent, tied = top_patches.never_fires(found.model, patches), top_patches.at_limit(patches)
    if len(silent):
        st.caption(f"{len(silent)} channels never fire on these pictures: {_listed(silent)}.")
    if len(tied):
        st.caption(
            f"{len(tied)} channels reach the upper limit of their ReLU6 in all patches. They are ordered by their "
            f"surroundings, and no gradient leads back from them: {_listed(tied)}."
        )


def _listed(channels: NDArray[np.int64], most: int = 24) -> str:
    more = f" and {len(channels) - most} more" if len(channels) > most else ""
    return ", ".join(str(c) for c in channels[:most]) + more


# ---- one channel ----------------------------------------------------------------------------------------------------


def channel(chosen: Selection, found: Indexed, patches: TopPatches, number: int) -> None:
    """Its patches, each with what in it counts, the labels behind them, and its map on the current picture."""
    st.subheader(f"Channel {number}", anchor=False)
    beside = pickers.choose(
        "Below each patch",
        list(_BESIDE),
        key="below_patches",
        help="Dimmed: dark where the channel answers with less than a fifth. Deconvnet and guided backprop draw what "
        "in the patch drives this very unit, as in Zeiler and Fergus; zero is mid grey.",
    )
    one = _of_channels(found, patches.layer, [number], patches.image.shape[1])
    of = repr((found.indexes[patches.layer].digest, patches.layer, number, one.image.tolist()))
    places = np.flatnonzero(one.image[0] >= 0)
    if not len(places):
        st.caption("No picture has an answer of this channel.")
        return
    names = [f"{one.paths[one.image[0, place]]}, {render.format_value(float(one.value[0, place]))}" for place in places]
    raw = _cut(of, found, one)[places]
    labels = [render.format_value(float(value)) for value in one.value[0, places]]
    _row(raw, "patches_wall", f"Strongest patches of channel {number}", names, labels)
    try:
        _row(
            _explained(of, _BESIDE[beside], found, one, places), "explained_wall", f"The same patches, {beside}", names
        )
    except CnnvizError as error:
        st.info(frame.plain(str(error)))
    _downloads(found, one, raw)
    _labels(found, one, number)
    _on_photo(chosen, found, patches, number)


def _row(pictures: NDArray[np.uint8], key: str, what: str, hints: list[str], labels: list[str] | None = None) -> None:
    mosaic = render.rgb_mosaic(pictures, tile_px=_PATCH_PX)
    show.mosaic_wall(
        mosaic,
        key=key,
        labels=labels,
        hints=hints,
        tile_px=_TILE_PX,
        smooth=True,
        max_height=None,
        aria=what,
    )


@st.cache_data(max_entries=64, show_spinner="Cutting patches")
def _cut(found_by: str, _found: Indexed, _one: TopPatches) -> NDArray[np.uint8]:  # noqa: ARG001 - the cache's key
    """(k, h, w, 3): the patches of one channel."""
    tiles: NDArray[np.uint8] = top_patches.wall(_found.model, _found.collection, _one, size_px=_PATCH_PX).tiles[0]
    return tiles


@st.cache_data(max_entries=64, show_spinner="Looking at what counts in them")
def _explained(
    found_by: str,  # noqa: ARG001 - the cache's key
    method: str,
    _found: Indexed,
    _one: TopPatches,
    _places: NDArray[np.intp],
) -> NDArray[np.uint8]:
    """(n, h, w, 3): each patch with what in it counts."""
    found, one, places = _found, _one, _places
    by_path = {row.path: row for row in found.rows}
    pictures = []
    for place in places:
        image = found.collection.open(by_path[one.paths[one.image[0, place]]])
        unit = (int(one.channels[0]), int(one.row[0, place]), int(one.col[0, place]))
        box = tuple(float(edge) for edge in one.box[0, place])
        if not method:
            pictures.append(compute.run(_dimmed, found.model, image, layer=one.layer, unit=unit, box=box))
            continue
        made = compute.run(saliency.explain, found.model, image, method=method, layer=one.layer, unit=unit)
        pictures.append(top_patches.crop_attribution(found.model, image, made.values, box, size_px=_PATCH_PX))
    return np.stack(pictures)


def _dimmed(
    model: LoadedModel, image: InputImage, *, layer: str, unit: tuple[int, int, int], box: tuple[float, ...]
) -> NDArray[np.uint8]:
    number, row, col = unit
    return top_patches.dimmed(model, image, layer=layer, channel=number, row=row, col=col, box=box, size_px=_PATCH_PX)


def _labels(found: Indexed, patches: TopPatches, number: int) -> None:
    """How often each label is among the channel's strongest pictures, beside its usual share."""
    shares = top_patches.labels_of(patches, found.rows, channel=number)
    if not shares:
        return
    st.markdown("**Labels that drive the channel**")
    names = [one.label or "no label" for one in shares]
    here, usual = [one.share for one in shares], [one.usual_share for one in shares]
    charts.draw(
        render.shares_figure(names, {"among the strongest": here, "in the collection": usual}, unit="of the pictures"),
        key="labels_of_channel",
        title=f"Labels of {patches.layer} channel {number}",
        made=_made(found, patches),
        table=lambda: {
            "label": names,
            "pictures among the strongest": [one.count for one in shares],
            "share among the strongest": here,
            "share in the collection": usual,
        },
    )
    num = sum(one.count for one in shares)
    st.caption(
        f"These shares rest on {num} pictures only, so each of them counts for {format_percent(1 / num)}: a label "
        "drives the channel where its bar stays far above its usual share with more patches, too."
    )


def _made(found: Indexed, patches: TopPatches) -> dict[str, object]:
    """What led to the patches of one channel."""
    return {
        "network": found.model.spec.title,
        "collection": found.collection.title,
        "layer": patches.layer,
        "channel": int(patches.channels[0]),
    }


def _downloads(found: Indexed, one: TopPatches, raw: NDArray[np.uint8]) -> None:
    number = int(one.channels[0])
    title = f"{one.layer} channel {number} patches"

    def table() -> bytes:
        places = np.flatnonzero(one.image[0] >= 0)
        corners = zip(("left", "top", "right", "bottom"), one.box[0, places].T, strict=True)
        return render.table_csv(
            {
                "rank": (places + 1).tolist(),
                "picture": [one.paths[at] for at in one.image[0, places]],
                "row": one.row[0, places].tolist(),
                "column": one.col[0, places].tolist(),
                "activation": one.value[0, places].tolist(),
                **{f"{name}, px": values.tolist() for name, values in corners},
            }
        )

    def picture() -> bytes:
        return render.rgb_mosaic(raw, tile_px=_PATCH_PX).png

    stem = take_away.stem(title)
    files: list[take_away.File] = [
        ("Patches (PNG)", f"{stem}.png", "The patches as they stand in their pictures.", picture),
        ("Values (CSV)", f"{stem}.csv", "Where each patch is, and how strongly the channel answers there.", table),
    ]
    take_away.draw_of_screen(files, key="patches", title=title, picture=picture, made=_made(found, one))


def _on_photo(chosen: Selection, found: Indexed, patches: TopPatches, number: int) -> None:
    """The channel's map on the picture of the sidebar, beside what it reaches in the collection."""
    st.markdown(f"**On {frame.plain(chosen.image.name)}**")
    maps = compute.run(feature_maps.compute, chosen.model, chosen.image, layer=patches.layer)
    values = maps.values[number]
    scale = render.scale_of(values)
    show.map_over_photo(
        chosen,
        values,
        run=maps.run,
        code=f"result.values[{number}]",
        title=f"{patches.layer} channel {number}",
        key="patch_channel",
        scale=scale,
        max_px=_PHOTO_PX,
    )
    index = found.indexes[patches.layer]
    answer = top_patches.activation_on(chosen.model, chosen.image, index=index, channels=[number])
    share = float(answer.share[0])
    reached = f", {format_percent(share)} of the strongest in the collection" if np.isfinite(share) else ""
    st.caption(f"Up to {render.format_value(float(answer.value[0]))} here{reached}.")


# ---- which channels like this ---------------------------------------------------------------------------------------


def like(chosen: Selection, found: Indexed, patches: TopPatches) -> None:
    """A rectangle on the current picture, and the channels that it excites most."""
    st.subheader("Which channels like this part?", anchor=False)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        box = closeup.draw_rectangle(chosen, key="like_view", px=_PHOTO_PX)
    with right:
        answers = top_patches.channels_like(
            chosen.model, chosen.image, index=found.indexes[patches.layer], box=_in_photo(chosen, box), k=_NUM_LIKE
        )
        if not len(answers.channels):
            st.caption("No channel of this layer answers in the collection at all.")
            return
        ids = answers.channels.tolist()
        mosaic = _channel_tiles(found, patches.layer, ids)
        show.mosaic_wall(
            mosaic,
            key="like_wall",
            labels=[f"{number}: {format_percent(share)}" for number, share in zip(ids, answers.share, strict=True)],
            hints=[
                f"channel {number}: {format_percent(mean)} on average"
                for number, mean in zip(ids, answers.mean_share, strict=True)
            ],
            tile_px=_WALL_TILE_PX,
            smooth=True,
            aria="Channels that answer to this part",
            on_select=lambda place: st.session_state.update(channel=ids[place]),
        )
        where = "in the rectangle" if box else "anywhere in the picture"
        st.caption(
            f"The channels that answer most {where}, as a share of the strongest answer in the collection; above 100 % "
            "this picture excites the channel more than any of it. Among equals, as where all reach the limit of their "
            "ReLU6, those come first that answer most on average there. Click one."
        )


def _in_photo(chosen: Selection, box: heat_view.Box | None) -> tuple[float, ...] | None:
    """A rectangle on the crop, (top, left, bottom, right) as shares, as left, top, right, bottom of the photo."""
    if box is None:
        return None
    left, top, right, bottom = chosen.model.preprocessing.crop_box(chosen.image)
    across, down = right - left, bottom - top
    return left + box[1] * across, top + box[0] * down, left + box[3] * across, top + box[2] * down
