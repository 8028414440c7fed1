"""The page of a report in a browser: what a reviewer does there, and that what it saves is a review.

Needs playwright and a Chromium (Debian's, or the one that CHROMIUM names).
"""

import os
import shutil

import numpy as np
import pytest

from mdf.imaging.phantom import draw
from mdf.inference import render
from mdf.inference.pictures import Pictures
from mdf.inference.report import read_report
from mdf.inference.review import review
from tests.inference.reports import full_report

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, or name one with CHROMIUM"),
]


@pytest.fixture
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """The page of a report of two eyes; what went wrong in it is checked at the end."""
    phantoms = [draw(3 + i, 256, side) for i, side in enumerate(("right", "left"))]
    heat = np.ones((256, 256), np.float32)
    pictures = [Pictures(p.image, dict(p.masks), {"adapter_1": heat}) for p in phantoms]
    render.write(full_report(), pictures, tmp_path, ["html", "json"], "case")
    page = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True).new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(f"file://{tmp_path}/case.html")
    yield page
    assert not wrong


def row(page, path: str):
    return page.locator(f'[data-row="{path}"]')


def test_a_finding_in_focus_is_framed_in_the_photograph_of_its_eye_only(page):
    row(page, "eyes.0.lesions.0").locator("select").focus()
    assert page.locator("g.on").get_attribute("data-boxes") == "eyes.0.lesions.0"
    assert page.locator("g.on rect").first.is_visible()
    page.keyboard.press("Escape")
    assert page.locator("g.on").count() == 0


def test_layers_and_maps_are_switched_by_name(page):
    viewer = page.locator('[data-viewer="0"]')
    layer = viewer.locator('[data-layer="vessel"]')
    assert not layer.is_visible()
    viewer.locator('[data-toggle="vessel"]').check()
    assert layer.is_visible()
    viewer.locator("[data-pick]").select_option("adapter_1")
    assert viewer.locator("[data-map]").is_visible()
    viewer.locator("[data-none]").click()
    assert not layer.is_visible()


def test_what_is_saved_in_the_page_is_a_review_of_its_draft(page, tmp_path):
    page.on("dialog", lambda dialog: dialog.accept())
    row(page, "eyes.0.lesions.1").locator('input[type="number"]').fill("12")
    row(page, "eyes.0.lesions.2").locator("select").select_option("false")
    row(page, "eyes.1.lesions.0").locator("summary", has_text="superotemporal").click()
    row(page, "eyes.1.lesions.0").get_by_label("macula").check()
    page.locator('[data-confirm="eyes.1.grades.0"]').check()
    page.locator('[data-kind="eyes.0.lesions"]').select_option("neovascularisation")
    page.locator('[data-add="eyes.0.lesions"]').click()
    page.keyboard.type("2")
    page.locator("#save").click()
    assert page.locator("#told").inner_text() == "Who reviews? A name is missing."
    page.fill("#reviewer", "Dr <b>Müller</b>")
    page.locator("#seen").check()
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "case.edits.json"
    download.value.save_as(tmp_path / "case.edits.json")
    path = review(tmp_path / "case.json", tmp_path / "case.edits.json")
    report = read_report(path.read_text(encoding="utf-8"), path.name)
    right, left = report.eyes
    assert right.lesions[1].count == 12 and right.lesions[2].present is False
    assert left.lesions[0].zones == ["superotemporal", "macula"]
    assert (right.lesions[5].kind, right.lesions[5].count) == ("neovascularisation", 2)
    assert report.reviews[0].reviewer == "Dr <b>Müller</b>"
    assert report.reviews[0].confirmed == ["eyes.1.grades.0"]


def test_the_page_prints_with_the_banner_on_each_sheet(page):
    pypdf = pytest.importorskip("pypdf", reason="reading a PDF back needs pypdf")
    import io

    sheets = pypdf.PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True))).pages
    assert len(sheets) > 1 and all("AI-generated DRAFT" in sheet.extract_text() for sheet in sheets)


def test_on_a_telephone_nothing_is_wider_than_the_screen(page):
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
