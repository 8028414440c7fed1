"""What mdf requires of its own FHIR R4B bundles: the required value sets of the standard, which schema libraries let
pass, and what the report promises (the banner, no code outside the table, nothing that names a patient).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from mdf.inference.codes import SYSTEMS, Code, allowed, table
from mdf.inference.gate import BANNER

XHTML = "http://www.w3.org/1999/xhtml"
UCUM = "http://unitsofmeasure.org"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
PARTICIPANT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
BY_PERSON = "Colour fundus photograph read by a person"  # the method of what a person said: no device made it
ACTIVITY = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"
# Codes of HL7's own systems that a bundle of mdf may hold; those of the clinical systems stand in codes.csv.
HL7 = {
    CATEGORY: {"imaging"},
    ABSENT: {"unknown", "not-performed"},
    PARTICIPANT: {"author", "verifier"},
    ACTIVITY: {"CREATE", "UPDATE"},
}
# value sets that the standard requires
OBSERVATION = {"registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown"}
STATUS = {
    "DiagnosticReport": OBSERVATION | {"partial", "appended"},
    "Observation": OBSERVATION,
    "Device": {"active", "inactive", "entered-in-error", "unknown"},
}
REQUIRED = {
    "DiagnosticReport": ("status", "category", "code", "issued", "result", "conclusion", "text"),
    "Observation": ("status", "category", "code", "issued", "bodySite", "method"),
    "Device": ("status", "deviceName", "version"),
    "Patient": ("identifier",),
    "Provenance": ("target", "recorded", "agent", "entity"),
}
ROLES = {"derivation", "revision", "quotation", "source", "removal"}
NARRATIVE = {"generated", "extensions", "additional", "empty"}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
URN = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_bundle(bundle: dict[str, Any]) -> list[str]:
    """Everything that is wrong with a bundle, one line each; [] for a good one."""
    if bundle.get("resourceType") != "Bundle" or bundle.get("type") != "collection":
        return ["Bundle: must have resourceType Bundle and type collection"]
    entries = [e for e in bundle.get("entry") or () if isinstance(e, dict) and isinstance(e.get("resource"), dict)]
    urls = [str(e.get("fullUrl")) for e in entries]
    resources = [e["resource"] for e in entries]
    kinds = [str(r.get("resourceType")) for r in resources]
    problems = [f"Bundle: fullUrl {u} is no urn:uuid" for u in urls if not URN.fullmatch(u)]
    problems += [f"Bundle: fullUrl {u} stands twice" for u in sorted({u for u in urls if urls.count(u) > 1})]
    for kind in ("DiagnosticReport", "Device"):
        if kinds.count(kind) != 1:
            problems.append(f"Bundle: must hold one {kind}, not {kinds.count(kind)}")
    if "Provenance" not in kinds or "Observation" not in kinds:
        problems.append("Bundle: must hold at least one Observation and one Provenance")
    for kind, resource in zip(kinds, resources, strict=True):
        problems += [f"{kind}: {p}" for p in resource_problems(kind, resource)]
    problems += status_problems(kinds, resources)
    for path, value in walk(bundle, "Bundle"):
        problems += value_problems(path, value, set(urls))
    return problems


def resource_problems(kind: str, resource: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one resource by itself."""
    if kind not in REQUIRED:
        yield f"is none of {', '.join(REQUIRED)}"
        return
    yield from (f"{name} is missing" for name in REQUIRED[kind] if name not in resource)
    if kind in STATUS and resource.get("status") not in STATUS[kind]:
        yield f"status {resource.get('status')!r} is not of its value set"
    if kind == "Observation":
        yield from observation_problems(resource)
    if kind == "DiagnosticReport":
        yield from narrative_problems(resource.get("text"))
        if BANNER not in str(resource.get("conclusion")):
            yield "conclusion does not carry the banner"
    if kind == "Patient" and (named := sorted(set(resource) - {"resourceType", "identifier"})):
        yield f"holds {named[0]}; only a pseudonym may stand there"
    if kind == "Provenance" and any(e.get("role") not in ROLES for e in resource.get("entity", ())):
        yield "entity.role is not of its value set"
    if kind == "Provenance" and not all(agent.get("who") for agent in resource.get("agent", ())):
        yield "an agent without who"


def observation_problems(resource: dict[str, Any]) -> Iterator[str]:
    values = [name for name in resource if name.startswith("value")]
    if len(values) + ("dataAbsentReason" in resource) != 1:
        yield "must have one value or one dataAbsentReason"
    if ("device" in resource) == (resource.get("method", {}).get("text") == BY_PERSON):
        yield "is either the software's (device) or a person's (method), not both or neither"
    categories = [c for concept in resource.get("category", ()) for c in concept.get("coding", ())]
    if not any(c.get("system") == CATEGORY for c in categories):
        yield f"category must be of {CATEGORY}"
    sides = {c.laterality for c in known_codes(resource)} & {"right", "left"}
    if len(sides) > 1:
        yield "codes of the right and of the left eye stand together"


def narrative_problems(text: Any) -> Iterator[str]:
    if not isinstance(text, dict) or text.get("status") not in NARRATIVE:
        yield "text.status is not of its value set"
        return
    try:
        root = ElementTree.fromstring(str(text.get("div")))
    except ElementTree.ParseError as error:
        yield f"text.div is no XHTML: {error}"
        return
    if root.tag != f"{{{XHTML}}}div":
        yield "text.div must be a div of XHTML"
    if BANNER not in "".join(root.itertext()):
        yield "text.div does not carry the banner"


def status_problems(kinds: list[str], resources: list[dict[str, Any]]) -> Iterator[str]:
    """Preliminary until a person has signed, final or amended from then on, and all alike."""
    read = [r for kind, r in zip(kinds, resources, strict=True) if kind in ("DiagnosticReport", "Observation")]
    if len(statuses := {str(r.get("status")) for r in read}) > 1:
        yield f"Bundle: report and observations differ in status: {', '.join(sorted(statuses))}"
    if statuses != {"preliminary"} and not all(r.get("performer") for r in read):
        yield "Bundle: is not preliminary, and a report or observation does not say who answers for it (performer)"
    agents = [a for r in resources for a in (r.get("agent", ()) if r.get("resourceType") == "Provenance" else ())]
    roles = {c.get("code") for a in agents for c in a.get("type", {}).get("coding", ())}
    if statuses != {"preliminary"} and "verifier" not in roles:
        yield "Bundle: is not preliminary, and no Provenance says who signed it"
    if statuses == {"preliminary"} and "verifier" in roles:
        yield "Bundle: is preliminary although a person signed it"


def value_problems(path: str, value: Any, urls: set[str]) -> Iterator[str]:
    """What is wrong with one value, wherever it stands."""
    if value in (None, "", [], {}):
        yield f"{path}: empty, which FHIR forbids"
    name = path.rsplit(".", 1)[-1]
    if name == "profile":
        yield f"{path}: mdf claims no profile"
    if name == "reference" and value not in urls:
        yield f"{path}: {value} is not in the bundle"
    if name in ("issued", "recorded", "timestamp") and not INSTANT.fullmatch(str(value)):
        yield f"{path}: {value} is no instant with a time zone"
    if not isinstance(value, dict):
        return
    if "system" in value and not absolute(str(value["system"])):
        yield f"{path}.system: {value['system']} is no absolute URI"
    if "code" in value and isinstance(value["code"], str) and not is_known(value):
        yield f"{path}: {value.get('system')} {value['code']} is no code that mdf may give"
    if isinstance(value.get("code"), dict) and not (value["code"].get("text") or value["code"].get("coding")):
        yield f"{path}.code: neither text nor coding"


def is_known(coding: dict[str, Any]) -> bool:
    """Whether a coding is one of the table's confirmed rows, with its own name, or of the few of HL7's own."""
    system, code = coding.get("system"), coding["code"]
    if system == UCUM:
        return code == "1"
    if system in HL7:
        return code in HL7[system]
    return any(row.code == code and row.display == coding.get("display") for row in rows_of(system))


def rows_of(system: Any) -> list[Code]:
    return [row for row in table() if SYSTEMS[row.system] == system and allowed(row)]


def known_codes(resource: dict[str, Any]) -> Iterator[Code]:
    """The rows of the table that a resource's codings stand for."""
    codings = [v for _, v in walk(resource, "") if isinstance(v, dict) and isinstance(v.get("code"), str)]
    for coding in codings:
        yield from (row for row in rows_of(coding.get("system")) if row.code == coding["code"])


def absolute(uri: str) -> bool:
    return bool(urlsplit(uri).scheme) and " " not in uri


def walk(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    """Every value of a tree with its path."""
    yield path, value
    if isinstance(value, dict):
        for name, below in value.items():
            yield from walk(below, f"{path}.{name}")
    if isinstance(value, list):
        for place, below in enumerate(value):
            yield from walk(below, f"{path}[{place}]")
