"""A report as files: every form or none, Markdown through the form that a clinician can edit, no markup of others."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.phantom import draw
from mdf.inference import markdown, render
from mdf.inference.gate import BANNER
from mdf.inference.pictures import Pictures
from mdf.inference.report import read_report
from tests.inference.reports import dark_report, full_report

HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) ![y](http://a.b/c) | # *b* `c` www.a.b a@b.c &lt; $banner"


def pictures() -> list[Pictures]:
    return [Pictures((p := draw(3 + i, 96)).image, {"vessel": p.masks["vessel"]}) for i in range(2)]


def test_each_form_is_a_file_and_the_json_is_the_report(tmp_path):
    report = full_report()
    paths = render.write(report, pictures(), tmp_path, ["json", "html", "md", "json"], "case")
    assert [p.name for p in paths] == ["case.json", "case.html", "case.md"]
    assert read_report(paths[0].read_text(encoding="utf-8"), "case.json") == report
    for path in paths:
        assert BANNER in path.read_text(encoding="utf-8")
    beside = {f"case_{side}_{what}" for side in ("right", "left") for what in ("photograph.jpg", "masks.png")}
    assert {p.name for p in tmp_path.iterdir()} == beside | {p.name for p in paths}


def test_the_photograph_beside_the_markdown_has_no_metadata_and_the_overlay_shows_the_layers(tmp_path):
    render.write(full_report(), pictures(), tmp_path, ["md"], "case")
    with Image.open(tmp_path / "case_right_photograph.jpg") as photograph:
        assert not photograph.getexif() and photograph.size == (96, 96)
    overlay = np.asarray(Image.open(tmp_path / "case_right_masks.png")).astype(int)
    vessel = draw(3, 96).masks["vessel"]
    changed = np.abs(overlay - draw(3, 96).image).sum(-1) > 0
    assert np.array_equal(changed, vessel)


@pytest.mark.parametrize(
    ("formats", "name", "says"),
    [
        (["md", "docx"], "a", "'docx' is no format of a report; must be of md, html, pdf, json, fhir"),
        ([], "a", "name at least one format"),
        (["json"], "../a", "'../a' is no name for a file"),
        (["json"], "", "'' is no name for a file"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_written(tmp_path, formats, name, says):
    with pytest.raises(UserError, match=re.escape(says)):
        render.write(full_report(), pictures(), tmp_path / "out", formats, name)
    assert not (tmp_path / "out").exists()


def test_pictures_of_one_eye_are_too_few_for_a_report_of_two(tmp_path):
    with pytest.raises(UserError, match="2 eyes needs pictures of each, got 1"):
        render.write(full_report(), pictures()[:1], tmp_path, ["html"], "a")


def test_where_one_form_cannot_be_made_none_is_written(tmp_path, monkeypatch):
    def broken(*words, **named):
        raise UserError("the form is broken")

    monkeypatch.setattr(markdown, "filled", broken)
    with pytest.raises(UserError, match="the form is broken"):
        render.write(full_report(), pictures(), tmp_path, ["json", "html", "md"], "a")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("before")
    monkeypatch.setattr("mdf.files.os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(OSError):
        render.write(full_report(), [], tmp_path, ["json"], "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"


def test_the_form_is_filled_once_for_each_eye_and_both_are_compared():
    text = markdown.filled(full_report(), "case")
    assert text.index("P-0017\\_OD.jpg") < text.index("P-0017\\_OS.jpg") < text.index("# Both eyes compared")
    assert "ICDR 2003: 2 (moderate non-proliferative diabetic retinopathy)" in text
    assert "**The model's own statement is another: 3.**" in text
    assert "**[contradicted]**" in text and "*(rule; no image evidence)*" in text
    assert "case_right_photograph.jpg" in text and "case_left_masks.png" in text


def test_without_pictures_the_markdown_points_to_none():
    assert "![" not in markdown.filled(full_report(), "case", pictured=False)


def test_a_form_that_lost_the_banner_gets_it_back_and_one_with_an_unknown_field_is_refused(tmp_path):
    def form(text: str) -> Path:
        (tmp_path / "report_form.md").write_text(text, encoding="utf-8")
        return tmp_path / "report_form.md"

    text = markdown.filled(dark_report(), "a", form=form("$name: $impression"))
    assert text.startswith(f"> **{BANNER}**\n\n{markdown.md(dark_report().eyes[0].photograph.name)}: No")
    with pytest.raises(UserError, match=r"report_form\.md: there is no field \$nonsense; fields are \$banner, \$name"):
        markdown.filled(dark_report(), "a", form=form("$nonsense"))
    with pytest.raises(UserError, match=r"a dollar sign that is no field is written \$\$"):
        markdown.filled(dark_report(), "a", form=form("5 $ a"))


def test_the_form_can_be_the_checkpoints_own(tmp_path):
    form = tmp_path / "form.md"
    form.write_text("$eye. > $draft", encoding="utf-8")
    path = render.write(full_report(), [], tmp_path, ["md"], "a", form=form)[0]
    assert "right, as given. > There are several haemorrhages" in path.read_text(encoding="utf-8")


def test_hostile_words_are_no_markup_in_markdown():
    tame, report = markdown.filled(full_report(), "case"), full_report()
    right = report.eyes[0]
    right.photograph.name = right.impression.text = right.referral.text = right.words[0].text = HOSTILE
    right.flags[0].text = right.lesions[0].evidence[0].text = report.comparison[0].text = HOSTILE
    text = markdown.filled(report, "case")
    for sign in ("<", "](", "```", "\n#", "\n|", "!["):
        live = rf"(?<!\\){re.escape(sign)}"
        assert len(re.findall(live, text)) == len(re.findall(live, tame)), sign
    assert "://" not in text.replace("\\://", "") and "www." not in text.replace("www\\.", "")
    assert text.count(BANNER) == tame.count(BANNER)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("- a list", "\\- a list"),
        ("1. first", "1\\. first"),
        ("# title\n## another", "\\# title \\#\\# another"),
        ("left_eye.jpg", "left\\_eye.jpg"),
        ("a\u202eb", "a�b"),
        ("0.83 (7 regions)", "0.83 (7 regions)"),
    ],
)
def test_words_stand_in_markdown_as_they_were(words, shown):
    assert markdown.md(words) == shown


def test_fhir_is_written_beside(tmp_path):
    pytest.importorskip("mdf.inference.fhir", reason="the FHIR bundle is not part of this build")
    path = render.write(full_report(), [], tmp_path, ["fhir"], "a")[0]
    assert path.name == "a.fhir.json" and json.loads(path.read_text(encoding="utf-8"))["resourceType"] == "Bundle"
