from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from cnnviz_core import catalogue, store

PAGE = "manage/networks"


def test_search_narrows_the_table(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    app.text_input(key="search").set_value("densenet 121").run()
    ids = list(app.dataframe[0].value["Id"])
    assert "torchvision/densenet121" in ids
    assert all("densenet" in model_id for model_id in ids)
    assert app.dataframe[0].value["Parameters (M)"].iloc[ids.index("torchvision/densenet121")] == 8.0


def test_a_choice_in_the_table_is_the_network_of_all_pages(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    app.selectbox(key="model").select("torchvision/squeezenet1_1").run()
    assert any("not on this machine" in i.value for i in app.info)


def test_checkpoints_have_their_names_in_the_picker_and_their_ids_in_the_link(
    open_page: Callable[..., AppTest], tmp_path: Path
) -> None:
    cards = [
        store.save_checkpoint(content, name="mine (best).pth", architecture="torchvision/squeezenet1_1")
        for content in (b"one", b"another")
    ]
    ids = sorted(card.checkpoint_id for card in cards)
    # What tells equal names apart comes first: the sidebar is narrow.
    first, second = (f"{one.rpartition('-')[2][:4]} · mine (best).pth · {one}" for one in ids)
    app = open_page(PAGE)
    assert app.selectbox(key="model").options[:2] == [first, second]
    app = open_page(PAGE, model=second)
    assert app.selectbox(key="model").value == second.rpartition(" ")[2]
    assert not any("not on offer" in warning.value for warning in app.warning)
    for linked in (ids[1], f"mine (best).pth · {ids[1]}"):  # as older links have it
        app = open_page(PAGE, model=linked)
        assert app.selectbox(key="model").value == ids[1]
        assert app.selectbox(key="model").options[:2] == [first, linked]
        assert not any("not on offer" in warning.value for warning in app.warning)
    cards[0].path.parent.rename(tmp_path / "gone")
    alone = open_page(PAGE, model=next(name for name in (first, second) if name.endswith(cards[1].checkpoint_id)))
    assert alone.selectbox(key="model").value == cards[1].checkpoint_id, "also when the other one is gone"


def test_a_kept_checkpoint_is_a_network(open_page: Callable[..., AppTest], tmp_path: Path) -> None:
    from safetensors.torch import save

    net = catalogue.create("torchvision/squeezenet1_1", num_classes=3)
    card = store.save_checkpoint(
        save(net.state_dict()),
        name="mine.safetensors",
        architecture="torchvision/squeezenet1_1",
        class_names=("apple", "pear", "<b>quince</b>"),
    )
    app = open_page(PAGE, model=card.checkpoint_id)
    assert app.selectbox(key="model").value == card.checkpoint_id
    labels = " ".join(b.label for b in app.button if b.key and b.key.startswith("aim_"))
    assert "apple" in labels
    assert "\\<b\\>quince" in labels  # shown as text, not as markup
    app.button(key=f"remove_{card.checkpoint_id}").click().run()
    assert not store.checkpoints()
    assert not app.exception
