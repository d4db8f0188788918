"""The sheet for a slide: the picture's own pixels, the bar's colours, and text that wraps."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnnviz_core import render

MARGIN = 48


def sheet(**arguments: object) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(render.figure_png(**arguments))))


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8)


def test_the_picture_is_enlarged_by_a_whole_factor() -> None:
    pixels = picture(7, 14)
    drawn = sheet(pixels=pixels, title="")
    body = drawn[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert body.shape == (560, 1120, 3)
    np.testing.assert_array_equal(body, np.kron(pixels, np.ones((80, 80, 1), np.uint8)))


def test_a_large_picture_is_kept_and_a_huge_one_reduced() -> None:
    pixels = picture(900, 1500)
    np.testing.assert_array_equal(sheet(pixels=pixels, title="")[MARGIN:-MARGIN, MARGIN:-MARGIN], pixels)
    assert sheet(pixels=picture(100, 4000), title="").shape == (50 + 2 * MARGIN, 2000 + 2 * MARGIN, 3)


def test_the_bar_runs_from_the_last_colour_down_to_the_first() -> None:
    pixels = picture(14, 14)
    drawn = sheet(pixels=pixels, title="", scale=render.Scale.fixed(-2, 2), unit="score")
    bar = drawn[MARGIN + 1 : MARGIN + 1119, MARGIN + 1120 + 32 + 20]
    lut = render.COLOUR_MAPS[render.DEFAULT_DIVERGING].lut
    expected = lut[np.rint(np.linspace(254, 0, 1120)).astype(int)][1:-1]
    np.testing.assert_array_equal(bar, expected)


def test_title_caption_and_unit_are_drawn() -> None:
    plain = sheet(pixels=picture(14, 14), title="")
    titled = sheet(pixels=picture(14, 14), title="Grad-CAM", caption="tiny · conv2")
    assert titled.shape[0] > plain.shape[0]
    assert titled.shape[1] == plain.shape[1]
    assert (titled[MARGIN : MARGIN + 50].min(axis=2) < 100).any()
    assert (titled[-MARGIN - 40 : -MARGIN].min(axis=2) < 150).any()
    without = sheet(pixels=picture(14, 14), title="", scale=render.Scale.fixed(0, 1))
    with_unit = sheet(pixels=picture(14, 14), title="", scale=render.Scale.fixed(0, 1), unit="activation")
    assert with_unit.shape[1] > without.shape[1]


def test_long_texts_wrap_inside_the_sheet() -> None:
    for text in ("many words " * 40, "x" * 400):
        short = sheet(pixels=picture(14, 14), title="a", caption="a")
        long = sheet(pixels=picture(14, 14), title=text, caption=text)
        assert long.shape[1] == short.shape[1]
        assert long.shape[0] > short.shape[0]
        assert (long[:, :MARGIN] == 255).all()
        assert (long[:, -MARGIN:] == 255).all()


def test_a_narrow_picture_leaves_room_for_text() -> None:
    assert sheet(pixels=picture(112, 2), title="A title")[0].shape[0] >= 720


def test_texts_beyond_the_font_are_spelt_plainly() -> None:
    def same(text: str, plain: str) -> bool:
        return np.array_equal(
            sheet(pixels=picture(14, 14), title=text, caption=text),
            sheet(pixels=picture(14, 14), title=plain, caption=plain),
        )

    assert same("224 \u00d7 224 \u2013 caf\u00e9 \u22121", "224 x 224 - cafe -1")
    assert same("\u732b", "?")
    assert not same("a", "b")


@pytest.mark.parametrize("signed", [True, False])
def test_a_scale_per_channel_has_no_numbers(signed: bool) -> None:
    values = np.random.default_rng(0).standard_normal((3, 4, 4)).astype(np.float32)
    one = sheet(pixels=picture(14, 14), title="", scale=render.scale_of(values, mode="channel", signed=signed))
    other = sheet(pixels=picture(14, 14), title="", scale=render.scale_of(values * 7, mode="channel", signed=signed))
    np.testing.assert_array_equal(one, other)
