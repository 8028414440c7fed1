"""The draft report that goes with a phantom photograph, made of nothing but what was drawn."""

from collections.abc import Sequence

import numpy as np

from mdf.imaging.phantom_anatomy import Anatomy
from mdf.records import Finding

_ONE = {
    "microaneurysm": "microaneurysm",
    "haemorrhage": "haemorrhage",
    "hard_exudate": "hard exudate",
    "cotton_wool_spot": "cotton-wool spot",
    "drusen": "druse",
}
_MANY = {**{kind: f"{name}s" for kind, name in _ONE.items()}, "drusen": "drusen"}
_STAGE = {1: "mild", 2: "moderate", 3: "severe"}


def write_report(
    rng: np.random.Generator, eye: Anatomy, diagnosis: str, findings: Sequence[Finding], grade: dict[str, int]
) -> str:
    """Two to five sentences: disc, vessels, macula, lesions with number and place, impression with grade."""

    def pick(*phrases: str) -> str:
        return phrases[rng.integers(len(phrases))]

    ratio = f"{eye.cup_ratio:.1f}"
    glaucoma = diagnosis == "glaucoma"
    if glaucoma:
        disc = pick(
            f"the optic disc shows an enlarged cup with a cup-disc ratio of {ratio}",
            f"the optic cup is enlarged, cup-disc ratio {ratio}",
        )
    else:
        disc = pick(
            f"the optic disc is well defined with a cup-disc ratio of {ratio}",
            f"the optic disc has clear margins, cup-disc ratio {ratio}",
        )
    opening = pick(f"{eye.eye.capitalize()} eye: {disc}.", f"In the {eye.eye} eye {disc}.")
    lesions = [finding for finding in findings if finding.count]
    at_macula = [finding for finding in lesions if finding.location == "macula"]
    vessels = pick("The vessels are of normal calibre and course", "Retinal vessels look regular")
    if at_macula:
        middle = [
            f"{vessels}.",
            pick("The macula shows {}.", "At the macula there are {}.").format(_count(at_macula[0])),
        ]
    else:
        middle = [f"{vessels} and the macula is {pick('unremarkable', 'free of drusen')}."]
    others = [
        f"{_count(finding)} in the {_places(finding.location or '')}" for finding in lesions if finding not in at_macula
    ]
    if others:
        start = pick("There are ", "The retina shows ")
        if start == "There are " and lesions[0].count == 1:
            start = "There is "
        middle.append(f"{start}{_join(others)}.")
    elif not at_macula:
        middle.append(pick("No haemorrhages, exudates or drusen are seen.", "There are no retinal lesions."))
    icdr = grade.get("icdr", 0)
    stage = _STAGE.get(icdr, "")
    impression = {
        "normal": pick("normal fundus", "no sign of disease"),
        "amd": "age-related macular degeneration",
        "glaucoma": pick("glaucoma", "glaucomatous disc, glaucoma"),
        "diabetic_retinopathy": f"{stage} non-proliferative diabetic retinopathy (ICDR grade {icdr})",
    }[diagnosis]
    return " ".join([opening, *middle, f"Impression: {impression}."])


def _count(finding: Finding) -> str:
    return f"{finding.count} {(_ONE if finding.count == 1 else _MANY)[finding.name]}"


def _places(location: str) -> str:
    places = location.split(", ")
    if len(places) == 4:
        return "four quadrants"
    return f"{_join(places)} quadrant{'s' if len(places) > 1 else ''}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
