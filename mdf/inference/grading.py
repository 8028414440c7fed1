"""Grades that follow from findings by rule. No model and no picture here.

A finding that is unsure is taken as there and as absent; where both give one grade it is given, else none. What nobody
looked for (new vessels, beading, IRMA, as long as no mask draws them and no person names them) is listed in `needs`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mdf.curriculum import joined
from mdf.dialogue import QUADRANTS
from mdf.inference.report import UNGRADABLE, Evidence, Gradability, Grade, Lesion, Macula, Origin
from mdf.vocabulary import display, is_a, known

ICDR, NHS, NHS_M, DME = "ICDR", "NHS-FBG", "NHS-FBG-M", "DME"
VERSIONS = {ICDR: "2003", NHS: "2025-05", NHS_M: "2025-05", DME: "exudates, MESSIDOR 2008"}
NAMES = {
    ICDR: {
        "0": "no apparent retinopathy",
        "1": "mild non-proliferative retinopathy",
        "2": "moderate non-proliferative retinopathy",
        "3": "severe non-proliferative retinopathy",
        "4": "proliferative retinopathy",
    },
    NHS: {
        "R0": "no retinopathy",
        "R1": "background retinopathy",
        "R2L": "pre-proliferative retinopathy, lower risk",
        "R2H": "pre-proliferative retinopathy, higher risk",
        "R3A": "active proliferative retinopathy",
        UNGRADABLE: "ungradable",
    },
    NHS_M: {"M0": "no maculopathy", "M1": "maculopathy"},
    DME: {
        "0": "no exudate seen",
        "1": "exudates, none within one disc diameter of the fovea",
        "2": "signs suggesting macular oedema; OCT to confirm",
    },
}
RED = ("microaneurysm", "haemorrhage")
YELLOW = ("hard_exudate", "cotton_wool_spot")
BASIC = (*RED, *YELLOW)  # without one of these looked at no grade of retinopathy can be given
ADVANCED = ("venous_beading", "intraretinal_microvascular_abnormality", "neovascularisation", "preretinal_haemorrhage")
PROLIFERATIVE = (  # fibrovascular tissue is new vessels with their scar: R3 of the NHS as preretinal fibrosis
    "neovascularisation", "preretinal_haemorrhage", "vitreous_haemorrhage", "fibrovascular_proliferation",
)  # fmt: skip
OUTSIDE = ("preretinal_haemorrhage", "subretinal_haemorrhage", "disc_haemorrhage")  # of the retina's own haemorrhages
MANY = 20  # more haemorrhages than this in a quadrant count as many
BLOTS = 8
NEAR, MACULA = 1.0, 2.0  # disc diameters from the fovea
DIABETES = "known diabetes: the scale is for people who have it"
OCT = "OCT: a flat photograph shows no thickening of the retina"


@dataclass(frozen=True)
class Signs:
    """The findings of one eye with the unsure ones counted as absent, or as there (`doubtful`)."""

    lesions: tuple[Lesion, ...]
    doubtful: bool
    most: Mapping[str, int]  # by kind, where only a band is known: its upper end

    def of(self, kind: str) -> list[Lesion]:
        """Lesions of this kind or one of its narrower kinds that count as there."""
        return [
            one
            for one in self.lesions
            if (one.present or (one.present is None and self.doubtful))
            and is_kind(one, kind)
            and not (kind == "haemorrhage" and one.kind in OUTSIDE)
        ]

    def has(self, *kinds: str) -> list[str]:
        """Those of `kinds` that count as there."""
        return [kind for kind in kinds if self.of(kind)]

    def number(self, *kinds: str) -> int | None:
        """How many there are together, None where that is not known."""
        numbers = [self.upper(one) for kind in kinds for one in self.of(kind)]
        return None if None in numbers else sum(n for n in numbers if n is not None)

    def upper(self, one: Lesion) -> int | None:
        return next((n for n in (one.count, one.drawn, self.most.get(one.kind)) if n is not None), None)

    def crowded(self, *kinds: str) -> int:
        """In how many quadrants there are more than MANY; where the quadrants are not known the fewest or, if
        `doubtful`, the most that the whole number leaves possible.
        """
        found = [one for kind in kinds for one in self.of(kind)]
        if all(one.by_zone is not None for one in found):
            return sum(sum((one.by_zone or {}).get(q, 0) for one in found) > MANY for q in QUADRANTS)
        whole = self.number(*kinds)
        if self.doubtful:
            return 4 if whole is None else min(4, whole // (MANY + 1))
        exact = sum(one.count or 0 for one in found)
        return int(exact > MANY * 4)

    def quadrants(self, kind: str) -> int:
        """In how many quadrants there is some, at least one where it is there at all; where the quadrants are not known
        the fewest or, if `doubtful`, all.
        """
        found = self.of(kind)
        if self.doubtful and any(one.zones is None for one in found):
            return len(QUADRANTS)
        zones = {z for one in found for z in one.zones or ()} & set(QUADRANTS)
        return max(len(zones), bool(found))


Verdict = tuple[str | None, list[str]]  # a value, and the steps that led to it


def icdr(signs: Signs) -> Verdict:
    """International Clinical Diabetic Retinopathy scale (Wilkinson et al. 2003)."""
    if found := signs.has(*PROLIFERATIVE):
        return "4", [f"{named(found)}: proliferative"]
    if signs.crowded("haemorrhage") == 4:
        return "3", [f"more than {MANY} haemorrhages in each of four quadrants: severe"]
    if signs.quadrants("venous_beading") >= 2:
        return "3", ["venous beading in two quadrants or more: severe"]
    if signs.has("intraretinal_microvascular_abnormality"):
        return "3", ["intraretinal microvascular abnormalities, taken as prominent: severe"]
    if found := signs.has("haemorrhage", *YELLOW, "venous_beading", "venous_loop"):
        return "2", [f"{named(found)}: more than microaneurysms", "no sign of severe retinopathy"]
    if signs.has("microaneurysm"):
        return "1", ["microaneurysms only"]
    return "0", ["no microaneurysm, haemorrhage, exudate or cotton-wool spot"]


def nhs(signs: Signs) -> Verdict:
    """Retinopathy of the NHS features-based grading of 12 May 2025."""
    if found := signs.has(*PROLIFERATIVE):
        return "R3A", [f"{named(found)}: proliferative"]
    crowded = signs.crowded("haemorrhage", "microaneurysm")
    number = signs.number("haemorrhage")
    if crowded == 4:
        return "R2H", [f"more than {MANY} haemorrhages or microaneurysms in each of four quadrants"]
    if signs.quadrants("venous_beading") >= 2:
        return "R2H", ["venous beading in two quadrants or more"]
    if signs.has("intraretinal_microvascular_abnormality"):
        return "R2H", ["intraretinal microvascular abnormalities, taken as at least ETDRS photograph 8A"]
    if crowded:
        return "R2L", [f"more than {MANY} haemorrhages or microaneurysms in {crowded} of four quadrants"]
    if signs.has("venous_beading"):
        return "R2L", ["venous beading in one quadrant"]
    if (number or 0) >= BLOTS or (number is None and signs.doubtful):
        return "R2L", [f"{BLOTS} haemorrhages or more, all taken as blots"]
    if found := signs.has(*RED, "venous_loop"):
        return "R1", [f"{named(found)}: background"]
    alone = signs.has(*YELLOW)
    return "R0", [f"{named(alone)} alone count as none" if alone else "no feature of diabetic retinopathy"]


def nhs_macula(signs: Signs, macula: Macula) -> Verdict:
    """Maculopathy of the NHS features-based grading. None: it hangs on what the photograph does not show."""
    exudates, red = signs.of("hard_exudate"), [one for kind in RED for one in signs.of(kind)]
    if not exudates and not red:
        return "M0", ["neither exudate, microaneurysm nor haemorrhage"]
    if macula.centre is None or any(one.nearest_fovea is None for one in (*exudates, *red)):
        return None, ["the place of the fovea is not known, or not that of the lesions"]
    nearest = min((distance(one) for one in exudates), default=None)
    if nearest is not None and nearest <= NEAR:
        return "M1", [f"exudate {nearest:.1f} disc diameters from the fovea"]
    if nearest is not None and nearest <= MACULA:
        return None, [f"exudate {nearest:.1f} disc diameters from the fovea: M1 if a group or ring within the macula"]
    if near := [display(one.kind) for one in red if distance(one) <= NEAR]:
        return None, [f"{' and '.join(near)} within one disc diameter: M1 if the visual acuity is 6/12 or worse"]
    return "M0", ["no exudate in the macula, no microaneurysm or haemorrhage within one disc diameter of the fovea"]


def dme(signs: Signs, macula: Macula) -> Verdict:
    """Risk of macular oedema by exudates (MESSIDOR): a surrogate, since thickening is not seen."""
    exudates = signs.of("hard_exudate")
    if not exudates:
        return "0", ["no exudate"]
    if macula.centre is None or any(one.nearest_fovea is None for one in exudates):
        return None, ["exudates are seen; their distance from the fovea is not known"]
    nearest = min(map(distance, exudates))
    return ("2" if nearest <= NEAR else "1"), [f"exudate {nearest:.1f} disc diameters from the fovea"]


def is_kind(one: Lesion, kind: str) -> bool:
    """Whether a lesion is of this kind or a narrower one; a name that the vocabulary lacks is of none."""
    return known(one.kind) and is_a(one.kind, kind)


def distance(one: Lesion) -> float:
    return one.nearest_fovea if one.nearest_fovea is not None else float("inf")


def named(kinds: Sequence[str]) -> str:
    return joined(map(display, kinds))


def grade_lesions(
    lesions: Sequence[Lesion] | None,
    macula: Macula,
    gradability: Gradability,
    *,
    most: Mapping[str, int] | None = None,
    diagnosis: str | None = None,
) -> list[Grade]:
    """The grades of one eye. `most` is the upper end of the band where a kind's number is known as a band alone;
    `diagnosis` is the impression's, which says whose scale matters beside the diabetic ones.
    """
    if not gradability.may_grade or lesions is None:
        reason = "; ".join(gradability.reasons) or "not assessed"
        return [
            Grade(
                origin=Origin.RULE,
                scale=NHS,
                version=VERSIONS[NHS],
                value=UNGRADABLE,
                name=NAMES[NHS][UNGRADABLE],
                because=[reason],
                needs=["a photograph that can be graded, or an examination at the slit lamp"],
            )
        ]
    absent = [Lesion(origin=Origin.RULE, kind=k, present=None) for k in BASIC if k not in {x.kind for x in lesions}]
    everything = (*lesions, *absent)
    hidden = [kind for kind in ADVANCED if not any(is_kind(x, kind) for x in lesions)]
    unseen = [f"a look for {named(hidden)}: a higher grade is not excluded"] if hidden else []
    blots = ["to know which haemorrhages are blots"] if Signs(everything, False, most or {}).has("haemorrhage") else []
    rules: dict[str, tuple[Callable[[Signs], Verdict], tuple[str, ...], list[str]]] = {
        ICDR: (icdr, BASIC, [*unseen, DIABETES]),
        NHS: (nhs, BASIC, [*unseen, *blots, "the history of treatment: R3S and P1 are not told from a photograph"]),
        NHS_M: (partial(nhs_macula, macula=macula), (*RED, "hard_exudate"), ["visual acuity"]),
        DME: (partial(dme, macula=macula), ("hard_exudate",), [OCT]),
    }
    made = [decide(scale, *rule, everything, most or {}) for scale, rule in rules.items()]
    return [*made, *other_scales(lesions, diagnosis)]


def decide(
    scale: str,
    rule: Callable[[Signs], Verdict],
    kinds: Sequence[str],
    needs: list[str],
    lesions: tuple[Lesion, ...],
    most: Mapping[str, int],
) -> Grade:
    """The grade by one rule, with the unsure findings as absent and as there."""
    (value, because), (other, steps) = (rule(Signs(lesions, doubtful, most)) for doubtful in (False, True))
    unsure = [x.kind for x in lesions if x.present is None and any(is_kind(x, kind) for kind in kinds)]
    between: list[str] = []
    if value != other:
        between = [v for v in (value, other) if v is not None]
        doubt = f"{named(unsure)} unsure" if unsure else "how many there are in each quadrant is not known"
        because = [
            f"{value or 'not given'} ({'; '.join(because)}) or {other or 'not given'} ({'; '.join(steps)}): {doubt}"
        ]
        value, needs = None, [f"a look at {named(unsure)}" if unsure else "numbers by quadrant", *needs]
    seen = [e for x in lesions if x.present and any(is_kind(x, kind) for kind in kinds) for e in x.evidence]
    return Grade(
        origin=Origin.RULE,
        scale=scale,
        version=VERSIONS[scale],
        value=value,
        name=NAMES[scale].get(value) if value else None,
        because=because,
        needs=needs,
        between=between,
        evidence=[Evidence(text=e.text, mask=e.mask) for e in seen],
    )


def other_scales(lesions: Sequence[Lesion], diagnosis: str | None) -> list[Grade]:
    """Scales that ask for what nobody measured here: named where they matter, without a value."""
    found = []

    def add(scale: str, version: str, because: str, *needs: str) -> None:
        found.append(
            Grade(origin=Origin.RULE, scale=scale, version=version, value=None, because=[because], needs=list(needs))
        )

    if any(x.kind == "drusen" and x.present for x in lesions):
        add(
            "AREDS", "2001", "drusen are seen",
            "the size of the largest druse and the area of all in micrometres",
            "pigment changes, atrophy and neovascular signs, which were not looked for",
        )  # fmt: skip
    if diagnosis and is_a(diagnosis, "pathologic_myopia"):
        add(
            "META-PM",
            "2015",
            "the impression is pathologic myopia",
            "kind of atrophy and plus lesions, which were not looked for",
        )
    if diagnosis and is_a(diagnosis, "hypertensive_retinopathy"):
        add(
            "KWB", "1939", "the impression is hypertensive retinopathy",
            "calibre of arterioles, crossings and disc swelling, which were not looked for", "blood pressure",
        )  # fmt: skip
    return found
