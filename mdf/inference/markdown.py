"""A report in Markdown. Its form is prompts/report_form.md, which a clinician can edit; it is filled for each eye."""

import re
import string
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from mdf.errors import UserError
from mdf.inference import wording
from mdf.inference.report import EyeReport, Report, Stated
from mdf.resources import bundled

MARKUP = re.compile(r"([\\`*_\[\]<>|~&#$])")
STARTS = re.compile(r"^(\d*)([-+=.)](?=\s|$)|[-+=])")  # of a list, a rule or a heading
ADDRESSES = re.compile(r"(://)|(www)(?=\.)|(@)", re.IGNORECASE)  # what a reader would make a link of


@dataclass(frozen=True)
class PictureNames:
    """Files of one eye that lie beside the Markdown."""

    photograph: str
    overlay: str


def picture_names(report: Report, name: str) -> list[PictureNames]:
    """Of each eye, in the order of `report.eyes`."""
    sides = [f"_{eye.laterality.eye}" if len(report.eyes) > 1 else "" for eye in report.eyes]
    return [PictureNames(f"{name}{side}_photograph.jpg", f"{name}{side}_masks.png") for side in sides]


def filled(
    report: Report,
    name: str,
    *,
    pictured: bool = True,
    layers: Sequence[Collection[str]] | None = None,
    form: Path | None = None,
) -> str:
    """The form filled for each eye, then what is said of both.

    Args:
        pictured: whether the pictures of `picture_names` lie beside it.
        layers: of each eye's overlay, in the order of `report.eyes`; where there is none the overlay is left out. None:
            all that the checkpoint has.
        form: of another than the usual words; None takes the one that comes with mdf.

    Raises UserError for a form with an unknown field. A form that has lost the banner gets it back.
    """
    path = form or bundled("prompts") / "report_form.md"
    text = path.read_text(encoding="utf-8")
    files = picture_names(report, name)
    parts = []
    for number, eye in wording.in_order(report):
        drawn = report.software.masks if layers is None else list(layers[number])
        part = fill(text, path, fields(report, eye, drawn, files[number]))
        gone = [] if pictured and drawn else [files[number].overlay] if pictured else list(astuple(files[number]))
        for file in gone:
            part = re.sub(rf"^!\[[^\]]*\]\({re.escape(address(file))}\)\n*", "", part, flags=re.MULTILINE)
        parts.append(part)
    parts += both(report)
    whole = "\n\n---\n\n".join(part.strip() for part in parts) + "\n"
    for part in parts[:1]:
        if report.banner not in part:  # a form that was edited may lose it; the report may not
            whole = f"> **{report.banner}**\n\n{whole}"
    return whole


def fill(form: str, path: Path, words: dict[str, str]) -> str:
    try:
        return string.Template(form).substitute(words)
    except KeyError as error:
        known = ", ".join("$" + name for name in words)
        raise UserError(f"{path}: there is no field ${error.args[0]}; fields are {known}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; a dollar sign that is no field is written $$") from None


def md(text: object) -> str:
    """Text of people, files and models on one line, of which no reader of Markdown makes markup, HTML or a link."""
    safe = MARKUP.sub(r"\\\1", wording.line(text))
    safe = STARTS.sub(r"\1\\\2", safe)
    return ADDRESSES.sub(lambda m: "\\://" if m[1] else f"{m[2]}\\" if m[2] else "\\@", safe)


def fields(report: Report, eye: EyeReport, drawn: Collection[str], files: PictureNames) -> dict[str, str]:
    """What the form can show of one eye."""
    software = report.software
    return {
        "banner": report.banner,
        "name": md(eye.photograph.name),
        "warning": "".join(f"> **WARNING: {md(flag.text)}**\n>\n" for flag in eye.flags).removesuffix(">\n"),
        "eye": md(wording.eye_side(eye)),
        "photograph": address(files.photograph),
        "overlay": address(files.overlay),
        "masks": ", ".join(md(wording.shown(mask)) for mask in drawn) or "nothing",
        "quality": quality(eye),
        "findings": findings(eye),
        "grades": grades(eye),
        "impression": impression(eye),
        "probabilities": probabilities(eye),
        "recommendation": recommendation(eye),
        "draft": words(eye),
        "limits": bullets([md(limit) for limit in eye.limits]) or "- nothing was named",
        "review": md(wording.reviewed(report)),
        "version": md(software.version),
        "checkpoint": wording.line(software.checkpoint).replace("`", ""),  # in a span of code nothing is markup
        "preprocessing": wording.line(software.preprocessing).replace("`", ""),
        "date": f"{report.created:%Y-%m-%d %H:%M} UTC",
    }


def address(file: str) -> str:
    """A file name as the address of a picture."""
    from urllib.parse import quote

    return quote(file)


def marked(said: Stated) -> str:
    """Where a statement comes from and what it rests on, in small print."""
    told = [str(said.origin), wording.sure(said), md(wording.evidence(said))]
    return f"*({'; '.join(filter(None, told))})*"


def bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def quality(eye: EyeReport) -> str:
    gradability = eye.gradability
    text = f"gradable: {md(wording.quality(eye))}"
    if not gradability.parts:
        return text
    parts = ", ".join(f"{md(name)} {part:.2f}" for name, part in gradability.parts.items())
    return f"{text}\n\nScore {gradability.score:.2f} of 1, the worst of {parts}."


def findings(eye: EyeReport) -> str:
    """The table of lesions, then the sentences about disc, vessels and macula."""
    if eye.lesions is None:
        shown = "Not assessed."
    else:
        rows = [
            [
                md(wording.shown(lesion.kind)),
                wording.presence(lesion) + (f" ({lesion.probability:.2f})" if lesion.probability is not None else ""),
                md(wording.amount(lesion)) or "-",
                md(wording.where(lesion)) or "-",
                md(wording.sources(lesion)),
                ": ".join(filter(None, (str(lesion.origin), md(wording.evidence(lesion))))),
            ]
            for lesion in eye.lesions
        ]
        shown = table(["finding", "said", "number", "where", "what the sources say", "from"], rows)
        shown += "\n\nNumbers in brackets are probabilities. Where the two sources disagree, look again."
    said = [
        f"{part}: {md(wording.sentence(statement))} {marked(statement)}"
        for _, part, statement in wording.statements(eye)
    ]
    measured = [f"{name}: {value}" for name, value in wording.anatomy(eye)]
    return f"{shown}\n\n{bullets([*said, *measured])}"


def grades(eye: EyeReport) -> str:
    if not eye.grades:
        return "None was asked for."
    lines = []
    for grade in eye.grades:
        line = f"**{md(grade.scale)} {md(grade.version)}: {md(wording.graded(grade))}** {marked(grade)}"
        if grade.disagrees:
            line += f" **The model's own statement is another: {md(grade.stated or 'none')}.**"
        lines.append(f"{line}; because {md(wording.reasons(grade))}" if grade.because or grade.needs else line)
    return bullets(lines)


def impression(eye: EyeReport) -> str:
    said = eye.impression
    if said is None:
        return "No impression: the photograph cannot be graded." if not eye.gradability.may_grade else "None."
    return f"{md(said.text)} {marked(said)}"


def probabilities(eye: EyeReport) -> str:
    """A table of every candidate diagnosis."""
    if not eye.impression or not eye.impression.diagnoses:
        return ""
    rows = [[md(wording.shown(d.name)), f"{d.probability:.3f}"] for d in eye.impression.diagnoses]
    return table(["diagnosis", "probability"], rows)


def recommendation(eye: EyeReport) -> str:
    said = eye.referral
    if said is None:
        return "None."
    because = f", because {md('; '.join(said.because))}" if said.because else ""
    return f"{md(said.text)} Urgency: {wording.URGENCIES[said.urgency]} ({md(said.rules)}{because}). {marked(said)}"


def words(eye: EyeReport) -> str:
    """The model's sentences, each with what the structured findings say of it, for the form's quotation."""
    return "\n>\n> ".join(f"{md(w.text)} **[{w.verdict}]**" for w in eye.words) or "(the model said nothing)"


def both(report: Report) -> list[str]:
    """What is said of both eyes, and of the time since the earlier report."""
    parts = []
    for title, said in (("Both eyes compared", report.comparison), ("Since the earlier report", report.since)):
        if said:
            parts.append(f"# {title}\n\n" + bullets([f"{md(wording.sentence(s))} {marked(s)}" for s in said]))
    if report.referral and len(report.eyes) > 1:
        text = f"{md(report.referral.text)} Urgency: {wording.URGENCIES[report.referral.urgency]}."
        parts.append(f"# Recommendation for both eyes\n\n{text}")
    return parts
