"""Two networks in a real browser: a training that is seen learning and cancelled, and the study filling in."""

from __future__ import annotations

import io
import re
import zipfile

import numpy as np
from PIL import Image
from playwright.sync_api import expect

# Small and untrained, so that an epoch takes no time, and far more of them than anybody waits for.
TRAINING = "/fine_tuning?model=timm/mobilenetv3_small_050&weights=untrained&scope=the+head&epochs=1000&patience=1000"
STUDY = (
    "/comparison?model=timm/mobilenetv3_small_050&weights=untrained&other=the+same,+its+last+stage+redrawn"
    "&part=What+channels+look+for&study_layers=blocks.4.1&study_channels=16&study_size=64&study_steps=64"
)


def shades() -> bytes:
    """A ZIP of light and dark pictures, which take a while to be told apart for sure."""
    packed, draw = io.BytesIO(), np.random.default_rng(0)
    with zipfile.ZipFile(packed, "w") as archive:
        for label, mean in (("dark", 110), ("light", 145)):
            for number in range(20):
                file = io.BytesIO()
                pixels = np.clip(draw.normal(mean, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(file, "PNG")
                archive.writestr(f"{label}/{number}.png", file.getvalue())
    return packed.getvalue()


def test_a_training_is_seen_learning_cancelled_and_its_best_is_in_the_list(app) -> None:
    page = app.open(TRAINING)
    page.get_by_role("button", name="Your own", exact=True).click()
    page.locator(".st-key-collection_zip input[type=file]").set_input_files(
        {"name": "shades.zip", "mimeType": "application/zip", "buffer": shades()}
    )
    page.get_by_role("button", name="Unpack").click()
    expect(page.get_by_text("2 classes. 26 training pictures change the weights")).to_be_visible()
    app.idle()  # the run that draws the button takes it away if it is stopped
    page.get_by_role("button", name="Run: Train").click()
    # The curves are there, and grow without a click. For a moment the old one and the new one stand there together.
    expect(page.locator(".st-key-so_far_loss .js-plotly-plot").first).to_be_visible()
    expect(page.locator(".st-key-so_far_accuracy").get_by_text("linear probe, validation").first).to_be_visible()
    epoch = page.get_by_text(re.compile(r"^Epoch \d+ of 1000"))
    expect(epoch).to_be_visible()
    before = epoch.inner_text()
    expect(page.get_by_text(before, exact=True)).not_to_be_visible()
    expect(page.get_by_text(re.compile(r"^Train: [\d,]+ of 26,040, .*about .* left"))).to_be_visible()
    page.locator(".st-key-fine_tuning_cancel").get_by_role("button").click()
    expect(page.get_by_text("It was cancelled; the best epoch until then is kept.")).to_be_visible()
    expect(page.get_by_test_id("stMetric").filter(has_text="Test accuracy")).to_be_visible()
    app.idle()
    page.get_by_role("button", name="Use this network").click()
    network = page.get_by_role("combobox", name="Network")
    expect(network).to_have_value(re.compile("^mobilenetv3_small_050 .* · checkpoint/mobilenetv3_small_050"))


def test_the_study_fills_in_and_ends_in_its_figures(app) -> None:
    page = app.open(STUDY)
    page.get_by_role("button", name="Run: Make and compare the pictures").click()
    expect(page.get_by_text("the latest first, with their cosine")).to_be_visible()
    expect(page.locator(".st-key-study_boxes .js-plotly-plot").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"Median of blocks\.4\.1: \d\.\d{3}\."))).to_be_visible()
