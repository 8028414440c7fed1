"""The PDF of a report: banner on each page and in the metadata, every letter or a clear refusal."""

import io
import re

import numpy as np
import pytest

pytest.importorskip("reportlab", reason="the PDF is made with reportlab")

from mdf.errors import UserError
from mdf.imaging.phantom import draw
from mdf.inference import pdf
from mdf.inference.gate import BANNER
from mdf.inference.pictures import Pictures
from mdf.inference.report import Report
from tests.inference.reports import dark_report, full_report


def pictures(report: Report) -> list[Pictures]:
    phantoms = [draw(3 + i, 96, eye.laterality.eye) for i, eye in enumerate(report.eyes)]
    return [Pictures(p.image, {"vessel": p.masks["vessel"], "haemorrhage": p.masks["haemorrhage"]}) for p in phantoms]


def read(content: bytes):
    pypdf = pytest.importorskip("pypdf", reason="reading a PDF back needs pypdf")
    return pypdf.PdfReader(io.BytesIO(content))


def words(page) -> str:
    return " ".join(page.extract_text().split())


def test_the_banner_stands_on_each_page_and_in_the_metadata():
    report = full_report()
    shown = read(pdf.pages(report, pictures(report)))
    assert len(shown.pages) > 1
    for number, page in enumerate(shown.pages, 1):
        assert words(page).count(BANNER) == 1
        assert f"page {number} of {len(shown.pages)}" in words(page) and report.id in words(page)
    assert shown.metadata.subject == BANNER and shown.metadata.title.startswith("DRAFT")
    assert "AI-generated" in shown.metadata["/Keywords"]


def test_everything_that_is_said_of_both_eyes_is_on_paper():
    report = full_report()
    shown = read(pdf.pages(report, pictures(report)))
    text = re.sub(r"\s+", "", "".join(page.extract_text() for page in shown.pages))
    said = [s.text for s in report.comparison + report.since]
    for eye in report.eyes:
        said += [eye.impression.text, eye.referral.text, *(w.text for w in eye.words), *(f.text for f in eye.flags)]
        said += [e.text for lesion in eye.lesions for e in lesion.evidence] + [g.name for g in eye.grades if g.name]
        said += eye.limits
    for sentence in said:
        assert re.sub(r"\s+", "", sentence) in text, sentence
    assert "noimageevidence" in text and "Signature" in text


def test_photograph_and_overlay_are_there_for_each_eye():
    report = full_report()
    images = [image for page in read(pdf.pages(report, pictures(report))).pages for image in page.images]
    assert len(images) == 4
    assert not read(pdf.pages(report)).pages[0].images


def test_letters_of_many_languages_and_signs_of_measure_are_printed():
    report = full_report()
    sentence = "Łukasz Şahin, Müller, Žižek: ≥ 3, ≈ 0.5 µm ± 2 °; Привет, αβγ"
    report.eyes[0].impression.text = sentence
    text = "".join(words(page) for page in read(pdf.pages(report)).pages)
    assert sentence in text


@pytest.mark.parametrize("letter", ["網", "ع", "👁"])
def test_a_letter_that_the_font_lacks_is_refused_and_named_instead_of_a_box(letter):
    report = full_report()
    report.eyes[0].impression.text = f"See {letter}."
    with pytest.raises(
        UserError, match=rf"no letter for {letter} \(U\+{ord(letter):04X}\) in 'See {letter}\.'; take html"
    ):
        pdf.pages(report)


@pytest.mark.parametrize(
    "hostile", ["<b>bold</b> & <img src='http://a.b/c'/>", "</para><para>", "x" * 3000, "a \u202e b", "y " * 4000]
)
def test_hostile_words_are_words(hostile):
    report = full_report()
    right = report.eyes[0]
    right.photograph.name = right.impression.text = right.lesions[0].evidence[0].text = report.patient = hostile
    right.grades[0].because = [hostile]
    shown = read(pdf.pages(report))
    text = re.sub(r"\s+", "", "".join(page.extract_text() for page in shown.pages[:3]))
    assert re.sub(r"\s+", "", hostile.replace("\u202e", "�"))[:200] in text
    assert not any(page.images for page in shown.pages)
    assert all(words(page).count(BANNER) == 1 for page in shown.pages)


def test_a_photograph_that_cannot_be_graded_has_a_pdf_that_says_why():
    report = dark_report()
    text = words(read(pdf.pages(report, [Pictures(np.zeros((64, 64, 3), np.uint8))])).pages[0])
    assert "not gradable: too dark" in text and "Not assessed." in text
    assert "not given" in text


def test_the_same_report_gives_the_same_bytes():
    report = dark_report()
    assert pdf.pages(report) == pdf.pages(report)
