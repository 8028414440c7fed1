"""Which eye a photograph shows: as it was given, by its DICOM tag, by its file's name, by the picture, in that order.

Words that contradict each other are an error to be mended; a picture that contradicts what only its file says leaves
the side open. The picture alone names the side where it is sure, and a file's name where the picture says nothing; the
report says that neither was given.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from mdf.errors import UserError
from mdf.imaging.decode import is_dicom
from mdf.imaging.eye_side import EyeSide
from mdf.inference.report import Evidence, Flag, Laterality, Origin

Side = Literal["left", "right"]
PICTURE = "places of disc, vessels and fovea in the picture"
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
SHORT = re.compile(r"(?<![^\W\d_])(os|od)(?![^\W\d_])", re.IGNORECASE)  # no letter beside it
SIDES: dict[str, Side] = {"left": "left", "right": "right", "os": "left", "od": "right"}
BY_NAME = "its file name"


@dataclass(frozen=True)
class Found:
    laterality: Laterality
    nasal: int | None  # +1 where the nasal half is on the right of the picture, -1 on the left, None unknown
    flags: list[Flag]


def named_side(name: str) -> Side | None:
    """The eye that a file's name says, None where it names none or both: "OD_12.jpg", "patient7-left.png".

    OD and OS are words of other languages and names of systems too ("todos os exames", "Mac OS 12"): in small letters
    they count without a blank beside them alone, in capitals with a blank on one side at most.
    """
    stem = Path(name).stem
    words = re.split(r"[^a-z]+", CAMEL.sub(" ", stem).lower())
    said = [word for word in words if word in ("left", "right")]
    for found in SHORT.finditer(stem):
        beside = stem[: found.start()][-1:] + stem[found.end() :][:1]
        if beside.count(" ") <= found[0].isupper():
            said.append(found[0].lower())
    sides = {SIDES[word] for word in said}
    return sides.pop() if len(sides) == 1 else None


def tagged_side(path: Path) -> Side | None:
    """The eye that the tags of a DICOM file name; None for any other file.

    Raises UserError where they name both eyes or contradict each other.
    """
    with path.open("rb") as stream:
        if not is_dicom(stream):
            return None
    from mdf.imaging.dicom import read_tags
    from mdf.imaging.dicom_header import KEPT, eyes

    named = eyes(read_tags(path, KEPT)[0])
    if len(named) > 1 or "both" in named:
        raise UserError(f"{path}: its DICOM tags name both eyes; correct them, or save the eye as a file of its own")
    return cast(Side, named.pop()) if named else None


def worded_side(path: Path, given: Side | None) -> tuple[Side | None, str]:
    """What is said of the eye in words, and by what. Raises UserError where words contradict each other."""
    said = {"it was given as": given, "its DICOM tag says": tagged_side(path), "its name says": named_side(path.name)}
    told = {who: side for who, side in said.items() if side}
    if len(set(told.values())) > 1:
        clash = " but ".join(f"{who} {side}" for who, side in told.items())
        raise UserError(f"{path}: which eye is it? {clash}; correct what is wrong, nothing was written")
    who = next(iter(told), "")
    return told.get(who), {"it was given as": "given", "its DICOM tag says": "its DICOM tag"}.get(who, BY_NAME)


def choose_side(path: Path, given: Side | None, told: EyeSide, by_disc: int | None) -> Found:
    """The side of one photograph.

    `told` is what the whole picture tells, `by_disc` the side of the disc in its mask: +1 right, -1 left, None unsure.
    Raises UserError where words contradict each other.
    """
    said, who = worded_side(path, given)
    if said:
        evidence = [Evidence(text=f"{who}: {said}")] if not given else []
        if told.side is None or told.side == said:
            nasal = 1 if said == "right" else -1
            if who != BY_NAME:
                return Found(Laterality(origin=Origin.USER, eye=said, evidence=evidence), nasal, [])
            if told.side:
                seen = [*evidence, Evidence(text=PICTURE)]
                return Found(
                    Laterality(origin=Origin.MEASUREMENT, eye=said, probability=told.confidence, evidence=seen),
                    nasal,
                    [],
                )
            text = f"The {said} eye is taken from the file's name, not given: check it."
            return Found(Laterality(origin=Origin.RULE, eye=said, evidence=evidence), nasal, [flag(text)])
        how = f"the picture looks like a {told.side} eye (confidence {told.confidence:.2f})"
        if given:
            text = f"Given as the {said} eye, but {how}: quadrants are left out; is it mirrored or mixed up?"
            return Found(Laterality(origin=Origin.USER, eye=said, evidence=evidence), None, [flag(text)])
        text = f"The eye side is left open: {who} says {said}, but {how}. Say which it is."
        return Found(Laterality(origin=Origin.MEASUREMENT, eye=None), None, [flag(text)])
    return from_picture(told, by_disc)


def from_picture(told: EyeSide, by_disc: int | None) -> Found:
    """The side of a photograph of which nothing is said in words; arguments as of `choose_side`."""
    disc = {1: "right", -1: "left"}.get(by_disc or 0)
    seen = {side for side in (told.side, disc) if side}
    if told.side and seen == {told.side}:
        nasal = 1 if told.side == "right" else -1
        laterality = Laterality(
            origin=Origin.MEASUREMENT,
            eye=told.side,
            probability=told.confidence,
            evidence=[Evidence(text=PICTURE)],
        )
        return Found(
            laterality, nasal, [flag(f"The {told.side} eye is told from the photograph, not given: check it.")]
        )
    if len(seen) > 1:
        text = "The eye side is not given, and the picture is contradictory: say which it is."
        return Found(Laterality(origin=Origin.MEASUREMENT, eye=None), None, [flag(text)])
    text = "The eye side is not given, and the photograph alone does not tell it surely: say which it is."
    return Found(Laterality(origin=Origin.MEASUREMENT, eye=None), by_disc, [flag(text)])


def flag(text: str) -> Flag:
    return Flag(text=text, about="laterality")


def check_pair(
    paths: Sequence[Path],
    hashes: Sequence[str],
    told: Sequence[EyeSide],
    found: Sequence[Found],
    *,
    force: bool = False,
) -> None:
    """Raise UserError where two photographs cannot be the left and the right eye of one patient.

    `force` lets two pass that look like the same side, or exchanged, since a picture can mislead.
    """
    first, second = paths
    if hashes[0] == hashes[1]:
        raise UserError(f"{first} and {second} are the same photograph; give one of each eye")
    sides = [one.laterality.eye for one in found]
    if sides[0] is not None and sides[0] == sides[1]:
        raise UserError(f"{first} and {second} are both a {sides[0]} eye; give one of each eye, or a report of each")
    if None in sides:
        unknown = [str(path) for path, side in zip(paths, sides, strict=True) if side is None]
        raise UserError(f"which eye is {' and '.join(unknown)}? Give two photographs with --left FILE --right FILE")
    if force:
        return
    if [one.side for one in told] == sides[::-1]:
        raise UserError(
            f"{first} was given as the {sides[0]} eye and {second} as the {sides[1]}, but they look exchanged; change "
            "them, or --force to go on with a warning"
        )
    if told[0].side is not None and told[0].side == told[1].side:
        raise UserError(
            f"{first} and {second} were given as a left and a right eye, but both look like a {told[0].side} eye; "
            "check them, or --force to go on with a warning"
        )
