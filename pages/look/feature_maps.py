import streamlit as st

from cnnviz_core.methods import feature_maps
from cnnviz_core.ui import channel_view, compute, frame, pickers, sidebar

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
reference = None
if feature_maps.RANKINGS[ranking].needs_reference:
    reference = compute.run(feature_maps.bundled_means, model, layer=layer, call=call)
order, scores = feature_maps.rank(maps, by=ranking, reference=reference)

wall, one = st.columns([3, 2], gap="medium")
with one:
    last = len(order) - 1
    channel = pickers.number(f"Channel, 0 to {last}", last + 1, key="channel", default=int(order[0]), of=layer)
    channel_view.enlarged(chosen, maps, channel, colours, ranking, scores)
with wall:
    channel_view.wall(chosen, maps, order, scores, channel, colours)
channel_view.through_depth(chosen, colours)
frame.about(feature_maps.__doc__)
