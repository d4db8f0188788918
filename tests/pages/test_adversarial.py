"""The page of fooling images: the altered picture before the first click, the way to it, and what it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from tests.pages.reading import captions, run_until

Open = Callable[..., AppTest]
PAGE = "create/adversarial"
# One step each, so that the tests are quick.
ONE_STEP = {"attack": "FGSM", "seen_as": "anything else"}


def said(app: AppTest) -> str:
    return " ".join(m.value for m in (*app.success, *app.warning, *app.info, *app.markdown))


def test_a_cat_is_a_goldfish_before_the_first_click_and_the_way_there_can_be_followed(open_page: Open) -> None:
    app = open_page(PAGE)
    run_until(app, lambda: "Fooled: Egyptian cat 38.1 % → goldfish" in said(app))
    assert "Largest change of a value (L∞): 2/255" in captions(app)
    assert "Difference × 63; mid grey is no change" in captions(app)
    assert "PGD · 10 steps" in captions(app)
    assert "It first falls below 0.9 at" in said(app)
    slider = app.select_slider(key="step")
    assert (list(slider.options), slider.value) == ([str(step) for step in range(11)], 10)
    slider.set_value(0).run()
    assert "After step 0" in captions(app)
    assert "No difference" in captions(app)


def test_settings_change_the_result(open_page: Open) -> None:
    app = open_page(PAGE, **ONE_STEP)
    assert "Fooled: Egyptian cat 38.1 % → tiger cat" in said(app)
    app.slider(key="epsilon_linf").set_value(5).run()
    assert "Largest change of a value (L∞): 5/255" in captions(app)
    app.selectbox(key="norm").set_value("l2").run()
    assert "Length of the change (L2): 2.00" in captions(app)


def test_each_method_begins_with_its_own_number_of_steps(open_page: Open) -> None:
    app = open_page(PAGE, attack_steps="3")
    assert "PGD · 3 steps" in captions(app)
    app.selectbox(key="attack").set_value("fooling").run()
    assert app.slider(key="attack_steps").value == 100


def test_no_steps_leave_the_picture_as_it_is(open_page: Open) -> None:
    app = open_page(PAGE, attack_steps="0")
    assert "No step was taken, so nothing has changed: Egyptian cat 38.1 %" in said(app)


def test_a_class_that_does_not_exist_is_named(open_page: Open) -> None:
    app = open_page(PAGE, seen_as="1000 unicorn", attack="FGSM")
    assert "The link asks for to be seen as “1000 unicorn”, which is not on offer here" in said(app)
    app.selectbox(key="seen_as").set_value(285).run()
    assert "The network answers Egyptian cat 38.1 % already; choose another class" in said(app)


def test_the_smallest_epsilon_is_searched_on_demand(open_page: Open) -> None:
    app = open_page(PAGE, make="find the smallest ε", **ONE_STEP)
    assert "Below: a single step (FGSM) with ε = 2/255" in captions(app)
    app.button(key="adversarial_run").click().run()
    run_until(app, lambda: "suffices" in said(app))
    assert "ε = 1/255 suffices.** Failed: 0. Succeeded: 1." in said(app)
    assert "Largest change of a value (L∞): 1/255" in captions(app)


def test_noise_becomes_a_class(open_page: Open) -> None:
    app = open_page(PAGE, make="start from noise")
    assert "The noise" in captions(app)
    run_until(app, lambda: "→ goldfish 99." in said(app))
    assert "noise.png · Gradient ascent" in captions(app)


@pytest.mark.parametrize(
    ("look", "words"), [("Grad-CAM", "all on one scale"), ("other networks", "What each network answers")]
)
def test_what_the_change_does(look: str, words: str, open_page: Open) -> None:
    app = open_page(PAGE, look_at=look, **ONE_STEP)
    assert words in captions(app)
    if look == "other networks":
        table = app.dataframe[0].value
        assert list(table["Network"][:1]) == ["tf_efficientnet_lite0"]
        assert list(table["Answer changed"][:1]) == ["yes"]
    else:
        options = app.selectbox(key="map").options
        assert options == ["Egyptian cat, before", "Egyptian cat, after", "tiger cat, before", "tiger cat, after"]


def test_a_network_without_classes_is_told_what_to_do(open_page: Open) -> None:
    app = open_page(PAGE, model="timm/convnext_tiny.dinov3_lvd1689m", weights="untrained")
    assert "no answer to change. Use a network with class scores" in said(app)
