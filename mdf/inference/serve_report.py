"""The tab of the report: a draft of the photographs on the shelf, corrected and signed in the page, taken as files.

Overlays by finding and maps by depth are switched in the draft's own page, which stands here in a frame; what a person
changes there is saved as a signed review beside the draft, see review.py.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from mdf.errors import UserError
from mdf.inference import serve_html as page
from mdf.inference.serve_room import Room, failure, wire
from mdf.inference.session import TITLES
from mdf.inference.upload import harmless
from mdf.inference.visits import Visit

# The frame's own button would only save a file of edits; here the page signs instead.
FRAMED = """
const d = this.contentDocument, s = d.querySelector('#save'), p = d.querySelector('.review > p');
if (s) s.style.display = 'none'; if (p) p.style.display = 'none';
"""
EDITS = """() => {
  const frame = document.querySelector("#draft iframe");
  return frame && frame.contentWindow.edits ? JSON.stringify(frame.contentWindow.edits()) : "";
}"""
EYES = ("right", "left")
LARGEST_REPORT = 5_000_000  # bytes of an earlier report
FORMATS = {"html": "Page (HTML)", "pdf": "PDF", "json": "Data (JSON)", "fhir": "FHIR bundle"}
FORCE = "Draft both eyes though they look exchanged or alike"
HINT = '<p class="mdf-hint">Of the right and the left eye on the shelf, or else of the photograph talked about.</p>'


def make_draft(room: Room, visit: Visit, rules: str, force: bool = False) -> tuple[Any, list[Any]]:
    """Report and pictures of the right and the left eye on the shelf, or of the photograph that is talked about, with
    what changed since the earlier report that was brought. `force` as of `check_pair`.

    Raises UserError, in the words of the page, where two photographs cannot be a right and a left eye.
    """
    from mdf.inference.draft import draft

    places = visit.session.places
    _ = visit.session.conversation  # there must be a photograph
    wanted = [p for p in EYES if p in places] or [str(visit.session.current)]
    with room.visits.model(visit, "draft"):
        photographs = [room.predictor.read(places[p].photograph.path, force=True) for p in wanted]
        eyes: list[Any] = [p if p in EYES else None for p in wanted]
        earlier = visit.drafts.get("earlier")
        try:
            return draft(room.predictor, photographs, eyes=eyes, rules=rules, earlier=earlier, force=force, maps=True)
        except UserError as error:
            said = str(error).replace("--force", f"tick “{FORCE}”")
            for place, photograph in zip(wanted, photographs, strict=True):
                said = said.replace(str(photograph.path), f"“{TITLES[place]}”")
            raise UserError(said) from None


def framed(report: Any, pictures: Sequence[Any]) -> str:
    """The draft's page in a frame of its own."""
    from mdf.inference import html

    whole = html.page(report, pictures, "report")
    return (
        f'<iframe title="Draft report" srcdoc="{escape(whole)}" onload="{escape(FRAMED)}" '
        'sandbox="allow-scripts allow-same-origin allow-downloads allow-modals"></iframe>'
    )


def files(report: Any, pictures: Sequence[Any], folder: Path) -> str:
    """Links to the report in every form that can be made here; nothing of them stays in `folder`."""
    from mdf.inference import render

    links, missing = [], []
    for kind, title in FORMATS.items():
        try:
            (path,) = render.write(report, pictures, folder / "files", [kind], "report")
        except UserError as error:
            missing.append(f"{title}: {error}")
            continue
        except Exception as error:  # the draft and its other forms are of use all the same
            failure(error)
            missing.append(f"{title}: could not be made; see the log")
            continue
        links.append(page.download(path.read_bytes(), path.name, title))
        path.unlink()
    told = "".join(f'<p class="mdf-hint">{escape(line)}</p>' for line in missing)
    return f'<p class="mdf-files">{" ".join(links)}</p>{told}'


def brought(file: Path) -> Any:
    """A report from a file that a visitor brought, which is removed. Raises UserError where it is none."""
    from mdf.inference.report import read_report

    name = harmless(file.name)
    try:
        if (size := file.stat().st_size) > LARGEST_REPORT:
            raise UserError(f"{name}: {size / 1e6:.0f} MB are too much for a report of mdf")
        return read_report(file.read_text(encoding="utf-8-sig"), name)
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{name} is no report of mdf: it is no text") from None
    finally:
        file.unlink(missing_ok=True)


class Reports:
    """Handlers; see serve_room."""

    def __init__(self, room: Room):
        self.room = room

    def earlier(self, key: str | None, data: Any, file: Any) -> tuple[Any, ...]:
        """The report of an earlier visit, from a file that is removed at once; without a file none is compared with."""
        visit = self.room.visits.of(key)
        visit.drafts.pop("earlier", None)
        if not file:
            return None, "", page.status("The next draft is compared with no other.")
        report = visit.drafts["earlier"] = brought(Path(file))
        eyes = " and ".join(eye.title.lower() for eye in report.eyes)
        signed = "signed" if report.signed else "not signed"
        told = f"Earlier report of {report.created:%Y-%m-%d}, {eyes}, {signed}."
        return None, f'<p class="mdf-hint">{escape(told)}</p>', page.status("The next draft says what changed.")

    def draft(self, key: str | None, data: Any, rules: str, force: bool = False) -> tuple[Any, ...]:
        visit = self.room.visits.of(key)
        report, pictures = make_draft(self.room, visit, rules, force)
        folder = visit.folder / report.id
        folder.mkdir(mode=0o700)
        (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
        visit.drafts |= {"pictures": pictures, "file": folder / "report.json"}
        return (
            framed(report, pictures),
            files(report, pictures, folder),
            False,  # of the next two eyes it has to be said anew
            page.status("A draft. Check it, change it, sign it."),
        )

    def sign(self, key: str | None, data: Any, edits: str) -> tuple[Any, ...]:
        from mdf.inference.report import read_report
        from mdf.inference.review import page_edits, review

        visit = self.room.visits.of(key)
        if "file" not in visit.drafts or not edits:
            raise UserError("there is no draft yet")
        try:
            raw = json.loads(edits)
        except ValueError:
            raw = None
        if not isinstance(raw, dict):
            raise UserError("the page sent no edits; load it anew")
        said = page_edits(Path("the review"), raw)
        if not said.reviewer:
            raise UserError("a name is missing: say at the end of the draft who reviews it")
        if not (said.changes or said.confirmed or said.comment.strip()):
            raise UserError("nothing is changed, ticked or commented: say what you checked before you sign")
        signed = review(visit.drafts["file"], said)
        report = read_report(signed.read_text(encoding="utf-8"), "the review")
        pictures, links = visit.drafts["pictures"], files(report, visit.drafts["pictures"], signed.parent)
        told = f"Signed, version {report.reviews[-1].version}. Save it now."
        return framed(report, pictures), links, page.status(told)


def build(room: Room, line: Any) -> None:
    """Lay out the tab."""
    import gradio as gr

    from mdf.inference.referral import RULES, rule_sets

    reports = Reports(room)
    with gr.Row():
        rules = gr.Dropdown(list(rule_sets()), value=RULES, label="Rules of referral", elem_id="rules", scale=2)
        make = gr.Button("Draft a report", variant="primary", elem_id="make-draft", scale=1)
    force = gr.Checkbox(label=FORCE, value=False, elem_id="force")
    with gr.Accordion("Compare with an earlier report", open=False, elem_id="before"):
        file = gr.File(label="Its JSON, as mdf wrote it", file_types=[".json"], height=110, elem_id="earlier")
        known = gr.HTML("", elem_id="earlier-told")
        none = gr.Button("Compare with none", elem_id="no-earlier", size="sm")
    links = gr.HTML(HINT, elem_id="files")
    frame = gr.HTML("", elem_id="draft")
    edits = gr.Textbox(visible=False)
    sign = gr.Button("Sign this review", variant="primary", elem_id="sign")
    how: dict[str, Any] = {"concurrency_id": "light", "concurrency_limit": 8}
    wire(file.upload, reports.earlier, [file], [file, known], line, emptied=2, **how)
    wire(none.click, lambda key, data: reports.earlier(key, data, None), [], [file, known], line, **how)
    wire(make.click, reports.draft, [rules, force], [frame, links, force], line)
    wire(sign.click, reports.sign, [edits], [frame, links], line, js=EDITS)
