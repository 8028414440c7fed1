"""The tab of the report: what its handlers refuse."""

import json

import pytest

from mdf.errors import UserError
from mdf.inference.conversation import Sampling
from mdf.inference.predictor import Predictor
from mdf.inference.review import FORM, fingerprint
from mdf.inference.serve_report import Reports
from mdf.inference.serve_room import Room
from mdf.inference.visits import Visits
from tests.inference.reports import full_report


@pytest.fixture
def room(checkpoint):
    room = Room(Visits(Predictor(checkpoint.run / "best", "cpu"), Sampling()))
    yield room
    room.visits.close()


def test_a_review_that_says_nothing_is_not_signed(room):
    visit, report = room.visits.of("reader"), full_report()
    visit.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (visit.folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    visit.drafts |= {"file": visit.folder / "report.json", "pictures": []}
    of = fingerprint(json.loads(report.to_json()))
    edits = {"form": FORM, "report": report.id, "of": of, "reviewer": "A. Reader", "photograph_seen": True}
    with pytest.raises(UserError, match="nothing is changed, ticked or commented"):
        Reports(room).sign("reader", None, json.dumps(edits))
    assert not list(visit.folder.glob("*.review-*.json"))
    Reports(room).sign("reader", None, json.dumps({**edits, "confirmed": ["referral"]}))
    assert list(visit.folder.glob("report.review-1.json"))
