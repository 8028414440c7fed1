"""The page of many reports: counts, order, and what hostile names and very many rows do to it."""

import csv
import json

import pytest

from mdf.errors import UserError
from mdf.inference import summary
from mdf.inference.summary import write_summary
from tests.page_reader import Page

PLAN = {"made": "reports", "format": "md,html", "rules": "ICO 2017", "eye": None, "force": False, "items": 8}


def eye(name, urgency="none", gradability="good", diagnosis="normal", confident=True, side="right"):
    return {
        "photograph": name, "eye": side, "gradability": gradability, "reasons": ["too dark"] * (gradability != "good"),
        "diagnosis": diagnosis, "probability": diagnosis and 0.75, "confident": confident, "urgency": urgency,
    }  # fmt: skip


def line(id_, *eyes, urgency=None, **more):
    made = {"id": id_, "status": "done", "at": "2026-01-01", "seconds": 1.0, **more}
    if eyes:
        made |= {"report": f"reports/00/{id_}-0", "eyes": list(eyes), "urgency": urgency or eyes[0]["urgency"]}
    return made


LINES = [
    line("calm", eye("calm")),
    line("pair", eye("pair left", "none", side="left"), eye("pair right", "urgent", diagnosis="amd"), urgency="urgent"),
    line("now", eye("now", "same day", diagnosis="retinal_detachment")),
    line("dark", eye("dark", "soon", "not", None, False)),
    line("doubt", eye("doubt", "routine", diagnosis="glaucoma", confident=False)),
    line("<img src=x>", status="failed", reason="damaged", bad=[
        {"photograph": "=cmd()", "status": "failed", "reason": "<script>alert(1)</script>"}]),
    line("sides", status="refused", reason="which eye is it?"),
]  # fmt: skip


@pytest.fixture
def out(tmp_path):
    (tmp_path / "batch.json").write_text(json.dumps(PLAN))
    for shard in (0, 1):
        text = "".join(json.dumps(one) + "\n" for one in LINES[shard::2])
        (tmp_path / f"index.{shard + 1}-of-2.jsonl").write_text(text)
    return tmp_path


def test_the_most_urgent_stand_first_and_the_eyes_of_a_patient_together(out):
    write_summary(out)
    with (out / "index.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    names = [row["photograph"] for row in table]
    assert names == ["now", "pair left", "pair right", "dark", "doubt", "calm", "'=cmd()", "sides"]
    assert table[2]["diagnosis"] == "amd" and table[3]["reason"] == "too dark" and table[7]["status"] == "refused"
    links = [a["href"] for a in Page(out / "index.html").named("a") if "reports/" in (a["href"] or "")]
    assert links == [f"reports/00/{n}-0.html" for n in ("now", "pair", "pair", "dark", "doubt", "calm")]


def test_counts_are_those_of_photographs(out):
    text = Page(write_summary(out)).text
    for said in (
        "Draft reports of 8 photographs", "reports 5 of 6 photographs", "same day 1 photographs", "refused 1 ",
        "failed 1 ", "cannot be graded 1 photographs", "1 of 8 reports are not made yet",
        "glaucoma 0.75 not confident", "no confident diagnosis", "not graded",
    ):  # fmt: skip
        assert said in text, said


def test_nothing_of_a_name_or_reason_runs_or_is_fetched(out):
    page = Page(write_summary(out))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "link", "form", "object"}
    assert "<script>alert(1)</script>" in page.text  # as words
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "://" not in page.source


def test_of_very_many_the_page_shows_the_first_and_the_table_all(out, monkeypatch):
    monkeypatch.setattr(summary, "ROWS", 2)
    page = Page(write_summary(out))
    assert "The first 2 of 6; the others stand in index.csv" in page.text
    assert len([a for a in page.named("a") if "reports/" in (a["href"] or "")]) == 2
    assert len((out / "index.csv").read_text().splitlines()) == 9


def test_a_photograph_stands_once_whatever_fellow_it_got_or_lost(tmp_path):
    def shown(*lines):
        lines = [{**one, "at": f"2026-01-0{day}"} for day, one in enumerate(lines, 1)]
        (tmp_path / "batch.json").write_text(json.dumps({**PLAN, "items": 1}))
        (tmp_path / "index.1-of-1.jsonl").write_text("".join(json.dumps(one) + "\n" for one in reversed(lines)))
        assert "not made yet" not in Page(write_summary(tmp_path)).text
        with (tmp_path / "index.csv").open(newline="") as stream:
            return {(r["photograph"], r["status"], r["urgency"], r["report"]) for r in csv.DictReader(stream)}

    alone, pair = line("a", eye("a", "urgent")), line("a + b", eye("a"), eye("b"))
    both = {("a", "done", "none", "reports/00/a + b-0"), ("b", "done", "none", "reports/00/a + b-0")}
    assert shown(alone, pair) == both
    urgent = ("a", "done", "urgent", "reports/00/a-0")
    assert shown(pair, alone) == {urgent, ("b", "done", "none", "reports/00/a + b-0")}
    refused = line("a + b", status="refused", reason="which eye is it?")
    assert shown(alone, refused) == {urgent, ("a + b", "refused", "", "")}  # no report is hidden by none
    assert shown(refused, alone, line("b", eye("b"))) == {urgent, ("b", "done", "none", "reports/00/b-0")}
    bad = line("a", status="failed", bad=[{"photograph": "a", "status": "failed", "reason": "damaged"}])
    assert shown(bad, pair) == both


def test_a_folder_of_something_else_is_refused(out):
    (out / "batch.json").write_text(json.dumps({**PLAN, "made": "embeddings"}))
    with pytest.raises(UserError, match="holds no reports"):
        write_summary(out)
