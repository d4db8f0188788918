"""Collections: folders of pictures, what is known of each file, and their index."""

from cnnviz_core.collections.collection import Available, Collection, available, open_by_id, open_collection
from cnnviz_core.collections.scan import Picture, Problem, ScanReport

__all__ = [
    "Available",
    "Collection",
    "Picture",
    "Problem",
    "ScanReport",
    "available",
    "open_by_id",
    "open_collection",
]
