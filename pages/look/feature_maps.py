import streamlit as st

from cnnviz_core import render
from cnnviz_core.methods import feature_maps
from cnnviz_core.ui import channel_view, compute, frame, pickers, show, sidebar

chosen = sidebar.current()
model, image = chosen.model, chosen.image

layer = pickers.layer_by_depth(model, default=feature_maps.default_layer(model))
with st.container(horizontal=True, vertical_alignment="bottom"):
    ranking = pickers.choose(
        "Order channels by",
        list(feature_maps.RANKINGS),
        key="order",
        name=lambda name: feature_maps.RANKINGS[name].title,
        help="  \n".join(f"**{r.title}**: {r.help}" for r in feature_maps.RANKINGS.values()),
    )
    call = pickers.call(model.layers[layer])
    colours = pickers.colours()

maps = compute.run(feature_maps.compute, model, image, layer=layer, call=call)
reference = compute.run(feature_maps.bundled_means, model, layer=layer)
order, scores = feature_maps.rank(maps, by=ranking, reference=reference)

wall, one = st.columns([3, 2], gap="medium")
with one:
    channel = pickers.number(f"Channel, 0 to {len(order) - 1}", len(order), key="channel", default=int(order[0]))
    channel_view.enlarged(chosen, maps, channel, colours, ranking, scores)
with wall:
    values = maps.values[order]
    scale = colours.scale(values)
    mosaic = render.mosaic(values, scale=scale, colour_map=colours.map_for(scale))
    show.wall(
        mosaic,
        order,
        key="channel",
        selected=channel,
        what=f"{len(order)} feature maps of layer {layer}",
        hints=[f"channel {c}: {render.format_value(scores[c])}" for c in order],
    )
    show.colour_bar(scale, colours.map_for(scale), "activation")
    channel_view.about_layer(model.layers[layer], maps)
    title = f"Feature maps of {layer}"
    show.wall_downloads(chosen, mosaic, maps.run, key="maps", title=title, values=maps.values, code="result.values")
channel_view.through_depth(chosen, colours)
frame.about(feature_maps.__doc__)
