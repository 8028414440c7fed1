"""prepare.py validate as a user runs it: exit codes, names that are accepted, and the page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import assert_refused
from tests.datasets.validation.planted import Planted
from tests.datasets.validation.test_validation_findings import NOTES, SEVERE, everything
from tests.scripts import run


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path / "data")


def validate(planted: Planted, *args: str) -> int:
    """Exit code of the script, run in this process."""
    return run("prepare.py", "validate", planted.write(), "--workers", 1, *args)


def page(planted: Planted, *args: str) -> str:
    validate(planted, *args)
    return planted.file("set.validation.html").read_text(encoding="utf-8")


# -- the command


def test_a_clean_set_passes(planted: Planted, run_script):
    result = run_script("prepare.py", "validate", planted.write())
    assert result.returncode == 0, result.stderr
    assert "every image and mask can be read, and no photograph or patient is in two splits" in result.stdout
    for part in ("5 photographs of 5 patients", "glaucoma", "masks: vessel 5", "sources: here 5"):
        assert part in result.stdout


def test_a_dishonest_set_is_refused_in_one_message(planted: Planted, run_script):
    SEVERE["duplicate-across-splits"][0](planted)
    result = run_script("prepare.py", "validate", planted.write())
    assert_refused(
        result, "1 problems", "the same file: a (train), d (test)", "prepare.py split", "--accept duplicate-across-"
    )


@pytest.mark.parametrize("name", list(SEVERE))
def test_what_makes_training_dishonest_is_refused_until_it_is_accepted(planted: Planted, name: str, capsys):
    SEVERE[name][0](planted)
    assert validate(planted) == 2
    assert f"--accept {name})" in capsys.readouterr().err
    assert validate(planted, "--accept", name) == 0
    assert f"accepted: {name} (1)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["no-patient", "too-plain", "text-names-label", "implausible-value"])
def test_what_has_to_be_known_is_printed_and_passes(planted: Planted, name: str, capsys):
    NOTES[name][0](planted)
    assert validate(planted) == 0
    assert f"  {name} (1): " in capsys.readouterr().out


def test_accept_accepts_what_it_names_and_no_more(planted: Planted, capsys):
    for name in ("contradictory-label", "mask-size", "patient-across-splits"):
        SEVERE[name][0](planted)
    assert validate(planted, "--accept", "mask-size") == 2
    said = capsys.readouterr()
    assert "error: 2 problems" in said.err and "mask-size" not in said.err and "accepted: mask-size (1)" in said.out
    assert validate(planted, "--accept", "mask-size", "contradictory-label") == 2
    assert "error: 1 problems" in capsys.readouterr().err
    assert validate(planted, "--accept", "mask-size", "contradictory-label", "patient-across-splits") == 0


def test_a_name_that_is_no_finding_is_refused_with_those_that_are(planted: Planted, capsys):
    assert validate(planted, "--accept", "duplicates") == 2
    said = capsys.readouterr().err
    assert "--accept: duplicates is no finding of validate; did you mean duplicate?" in said
    assert all(name in said for name in SEVERE | NOTES)
    assert not planted.file("set.validation.html").exists()


def test_the_page_cannot_overwrite_the_manifest(planted: Planted, capsys):
    before = planted.write().read_text()
    assert validate(planted, "--page", str(planted.file("set.jsonl"))) == 2
    assert "the page's name ends in .html" in capsys.readouterr().err
    assert planted.file("set.jsonl").read_text() == before


# -- the page


class Tags(HTMLParser):
    """Collects every tag with its attributes, and the text; each tag that is opened has to be closed."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_every_finding_and_class_with_photographs(planted: Planted):
    everything(planted)
    text = page(planted)
    seen = Tags(text)
    sections = {attributes["id"] for tag, attributes in seen.tags if tag == "h2" and "id" in attributes}
    assert {"unreadable-file", "duplicate-labels", "patient-flags", "implausible-value"} <= sections
    links = {attributes["href"] for tag, attributes in seen.tags if tag == "a"}
    assert links == {f"#{name}" for name in sections}
    for name in ("unreadable-file", "duplicate-labels"):
        assert f'<td class="problem">problem</td><td><a href="#{name}">' in text
    pictures = [attributes["src"] for tag, attributes in seen.tags if tag == "img"]
    assert len(pictures) > 15 and all(re.match("data:image/jpeg;base64,[A-Za-z0-9+/=]+$", p or "") for p in pictures)
    assert "cannot be read" in seen.text and "glaucoma (" in seen.text and "diabetic_retinopathy (" in seen.text


def test_the_page_of_a_clean_set_says_so(planted: Planted):
    text = page(planted)
    assert "Nothing stands against training on this." in text and "No findings." in text


def test_the_page_says_what_was_accepted(planted: Planted):
    SEVERE["contradictory-label"][0](planted)
    text = page(planted, "--accept", "contradictory-label")
    assert 'class="accepted">accepted' in text and "1 findings were accepted" in text


def test_the_page_needs_no_network_and_no_script(planted: Planted):
    everything(planted)
    seen = Tags(page(planted))
    assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base"})
    for _, attributes in seen.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:") and attributes.get("href", "#").startswith("#")
    style = page(planted).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_hostile_words_of_a_manifest_stay_words(planted: Planted):
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    planted.rows["b"] |= {
        "id": f"b{hostile}", "source": hostile, "patient": f"pb{hostile}", "camera": hostile,
        "extra": {f"systolic {hostile}": 412, "acquisition_date": "2999-01-01", "patient_flags": hostile},
        "masks": {hostile: "a_vessel.png", "vessel": f"{hostile.replace('/', '')}.png"},
        "boxes": {hostile: [0, 0, 999, 1]}, "grade": {"icdr": hostile}, "texts": {hostile: "amd"},
    }  # fmt: skip
    planted.rows["c"]["patient"] = planted.rows["b"]["patient"]
    (planted.root / "set.meta.json").write_text(json.dumps({"dataset": hostile}))
    seen = Tags(page(planted))
    assert seen.text.count(hostile) > 10  # id, source, mask, box, grade, title, … each as it was written
    assert not any(tag == "script" or "onerror" in attributes for tag, attributes in seen.tags)


def test_no_path_above_the_root_is_on_the_page_or_in_the_report(planted: Planted, capsys):
    everything(planted)
    planted.rows["c"]["masks"] = {"vessel": "missing.png"}
    text = page(planted)
    assert str(planted.root) not in text and str(planted.root.parent) not in text
    assert "b.png" in text and "missing.png" in text
    said = capsys.readouterr()
    assert "b.png" in said.err and str(planted.root) not in said.err


def test_the_page_of_thousands_of_problems_stays_small(planted: Planted):
    for i in range(3000):
        planted.rows[f"x{i}"] = {"id": f"x{i}", "image": f"x{i}.png", "patient": "one", "split": "train"}
    text = page(planted)
    assert "… and 2800 more." in text and "(3000)" in text
    # 200 cases in words, a few pictures of 4 kB
    assert len(text) < 200_000
