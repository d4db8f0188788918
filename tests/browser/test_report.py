"""Sharing in a real browser: a link, a manifest and an exported report lead back to the very screen."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Site


def channel(page: Page) -> str:
    return page.locator(".st-key-channel input").input_value()


def test_a_copied_link_brings_back_the_screen_with_an_uploaded_picture(app: Site, browser: Browser, tmp_path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "my noise.png")
    app.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = app.open("/feature_maps?channel=7")
    page.get_by_role("button", name="Your own picture").click()
    page.get_by_test_id("stFileUploaderDropzoneInput").first.set_input_files(tmp_path / "my noise.png")
    expect(page).to_have_url(re.compile("image=my"))
    app.idle()
    page.keyboard.press("Escape")
    copy = page.locator(".st-key-enlarged_link").get_by_role("button", name="Copy link")
    copy.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".st-key-enlarged_link").get_by_role("button", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    with browser.new_context() as other:
        site = Site(other.new_page(), app.url)
        site.open(link.removeprefix(app.url))
        assert channel(site.page) == "7"
        assert site.page.locator(".st-key-image input").get_attribute("value").startswith("my noise.png (")
        site.check()


def test_where_nothing_may_be_copied_the_link_is_shown(app: Site) -> None:
    app.page.add_init_script("delete Navigator.prototype.clipboard")  # as on a page without https
    page = app.open("/feature_maps?channel=7")
    part = page.locator(".st-key-enlarged_link")
    copy = part.get_by_role("button", name="Copy link")
    beside = page.locator(".st-key-enlarged_report").get_by_role("button").first
    looks = [
        (button.bounding_box()["height"], text.evaluate("text => getComputedStyle(text).fontSize"))
        for button, text in ((copy, copy), (beside, beside.get_by_text("Add to report")))
    ]
    assert looks[0] == looks[1]
    copy.click()
    field = part.get_by_role("textbox", name="Link to copy")
    expect(field).to_be_focused()
    assert field.input_value() == page.url
    page.keyboard.press("Escape")
    expect(field).to_be_hidden()


def test_a_report_is_exported_as_one_file_and_leads_back(app: Site, browser: Browser, tmp_path: Path) -> None:
    page = app.open("/feature_maps?channel=7&image=A+cup+of+espresso&weights=untrained")
    figure = page.locator(".st-key-enlarged_take_away")
    with page.expect_download() as waiting:
        figure.get_by_role("button", name="Download").click()
        page.get_by_role("button", name="Manifest (JSON)").click()
    manifest = tmp_path / "manifest.json"
    waiting.value.save_as(manifest)
    page.keyboard.press("Escape")
    figure.get_by_role("button", name="Add to report").click()
    expect(page.get_by_text("Added to your report: 1 figure.")).to_be_visible()

    app.open("/report")
    comment = page.get_by_role("textbox", name="Comment")
    comment.fill("Mostly the cup’s rim.\n<b>See</b>")
    page.keyboard.press("Control+Enter")
    app.idle()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export as HTML").click()
    exported = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(exported)

    with browser.new_context() as other:
        reader = other.new_page()
        faults: list[str] = []
        reader.on("pageerror", lambda error: faults.append(str(error)))
        reader.on("console", lambda message: faults.append(message.text))
        reader.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
        reader.goto(exported.as_uri())
        expect(reader.get_by_text("Mostly the cup’s rim.")).to_be_visible()
        expect(reader.get_by_text("<b>See</b>")).to_be_visible()
        assert reader.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
        assert not faults, faults
        link = reader.get_by_role("link", name="Open this screen in cnnviz").get_attribute("href")
    assert link.startswith(f"{app.url}/feature_maps?")

    # The other screen differs in page, network and picture from what stands in the sidebar now.
    page.get_by_role("button", name="Open the screen").click()
    expect(page).to_have_url(re.compile("feature_maps.*channel=7"))
    app.idle()
    expect(page.locator(".st-key-image input")).to_have_value("A cup of espresso")
    expect(page).to_have_url(re.compile("weights=untrained"))
    # The same page in another state: what the manifest does not name has its default again.
    page.locator(".st-key-channel input").fill("9")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("channel=9"))
    app.idle()
    page.get_by_role("button", name="Open a manifest or link").click()
    page.get_by_test_id("stFileUploaderDropzoneInput").last.set_input_files(manifest)
    expect(page).to_have_url(re.compile("channel=7"))
    app.idle()
    expect(page.locator(".st-key-channel input")).to_have_value("7")
    expect(page.locator(".st-key-image input")).to_have_value("A cup of espresso")


def test_an_earlier_address_opens_with_its_values_also_on_the_way_back_to_it(app: Site) -> None:
    page, earlier = app.open("/class_image?steps=0&seed=7&size=64"), re.compile(r"[?&](steps|seed|size)=")
    shown = page.get_by_text("0 steps · from noise, seed 7").first
    expect(shown).to_be_visible()
    expect(page).not_to_have_url(earlier)
    app.idle()
    page.go_back()  # to that address, when the widgets have their names in it already
    expect(page).not_to_have_url(earlier)
    app.idle()
    assert "class_image_seed=7" in page.url
    expect(shown).to_be_visible()
    app.check()


def test_the_manifest_of_a_chart_brings_its_screen_back(app: Site, tmp_path: Path) -> None:
    page = app.open("/adversarial?attack_steps=7&target=15+robin&image=A+cup+of+espresso")
    row = page.locator(".st-key-way_take_away")
    expect(row).to_be_visible()
    app.idle()
    row.get_by_role("button", name="Take away").click()
    taken = {}
    for name in ("Values (CSV)", "Manifest (JSON)"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=name).click()
        taken[name] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(taken[name])
    header, *rows = csv.reader(taken["Values (CSV)"].read_text("utf-8-sig").splitlines())
    assert header[0] == "step"
    assert header[1].endswith(", probability")
    assert rows
    page.keyboard.press("Escape")

    app.open("/filters")
    page.get_by_role("button", name="Open a manifest or link").click()
    page.get_by_test_id("stFileUploaderDropzoneInput").last.set_input_files(taken["Manifest (JSON)"])
    expect(page).to_have_url(re.compile("adversarial.*attack_steps=7"))
    app.idle()
    expect(page.locator(".st-key-attack_steps input")).to_have_value("7")
    expect(page.locator(".st-key-image input")).to_have_value("A cup of espresso")
    expect(page.locator(".st-key-way_take_away")).to_be_visible()


def test_an_export_right_after_typing_is_not_lost(app: Site) -> None:
    page = app.open("/feature_maps?channel=7")
    page.locator(".st-key-enlarged_take_away").get_by_role("button", name="Add to report").click()
    expect(page.get_by_text(re.compile("Added to your report"))).to_be_visible()
    app.open("/report")
    comment = page.get_by_role("textbox", name="Comment").first
    for number in range(6):
        comment.fill(f"Number {number}.")
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(20 * number)
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Export as HTML").click()
        assert f"Number {number}." in waiting.value.path().read_text()
