"""The parts of the home page: the photo as the network saw it, its answer, its layers, and the way onward."""

from __future__ import annotations

from collections import defaultdict

import streamlit as st

from cnnviz_core import doctor, photos, render
from cnnviz_core.layers import LayerInfo
from cnnviz_core.methods import feature_maps
from cnnviz_core.models import LoadedModel
from cnnviz_core.numerals import format_percent
from cnnviz_core.results import FeatureMaps
from cnnviz_core.ui import charts, compute, frame, show
from cnnviz_core.ui.pickers import Selection

_STORY = (
    ("Early", "Close to the picture: edges, colours and fine texture, in many cells that each see little."),
    ("Middle", "Textures and parts: fewer cells, more channels, and each cell sees more of the picture."),
    ("Late", "Objects and their parts: coarse maps that say what is there more than what it looks like."),
)
_WALL_CHANNELS = 24
_SECTION_PX = 210


def what_it_saw(chosen: Selection) -> None:
    """The crop that reached the network."""
    st.image(show.crop(chosen), width="stretch")
    input_h, input_w = chosen.model.preprocessing.input_px
    height, width = chosen.image.pixels.shape[:2]
    left, top, right, bottom = chosen.model.preprocessing.crop_box(chosen.image)
    share = (right - left) * (bottom - top) / (height * width)
    st.caption(
        f"What the network saw: {input_w} × {input_h} px, resized from {format_percent(share)} of the "
        f"{width} × {height} px picture."
    )
    if chosen.image_id in photos.PHOTOS:
        st.caption(photos.PHOTOS[chosen.image_id].caption)


def its_answer(chosen: Selection) -> None:
    """The five most probable classes, in words and as bars."""
    model = chosen.model
    verdict = doctor.verdict(model, "predictions")
    if not verdict.usable:
        st.info(f"No answer: {verdict.reason}")
        return
    answer = compute.run(LoadedModel.predict, model, chosen.image, k=5)
    first, probability = answer.labels[0], answer.probabilities[0]
    trained = "" if model.spec.is_trained else " It is untrained, so this is chance."
    st.subheader(f"It says: {frame.plain(first)}, {100 * probability:.1f} % sure", anchor=False)
    charts.draw(
        render.probability_bars(answer.labels, answer.probabilities),
        key="answer",
        title=f"What {model.spec.title} says of {chosen.image.name}",
        run=model.provenance("predict", 0.0, image=chosen.image, k=5),
        chosen=chosen,
        code="result.probabilities",
    )
    independent = model.anatomy.head.output == "sigmoid" and model.num_outputs > 1
    sums = (
        "Each class has a probability of its own."
        if independent
        else "They always add up to 100 %, also when none of the classes is in the picture."
    )
    st.caption(
        f"Probabilities over {model.num_classes:,} classes. {sums} Networks tend to be surer than they should "
        f"be.{trained}"
    )


def inside(chosen: Selection) -> None:
    """An early, a middle and a late layer: the strongest channels, and the strongest one over the photo."""
    names = chosen.model.layers.landmarks
    if not names:
        st.info("This network has no layer whose output is a map, so there is nothing to show of its inside.")
        return
    st.subheader("What its layers make of it", anchor=False)
    found = compute.run(feature_maps.compute_many, chosen.model, chosen.image, layers=names)
    if not chosen.model.spec.is_trained:
        st.warning("This network is untrained: what is seen here is its architecture, not what it learned.")
    columns = st.columns(len(names), gap="medium")
    for column, (title, sentence), name in zip(columns, _STORY, names, strict=False):
        with column:
            st.markdown(f"**{title}** · {frame.plain(name)}")
            st.caption(_size(chosen.model.layers[name]) + " " + sentence)
            _strongest(chosen, found[name], name)


def _size(info: LayerInfo) -> str:
    channels, height, width = info.shape
    return f"{channels} maps of {height} × {width} cells."


def _strongest(chosen: Selection, maps: FeatureMaps, name: str) -> None:
    order = feature_maps.rank(maps, by="variance")[0][:_WALL_CHANNELS]
    key = f"home_{name}"
    clicked = st.session_state.get(key)
    channel = clicked if clicked is not None and clicked in order else int(order[0])
    scale = render.scale_of(maps.values[channel])
    show.map_over_photo(
        chosen,
        maps.values[channel],
        run=maps.run,
        code=f"result.values[{channel}]",
        title=f"{name} channel {channel}",
        key=f"{key}_over",
        scale=scale,
        max_px=360,
    )
    st.caption(f"Channel {channel} over the photo. Below, the {len(order)} channels that tell places apart most.")
    values = maps.values[order]
    show.wall(
        render.mosaic(values, scale=render.scale_of(values, mode="channel")),
        order,
        key=key,
        selected=channel,
        what=f"channels of {name} that tell places apart most",
        hints=[f"channel {c}" for c in order],
        tile_px=52,
        max_height=330,
    )


def onward() -> None:
    """A link to every page, by section."""
    sections: dict[str, list[frame.PageLink]] = defaultdict(list)
    for link in frame.pages()[1:]:
        sections[link.section].append(link)
    st.subheader("Go on", anchor=False)
    row = st.container(horizontal=True, gap="medium")  # as many beside each other as have room for their names
    for section, links in sections.items():
        with row.container(width=_SECTION_PX):
            st.markdown(f"**{section.capitalize()}**")
            for link in links:
                st.page_link(link.path, label=link.title, icon=f":material/{link.icon}:")
                st.caption(link.question)


def words() -> None:
    """The few words of the field that every page uses."""
    with st.expander("The words used here", icon=":material/dictionary:"):
        st.markdown(
            "**Layer**: one step of the network’s computation, named as its authors named it, such as `blocks.2`.  \n"
            "**Channel**: a layer looks for many patterns at once; each has a channel.  \n"
            "**Feature map**: the picture of one channel’s answers; its squares are **cells**, each for one place.  \n"
            "**Activation**: the number in a cell. After a ReLU it is 0 or more: 0 is no answer.  \n"
            "**Kernel**, or filter: the small table of weights with which a convolution looks for its pattern.  \n"
            "**Receptive field**: the part of the picture that can reach one cell.  \n"
            "**Class**: one of the things that the network can answer; its **probability** is how sure it is."
        )
