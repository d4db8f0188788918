from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

PAGE = "manage/model"


def _verdicts(app: AppTest) -> dict[str, str]:
    table = app.table[1].value
    return dict(zip(table["Method"], table["Verdict"], strict=True))


def test_the_default_network_fits_everything(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE)
    assert set(_verdicts(app).values()) == {"✓\u00a0works"}


def test_another_network_gets_another_table(open_page: Callable[..., AppTest]) -> None:
    app = open_page(PAGE, model="torchvision/vgg11", weights="untrained")
    assert _verdicts(app)["CAM"] == "✕\u00a0does not apply"
    assert any("more than average pooling" in str(v) for v in app.table[0].value["This network"])
