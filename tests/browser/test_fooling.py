"""The page of fooling images in a real browser: the file that is downloaded, and the picture while it is made."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from cnnviz_core import images
from cnnviz_core.models import LoadedModel


def test_the_downloaded_picture_fools(app, lite0: LoadedModel, tmp_path: Path) -> None:
    page = app.open("/adversarial?attack=FGSM&seen_as=anything+else")
    expect(page.get_by_text(re.compile("^Fooled: Egyptian cat"))).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Altered picture").click()
    file = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(file)
    assert file.name.endswith("-altered.png")
    answer = lite0.predict(images.open_image(file))
    assert answer.labels[0] == "tiger cat"
    shown = f"tiger cat {100 * answer.probabilities[0]:.1f} %"
    expect(page.get_by_text(re.compile(f"→ {shown}"))).to_be_visible()


def test_a_long_attack_is_shown_while_it_goes_on_and_cancelled(app) -> None:
    page = app.open("/adversarial?attack_steps=200")
    page.get_by_role("button", name="Run: PGD").click()
    expect(page.locator(".st-key-adversarial_so_far img").first).to_be_visible()
    expect(page.get_by_text(re.compile("^So far: "))).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text(re.compile(r"^Cancelled after \d+ of 200 steps"))).to_be_visible()
    expect(page.get_by_text(re.compile("^After step"))).not_to_have_count(0)
