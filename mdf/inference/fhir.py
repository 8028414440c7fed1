"""A report as a FHIR R4B bundle: a DiagnosticReport with one Observation for each statement about an eye, the Device
that made it, and its Provenance. See fhir_check.py for what is required of it.

The bundle claims no profile. It carries no photograph, no file name, no name of the patient and not the model's own
description (`words`): that is read in the report itself, beside what it was held against. When the photograph was taken
is unknown, so nothing says `effective`.
"""

import base64
import json
import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from mdf.inference.codes import FORM, check_eyes, codes_for
from mdf.inference.fhir_check import ABSENT, ACTIVITY, BY_PERSON, CATEGORY, PARTICIPANT, UCUM, XHTML, check_bundle
from mdf.inference.report import EyeReport, Grade, Impression, Lesion, Origin, Report, Review, Stated, Statement
from mdf.vocabulary import display, entries

Json = dict[str, Any]
METHOD = "Colour fundus photograph read by software, not ophthalmoscopy"
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|[\ud800-\udfff]")  # FHIR and XML forbid them in text
UNGRADABLE = "U"  # a value of the NHS scale that is no grade
PRESENT = {True: "present", False: "not seen", None: "cannot be told"}
GRADABLE = {"good": "gradable", "barely": "barely gradable", "not": "not gradable"}


def fhir_json(report: Report, *, pdf: bytes | None = None, known: Collection[str] = ()) -> str:
    """The bundle as text. `pdf` goes along as the printed form; `known`: see `codes_for`."""
    bundle = to_bundle(report, pdf=pdf, known=known)
    if problems := check_bundle(bundle):
        raise RuntimeError("this FHIR bundle is wrong, which is a fault of mdf:\n" + "\n".join(problems))
    return json.dumps(bundle, indent=2, ensure_ascii=False) + "\n"


def to_bundle(report: Report, *, pdf: bytes | None = None, known: Collection[str] = ()) -> Json:
    """The bundle as dict. Its URNs follow from the report's id: the same report gives the same bundle.

    Raises UserError for a fact of `known` that no code asks for, and for one of which two eyes it is of is not said.
    """
    codes_for("eye", known=known)  # refuses what is not known before anything is written
    check_eyes(known, [eye.laterality.eye for eye in report.eyes])
    writer = Writer(report, known)
    observations = [o for number, eye in enumerate(report.eyes) for o in writer.eye(number, eye)]
    observations += writer.of_both()
    made = [writer.report(observations, pdf), *observations]
    parts = [*made, writer.device(), *writer.patient(), *writer.provenance([e["fullUrl"] for e in made])]
    bundle = {
        "resourceType": "Bundle",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": writer.url("bundle")},
        "type": "collection",
        "timestamp": writer.issued,
        "entry": parts,
    }
    return without_control(bundle)


def without_control(value: Any) -> Any:
    """The same tree, its texts without the characters that FHIR forbids."""
    if isinstance(value, dict):
        return {name: without_control(below) for name, below in value.items()}
    if isinstance(value, list):
        return [without_control(below) for below in value]
    return CONTROL.sub(" ", value) if isinstance(value, str) else value


class Writer:
    """The resources of one report, which share its status, its device and its patient."""

    def __init__(self, report: Report, known: Collection[str]) -> None:
        self.of, self.known = report, known
        self.status = status(report.reviews)
        self.signers = [practitioner(r.reviewer) for r in report.reviews[-1:]]
        self.issued = (report.reviews[-1].signed if report.reviews else report.created).isoformat()

    def url(self, name: str) -> str:
        """The URN of one resource of this report."""
        return f"urn:uuid:{uuid5(NAMESPACE_URL, f'urn:mdf:report:{self.of.id}/{name}')}"

    def entry(self, name: str, resource: Json) -> Json:
        return {"fullUrl": self.url(name), "resource": {k: v for k, v in resource.items() if v not in (None, [], {})}}

    def to(self, name: str) -> Json:
        return {"reference": self.url(name)}

    def concept(self, text: str, name: str | None = None, side: str | None = None) -> Json:
        """Words and, for a `name` that has them, codes."""
        codes = codes_for(name, side, self.known) if name in FORM or name in entries() else []
        return {"coding": [c.coding for c in codes], "text": text} if codes else {"text": text}

    # one eye

    def eye(self, number: int, eye: EyeReport) -> Iterable[Json]:
        """All Observations of an eye; `number` is its place in the report."""

        side = eye.laterality.eye if coded(eye.laterality) else None

        def observe(name: str, code: Json, stated: Stated | None, value: Json, **more: Any) -> Json:
            return self.observation(f"eyes/{number}/{name}", code, side, stated, value, **more)

        from_where = f"eye side from: {eye.laterality.origin.value}"
        yield observe(
            "gradability",
            {"text": "Gradability of the photograph"},
            None,
            {"valueCodeableConcept": {"text": gradability(eye)}},
            note=notes([*eye.gradability.reasons, from_where]),
            component=[component("Score of the quality, 0 to 1", eye.gradability.score)],
        )
        if not eye.gradability.may_grade and not any(g.scale.upper() == "ICDR" for g in eye.grades):
            yield observe("grades/none", severity(self, side), None, absent("not-performed", "not gradable"))
        for place, grade in enumerate(eye.grades):
            yield self.grade(observe, f"grades/{place}", side, grade, eye.gradability.may_grade)
        if eye.disc.cup_disc_ratio is not None:
            yield observe(
                "cup-disc-ratio",
                self.concept("Vertical cup-disc ratio", "cup_disc_ratio", side),
                self.ratio_from(number, eye),
                {"valueQuantity": ratio(eye.disc.cup_disc_ratio)},
            )
        for lesion in eye.lesions or ():
            yield self.lesion(observe, side, lesion)
        parts = {"media": [eye.media] if eye.media else [], "optic disc": eye.disc.statements}
        parts |= {"retinal vessels": eye.vessels.statements, "macula": eye.macula.statements}
        for part, statements in parts.items():
            for place, statement in enumerate(statements):
                if statement.text.strip():  # a reviewer may have emptied it
                    name = f"{part.replace(' ', '-')}/{place}"
                    yield observe(name, {"text": part.capitalize()}, statement, {"valueString": statement.text})
        if eye.impression and eye.impression.text.strip():
            yield self.impression(observe, side, eye.impression)

    def ratio_from(self, number: int, eye: EyeReport) -> Stated:
        """Where the cup-disc ratio comes from: the reviewer who changed it, else its measurement."""
        changed = {c.path for r in self.of.reviews for c in r.changes}
        if f"eyes.{number}.disc.cup_disc_ratio" in changed:
            return Stated(origin=Origin.USER)
        measured = (s for s in eye.disc.statements if s.origin == Origin.MEASUREMENT)
        return next(measured, Stated(origin=Origin.MEASUREMENT))

    def grade(self, observe: Any, at: str, side: str | None, grade: Grade, gradable: bool) -> Json:
        """A value on a scale; the answers of LOINC where it has them and the value is not the model's own words."""
        icdr = grade.scale.upper() == "ICDR"
        code = severity(self, side) if icdr else {"text": f"{grade.scale} ({grade.version})"}
        said = [f"the model's own statement: {grade.stated}"] if grade.stated else []
        more = notes([*grade.because, *(f"needs {n}" for n in grade.needs), *said], grade)
        text = f"{grade.scale} {grade.value}" + (f": {grade.name}" if grade.name else "")
        if grade.value in (None, UNGRADABLE):
            why = text if grade.value else "; ".join(grade.needs or grade.because) or "not graded"
            return observe(at, code, grade, absent("unknown" if gradable else "not-performed", why), note=more)
        answer = f"icdr_{grade.value}" if icdr and coded(grade) and grade.value in {*"01234"} else None
        value = {"valueCodeableConcept": self.concept(text, answer)}
        return observe(at, code, grade, value, note=more)

    def lesion(self, observe: Any, side: str | None, lesion: Lesion) -> Json:
        """Whether there are lesions of one kind, how many and where."""
        parts = []
        if lesion.count is not None:
            parts.append({"code": {"text": "Number"}, "valueInteger": lesion.count})
        if lesion.zones:
            parts.append({"code": {"text": "Zones"}, "valueString": ", ".join(lesion.zones)})
        if lesion.nearest_fovea is not None:
            near = {"value": lesion.nearest_fovea, "unit": "disc diameters"}
            parts.append({"code": {"text": "Distance from the fovea"}, "valueQuantity": near})
        code = self.concept(called(lesion.kind).capitalize(), lesion.kind if coded(lesion) else None, side)
        value = absent("unknown", "cannot be told") if lesion.present is None else {"valueBoolean": lesion.present}
        return observe(f"lesions/{lesion.kind}", code, lesion, value, component=parts)

    def impression(self, observe: Any, side: str | None, said: Impression) -> Json:
        """The impression in words, with codes where it is a diagnosis of the vocabulary and not text of a model."""
        name = said.diagnosis if said.diagnosis and coded(said) else None
        value = {"valueCodeableConcept": self.concept(said.text, name, side)}
        odds = [component(f"Probability of {called(d.name)}", d.probability) for d in said.diagnoses]
        return observe("impression", {"text": "Impression"}, said, value, component=odds)

    def observation(
        self, name: str, code: Json, side: str | None, stated: Stated | None, value: Json, **more: Any
    ) -> Json:
        parts = list(more.pop("component", []))
        if stated and stated.probability is not None:
            how = "calibrated" if stated.calibrated else "not calibrated"
            parts.append(component(f"Probability by the model ({how})", stated.probability))
        person = stated is not None and stated.origin == Origin.USER  # not the software's own, whoever signed
        where = {"right": "Right eye", "left": "Left eye", "both": "Both eyes"}.get(side or "", "Eye, side unknown")
        resource = {
            "resourceType": "Observation",
            "status": self.status,
            "category": [{"coding": [{"system": CATEGORY, "code": "imaging", "display": "Imaging"}]}],
            "code": code,
            "subject": self.subject,
            "issued": self.issued,
            **value,
            "note": more.pop("note", None) or notes([], stated),
            "bodySite": self.concept(where, "eye", side),
            "performer": self.signers,
            "method": self.concept(BY_PERSON if person else METHOD, "fundus_photography"),
            "device": None if person else self.to("device"),
            "component": parts,
        }
        return self.entry(name, resource)

    def of_both(self) -> Iterable[Json]:
        """What is said of the two eyes together, and of the time since an earlier report."""
        for topic, statements in (("Comparison of the eyes", self.of.comparison), ("Change", self.of.since)):
            for place, s in enumerate(statements):
                if not s.text.strip():  # a reviewer may have emptied it
                    continue
                side = "both" if len(self.of.eyes) == 2 else self.of.eyes[0].laterality.eye
                value = {"valueString": s.text}
                yield self.observation(f"{topic.split()[0].lower()}/{place}", {"text": topic}, side, s, value)

    # the whole

    def report(self, observations: list[Json], pdf: bytes | None) -> Json:
        text = "Colour fundus photography, " + (
            "machine draft" if not self.of.signed else "machine draft, reviewed and signed"
        )
        printed = [{"contentType": "application/pdf", "data": base64.b64encode(pdf).decode()}] if pdf else []
        resource = {
            "resourceType": "DiagnosticReport",
            "text": {"status": "generated", "div": narrative(self.of)},
            "identifier": [{"system": "urn:ietf:rfc:3986", "value": self.url("report")}],
            "status": self.status,
            "category": [self.concept("Ophthalmology", "ophthalmology")],
            "code": self.concept(text, "fundus_photography"),
            "subject": self.subject,
            "issued": self.issued,
            "performer": self.signers,
            "resultsInterpreter": self.signers,
            "result": [{"reference": o["fullUrl"]} for o in observations],
            "conclusion": "\n".join([self.of.banner, *conclusion(self.of)]),
            "presentedForm": printed,
        }
        return self.entry("report", resource)

    def device(self) -> Json:
        made = self.of.software
        parts = {"software": made.version, "checkpoint": made.checkpoint, "weights": made.fingerprint}
        parts["preprocessing"] = made.preprocessing
        resource = {
            "resourceType": "Device",
            "status": "active",
            "deviceName": [{"name": made.name, "type": "user-friendly-name"}],
            "type": {"text": "Software that drafts reports of colour fundus photographs; research use only"},
            "version": [{"type": {"text": what}, "value": value} for what, value in parts.items()],
        }
        return self.entry("device", resource)

    @property
    def subject(self) -> Json | None:
        return self.to("patient") if self.of.patient else None

    def patient(self) -> list[Json]:
        """The pseudonym and nothing else, where there is one."""
        if not self.of.patient:
            return []
        pseudonym = {"use": "secondary", "type": {"text": "Pseudonym"}, "value": self.of.patient}
        return [self.entry("patient", {"resourceType": "Patient", "identifier": [pseudonym]})]

    def provenance(self, urls: list[str]) -> list[Json]:
        """Who made the draft, from which photographs; and one more for each person who signed."""
        sources = [
            {"role": "source", "what": {"identifier": {"value": f"sha256:{e.photograph.sha256}"}, "display": what(e)}}
            for e in self.of.eyes
        ]
        if self.of.earlier:
            earlier = {"identifier": {"value": self.of.earlier.id}, "display": "earlier report"}
            sources.append({"role": "source", "what": earlier})
        targets = [{"reference": url} for url in urls]
        drafted = agent("author", "Author", self.to("device"))
        made = [self.signed_by("provenance", targets, self.of.created.isoformat(), "CREATE", [drafted], sources)]
        for r in self.of.reviews:
            person = agent("verifier", "Verifier", practitioner(r.reviewer))
            seen = [
                {"role": "revision", "what": {"identifier": {"value": f"sha256:{r.of}"}, "display": "state before"}}
            ]
            name = f"provenance/{r.version}"
            did = "UPDATE" if modified(r) else None
            made.append(self.signed_by(name, targets, r.signed.isoformat(), did, [person], seen))
        return made

    def signed_by(
        self, name: str, target: list[Json], when: str, did: str | None, who: list[Json], seen: list[Json]
    ) -> Json:
        resource = {
            "resourceType": "Provenance",
            "target": target,
            "occurredDateTime": when,
            "recorded": when,
            "activity": {"coding": [{"system": ACTIVITY, "code": did, "display": did.lower()}]} if did else None,
            "agent": who,
            "entity": seen,
        }
        return self.entry(name, resource)


def status(reviews: Sequence[Review]) -> str:
    """Final once a person has signed; amended once something was changed after that, as FHIR defines the two."""
    if not reviews:
        return "preliminary"
    return "amended" if any(map(modified, reviews[1:])) else "final"


def modified(review: Review) -> bool:
    """Whether a review changed what the report says."""
    return bool(review.changes or review.comment.strip())


def practitioner(name: str) -> Json:
    return {"type": "Practitioner", "display": name}


def coded(stated: Stated) -> bool:
    """Whether a statement may become a code: text that a model wrote never does."""
    return stated.origin != Origin.MODEL_TEXT


def called(name: str) -> str:
    """How a lesion or diagnosis is said; a checkpoint may know names that the vocabulary lacks."""
    return display(name) if name in entries() else name.replace("_", " ")


def gradability(eye: EyeReport) -> str:
    return GRADABLE[eye.gradability.value] if eye.gradability.is_retina else "no fundus photograph"


def severity(writer: Writer, side: str | None) -> Json:
    return writer.concept("Diabetic retinopathy severity level (ICDR)", "dr_severity", side)


def absent(code: str, text: str) -> Json:
    return {"dataAbsentReason": {"coding": [{"system": ABSENT, "code": code}], "text": text}}


def ratio(value: float) -> Json:
    return {"value": value, "unit": "ratio", "system": UCUM, "code": "1"}


def component(text: str, value: float) -> Json:
    return {"code": {"text": text}, "valueQuantity": ratio(value)}


def agent(code: str, name: str, who: Json) -> Json:
    return {"type": {"coding": [{"system": PARTICIPANT, "code": code, "display": name}]}, "who": who}


def notes(lines: Iterable[str], stated: Stated | None = None) -> list[Json]:
    """One note: why, where it comes from and what it rests on."""
    said = list(lines)
    if stated:
        said.append(f"from: {stated.origin.value}")
        said += [f"evidence: {e.text}" for e in stated.evidence] or ["no image evidence"]
    return [{"text": "; ".join(said)}] if said else []


def what(eye: EyeReport) -> str:
    return f"colour fundus photograph, {eye.title.lower()}"


def conclusion(report: Report) -> list[str]:
    """What a reader must not miss, a line each: impression, recommendation and flags of each eye."""
    lines = []
    for eye in report.eyes:
        why = f" ({'; '.join(eye.gradability.reasons)})" if eye.gradability.reasons else ""
        said = [] if eye.gradability.may_grade else [f"{gradability(eye)}{why}, no grade"]
        said += [eye.impression.text] if eye.impression else []
        said += [f"{eye.referral.text.rstrip('.')} ({eye.referral.rules})"] if eye.referral else []
        lines += [f"{eye.title}: " + " ".join(s.rstrip(".") + "." for s in said)] if any(said) else []
        lines += [f"{eye.title}, attention: {flag.text}" for flag in eye.flags]
    for r in report.reviews:
        comment = f" {r.comment.strip()}" if r.comment.strip() else ""
        lines.append(f"Signed by {r.reviewer} on {r.signed:%Y-%m-%d %H:%M} UTC.{comment}")
    return lines


def narrative(report: Report) -> str:
    """XHTML for people: the banner, then each eye in lines. All text is escaped."""
    parts = [f"<p><b>{escape(report.banner)}</b></p>"]
    parts += [f"<p>{escape(line)}</p>" for line in conclusion(report)]
    for eye in report.eyes:
        lines = [f"{g.scale} ({g.version}): {g.value or 'not graded'}" for g in eye.grades]
        lines += [f"{called(x.kind)}: {PRESENT[x.present]}" for x in eye.lesions or ()]
        lines += [s.text for s in statements(eye)]
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(f"<p>{escape(eye.title)}</p>" + (f"<ul>{items}</ul>" if items else ""))
    return f'<div xmlns="{XHTML}">{"".join(parts)}</div>'


def statements(eye: EyeReport) -> list[Statement]:
    return [*([eye.media] if eye.media else []), *eye.disc.statements, *eye.vessels.statements, *eye.macula.statements]
