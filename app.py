"""The frame: page settings, the table of pages, the sidebar, then the page."""

import streamlit as st
from starlette.middleware import Middleware

from cnnviz_core.ui import frame, person, server, way_back
from cnnviz_core.ui.frame import PageLink

PAGES = (
    PageLink(
        "look", "pages/look/home.py", "Home",
        "See inside a convolutional network: what does it make of this picture?", "home",
    ),
    PageLink(
        "look", "pages/look/feature_maps.py", "Feature maps",
        "What does each channel of a layer answer, and where?", "grid_on", "feature_maps",
    ),
    PageLink(
        "look", "pages/look/filters.py", "Filters",
        "Which patterns do the convolutions look for?", "blur_on", "filters",
    ),
    PageLink(
        "explain", "pages/explain/cam.py", "CAM",
        "Where in the picture is the evidence for a class, by which method?", "local_fire_department", "eigen_cam",
    ),
    PageLink(
        "explain", "pages/explain/saliency.py", "Saliency",
        "Which pixels matter to a class, or to a single unit?", "grain", "gradient",
    ),
    PageLink(
        "explain", "pages/explain/occlusion.py", "Occlusion",
        "Which places does the network need? Cover them and see.", "layers_clear", "occlusion",
    ),
    PageLink(
        "explore", "pages/explore/embeddings.py", "Embeddings",
        "How does the network organise a collection of pictures?", "scatter_plot",
    ),
    PageLink(
        "explore", "pages/explore/neighbors.py", "Neighbours",
        "Which pictures does the network take for alike?", "join_inner",
    ),
    PageLink(
        "explore", "pages/explore/top_patches.py", "Strongest patches",
        "Which real pictures, and which places in them, excite a channel most?", "auto_awesome_mosaic", "feature_maps",
    ),
    PageLink(
        "compare", "pages/compare/similarity.py", "Similarity",
        "Which places of two pictures are alike to the network? Point and see.", "compare", "feature_maps",
    ),
    PageLink(
        "compare", "pages/compare/few_shot.py", "Few-shot segmentation",
        "Can the network find an object again from a few pictures in which it is marked?", "format_paint",
        "feature_maps",
    ),
    PageLink(
        "compare", "pages/compare/comparison.py", "Base and tuned",
        "What did training on change, in which layers, and for which pictures?", "difference",
    ),
    PageLink(
        "compare", "pages/compare/fine_tuning.py", "Fine-tuning",
        "How well does the network learn the classes of a collection, and what changes in it?", "model_training",
    ),
    PageLink(
        "create", "pages/create/feature_visualization.py", "Feature visualisation",
        "What does a channel look for? Pictures made to excite it.", "palette", "feature_maps",
    ),
    PageLink(
        "create", "pages/create/class_image.py", "Class images",
        "What would be the perfect example of a class, to the network?", "category", "predictions",
    ),
    PageLink(
        "create", "pages/create/adversarial.py", "Fooling images",
        "How little must change for the network to answer something else?", "theater_comedy", "adversarial",
    ),
    PageLink(
        "create", "pages/create/deep_dream.py", "DeepDream",
        "What does a layer see in the photo, if it may add more of it?", "bedtime", "feature_maps",
    ),
    PageLink(
        "create", "pages/create/inversion.py", "Inversion",
        "What does each depth still know of the photo? It is rebuilt from there.", "restore_page", "feature_maps",
    ),
    PageLink(
        "share", "pages/share/report.py", "Report",
        "Which figures do I show to others, and what do they say?", "auto_stories",
        needs_network=False,
    ),
    PageLink(
        "share", "pages/share/tour.py", "Guided tour",
        "What does a network see? Eight pictures to show to others, full-screen.", "slideshow",
        needs_network=False, is_alone=True,
    ),
    PageLink(
        "manage", "pages/manage/activity.py", "Activity",
        "What is being computed, what has been, and where are the results?", "pending_actions",
        needs_network=False,
    ),
    PageLink(
        "manage", "pages/manage/networks.py", "Networks",
        "Which networks are there, and how do I add mine?", "hub",
        needs_network=False,
    ),
    PageLink(
        "manage", "pages/manage/model.py", "Model doctor",
        "What is this network made of, and which pages fit it?", "stethoscope",
    ),
    PageLink(
        "manage", "pages/manage/host.py", "Host",
        "How is this server doing, and what is it set to?", "dns",
        needs_network=False, right="see_host",
    ),
)  # fmt: skip

if __name__ == "__main__":  # one run of one session
    st.set_page_config(page_title="cnnviz", page_icon=frame.icon(), layout="wide")
    frame.run(PAGES)
else:  # imported by ``streamlit run`` when the server starts
    server.prepare()
    app = st.App(
        __file__,
        lifespan=server.lifespan,
        middleware=[Middleware(person.GivesCookie), Middleware(way_back.KeepsLink)],
        on_script_error=frame.bug,
    )
