"""Results into pictures, PNG bytes and plotly figures. No torch, no streamlit.

The idea: a result stays raw numbers until the last moment. A :class:`Scale` says which value is the darkest and
which the brightest colour, a :class:`ColourMap` says which colours, and the two together turn numbers into pixels.
Pages import this package and call ``render.mosaic(...)``.

::

    colour      Scale, ColourMap: numbers -> colour indices -> pixels
    tiles       all maps or kernels of a layer, or many thumbnails, on one picture
    overlays    a map over the photo, or back on the original from which the crop was cut
    figure      a picture with title, colour bar and caption, for a slide
    charts      plotly figures
    encoding    pixels -> PNG or JPEG, frames -> animations, numbers -> .npy
    svg, space  plotly figures -> SVG, for reports; points in space as they are first seen
    table       plotly figures -> columns of their numbers -> CSV

When it misleads: two pictures can be compared by eye only if their scales are the same. With one scale per map, a map
of noise looks as busy as the strongest one; with one scale per layer, quiet maps look dead. Percentile clipping shows
more of the middle and hides how far the extremes go. Smooth enlargement invents values between the cells.
"""

# plotly looks for pandas among what is imported, and fails while another thread is in the midst of importing it.
import pandas  # noqa: F401

from cnnviz_core.numerals import format_fixed, format_value
from cnnviz_core.render.charts import (
    box_figure,
    categories_figure,
    cloud_figure,
    counts_figure,
    curves_figure,
    depth_profile,
    distance_bars,
    frequency_figure,
    histogram,
    matrix_figure,
    places_figure,
    plane_figure,
    probability_bars,
    shares_figure,
    space_figure,
    steps_figure,
    threshold_figure,
)
from cnnviz_core.render.colour import (
    COLOUR_MAPS,
    DEFAULT_DIVERGING,
    DEFAULT_SEQUENTIAL,
    MISSING,
    ColourMap,
    Scale,
    amplified,
    colourise,
    find_colour_map,
    rgb_from_components,
    scale_of,
    to_indices,
)
from cnnviz_core.render.encoding import animated_webp, gif, jpeg, npy, png
from cnnviz_core.render.figure import figure_png
from cnnviz_core.render.overlays import framed, overlay, paste_onto, resize_map
from cnnviz_core.render.svg import svg
from cnnviz_core.render.table import figure_columns, table_csv
from cnnviz_core.render.tiles import (
    Mosaic,
    atlas_columns,
    kernel_slices,
    kernels_rgb,
    mosaic,
    rgb_mosaic,
    thumbnail,
    thumbnail_atlas,
    thumbnail_px,
)
from cnnviz_core.render.training_charts import confusion_figure, epochs_figure, parts_figure

__all__ = [
    "COLOUR_MAPS",
    "DEFAULT_DIVERGING",
    "DEFAULT_SEQUENTIAL",
    "MISSING",
    "ColourMap",
    "Mosaic",
    "Scale",
    "amplified",
    "animated_webp",
    "atlas_columns",
    "box_figure",
    "categories_figure",
    "cloud_figure",
    "colourise",
    "confusion_figure",
    "counts_figure",
    "curves_figure",
    "depth_profile",
    "distance_bars",
    "epochs_figure",
    "figure_columns",
    "figure_png",
    "find_colour_map",
    "format_fixed",
    "format_value",
    "framed",
    "frequency_figure",
    "gif",
    "histogram",
    "jpeg",
    "kernel_slices",
    "kernels_rgb",
    "matrix_figure",
    "mosaic",
    "npy",
    "overlay",
    "parts_figure",
    "paste_onto",
    "places_figure",
    "plane_figure",
    "png",
    "probability_bars",
    "resize_map",
    "rgb_from_components",
    "rgb_mosaic",
    "scale_of",
    "shares_figure",
    "space_figure",
    "steps_figure",
    "svg",
    "table_csv",
    "threshold_figure",
    "thumbnail",
    "thumbnail_atlas",
    "thumbnail_px",
    "to_indices",
]
