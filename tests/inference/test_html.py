"""The page of a report: it holds everything, runs nothing but its own script, and shows words as words."""

import base64
import hashlib
import io
import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from mdf.imaging.phantom import draw
from mdf.inference.gate import BANNER
from mdf.inference.html import page
from mdf.inference.pictures import Pictures
from mdf.inference.report import Change, Flag, Origin, Report, Review, Statement
from mdf.inference.review import fingerprint, state_of
from tests.inference.reports import dark_report, full_report
from tests.page_reader import VOID, Page


class Sheet(Page):
    void = VOID | {"rect"}


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "</script><script>alert(1)</script>",
    "{{ 7 * 7 }} ${7*7}",
    "x" * 5000,
)


def pictures(report: Report) -> list[Pictures]:
    phantoms = [draw(3 + i, 128, eye.laterality.eye) for i, eye in enumerate(report.eyes)]
    masks = ("vessel", "haemorrhage", "hard_exudate")
    heat = np.linspace(0, 1, 128 * 128, dtype=np.float32).reshape(128, 128)
    return [Pictures(p.image, {m: p.masks[m] for m in masks}, {"adapter_1": heat}) for p in phantoms]


def read(report: Report, tmp_path, name: str = "a") -> Page:
    path = tmp_path / "page.html"
    path.write_text(page(report, pictures(report), name), encoding="utf-8")
    return Sheet(path)


def visible(shown: Page) -> str:
    """Its words without the data and the script at its end."""
    return shown.text.partition('{"state"')[0]


def test_the_page_asks_nothing_of_any_server_and_its_policy_allows_only_its_own_script_and_style(tmp_path):
    shown = read(full_report(), tmp_path)
    policy = next(m["content"] for m in shown.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", shown.source, re.DOTALL)
        assert len(text) == 1
        digest = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert not {"link", "iframe", "object", "embed", "base", "form", "a"} & {tag for tag, _ in shown.tags}
    for tag, attributes in shown.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        if "src" in attributes:
            assert attributes["src"].startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))


def test_the_banner_stands_on_top_in_the_metadata_on_paper_and_at_the_end(tmp_path):
    shown = read(full_report(), tmp_path)
    assert shown.text.startswith(BANNER) and visible(shown).count(BANNER) == 2
    assert {"name": "description", "content": BANNER} in shown.named("meta")
    printed = re.search(r'@top-center \{ content: "([^"]+)"', shown.source)[1]
    assert re.sub(r"\\([0-9a-f]+) ", lambda m: chr(int(m[1], 16)), printed) == BANNER
    assert "<title>DRAFT" in shown.source


def test_each_statement_says_where_it_comes_from_and_what_has_no_evidence_is_marked(tmp_path):
    report = full_report()
    shown = read(report, tmp_path)
    for origin in (Origin.SEGMENTATION, Origin.SCORING, Origin.MEASUREMENT, Origin.RULE, Origin.MODEL_TEXT):
        assert f'class="tag from-{origin.replace(" ", "-")}"' in shown.source
    without = [e.referral for e in report.eyes] + report.since + [report.referral, report.eyes[1].media]
    without += [g for e in report.eyes for g in e.grades if g.value is not None and not g.evidence]
    without += [lesion for e in report.eyes for lesion in e.lesions if not lesion.evidence]
    assert shown.source.count('class="tag unseen"') == len(without)
    assert "9 regions in the mask of haemorrhages" in shown.text


def test_every_place_in_the_photograph_can_be_drawn_where_it_is(tmp_path):
    report = full_report()
    shown = read(report, tmp_path)
    drawn = {a["data-boxes"] for a in shown.named("g")}
    expected = {
        f"eyes.{i}.lesions.{k}" for i, e in enumerate(report.eyes) for k, lesion in enumerate(e.lesions) if lesion.boxes
    }
    assert expected < drawn and "eyes.0.macula.statements.0" in drawn
    assert drawn <= {a["data-row"] for _, a in shown.tags if a.get("data-row")}
    assert [a["viewbox"] for a in shown.named("svg") if "viewbox" in a] == ["0 0 2048 1536"] * 2


def test_places_are_said_with_how_many_lie_there(tmp_path):
    report = full_report()
    report.eyes[0].lesions[0].by_zone = {"superotemporal": 3, "macula": 4}
    assert "superotemporal 3, macula 4" in read(report, tmp_path).text


def test_the_right_eye_comes_first_whatever_the_order(tmp_path):
    report = full_report()
    for eyes in (report.eyes, report.eyes[::-1]):
        text = read(report.model_copy(update={"eyes": eyes}), tmp_path).text
        assert text.index("Right eye P-0017_OD.jpg") < text.index("Left eye P-0017_OS.jpg")


def test_layers_are_pictures_that_can_be_switched_and_start_with_the_lesions_of_the_report(tmp_path):
    shown = read(full_report(), tmp_path)
    toggles = {a["data-toggle"]: "checked" in a for a in shown.named("input") if a.get("data-toggle")}
    assert toggles == {"vessel": False, "haemorrhage": False, "hard_exudate": False}  # of the left eye, the last
    layer = next(a["src"] for a in shown.named("img") if a.get("data-layer") == "vessel")
    image = Image.open(io.BytesIO(base64.b64decode(layer.partition(",")[2])))
    mask = draw(3, 128, "right").masks["vessel"]
    assert np.array_equal(np.asarray(image)[..., 3] > 0, mask)


def test_every_field_can_be_labelled_found_and_belongs_to_the_report(tmp_path):
    shown = read(full_report(), tmp_path)
    state = state_of(full_report())
    fields = [a for tag, a in shown.tags if a.get("data-path")]
    assert len(fields) > 60
    for field in fields:
        value = state
        for key in field["data-path"].split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
    assert all(a.get("alt") is not None for a in shown.named("img"))
    assert shown.named("html") == [{"lang": "en"}]


def test_the_report_travels_with_the_page_so_that_a_review_knows_what_it_changes(tmp_path):
    report = full_report()
    shown = read(report, tmp_path, name="case 7")
    data = re.search(r'<script type="application/json" id="report">(.*?)</script>', shown.source, re.DOTALL)[1]
    held = json.loads(data)
    assert held == {"state": state_of(report), "of": fingerprint(state_of(report)), "name": "case 7"}


@pytest.mark.parametrize("words", HOSTILE, ids=["script", "attribute", "address", "end of script", "template", "long"])
def test_hostile_words_stay_words_wherever_they_stand(tmp_path, words):
    tame, report = read(full_report(), tmp_path), full_report()
    right = report.eyes[0]
    right.photograph.name = report.patient = report.software.checkpoint = words
    right.impression.text = right.referral.text = right.lesions[0].evidence[0].text = words
    right.words[0].text = right.limits[0] = words
    right.gradability.reasons = [words]
    right.grades[2].value = right.grades[2].name = words
    report.comparison = [Statement(origin=Origin.MODEL_TEXT, text=words)]
    right.flags = [Flag(text=words, about=words)]
    shown = read(report, tmp_path, name=words)
    assert len(shown.named("script")) == len(tame.named("script")) == 2
    assert len(shown.named("img")) == len(tame.named("img"))
    assert visible(shown).count(" ".join(words.split())) >= 8
    assert "49" not in shown.words


def test_characters_that_turn_the_reading_direction_are_shown_and_not_obeyed(tmp_path):
    report = full_report()
    report.eyes[0].photograph.name = "photo\u202egpj.exe\u2066"
    shown = read(report, tmp_path)
    assert "\u202e" not in shown.text and "photo�gpj.exe�" in shown.text
    assert "\\u202e" in shown.source  # the data that travels with the page are what they were


def test_what_was_not_assessed_and_what_cannot_be_graded_is_said(tmp_path):
    shown = read(dark_report(), tmp_path)
    assert "Not assessed." in shown.text and "too dark; small vessels cannot be told apart" in shown.text
    assert "needs a photograph that can be graded" in shown.text
    assert "Eye side unknown" in shown.text


def test_reviews_so_far_are_told_without_what_only_followed_from_them(tmp_path):
    report = full_report()
    changes = [
        Change(path="eyes.0.lesions.1.present", before=True, after=False),
        Change(path="eyes.0.lesions.1.origin", before="segmentation", after="user"),
    ]
    signed = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
    report.reviews = [Review(version=1, reviewer="Dr <b>", signed=signed, of="0", changes=changes, comment="Looked.")]
    text = visible(read(report, tmp_path))
    assert "Review 1 by Dr <b>, 2026-11-24 09:00 UTC: 1 change." in text
    assert "eyes.0.lesions.1.present yes → no" in text and "lesions.1.origin" not in text


def test_a_page_without_pictures_says_so(tmp_path):
    (tmp_path / "page.html").write_text(page(full_report(), [], "a"), encoding="utf-8")
    assert Sheet(tmp_path / "page.html").text.count("The photograph is not part of this file.") == 2


def test_the_same_report_gives_the_same_page():
    report = full_report()
    assert page(report, pictures(report), "a") == page(report, pictures(report), "a")
