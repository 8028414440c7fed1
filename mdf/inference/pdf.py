"""A report as a PDF to print and to file. The draft banner stands on every page and in the file's metadata.

The font has Latin, Greek and Cyrillic letters. A text in another script is refused and its letters named: boxes instead
of letters would be worse.
"""

import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw

from mdf.errors import UserError
from mdf.inference import wording
from mdf.inference.layers import fitted, laid, outlined
from mdf.inference.report import EyeReport, Referral, Report, Stated
from mdf.resources import DATA

if TYPE_CHECKING:
    from mdf.inference.pictures import Pictures

MARGIN = 15  # mm
SIDE = 1000  # pixels of a picture on the page
INK, MUTED, RULE, PANEL, ALARM = "#1b1f24", "#5d6773", "#d5dbe1", "#f6f8fa", "#a4161a"
INSTALL = (
    "a PDF is made with reportlab, which is not installed: pip install reportlab (or leave pdf out of the formats)"
)


@cache
def fonts() -> frozenset[int]:
    """Register the fonts; the characters that both of them have. Raises UserError where reportlab is missing."""
    try:
        from reportlab.pdfbase import pdfmetrics
        from reportlab.pdfbase.ttfonts import TTFont
    except ImportError:
        raise UserError(INSTALL) from None
    faces = {"mdf": "DejaVuSansCondensed.ttf", "mdf-bold": "DejaVuSansCondensed-Bold.ttf"}
    found = []
    for name, file in faces.items():
        font = TTFont(name, str(DATA / "fonts" / file))
        pdfmetrics.registerFont(font)
        found.append(set(font.face.charToGlyph))
    pdfmetrics.registerFontFamily("mdf", normal="mdf", bold="mdf-bold", italic="mdf", boldItalic="mdf-bold")
    return frozenset(found[0] & found[1])


def text(words: object) -> str:
    """Text of people, files and models as a paragraph takes it. Raises UserError for letters that the font lacks."""
    said = wording.line(words)
    strange = "".join(dict.fromkeys(c for c in said if ord(c) not in fonts()))
    if strange:
        codes = ", ".join(f"{c} (U+{ord(c):04X})" for c in strange[:5])
        raise UserError(f"the PDF's font has no letter for {codes} in {said[:60]!r}; take html, md or json instead")
    return escape(said)


def pages(report: Report, pictures: Sequence["Pictures"] = ()) -> bytes:
    """The PDF; the same report gives the same bytes.

    Raises UserError where reportlab is missing and for letters that the font does not have.
    """
    fonts()
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    buffer = io.BytesIO()
    document = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=MARGIN * mm,
        rightMargin=MARGIN * mm,
        topMargin=19 * mm,
        bottomMargin=18 * mm,
        title=f"DRAFT: {wording.title(report)}",
        subject=report.banner,
        author=f"mdf {report.software.version}, AI-generated draft",
        keywords=["AI-generated", "DRAFT", "not a medical device", report.id],
        creator=f"mdf {report.software.version}",
        lang="en",
        invariant=1,
        pageCompression=1,
    )
    writer = Writer(document.width - 12)  # less the frame's own padding
    document.build(writer.story(report, pictures), canvasmaker=numbered(report))
    return buffer.getvalue()


def numbered(report: Report) -> Callable[..., Any]:
    """A canvas that writes banner, report and page number of how many on each page."""
    from reportlab.lib.units import mm
    from reportlab.lib.utils import simpleSplit
    from reportlab.pdfgen.canvas import Canvas

    foot = f"mdf {report.software.version} · report {report.id} · {report.created:%Y-%m-%d %H:%M} UTC"

    class Numbered(Canvas):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.kept: list[dict[str, Any]] = []

        def showPage(self) -> None:
            self.kept.append(dict(self.__dict__))
            self._startPage()

        def save(self) -> None:
            for number, page in enumerate(self.kept, 1):
                self.__dict__.update(page)
                self.frame(number)
                super().showPage()
            super().save()

        def frame(self, number: int) -> None:
            width, height = self._pagesize
            lines = simpleSplit(report.banner, "mdf-bold", 7, width - (2 * MARGIN + 6) * mm)
            top = height - 8 * mm
            self.setFillColor(ALARM)
            self.rect(MARGIN * mm + 6, top - len(lines) * 9 - 3, width - 2 * MARGIN * mm - 12, len(lines) * 9 + 6, 0, 1)
            self.setFillColor("#ffffff")
            self.setFont("mdf-bold", 7)
            for i, line in enumerate(lines):
                self.drawCentredString(width / 2, top - 6 - 9 * i, line)
            self.setFillColor(MUTED)
            self.setFont("mdf", 7)
            self.drawString(MARGIN * mm + 6, 10 * mm, foot)
            self.drawRightString(width - MARGIN * mm - 6, 10 * mm, f"page {number} of {len(self.kept)}")

    return Numbered


class Writer:
    """Turns a report into what reportlab flows over pages. Widths in points."""

    def __init__(self, width: float):
        from reportlab.lib.styles import ParagraphStyle

        self.width = width
        body = ParagraphStyle("body", fontName="mdf", fontSize=8.6, leading=11.4, textColor=INK, splitLongWords=True)
        self.styles = {
            "body": body,
            "title": ParagraphStyle("title", body, fontName="mdf-bold", fontSize=15, leading=19),
            "eye": ParagraphStyle("eye", body, fontName="mdf-bold", fontSize=12.5, leading=16, spaceBefore=8),
            "head": ParagraphStyle("head", body, fontName="mdf-bold", fontSize=9.4, leading=12, spaceBefore=7),
            "strong": ParagraphStyle("strong", body, fontName="mdf-bold", fontSize=10.4, leading=13.5),
            "small": ParagraphStyle("small", body, fontSize=7.2, leading=9.4, textColor=MUTED),
            "cell": ParagraphStyle("cell", body, fontSize=7.8, leading=9.8),
            "alarm": ParagraphStyle("alarm", body, fontName="mdf-bold", fontSize=8.2, leading=10.6, textColor=ALARM),
        }

    def p(self, markup: str, style: str = "body") -> Any:
        from reportlab.platypus import Paragraph

        return Paragraph(markup, self.styles[style])

    def gap(self, points: float = 5) -> Any:
        from reportlab.platypus import Spacer

        return Spacer(1, points)

    def heading(self, words: str, style: str = "head") -> Any:
        paragraph = self.p(text(words), style)
        paragraph.keepWithNext = True
        return paragraph

    def table(self, rows: list[list[Any]], widths: Sequence[float], *rules: tuple[Any, ...], head: bool = True) -> Any:
        """A ruled table; `widths` are shares of the page's width."""
        from reportlab.platypus import Table

        style = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 3),
            ("RIGHTPADDING", (0, 0), (-1, -1), 5),
            ("TOPPADDING", (0, 0), (-1, -1), 2.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE),
            *([("BACKGROUND", (0, 0), (-1, 0), PANEL)] if head else []),
            *rules,
        ]
        columns = [share * self.width for share in widths]
        return Table(rows, columns, style=style, repeatRows=1 if head else 0, splitInRow=1, hAlign="LEFT")

    def panel(self, flowables: list[Any], colour: str = RULE) -> Any:
        from reportlab.platypus import Table

        rows = [[flowable] for flowable in flowables]
        style = [
            ("BACKGROUND", (0, 0), (-1, -1), PANEL),
            ("LINEBEFORE", (0, 0), (0, -1), 2.5, colour),
            ("LEFTPADDING", (0, 0), (-1, -1), 9),
            ("TOPPADDING", (0, 0), (-1, -1), 1.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
        ]
        return Table(rows, [self.width], style=style, splitInRow=1, hAlign="LEFT")

    def marked(self, said: Stated) -> str:
        """Where a statement comes from and what it rests on."""
        origin = ", ".join(filter(None, (str(said.origin), wording.sure(said))))
        rests = text(wording.evidence(said))
        rests = rests if said.evidence or not rests else f'<font color="{ALARM}">{rests}</font>'
        return f'<font size="7" color="{MUTED}">[{"; ".join(filter(None, (origin, rests)))}]</font>'

    def story(self, report: Report, pictures: Sequence["Pictures"]) -> list[Any]:
        patient = f"Patient {text(report.patient)} · " if report.patient else ""
        story = [
            self.p(text(wording.title(report)), "title"),
            self.p(
                f"{patient}draft of {report.created:%Y-%m-%d %H:%M} UTC · {text(wording.reviewed(report))}", "small"
            ),
            self.gap(6),
        ]
        if report.referral and len(report.eyes) > 1:
            story += [self.conclusion("Recommendation for both eyes", report.referral), self.gap(3)]
        for name, said in (("Both eyes compared", report.comparison), ("Since the earlier report", report.since)):
            if said:
                story.append(self.heading(name))
                story += [self.p(f"{text(wording.sentence(s))} {self.marked(s)}") for s in said]
        for number, eye in wording.in_order(report):
            story += self.eye(eye, pictures[number] if pictures else None)
        return story + self.signature(report)

    def conclusion(self, name: str, said: Referral) -> Any:
        colours = {"soon (weeks)": "#a67c00", "urgent (days)": "#d1590a", "same day": ALARM, "routine": "#1a8a5f"}
        urgency = wording.URGENCIES[said.urgency]
        because = f" · {text('; '.join(said.because))}" if said.because else ""
        lines = [
            self.p(f'{text(name)} · <font color="{colours.get(urgency, MUTED)}">{urgency}</font>', "head"),
            self.p(text(said.text)),
            self.p(f"{text(said.rules)}{because} {self.marked(said)}", "small"),
        ]
        return self.panel(lines, colours.get(urgency, RULE))

    def eye(self, eye: EyeReport, pictures: "Pictures | None") -> list[Any]:
        from reportlab.platypus import KeepTogether

        name = f'{eye.title} <font size="9" color="{MUTED}">{text(eye.photograph.name)}</font>'
        head = [self.p(name, "eye"), *[self.p(f"! {text(flag.text)}", "alarm") for flag in eye.flags]]
        if pictures is not None:
            head += [self.gap(4), *self.pictures(eye, pictures)]
        story: list[Any] = [KeepTogether(head)]
        quality = f"<b>Gradable:</b> {text(wording.quality(eye))}"
        if eye.gradability.parts:
            quality += f" ({', '.join(f'{text(n)} {v:.2f}' for n, v in eye.gradability.parts.items())})"
        story.append(self.gap(4))
        story.append(self.p(f"{quality}. <b>Eye:</b> {text(wording.eye_side(eye))}."))
        if eye.impression:
            likely = ", ".join(f"{text(wording.shown(d.name))} {d.probability:.2f}" for d in eye.impression.diagnoses)
            candidates = [self.p(f"Candidates: {likely}. Relative to this list.", "small")] if likely else []
            said = [self.p(text(eye.impression.text), "strong"), self.p(self.marked(eye.impression), "small")]
            story.append(KeepTogether([self.heading("Impression"), *said, *candidates]))
        if eye.referral:
            story += [self.gap(4), self.conclusion("Recommendation", eye.referral)]
        return story + self.grades(eye) + self.findings(eye) + self.rest(eye)

    def grades(self, eye: EyeReport) -> list[Any]:
        if not eye.grades:
            return []
        rows = [[self.p(f"<b>{h}</b>", "cell") for h in ("scale", "grade", "because", "from")]]
        for grade in eye.grades:
            value = f"<b>{text(wording.graded(grade))}</b>"
            if grade.disagrees:
                value += f'<br/><font color="{ALARM}">model: {text(grade.stated or "none")}</font>'
            because = text(wording.reasons(grade))
            scale = f"{text(grade.scale)} {text(grade.version)}"
            rows.append([self.p(cell, "cell") for cell in (scale, value, because, self.marked(grade))])
        return [self.heading("Grades"), self.table(rows, (0.14, 0.22, 0.42, 0.22))]

    def findings(self, eye: EyeReport) -> list[Any]:
        if eye.lesions is None:
            return [self.heading("Findings"), self.p("Not assessed.")]
        rows = [[self.p(f"<b>{h}</b>", "cell") for h in ("finding", "said", "number", "where", "sources", "from")]]
        order = sorted(eye.lesions, key=lambda lesion: {True: 0, None: 1, False: 2}[lesion.present])
        for lesion in order:
            name, said = text(wording.shown(lesion.kind)), wording.presence(lesion)
            if lesion.present:
                name, said = f"<b>{name}</b>", f"<b>{said}</b>"
            cells = (
                name, said, text(wording.amount(lesion)), text(wording.where(lesion)), text(wording.sources(lesion)),
                self.marked(lesion),
            )  # fmt: skip
            rows.append([self.p(cell, "cell") for cell in cells])
        return [self.heading("Findings"), self.table(rows, (0.15, 0.13, 0.09, 0.22, 0.17, 0.24))]

    def rest(self, eye: EyeReport) -> list[Any]:
        story: list[Any] = []
        said = [(wording.initial(part), s) for _, part, s in wording.statements(eye)]
        measured = "; ".join(f"{name.lower()} {value}" for name, value in wording.anatomy(eye))
        story.append(self.heading("Disc, vessels, macula"))
        story += [self.p(f"{part}: {text(wording.sentence(s))} {self.marked(s)}") for part, s in said]
        story.append(self.p(f"Measured: {text(measured)}.", "small"))
        if eye.words:
            story.append(self.heading("The model's own words"))
            for sentence in eye.words:
                verdict = f"<b>[{sentence.verdict}]</b>"
                if sentence.verdict != "supported":
                    verdict = f'<font color="{ALARM}">{verdict}</font>'
                story.append(self.p(f"“{text(sentence.text)}” {verdict}"))
        if eye.limits:
            story.append(self.heading("What one photograph cannot show"))
            story += [self.p(f"• {text(limit)}") for limit in eye.limits]
        return story

    def pictures(self, eye: EyeReport, pictures: "Pictures") -> list[Any]:
        """The photograph beside the same with layers and places, and the legend."""
        shown = [fitted(Image.fromarray(pictures.photograph), SIDE)]
        if pictures.layers:
            shown.append(marked(eye, pictures))
        cells: list[Any] = [self.picture(image, self.width / 2 - 4) for image in shown]
        cells += [""] * (2 - len(cells))
        no_lines = [("LINEBELOW", (0, 0), (-1, -1), 0, "#ffffff"), ("LEFTPADDING", (0, 0), (-1, -1), 0)]
        legend = "   ".join(
            f'<font color="{on_paper(pictures.colour(name))}">●</font> {text(wording.shown(name))}'
            for name, mask in pictures.layers.items()
            if mask.any()
        )
        story = [self.table([cells], (0.5, 0.5), *no_lines, head=False)]
        if pictures.layers:
            story.append(self.p(f"Right: what the U-Net marks. {legend}", "small"))
        if pictures.maps:
            small = fitted(Image.fromarray(pictures.photograph), SIDE // 2)
            named = [[self.picture(laid(small, v), self.width / 4 - 6) for v in pictures.maps.values()]]
            named.append([self.p(text(wording.initial(name)), "small") for name in pictures.maps])
            rows = [[row[i : i + 4] for row in named] for i in range(0, len(pictures.maps), 4)]
            for pair in rows:
                pair = [[*row, *[""] * (4 - len(row))] for row in pair]
                story.append(self.table(pair, (0.25,) * 4, *no_lines, head=False))
            story.append(self.p(text(wording.map_note(eye)), "small"))
        return story

    def picture(self, image: Image.Image, side: float) -> Any:
        """A picture whose longer side takes `side` points."""
        from reportlab.platypus import Image as Picture

        scale = side / max(image.width, image.height)
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=88)
        return Picture(buffer, image.width * scale, image.height * scale)

    def signature(self, report: Report) -> list[Any]:
        from reportlab.platypus import KeepTogether

        software = report.software
        labels = [self.p(words, "small") for words in ("Reviewer", "Date", "Signature")]
        lines = [("LINEBELOW", (0, 0), (-1, -1), 0, "#ffffff"), ("LINEABOVE", (0, 0), (-1, 0), 0.6, INK)]
        made = f"Checkpoint {text(software.checkpoint)}, weights {text(software.fingerprint)}, preprocessing "
        story = [
            self.heading("Review"),
            self.p("☐ Photograph itself seen by the reviewer.   Corrections:"),
            self.gap(44),
            self.table([labels], (0.4, 0.2, 0.4), *lines, head=False),
            self.p(made + text(software.preprocessing), "small"),
        ]
        comments = [
            self.p(f"Review {r.version}, {text(r.reviewer)}: {text(r.comment)}") for r in report.reviews if r.comment
        ]
        return [self.gap(8), *comments, KeepTogether(story)]


def on_paper(colour: tuple[int, int, int]) -> str:
    """A layer's colour as it is seen on white paper."""
    return MUTED if min(colour) > 230 else f"#{''.join(f'{c:02x}' for c in colour)}"


def marked(eye: EyeReport, pictures: "Pictures") -> Image.Image:
    """The photograph with its layers, and a frame round each place that a lesion rests on."""
    image = fitted(Image.fromarray(pictures.photograph), SIDE).convert("RGBA")
    for name, mask in pictures.layers.items():
        image.alpha_composite(outlined(np.asarray(mask) > 0, pictures.colour(name), SIDE))
    scale = image.width / pictures.photograph.shape[1]
    pen = ImageDraw.Draw(image)
    for lesion in eye.lesions or ():
        for left, top, width, height in wording.boxes(lesion) if lesion.present is not False else ():
            corners = [(left - 4) * scale, (top - 4) * scale, (left + width + 4) * scale, (top + height + 4) * scale]
            pen.rectangle(corners, outline="white", width=2)
    return image.convert("RGB")
