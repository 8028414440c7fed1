"""The tab of the report: a draft of the photographs on the shelf, corrected and signed in the page, taken as files.

Overlays by finding and maps by depth are switched in the draft's own page, which stands here in a frame; what a person
changes there is saved as a signed review beside the draft, see review.py.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mdf.dialogue import Turn, diagnosis_answer
from mdf.errors import UserError
from mdf.evaluation.diagnosis import diagnosis_question
from mdf.imaging.frame import Frame
from mdf.inference import serve_html as page
from mdf.inference.predictor import Photograph, Predictor
from mdf.inference.report import EyeReport
from mdf.inference.serve_room import Room, failure, wire
from mdf.inference.visits import Visit
from mdf.models.attention import attention_maps

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
FORMATS = {"html": "Page (HTML)", "pdf": "PDF", "json": "Data (JSON)", "fhir": "FHIR bundle"}
HINT = '<p class="mdf-hint">Of the right and the left eye on the shelf, or else of the photograph talked about.</p>'


def make_draft(room: Room, visit: Visit, rules: str) -> tuple[Any, list[Any]]:
    """Report and pictures of the right and the left eye on the shelf, or of the photograph that is talked about."""
    from mdf.inference.draft import draft

    places = visit.session.places
    _ = visit.session.conversation  # there must be a photograph
    wanted = [p for p in EYES if p in places] or [str(visit.session.current)]
    with room.visits.model(visit, "draft"):
        photographs = [room.predictor.read(places[p].photograph.path, force=True) for p in wanted]
        eyes: list[Any] = [p if p in EYES else None for p in wanted]
        report, pictures = draft(room.predictor, photographs, eyes=eyes, rules=rules)
        pictures = [
            replace(shown, maps=shown.maps | maps_by_depth(room.predictor, photograph, eye))
            for shown, photograph, eye in zip(pictures, photographs, report.eyes, strict=True)
        ]
    return report, pictures


def maps_by_depth(predictor: Predictor, photograph: Photograph, eye: EyeReport) -> dict[str, np.ndarray]:
    """Where the adapters of each depth look for the words of the likeliest diagnosis, float [H,W] in 0..1; none where
    there is no diagnosis or no adapter.
    """
    model = predictor.model
    if eye.impression is None or not eye.impression.diagnoses or not model.fusion.layers:
        return {}
    question, _ = diagnosis_question(predictor.processor)
    answer = diagnosis_answer(predictor.prompts, (eye.impression.diagnoses[0].name,))
    turns = [model.system_turn(), Turn("user", question)]
    found = attention_maps(model, photograph.inputs, [turns], [answer])[0]
    frame, whole = Frame.of(photograph.image, predictor.processor.preprocessing), found.answer.numpy()
    maps = {}
    for depth in sorted(set(found.depths)):
        values = frame.place(whole[[i for i, d in enumerate(found.depths) if d == depth]].mean(0))
        maps[f"attention, depth {depth}"] = np.clip(values / max(float(values.max()), 1e-12), 0, 1)
    return maps


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


class Reports:
    """Handlers; see serve_room."""

    def __init__(self, room: Room):
        self.room = room

    def draft(self, key: str | None, data: Any, rules: str) -> tuple[Any, ...]:
        visit = self.room.visits.of(key)
        report, pictures = make_draft(self.room, visit, rules)
        folder = visit.folder / report.id
        folder.mkdir(mode=0o700)
        (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
        visit.drafts = {"pictures": pictures, "file": folder / "report.json"}
        return (
            framed(report, pictures),
            files(report, pictures, folder),
            page.status("A draft. Check it, change it, sign it."),
        )

    def sign(self, key: str | None, data: Any, edits: str) -> tuple[Any, ...]:
        from mdf.inference.report import read_report
        from mdf.inference.review import page_edits, review

        visit = self.room.visits.of(key)
        if not visit.drafts or not edits:
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
    links = gr.HTML(HINT, elem_id="files")
    frame = gr.HTML("", elem_id="draft")
    edits = gr.Textbox(visible=False)
    sign = gr.Button("Sign this review", variant="primary", elem_id="sign")
    wire(make.click, reports.draft, [rules], [frame, links], line)
    wire(sign.click, reports.sign, [edits], [frame, links], line, js=EDITS)
