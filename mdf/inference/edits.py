"""What a person may change in a report, and what a change brings with it.

A path is that of the JSON, joined by dots: "eyes.0.lesions.2.present". What the machine measured, drew or wrote, and
where a statement comes from, cannot be edited: a statement that a person changes becomes the person's own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mdf.errors import UserError
from mdf.inference.comparison import compare_eyes
from mdf.inference.comparison import rule as by_rule
from mdf.inference.referral import most_urgent, weight
from mdf.inference.report import Change, Lesion, Origin, Report, Urgency, read_report
from mdf.inference.wording import value_names
from mdf.vocabulary import canonical, display, known

# a statement -> what of it a person may change; * is a place in a list
EDITABLE = {
    "eyes.*.laterality": ("eye",),
    "eyes.*.gradability": ("value", "is_retina", "reasons"),
    "eyes.*.media": ("text",),
    "eyes.*.disc": ("found", "cup_disc_ratio"),
    "eyes.*.disc.statements.*": ("text",),
    "eyes.*.vessels": ("found",),
    "eyes.*.vessels.statements.*": ("text",),
    "eyes.*.macula": ("nearest_exudate",),
    "eyes.*.macula.statements.*": ("text",),
    "eyes.*.lesions.*": ("present", "count", "band", "zones", "boxes"),
    "eyes.*.grades.*": ("value", "name"),
    "eyes.*.impression": ("text", "diagnosis"),
    "eyes.*.referral": ("refer", "urgency", "text"),
    "comparison.*": ("text",),
    "since.*": ("text",),
    "referral": ("refer", "urgency", "text"),
}
LISTS = {"eyes", "lesions", "grades", "statements", "comparison", "since"}  # compared place by place
ADDED = {"kind", "present", "count", "band", "zones", "boxes"}  # of a lesion that a person adds
UNGRADABLE = "U"  # the one value that may stand for an eye that cannot be graded
STALE = "was derived before {what} changed by a person: check it"
FINDINGS, SIDE = "findings were", "the eye side was"


def pattern(path: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in path.split("."))


def parent(path: str) -> str:
    return path.rpartition(".")[0]


def may_change(path: str) -> bool:
    statement, _, name = pattern(path).rpartition(".")
    return name in EDITABLE.get(statement, ())


def get(state: Any, path: str) -> Any:
    """The value at a path. Raises KeyError or IndexError where there is none."""
    for part in path.split("."):
        state = state[int(part)] if isinstance(state, list) else state[part]
    return state


def put(state: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path; one place behind the end of a list appends, and the first of none makes one."""
    *way, last = path.split(".")
    place = get(state, ".".join(way)) if way else state
    if place is None:
        put(state, ".".join(way), place := [])
    if isinstance(place, list) and int(last) == len(place):
        place.append(value)
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value


@dataclass(frozen=True)
class Edits:
    """What a person did to one state of a report."""

    report: str  # id
    of: str  # hash of the state that was edited
    changes: Sequence[Change]
    confirmed: Sequence[str] = ()
    reviewer: str | None = None
    comment: str = ""


def differences(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Every place where two states differ; a list that is no list of statements is one place."""
    name = path.rpartition(".")[2]
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and name in LISTS and same_places(name, before, after):
        for i, value in enumerate(after):
            yield from differences(before[i] if i < len(before) else None, value, f"{path}.{i}")
    elif before != after:
        yield Change(path=path, before=before, after=after)


def same_places(name: str, before: list[Any], after: list[Any]) -> bool:
    """Whether two lists can be held against each other place by place: only lesions are added behind the last one."""
    return len(after) == len(before) or (name == "lesions" and len(after) > len(before))


def apply(state: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """The state with the changes and nothing else. Raises UserError for a path that is not there, and for a `before`
    that is not what stands there.
    """
    new = deepcopy(dict(state))
    for change in changes:
        path = change.path
        try:
            stands = None if adds(new, path) else get(new, path)
        except (KeyError, IndexError, ValueError, TypeError):
            raise UserError(f"{path}: there is no such field in this report") from None
        if stands != change.before:
            raise UserError(f"{path}: the edit starts from another value than the one that stands there")
        put(new, path, change.after)
    return new


def adds(state: Mapping[str, Any], path: str) -> bool:
    """Whether the path is the place behind the last lesion of an eye."""
    if pattern(path) != "eyes.*.lesions.*":
        return False
    return int(path.rpartition(".")[2]) == len(get(state, parent(path)) or ())


def edited(state: Mapping[str, Any], edits: Edits) -> dict[str, Any]:
    """The state after a person's edits, with all that they bring with them.

    Raises UserError for what may not be changed.
    """
    changes = [own_lesion(change) for change in edits.changes]
    for change in changes:
        if not may_change(change.path) and pattern(change.path) != "eyes.*.lesions.*":
            raise UserError(f"{change.path} cannot be changed by a review: it is the draft's own record")
    new = apply(state, changes)
    paths = {change.path for change in changes}
    for change in changes:
        if pattern(change.path).endswith("referral.urgency") and change.after not in list(Urgency):
            raise UserError(f"{change.path}: {change.after!r} is not one of {', '.join(Urgency)}")
    for statement in dict.fromkeys(parent(path) for path in paths if may_change(path)):
        consequences(new, statement, {p.rpartition(".")[2] for p in paths if parent(p) == statement})
    own = {parent(path) for path in paths} | set(edits.confirmed)
    exchanged = any(pattern(path) == "eyes.*.laterality.eye" for path in paths)
    for i, eye in enumerate(new["eyes"]):
        moved = f"eyes.{i}.laterality.eye" in paths and other_side(eye, paths, i)
        gradable_again(eye)
        below = tuple(f"eyes.{i}.{part}" for part in ("gradability.", "lesions.", "disc."))
        if moved or any(path.startswith(below) for path in paths):
            flag_stale(eye, i, own, SIDE if moved else FINDINGS)
            if not exchanged:
                flag_since(eye, new["since"], own)
    follow(new, state, own, exchanged)
    return new


def follow(new: dict[str, Any], state: Mapping[str, Any], own: set[str], exchanged: bool) -> None:
    """What is said of the patient as a whole follows the eyes that a person changed, except for the statements `own`
    that the same person changed or confirmed. `exchanged`: an eye side was changed.

    Raises UserError for a value that the report does not allow.
    """
    before, after = report_of(state), report_of(new)
    was, now = most_urgent(before.eyes), most_urgent(after.eyes)
    if "referral" not in own and now != was and now is not None:
        stands = after.referral
        if stands is None or stands.origin != Origin.USER or stands == was or weight(now) > weight(stands):
            new["referral"] = now.model_dump(mode="json")
    said, due = compare_eyes(before.eyes), compare_eyes(after.eyes)
    if said != due:
        gone, come = [one for one in said if one not in due], [one for one in due if one not in said]
        kept = [s for i, s in enumerate(after.comparison) if f"comparison.{i}" in own or s not in gone]
        new["comparison"] = [one.model_dump(mode="json") for one in (*kept, *come)]
    if exchanged and new["since"]:
        text = "Not compared with the earlier report: an eye side was changed by a person."
        theirs = [s for i, s in enumerate(after.since) if f"since.{i}" in own or s.origin == Origin.USER]
        new["since"] = [one.model_dump(mode="json") for one in (*theirs, by_rule(text))]


def report_of(state: Mapping[str, Any]) -> Report:
    return read_report(json.dumps(state), "what they lead to")


def own_lesion(change: Change) -> Change:
    """A lesion that a person adds, with the vocabulary's name and the person as its origin."""
    if pattern(change.path) != "eyes.*.lesions.*":
        return change
    raw = change.after
    if change.before is not None:
        raise UserError(f"{change.path} cannot be taken out or replaced: say that it is absent")
    if not isinstance(raw, dict) or not known(str(raw.get("kind"))) or raw.keys() - ADDED - {"origin"}:
        raise UserError(
            f"{change.path}: an added finding has {', '.join(sorted(ADDED))}; kind is a name of the vocabulary"
        )
    try:
        lesion = Lesion.model_validate({**raw, "kind": canonical(raw["kind"]), "origin": Origin.USER})
    except ValidationError as error:
        raise UserError(f"{change.path}: {error.errors()[0]['msg']}") from None
    return Change(path=change.path, after=lesion.model_dump(mode="json"))


def consequences(state: dict[str, Any], statement: str, changed: set[str]) -> None:
    """What follows within a statement that a person changed: it is theirs, and rests no longer on what it rested on."""
    said = get(state, statement)
    kind = pattern(statement)
    if kind == "eyes.*.lesions.*":
        said["by_zone"] = None
        if said["present"] is not True:
            said |= {"count": None, "band": None, "zones": None, "boxes": [], "nearest_fovea": None}
        elif changed & {"count", "zones"}:
            said["band"] = said["band"] if "band" in changed else None
            said["nearest_fovea"] = None if "zones" in changed else said["nearest_fovea"]
    if kind == "eyes.*.grades.*" and "value" in changed:
        name = None if said["value"] is None else value_names(said["scale"]).get(said["value"].upper())
        said["name"] = said["name"] if "name" in changed else name
        said |= {"because": [], "disagrees": bool(said["stated"]) and said["stated"] != said["value"]}
    if kind == "eyes.*.impression" and "diagnosis" in changed and "text" not in changed:
        name = said["diagnosis"]
        text = "No confident impression" if name is None else display(name) if known(name) else name
        said["text"] = text[:1].upper() + text[1:] + "."
    if kind.endswith("referral"):
        said["because"] = []
    if "origin" in said:
        said |= {"origin": str(Origin.USER), "evidence": [], "probability": None, "calibrated": False}


def other_side(eye: dict[str, Any], changed: set[str], number: int) -> bool:
    """Temporal and nasal are named from the eye side, and the fovea is looked for on the temporal side: places that the
    machine gave by another side are no longer known. Whether any were taken out.
    """
    if eye["laterality"]["eye"] == side_of_places(eye):
        return False
    here, macula, lost = f"eyes.{number}.", eye["macula"], False
    for i, lesion in enumerate(eye["lesions"] or ()):
        if lesion["zones"] and f"{here}lesions.{i}.zones" not in changed:
            lesion["zones"], lesion["by_zone"], lost = None, None, True
        if lesion["nearest_fovea"] is not None:
            lesion["nearest_fovea"], lost = None, True
    if macula["centre"] is not None:
        macula["centre"], lost = None, True
        macula["statements"] = [said for said in macula["statements"] if said["origin"] != Origin.MEASUREMENT]
        eye["photograph"]["fields"] = None
    if macula["nearest_exudate"] is not None and f"{here}macula.nearest_exudate" not in changed:
        macula["nearest_exudate"], lost = None, True
    if lost:
        text = "The eye side was changed by a person: the places of fovea and findings, which depend on it, are out."
        eye["flags"] = [*eye["flags"], {"text": text, "about": "laterality"}]
    return lost


def side_of_places(eye: Mapping[str, Any]) -> str | None:
    """The eye side by which places were given: the disc lies nasal of the fovea. None where it cannot be told."""
    disc, fovea = eye["disc"]["box"], eye["macula"]["centre"]
    if disc is None or fovea is None:
        return None
    return "right" if (disc["left"] + disc["right"]) / 2 > fovea[0] else "left"


def gradable_again(eye: dict[str, Any]) -> None:
    """An eye that a person calls not gradable loses the machine's grades and impression."""
    gradability = eye["gradability"]
    if gradability["is_retina"] and gradability["value"] == "good":
        return
    for grade in eye["grades"]:
        if grade["origin"] != Origin.USER and grade["value"] not in (None, UNGRADABLE):
            grade |= {"value": None, "name": None, "because": [], "needs": [*grade["needs"], "a gradable photograph"]}
    said = eye["impression"]
    if said and said["diagnosis"] and said["origin"] != Origin.USER:
        said |= {"diagnosis": None, "text": "No impression: the photograph cannot be graded."}


def flag_stale(eye: dict[str, Any], number: int, own: set[str], what: str) -> None:
    """Say of each grade, of the impression and of the referral that `what` is under it has changed since, unless the
    same person changed or confirmed it: then it is one of their `own` statements.
    """
    derived = [(f"grades.{i}", f"grades.{g['scale']}") for i, g in enumerate(eye["grades"]) if g["value"] is not None]
    derived += [(name, name) for name in ("impression", "referral") if eye[name]]
    for place, about in derived:
        text = f"The {about.replace('grades.', 'grade on ')} {STALE.format(what=what)}."
        flag = {"text": text, "about": about}
        if f"eyes.{number}.{place}" not in own and flag not in eye["flags"]:
            eye["flags"] = [*eye["flags"], flag]


def flag_since(eye: dict[str, Any], since: Sequence[Mapping[str, Any]], own: set[str]) -> None:
    """Say that what changed in this eye since an earlier report was told by findings that have changed."""
    side = eye["laterality"]["eye"]
    told = [said for i, said in enumerate(since) if said["origin"] != Origin.USER and f"since.{i}" not in own]
    if side and any(said["text"].startswith(f"{side.capitalize()} eye: ") for said in told):
        flag = {"text": f"What changed since the earlier report {STALE.format(what=FINDINGS)}.", "about": "since"}
        if flag not in eye["flags"]:
            eye["flags"] = [*eye["flags"], flag]
