"""Reviews: what a person changes in a draft is saved beside it, signed, version by version; nothing is overwritten.

NAME.json is the draft, NAME.review-1.json the report after the first review, NAME.review-2.json after the second. Each
names the SHA-256 of the state that it changed and lists what it changed, so that a file that was altered afterwards is
found out: its changes no longer lead to what it says. This is a check of integrity, no cryptographic signature: who
rewrites a whole chain is not found out.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mdf.errors import UserError
from mdf.files import draft_of
from mdf.inference.edits import EDITABLE, Edits, apply, differences, edited, get, pattern
from mdf.inference.report import Change, Report, Review, read_report

FORM = "mdf edits"  # of the file that the page saves
OWN = ("form", "report", "of", "changes", "confirmed", "reviewer", "comment", "photograph_seen", "edited")
REVIEW = re.compile(r"(?P<draft>.+)\.review-(?P<version>\d+)\.json")


def fingerprint(state: Mapping[str, Any]) -> str:
    """SHA-256 of a state of a report, whatever the layout of its JSON."""
    text = json.dumps(state, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def state_of(report: Report) -> dict[str, Any]:
    """The report as its JSON holds it."""
    return json.loads(report.to_json())


@dataclass(frozen=True)
class State:
    """What a file says, with the defaults of what it leaves out, and the hash of the file's own JSON."""

    values: dict[str, Any]
    hash: str


def read_state(path: Path) -> State:
    """A report from its file. Raises UserError where it is none."""
    text = read_text(path)
    return State(state_of(read_report(text, str(path))), fingerprint(json.loads(text)))


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"{path} cannot be read: {why}") from None


def reviews_of(draft: Path) -> list[Path]:
    """The reviews beside a draft, in their order. Raises UserError where one is missing."""
    found = {}
    for path in draft.parent.glob("*.review-*.json"):
        match = REVIEW.fullmatch(path.name)
        if match and match["draft"] == draft.name.removesuffix(".json"):
            found[int(match["version"])] = path
    for number in range(1, len(found) + 1):
        if number not in found:
            raise UserError(f"{draft}: review {number} is missing beside it, and a later one is there; put it back")
    return [found[number] for number in sorted(found)]


def read_chain(draft: str | Path) -> list[State]:
    """The draft and every state that was signed, checked against each other.

    Raises UserError where one of the files was altered, or is a review of another report.
    """
    draft = Path(draft)
    if match := REVIEW.fullmatch(draft.name):
        raise UserError(f"{draft} is a review; name the draft itself, {match['draft']}.json")
    states = [read_state(draft)]
    if states[0].values["reviews"]:
        raise UserError(f"{draft} has reviews in it and is no draft; a draft stays as it was written")
    for number, path in enumerate(reviews_of(draft), 1):
        read = read_state(path)
        state, last = read.values, states[-1].values
        if state["id"] != last["id"]:
            raise UserError(f"{path} is a review of another report ({state['id']}), not of {draft.name} ({last['id']})")
        *earlier, own = state["reviews"] or [None]
        if own is None or own["version"] != number or earlier != last["reviews"]:
            raise UserError(f"{path} does not follow the review before it: its list of reviews is another")
        if own["of"] != states[-1].hash:
            raise UserError(f"{path} changed another state than the one beside it: the file before it was altered")
        changes = [Change.model_validate(change) for change in own["changes"]]
        if apply(last, changes) != {**state, "reviews": last["reviews"]}:
            raise UserError(f"{path} was altered: its list of changes does not lead to what it says")
        states.append(read)
    return states


def read_edits(path: Path, state: State) -> Edits:
    """Edits from the file that the page saves, or from a JSON of the report that was changed by hand.

    Raises UserError for any other file.
    """
    text, last = read_text(path), state.values
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no valid JSON: {error}") from None
    if isinstance(raw, dict) and raw.get("form") == FORM:
        return page_edits(path, raw)
    read_report(text, str(path))
    if raw.get("id") != last["id"]:
        raise UserError(f"{path} is another report ({raw.get('id')}), not {last['id']}")
    if raw.get("reviews", []) != last["reviews"]:
        raise UserError(f"{path} was made from another state: the report has {len(last['reviews'])} reviews by now")
    return Edits(last["id"], state.hash, list(differences(last, filled(raw, last))))


def filled(raw: Any, last: Any) -> Any:
    """A report that was changed by hand, with what was left out of it as it stood: left out is not changed."""
    if isinstance(raw, dict) and isinstance(last, dict):
        return {**last, **{key: filled(value, last.get(key)) for key, value in raw.items()}}
    if isinstance(raw, list) and isinstance(last, list):
        return [filled(value, last[i] if i < len(last) else None) for i, value in enumerate(raw)]
    return raw


def page_edits(path: Path, raw: Mapping[str, Any]) -> Edits:
    if unknown := [key for key in raw if key not in OWN]:
        raise UserError(f"{path}: {unknown[0]} does not belong into edits; known: {', '.join(OWN)}")
    if raw.get("photograph_seen") is not True:
        raise UserError(f"{path}: the reviewer has not said that they saw the photograph itself")
    texts = {key: raw.get(key, "") for key in ("report", "of", "reviewer", "comment")}
    confirmed = raw.get("confirmed", [])
    if not all(isinstance(v, str) for v in texts.values()) or not isinstance(confirmed, list):
        raise UserError(f"{path}: {', '.join(texts)} must be text and `confirmed` a list of paths")
    try:
        changes = [Change.model_validate(change) for change in raw.get("changes", [])]
    except (ValidationError, TypeError):
        raise UserError(f"{path}: `changes` must be a list of {{path, before, after}}") from None
    return Edits(texts["report"], texts["of"], changes, confirmed, texts["reviewer"] or None, texts["comment"])


def review(draft: str | Path, edits: str | Path | Edits, reviewer: str | None = None) -> Path:
    """Save a review of `draft`, NAME.json, as NAME.review-1.json (…) beside it and return that path.

    Args:
        edits: the file that the page saves, or the report's JSON changed by hand.
        reviewer: who signs; may be left out where the edits say it.

    Raises UserError, and writes nothing, for edits of another report or of an older state, for a path that is not there
    or may not be changed, for a value that the report does not allow, and for a chain that was altered.
    """
    draft = Path(draft)
    states = read_chain(draft)
    last, its_hash = states[-1].values, states[-1].hash
    where = "the edits" if isinstance(edits, Edits) else str(edits)
    wanted = edits if isinstance(edits, Edits) else read_edits(Path(edits), states[-1])
    names = {" ".join(name.split()) for name in (reviewer, wanted.reviewer) if name and name.strip()}
    if len(names) != 1:
        raise UserError(f"{where} are signed by {' and '.join(sorted(names)) or 'nobody'}; name one reviewer")
    if wanted.report != last["id"]:
        raise UserError(f"{where} belong to another report ({wanted.report}), not to {draft.name} ({last['id']})")
    if wanted.of not in (its_hash, fingerprint(last)):  # the file's, or that of the page that was made of it
        raise UserError(f"{where} were made on another state of {draft.name}: write its page anew and review that")
    check_confirmed(last, wanted, where)
    try:
        new = edited(last, wanted)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    signed = Review(
        version=len(states),
        reviewer=names.pop(),
        signed=datetime.now(UTC),
        of=its_hash,
        changes=list(differences(last, new)),
        confirmed=list(wanted.confirmed),
        comment=wanted.comment,
    )
    whole = {**new, "reviews": [*last["reviews"], json.loads(signed.model_dump_json())]}
    read_report(json.dumps(whole), f"{where}: what they lead to")
    path = draft.with_name(f"{draft.name.removesuffix('.json')}.review-{len(states)}.json")
    write_once(path, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    return path


def check_confirmed(state: Mapping[str, Any], edits: Edits, where: str) -> None:
    """Raise UserError for a confirmed path that is no statement of the report."""
    for path in edits.confirmed:
        try:
            known = isinstance(path, str) and pattern(path) in EDITABLE and get(state, path) is not None
        except (KeyError, IndexError, ValueError, TypeError):
            known = False
        if not known:
            raise UserError(f"{where}: {path!r} is confirmed and is no statement of this report")


def write_once(path: Path, text: str) -> None:
    """Write a file that must not be there yet, whole or not at all, even where two people save at the same time."""
    content = text.encode("utf-8")
    try:
        with draft_of(path, content) as whole:
            os.link(whole, path)  # unlike a rename it fails where the name is taken
    except FileExistsError:
        raise UserError(f"{path} was written meanwhile by another review; review the newest state") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with open(path, "xb") as file:  # a drive without links, such as FAT
            file.write(content)
