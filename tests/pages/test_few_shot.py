"""The few-shot page: the bundled example at once, settings, supports and their masks, the link, a collection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from streamlit.testing.v1 import AppTest

from cnnviz_core.ui import support_view
from tests.pages.reading import run_until

Open = Callable[..., AppTest]
PAGE = "compare/few_shot"


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def words(app: AppTest) -> str:
    return " ".join(one.value for kind in (app.caption, app.info, app.error, app.warning) for one in kind)


def test_the_bundled_example_is_worked_out_at_once(
    open_page: Open, check_charts: Callable[[AppTest], set[str]]
) -> None:
    app = open_page(PAGE)
    assert metrics(app) == {"IoU, honest": "0.856", "IoU, oracle": "0.859", "IoU among the supports": "0.827"}
    table = app.dataframe[0].value
    assert table["layers"].tolist() == ["bn2", "blocks.5.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1 + bn2"]
    assert f"{table['IoU'][3]:.3f}" == "0.856"
    assert check_charts(app) == {"iou_curve"}
    app.toggle(key="less_background").set_value(False).run()
    assert metrics(app)["IoU, honest"] < "0.8"
    app.selectbox(key="few_shot_score").set_value("prototype").run()
    app.toggle(key="refine").set_value(True).run()
    assert "IoU, GrabCut outline" in metrics(app)
    assert "With the outline that GrabCut finds" in words(app)


def test_supports_masks_and_the_link(open_page: Open) -> None:
    app = open_page(PAGE)
    app.selectbox(key="support_to_add").set_value("coffee")
    app.button(key="add_picked").click().run()
    assert "Without a mask, and so left out: A cup of espresso." in words(app)
    assert app.query_params["support"] == "1"  # the one that has just come is painted on
    assert metrics(app)["IoU, honest"] == "0.856"
    # What painting does; tests/browser paints.
    square = np.zeros((200, 300), dtype=bool)
    square[60:150, 80:220] = True
    mask_id = support_view.kept_mask(square)
    app.session_state["supports"] = [support_view.Choice("motorcycle_left", mask_id)]
    app.run()
    painted = metrics(app)
    assert painted["IoU, honest"] != "0.856"
    link = f"motorcycle_left~{mask_id}"
    assert app.query_params["supports"] == link
    again = open_page(PAGE, supports=link)
    assert metrics(again) == painted
    again.button(key="cut_support").click().run()
    assert metrics(again) != painted
    again.button(key="true_support").click().run()
    assert metrics(again)["IoU, honest"] == "0.856"


def test_the_link_names_the_support_to_paint_on(open_page: Open) -> None:
    app = open_page(PAGE, supports="motorcycle_left~true,coffee~", support="1")
    assert not [b for b in app.button if b.key == "true_support"]  # coffee has no true mask
    assert "which is no number" in words(open_page(PAGE, support="second"))


def test_links_that_lead_nowhere(open_page: Open) -> None:
    app = open_page(PAGE, supports="../../etc~true", few_shot_threshold="here")
    assert "the example is shown" in words(app)
    assert metrics(app)["IoU, honest"] == "0.856"
    app = open_page(PAGE, supports="0123456789abcdef~,coffee~true")
    assert "does not keep any more" in words(app)
    assert "no true mask of coffee" in words(app)
    assert metrics(app)["IoU, honest"] == "0.856"


def test_a_picture_without_a_true_mask_and_one_to_start_with(open_page: Open) -> None:
    app = open_page(PAGE, query="the picture in the sidebar")
    assert list(metrics(app)) == ["IoU among the supports"]
    assert "Without a true mask" in words(app)
    app.session_state["supports"] = [support_view.Choice("chelsea", "")]
    app.run()
    assert "Mark the object in a picture on the left" in words(app)


def test_early_layers_say_their_cost_first(open_page: Open) -> None:
    app = open_page(PAGE, few_shot_layers="blocks.0.0.bn1")
    assert "Early layers have many cells" in words(app)
    assert metrics(app) == {}
    app.select_slider(key="few_shot_size").set_value(224).run()
    assert "IoU, honest" in metrics(app)


def test_a_collection(open_page: Open) -> None:
    app = open_page(PAGE, find_in="a collection", few_shot_size="224")
    assert "None has a true mask beside it" in words(app)
    app.button(key="segment_collection_run").click().run()
    run_until(app, lambda: "Pictures" in metrics(app))
    table = app.dataframe[-1].value
    assert int(metrics(app)["Pictures"]) == len(table)
    assert table["learned from"].sum() == 1
    assert [markdown.value for markdown in app.markdown if "mask" in markdown.value]
