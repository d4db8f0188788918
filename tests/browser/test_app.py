"""The real app in a real browser: what only a browser shows."""

from __future__ import annotations

import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Download, Page, expect

# Names of pages that are not whole, and choices that reach beyond the block that they stand in.
CUT_OFF = """() => {
  const names = [...document.querySelectorAll('[data-testid=stMain] [data-testid=stPageLink] p')];
  const choices = [...document.querySelectorAll('[data-testid=stMain] [data-testid=stButtonGroup] button')];
  const block = (choice) => choice.closest('[data-testid=stVerticalBlock]').getBoundingClientRect();
  const cut = names.filter((name) => [name, name.parentElement, name.closest('a')].some(
    (part) => part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).display !== 'inline'));
  const beyond = choices.filter((choice) => choice.getBoundingClientRect().right > block(choice).right + 1);
  return [...cut, ...beyond].map((part) => part.innerText);
}"""


def wall(page: Page, key: str) -> None:
    page.locator(f".st-key-{key} [data-ready]").first.wait_for()


def test_first_screen(app) -> None:
    page = app.open("/")
    expect(page.get_by_role("heading", name="It says: Egyptian cat")).to_be_visible()
    wall(page, "thumbnails")
    expect(page.get_by_text("computing on")).to_be_visible()


def test_a_click_on_a_thumbnail_changes_picture_and_link(app) -> None:
    page = app.open("/")
    wall(page, "thumbnails")
    thumbnails = page.locator(".st-key-thumbnails canvas")
    middle = thumbnails.bounding_box()["width"] / 2
    thumbnails.click(position={"x": middle, "y": 20})  # the second of three in the first row
    expect(page.get_by_role("heading", name="It says: espresso")).to_be_visible()
    expect(page).to_have_url(re.compile("image="))
    page.reload()
    expect(page.get_by_role("heading", name="It says: espresso")).to_be_visible()


def test_a_click_on_the_wall_enlarges_the_channel(app) -> None:
    page = app.open("/feature_maps?layer=conv_stem&channel=5")
    wall(page, "channel_wall")
    page.locator(".st-key-channel_wall canvas").click(position={"x": 20, "y": 20})
    expect(page).not_to_have_url(re.compile("channel=5&|channel=5$"))
    app.idle()
    chosen = page.locator(".st-key-channel input").input_value()
    expect(page.get_by_text(f"conv_stem channel {chosen}")).to_be_visible()


def test_a_deep_link_restores_the_screen(app) -> None:
    link = "/feature_maps?layer=bn2&channel=77&order=Sparsity&view=maximum+of+all+channels"
    page = app.open(link)
    expect(page.get_by_text("1280 channels of 7 × 7 cells")).to_be_visible()
    expect(page.locator(".st-key-channel input")).to_have_value("77")
    expect(page.locator(".st-key-view input")).to_have_value("maximum of all channels")


def test_another_layer_starts_with_its_own_first_channel(app) -> None:
    page = app.open("/feature_maps?channel=1e400")  # an infinite number in the link is said, not obeyed
    expect(page.get_by_text("no usable number for channel")).to_be_visible()
    expect(page).not_to_have_url(re.compile("1e400"))
    app.idle()
    page.go_back()  # to that address, when the widget has its name in it already
    expect(page.get_by_text("no usable number for channel")).to_be_visible()
    expect(page).not_to_have_url(re.compile("1e400"))
    app.open("/feature_maps?channel=5")
    expect(page.locator(".st-key-channel input")).to_have_value("5")
    page.get_by_text("7 × 7", exact=True).click()
    expect(page.get_by_text("1280 channels of 7 × 7 cells")).to_be_visible()
    app.idle()
    shown = page.locator(".st-key-channel input").input_value()
    assert shown != "5"
    expect(page).to_have_url(re.compile(f"channel={shown}"))


def test_state_follows_from_page_to_page_and_back(app) -> None:
    page = app.open("/?image=Espresso")  # not a title: said, and the default is shown
    expect(page.get_by_text("which is not on offer here")).to_be_visible()
    app.go("Look", "Filters")
    expect(page.get_by_role("heading", name="Filters")).to_be_visible()
    page.locator(".st-key-kernel input").fill("9")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("kernel=9"))
    app.go("Manage", "Model doctor")
    expect(page.get_by_role("heading", name="What fits it")).to_be_visible()
    app.go("Look", "Filters")
    expect(page.locator(".st-key-kernel input")).to_have_value("9")


def _upload(page: Page, name: str, content: bytes) -> None:
    page.get_by_role("button", name="Your own picture").click()
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_uploaded_picture_is_in_the_link(app, browser) -> None:
    page = app.open("/")
    noise = np.random.default_rng(3).integers(0, 255, (40, 60), dtype=np.uint8)
    _upload(page, "grey <b>noise</b>.png", _png(noise))
    expect(page).to_have_url(re.compile("image=grey"))
    expect(page.get_by_text("60 × 40 px picture")).to_be_visible()
    other = browser.new_page()  # another session, as a colleague who got the link
    other.goto(page.url)
    expect(other.get_by_text("60 × 40 px picture")).to_be_visible()
    other.close()


def test_a_bad_picture_is_said_and_the_old_one_stays(app) -> None:
    page = app.open("/?image=Coffee")
    _upload(page, "drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    expect(page.get_by_text("drawing.png")).not_to_have_count(0)
    expect(page.get_by_test_id("stAlert").filter(has_text="drawing.png")).to_be_visible()
    expect(page.get_by_role("heading", name="It says")).to_be_visible()


def _bomb(side: int) -> bytes:
    """A PNG that claims side x side pixels in a few kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(4000))) + chunk(b"IEND", b"")
    )


def test_a_huge_picture_is_refused(app) -> None:
    page = app.open("/")
    _upload(page, "huge.png", _bomb(30_000))
    expect(page.get_by_test_id("stAlert").filter(has_text="huge.png")).to_be_visible()


def _save(page: Page, label: str) -> Download:
    with page.expect_download() as started:
        page.get_by_role("button", name=label).click()
    return started.value


def test_downloads_hold_what_is_shown(app, tmp_path: Path) -> None:
    page = app.open("/feature_maps?layer=blocks.2&channel=3")
    page.locator(".st-key-enlarged_downloads").get_by_role("button", name="Download").click()
    values = np.load(_save(page, "Raw values").path())
    assert values.shape == (28, 28)
    assert values.dtype == np.float32
    account = json.loads(Path(_save(page, "Manifest (JSON)").path()).read_text())
    assert account["settings"]["layer"] == "blocks.2"
    names: dict[str, object] = {}
    exec("\n".join(account["python"][:-1]), names)
    assert np.array_equal(eval(account["python"][-1], names), values)
    with Image.open(_save(page, "Exact pixels").path()) as exact:
        assert exact.size == (28, 28)
    with Image.open(_save(page, "Picture (PNG)").path()) as figure:
        assert figure.width > 400


def test_a_deep_link_as_the_first_visit_after_a_start(fresh_app) -> None:
    """Streamlit answers it with "page not found" unless its automatic menu is off before the first session."""
    page = fresh_app.open("/filters?kernel=4")
    expect(page.get_by_role("heading", name="Filters")).to_be_visible()
    expect(page.locator(".st-key-kernel input")).to_have_value("4")
    expect(page.get_by_text("Page not found")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_and_a_narrow_window_have_no_overflow(app, theme: str) -> None:
    app.page.emulate_media(color_scheme=theme)
    app.page.set_viewport_size({"width": 800, "height": 900})
    pages = (
        "",
        "feature_maps",
        "filters",
        "cam",
        "saliency",
        "occlusion",
        "networks",
        "model",
        "few_shot",
        "adversarial",
        "fine_tuning",
    )
    for path in (f"/{page}" for page in (*pages, "feature_visualization", "comparison", "activity", "report")):
        page = app.open(path)
        wider = page.evaluate(
            "() => { const main = document.querySelector('[data-testid=stMain]');"
            " return main.scrollWidth - main.clientWidth; }"
        )
        assert wider <= 0, path
        assert not page.evaluate(CUT_OFF), path
