"""The shelf of photographs beside all tabs, and the tab of the conversation."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.imaging.frame import Frame
from mdf.inference import serve_html as page
from mdf.inference.explain import draw_masks, heat, scaled, unplaced
from mdf.inference.questions import recognise
from mdf.inference.serve_room import Room, spoken, wire
from mdf.inference.session import PLACES, TITLES, difference
from mdf.inference.upload import ENDINGS, admit, harmless
from mdf.inference.visits import Visit

SIDE = 1400  # pixels of a photograph as it is kept for showing
PLACE_NAMES = {"photograph": "Eye not known", "right": "Right eye", "left": "Left eye", "earlier": "Earlier visit"}
STANDARD = (
    "What is the diagnosis?",
    "Are there haemorrhages?",
    "Where are the hard exudates?",
    "Describe this photograph.",
)


def add(room: Room, key: str | None, file: Any, place: str) -> tuple[Visit, str]:
    """An uploaded file through all checks into a place of the visit, and which that is: a DICOM tag or the file's name
    may tell where the visitor does not. The upload is removed at once. Raises UserError where they contradict each
    other.
    """
    if not file:
        raise UserError("no file was chosen")
    uploaded = Path(file)
    try:
        visit = room.visits.of(key)
        path = admit(uploaded, visit.folder)
        try:
            place, told = placed(uploaded, place)
        except UserError:
            path.unlink()
            raise
    finally:
        uploaded.unlink(missing_ok=True)
    try:
        with room.visits.model(visit, "photograph read"):
            photograph = room.predictor.read(path, force=True)
    except BaseException:
        path.unlink(missing_ok=True)
        if visit.left:  # `admit` made its folder anew
            shutil.rmtree(visit.folder, ignore_errors=True)
        raise
    if not photograph.quality.is_retina:
        path.unlink()
        because = f" ({'; '.join(photograph.quality.reasons)})" if photograph.quality.reasons else ""
        raise UserError(f"{path.stem} is not a fundus photograph{because}. It was not kept.")
    if place in visit.session.places:
        visit.session.places[place].photograph.path.unlink(missing_ok=True)
    small = np.asarray(scaled(photograph.image, min(SIDE, max(photograph.image.shape[:2]))))
    visit.warnings[place] = [*told, *visit.session.put(place, replace(photograph, image=small))]
    return visit, place


def placed(uploaded: Path, place: str) -> tuple[str, list[str]]:
    """Where a photograph belongs, and what a reader should know of that."""
    from mdf.inference.sides import worded_side

    given = place if place in ("right", "left") else None
    try:
        side, who = worded_side(uploaded, given)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(str(error).replace(str(uploaded), harmless(uploaded.name))) from None
    if place == "photograph" and side is not None:
        return side, [f"Taken for the {side} eye: {who} says so."]
    return place, []


def evidence(room: Room, visit: Visit, number: int) -> str:
    """The maps of an answer about the photograph that is talked about."""
    from mdf.models.attention import attention_maps

    conversation = visit.session.conversation
    if not 0 <= number < len(conversation.answers):
        raise UserError("that answer is not there any more")
    answer, photograph = conversation.answers[number], conversation.photograph
    if not room.predictor.model.fusion.layers:
        raise UserError("the checkpoint has no adapters, so that there are no maps of what they read")
    if not answer.history or not answer.text:
        raise UserError("that answer was not read from the photograph: there is no map of it")
    turns = [*answer.history, Turn("user", answer.question)]
    with room.visits.model(visit, "maps"):
        found = attention_maps(room.predictor.model, photograph.inputs, [turns], [answer.text])[0]
        config = room.predictor.model.config
        masks = {} if config.stale_masks else room.predictor.masks(photograph)
    frame = Frame.of(photograph.image, room.predictor.processor.preprocessing)
    whole = found.answer.numpy()
    every = {"All depths": list(range(len(found.layers)))}
    every |= {f"Depth {d}": [i for i, x in enumerate(found.depths) if x == d] for d in sorted(set(found.depths))}
    shown = []
    for title, mine in every.items():
        values = frame.place(whole[mine].mean(0))
        shown.append((title, heat(photograph.image, values, float(values.max()))))
    if masks:
        shown.append(("Masks", draw_masks(photograph.image, frame, masks)))
    note = "Masks are the U-Net's own." if masks else "The checkpoint has no masks that can be relied on."
    return page.maps(answer.question, answer.text, shown, f"{unplaced(found)}. {note}")


def together(visit: Visit, answers: dict[str, Any]) -> str:
    """The answers about several photographs side by side, and how they differ."""
    if not answers:
        return ""
    cells = "".join(page.said(answer, 0, TITLES[place]) for place, answer in answers.items())
    lines = "".join(f"<li>{page.escape(line)}</li>" for line in difference(answers))
    return f'<h3>Each photograph by itself</h3><div class="mdf-both">{cells}</div><ul class="mdf-notes">{lines}</ul>'


class Chat:
    """Handlers, each for one event; see serve_room."""

    def __init__(self, room: Room):
        self.room = room

    def shelf(self, visit: Visit, line: str, **box: Any) -> tuple[Any, ...]:
        """Shelf, what can be talked about, conversation, maps, status."""
        import gradio as gr

        session = visit.session
        choices = [(TITLES[p], p) for p in PLACES if p in session.places]
        about = gr.Radio(choices=choices, value=session.current, visible=len(choices) > 1)
        return page.shelf(session, visit.warnings), about, page.log(session), "", page.status(line)

    def add(self, key: str | None, data: Any, file: Any, place: str) -> tuple[Any, ...]:
        visit, place = add(self.room, key, file, place)
        return (None, *self.shelf(visit, f"{TITLES[place]} added."))

    def about(self, key: str | None, data: Any, place: str) -> tuple[Any, ...]:
        visit = self.room.visits.of(key)
        if place != visit.session.current:
            visit.session.turn_to(place)
        return self.shelf(visit, "")

    def ask(self, key: str | None, data: Any, question: str) -> Iterator[tuple[Any, ...]]:
        visit = self.room.visits.of(key)
        session, question = visit.session, (question or "").strip()
        if not question:
            raise UserError("the question is empty")
        _ = session.conversation  # there must be a photograph
        yield page.log(session, question), "", "", page.status("Reading …")
        work = lambda say, stop: session.ask(question, say=say, stop=stop)  # noqa: E731
        for words in spoken(self.room.visits, visit, "answer", work):
            yield page.log(session, question, words), "", "", page.status("Answering …")
        yield page.log(session), "", "", page.status("Answered.")

    def again(self, key: str | None, data: Any) -> Iterator[tuple[Any, ...]]:
        visit = self.room.visits.of(key)
        work = lambda say, stop: visit.session.again(say=say, stop=stop)  # noqa: E731
        for _ in spoken(self.room.visits, visit, "answer again", work):
            yield page.log(visit.session), "", page.status("Answering …")
        yield page.log(visit.session), "", page.status("Answered again.")

    def each(self, key: str | None, data: Any, question: str) -> Iterator[tuple[Any, ...]]:
        visit = self.room.visits.of(key)
        question = (question or "").strip()
        if not question:
            raise UserError("the question is empty")
        answers: dict[str, Any] = {}

        def work(say: Any, stop: Any) -> None:
            for place, answer in visit.session.ask_each(question, stop=stop):
                answers[place] = answer
                say(place)

        for _ in spoken(self.room.visits, visit, "answers", work):
            yield page.log(visit.session), question, together(visit, dict(answers)), page.status("Answering …")
        yield page.log(visit.session), "", together(visit, answers), page.status("Answered.")

    def stop(self, key: str | None, data: Any) -> tuple[Any, ...]:
        self.room.visits.of(key).stop.set()
        return (page.status("Stopping …"),)

    def forget(self, key: str | None, data: Any) -> tuple[Any, ...]:
        visit = self.room.visits.of(key)
        visit.session.conversation.reset()
        return page.log(visit.session), "", page.status("Forgotten; the photograph stays.")

    def evidence(self, key: str | None, data: Any) -> tuple[Any, ...]:
        visit = self.room.visits.of(key)
        number = getattr(data, "index", None)
        return evidence(self.room, visit, number if isinstance(number, int) else -1), page.status("Maps drawn.")

    def transcript(self, key: str | None, data: Any) -> tuple[Any, ...]:
        visit = self.room.visits.of(key)
        _ = visit.session.conversation
        link = page.download(visit.session.transcript(), "transcript.md", "Save the transcript (draft)")
        return link, page.status("The transcript is ready; nothing of it is kept here.")

    def leave(self, request: Any) -> None:
        self.room.visits.leave(request.session_hash)


def to_begin_with(predictor: Any) -> list[str]:
    """The questions that are offered: no kind that the checkpoint was not trained on."""
    trained, asked = predictor.processor.questions, {q: recognise(q, predictor.prompts) for q in STANDARD}
    return [q for q, kind in asked.items() if not trained or kind is None or kind.kind in trained]


OPEN_MAP = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-answer]");
  if (button) trigger("select", { index: Number(button.dataset.answer) });
});"""


def build(room: Room, line: Any) -> tuple[Any, Any]:
    """The shelf; returns what lays out the tab, and the handlers."""
    import gradio as gr

    chat = Chat(room)
    place = gr.Radio(
        [(title, name) for name, title in PLACE_NAMES.items()], value="photograph", label="The next photograph is",
        elem_id="place",
    )  # fmt: skip
    file = gr.File(
        label="Add a photograph (at most 25 MB)", file_types=list(ENDINGS), file_count="single", height=150,
        elem_id="upload",
    )  # fmt: skip
    shelf = gr.HTML(page.NO_PHOTOGRAPH, elem_id="shelf")
    about = gr.Radio([], label="Talk about", visible=False, elem_id="about")

    def tab() -> None:
        log = gr.HTML(page.NOTHING_SAID, elem_id="log", autoscroll=True, max_height=640, js_on_load=OPEN_MAP)
        maps = gr.HTML("", elem_id="maps")
        with gr.Row(elem_id="asking"):
            question = gr.Textbox(
                placeholder="Ask about the photograph …", show_label=False, label="Question", lines=1, max_lines=4,
                max_length=2000, elem_id="question", scale=5, autofocus=True,
            )  # fmt: skip
            ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=1, min_width=80)
            stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
        with gr.Row(elem_id="more"):
            each = gr.Button("Ask about each", elem_id="each", size="sm", min_width=130)
            again = gr.Button("Answer again", elem_id="again", size="sm", min_width=130)
            forget = gr.Button("Forget", elem_id="forget", size="sm", min_width=130)
            save = gr.Button("Transcript", elem_id="transcript", size="sm", min_width=130)
        standard = gr.Radio(to_begin_with(room.predictor), label="Questions to begin with", elem_id="standard")
        both = gr.HTML("", elem_id="both")
        link = gr.HTML("", elem_id="transcript-link")
        shown = [shelf, about, log, maps]
        wire(file.upload, chat.add, [file, place], [file, *shown], line, emptied=1)
        wire(about.input, chat.about, [about], shown, line)
        wire(question.submit, chat.ask, [question], [log, question, maps], line)
        wire(ask.click, chat.ask, [question], [log, question, maps], line)
        wire(each.click, chat.each, [question], [log, question, both], line)
        wire(again.click, chat.again, [], [log, maps], line)
        wire(forget.click, chat.forget, [], [log, maps], line)
        wire(log.select, chat.evidence, [], [maps], line)
        wire(save.click, chat.transcript, [], [link], line, concurrency_id="light", concurrency_limit=8)
        wire(stop.click, chat.stop, [], [], line, queue=False, concurrency_id=None, concurrency_limit="default")
        standard.input(lambda text: text, [standard], [question], queue=False, api_visibility="private")

    return tab, chat
