"""The draft report of one or both eyes: the one structure that every output is rendered from.

Every statement says where it comes from (`origin`) and what in the photograph it rests on (`evidence`); a statement
with no evidence is rendered as such. `None` means not assessed, an empty list assessed and none found. Nothing here
looks at a photograph or at a model: see draft.py for how a report comes about, review.py for how a person changes it.

Distances are in disc diameters (the vertical diameter of the eye's own disc): one pixel is a different length in every
eye. Pixels are those of the photograph as it was given, x to the right, y down, from its upper left corner.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mdf.dialogue import QUADRANTS
from mdf.errors import UserError
from mdf.inference.gate import BANNER

SCHEMA = "1.0"  # of this structure, written into every report; the first number changes when old readers would misread
ZONES = (*QUADRANTS, "macula", "disc")
UNGRADABLE = "U"  # the only value that a scale may give to what cannot be graded

Share = Annotated[float, Field(ge=0, le=1)]


class Origin(StrEnum):
    """Where a statement comes from."""

    MODEL_TEXT = "model text"  # words that the language model generated
    SCORING = "candidate scoring"  # the language model's probabilities of given answers
    SEGMENTATION = "segmentation"  # the U-Net's masks
    MEASUREMENT = "measurement"  # a number computed from masks or pixels
    RULE = "rule"  # follows from other statements by a rule that is named
    USER = "user"  # given with the photograph, or entered by a person


class Part(BaseModel):
    """Common to all parts: unknown fields are refused, so that a mistyped one is not lost without a word."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Box(Part):
    """Right and bottom exclusive, in pixels of the photograph."""

    left: int
    top: int
    right: int
    bottom: int

    @model_validator(mode="after")
    def has_area(self) -> "Box":
        if self.right <= self.left or self.bottom <= self.top:
            raise ValueError(f"box {self.left}, {self.top}, {self.right}, {self.bottom} has no area")
        return self


class Evidence(Part):
    """What in the photograph a statement rests on."""

    text: str  # e.g. "7 regions in the mask of haemorrhages"
    mask: str | None = None  # name of the mask, which is a layer of the overlay
    boxes: list[Box] = Field(default_factory=list)


class Stated(Part):
    """One statement. `probability` is the model's own, `calibrated` where a stored temperature was applied to it."""

    origin: Origin
    evidence: list[Evidence] = Field(default_factory=list)
    probability: Share | None = None
    calibrated: bool = False

    @property
    def seen(self) -> bool:
        """Whether it rests on something in the photograph."""
        return bool(self.evidence)


class Statement(Stated):
    text: str


class Laterality(Stated):
    """`eye` None: not given, and not told by the photograph."""

    eye: Literal["left", "right"] | None


class Gradability(Part):
    value: Literal["good", "barely", "not"]
    is_retina: bool
    reasons: list[str] = Field(default_factory=list)  # in words, for all that is not good
    score: Share  # the worst of `parts`
    parts: dict[str, Share] = Field(default_factory=dict)  # illumination, sharpness, contrast, field
    forced: bool = False  # the user asked for a report of what is no retina

    @property
    def may_grade(self) -> bool:
        """Whether grades, an impression and findings may be given at all."""
        return self.is_retina and self.value == "good"


class Photograph(Part):
    """The photograph as it was given. Its name is the user's own; nothing else of the file's metadata is kept."""

    name: str  # file name without folder
    sha256: str  # of the file
    width: int
    height: int
    fields: Literal["macula-centred", "disc-centred", "both"] | None = None  # what lies in the middle
    view: Share | None = None  # share of a full round field that the picture shows


class Disc(Part):
    found: bool | None = None  # None: the checkpoint has no such mask
    box: Box | None = None
    diameter: float | None = None  # vertical, in pixels of the photograph: the unit of all distances
    cup_disc_ratio: Share | None = None  # vertical
    statements: list[Statement] = Field(default_factory=list)


class Vessels(Part):
    found: bool | None = None
    density: Share | None = None  # of the field of view that is vessel
    statements: list[Statement] = Field(default_factory=list)


class Macula(Part):
    centre: tuple[float, float] | None = None  # x, y of the fovea in pixels of the photograph
    nearest_exudate: float | None = Field(
        default=None, ge=0
    )  # disc diameters from the fovea to the nearest edge of one
    statements: list[Statement] = Field(default_factory=list)


class Lesion(Stated):
    """One kind of lesion, and what each source says of it: `answered` the language model, `drawn` the U-Net.

    `present` None: the sources disagree or are unsure, so that the report does not say. Kinds are the vocabulary's.
    """

    kind: str
    present: bool | None
    answered: Share | None = None  # probability of "yes"
    drawn: int | None = Field(default=None, ge=0)  # regions in the mask; None where there is no such mask
    count: int | None = Field(default=None, ge=0)
    band: str | None = None  # the number as a band, e.g. "six to twenty"
    zones: list[str] | None = None  # of ZONES; None where the eye side is unknown
    by_zone: dict[str, int] | None = None  # how many lie in each of `zones`
    nearest_fovea: float | None = Field(default=None, ge=0)  # disc diameters
    boxes: list[Box] = Field(default_factory=list)

    @model_validator(mode="after")
    def is_consistent(self) -> "Lesion":
        if unknown := [z for z in self.zones or () if z not in ZONES]:
            raise ValueError(f"{self.kind}: {', '.join(unknown)} is no zone; must be of {', '.join(ZONES)}")
        if self.present is False and (self.count or self.boxes or self.zones):
            raise ValueError(f"{self.kind} is said to be absent and has a number, a place or a box")
        return self


class Grade(Stated):
    """A value on a scale. `value` None: not given, and `needs` says what is missing."""

    scale: str  # e.g. "ICDR", "NHS-FBG"
    version: str  # e.g. "2003", "2025-05"
    value: str | None
    name: str | None = None  # the value in words
    because: list[str] = Field(default_factory=list)  # the steps of the rule, in order
    needs: list[str] = Field(default_factory=list)  # what the scale asks for and one photograph does not show
    between: list[str] = Field(
        default_factory=list
    )  # the lowest and the highest value it may have, where none is given
    stated: str | None = None  # the model's own grade on this scale
    disagrees: bool = False  # `stated` is another


class Diagnosis(Part):
    name: str  # the vocabulary's
    probability: Share


class Impression(Stated):
    text: str
    diagnosis: str | None = None  # the vocabulary's name; None where there is no confident one
    diagnoses: list[Diagnosis] = Field(default_factory=list)  # every candidate, the highest first
    threshold: Share | None = None  # the operating point that was applied


class Urgency(StrEnum):
    """How soon a person should look, in rising order."""

    NONE = "none"
    ROUTINE = "routine"
    SOON = "soon"  # weeks
    URGENT = "urgent"  # days
    IMMEDIATE = "same day"


class Referral(Stated):
    """By a named rule set, e.g. "ICO 2017": they differ, so which one was asked for is part of the answer."""

    urgency: Urgency
    refer: bool | None  # None: cannot be said
    text: str  # the recommendation in a sentence
    rules: str
    because: list[str] = Field(default_factory=list)


class Flag(Part):
    """Something a reader must not miss: sources that disagree, a checkpoint without a part, a doubtful eye side."""

    text: str
    about: str  # what it concerns: "lesions.haemorrhage", "grades.ICDR", "laterality", "photograph"


class Words(Part):
    """One sentence of the model's free text, held against the structured findings."""

    text: str
    verdict: Literal["supported", "contradicted", "no image evidence"]
    about: list[str] = Field(default_factory=list)  # what it speaks of, in the vocabulary's names


class EyeReport(Part):
    laterality: Laterality
    photograph: Photograph
    gradability: Gradability
    media: Statement | None = None
    disc: Disc = Field(default_factory=Disc)
    vessels: Vessels = Field(default_factory=Vessels)
    macula: Macula = Field(default_factory=Macula)
    lesions: list[Lesion] | None = None  # None: not assessed
    grades: list[Grade] = Field(default_factory=list)
    impression: Impression | None = None
    referral: Referral | None = None
    limits: list[str] = Field(default_factory=list)  # what one photograph cannot show
    words: list[Words] = Field(default_factory=list)  # the model's own text
    flags: list[Flag] = Field(default_factory=list)

    @model_validator(mode="after")
    def claims_nothing_it_cannot_see(self) -> "EyeReport":
        if not self.gradability.may_grade:
            if given := [
                f"{g.scale} {g.value}"
                for g in self.grades
                if g.value not in (None, UNGRADABLE) and g.origin != Origin.USER
            ]:
                raise ValueError(f"{self.photograph.name} is not gradable and has a grade: {', '.join(given)}")
            if self.impression and self.impression.diagnosis and self.impression.origin != Origin.USER:
                raise ValueError(f"{self.photograph.name} is not gradable and has an impression")
        kinds = [lesion.kind for lesion in self.lesions or ()]
        if len(kinds) > len(set(kinds)):
            raise ValueError("a kind of lesion stands twice")
        return self

    @property
    def title(self) -> str:
        return f"{self.laterality.eye.capitalize()} eye" if self.laterality.eye else "Eye side unknown"


class Software(Part):
    """What made the draft; no path of the machine that ran it."""

    name: str = "mdf"
    version: str
    checkpoint: str  # name of its run
    fingerprint: str  # of its weights
    preprocessing: str  # hash
    masks: list[str] = Field(default_factory=list)  # that its U-Net draws
    operating_point: dict[str, float] = Field(default_factory=dict)  # temperature, thresholds by diagnosis


class Earlier(Part):
    """The report of an earlier visit that this one was compared with."""

    id: str
    created: AwareDatetime
    reviewed: bool


class Change(Part):
    """One field that a person changed. `path` as in lesions: "eyes.0.lesions.2.present"."""

    path: str
    before: object = None
    after: object = None


class Review(Part):
    """A signed state of the report. The draft stays as it was: see review.py."""

    version: int = Field(ge=1)  # 1 is the first review
    reviewer: str = Field(min_length=1)
    signed: AwareDatetime
    of: str  # SHA-256 of the state that was changed: the draft's, or the last review's
    changes: list[Change] = Field(default_factory=list)
    confirmed: list[str] = Field(default_factory=list)  # paths of what was looked at and left as it was
    comment: str = ""


class Report(Part):
    """One patient's draft of one or two eyes."""

    schema_version: str = SCHEMA
    banner: Literal[BANNER] = BANNER  # type: ignore[valid-type]
    id: str = Field(default_factory=lambda: str(uuid4()))
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    software: Software
    patient: str | None = None  # a pseudonym, where the user gave one
    eyes: list[EyeReport] = Field(min_length=1, max_length=2)
    comparison: list[Statement] = Field(default_factory=list)  # of the two eyes
    earlier: Earlier | None = None
    since: list[Statement] = Field(default_factory=list)  # what changed since the earlier report
    referral: Referral | None = None  # the more urgent of the eyes'
    reviews: list[Review] = Field(default_factory=list)

    @model_validator(mode="after")
    def has_each_eye_once(self) -> "Report":
        sides = [eye.laterality.eye for eye in self.eyes]
        if len(sides) == 2 and (None in sides or sides[0] == sides[1]):
            raise ValueError(f"a report of two photographs needs a left and a right eye, not {sides[0]} and {sides[1]}")
        return self

    @property
    def signed(self) -> bool:
        return bool(self.reviews)

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def read_report(text: str, where: str) -> Report:
    """A report from its JSON. Raises UserError, with `where`, for what is no report of this version."""
    try:
        report = Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(f"{where} is no report of mdf: {place}: {first['msg']}") from None
    if report.schema_version.split(".")[0] != SCHEMA.split(".")[0]:
        raise UserError(f"{where} has version {report.schema_version} of the report's form; this mdf reads {SCHEMA}")
    return report
