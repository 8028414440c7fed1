"""The tab of similar cases: what in an index looks like the photograph talked about, or like words."""

from typing import Any

from mdf.errors import UserError
from mdf.imaging.decode import load_image
from mdf.inference import serve_html as page
from mdf.inference.serve_room import Room, wire
from mdf.records import Manifest
from mdf.vocabulary import display

NO_INDEX = (
    '<p class="mdf-hint">There is no index. Make one with <code>scripts/embed.py</code> and start the page with '
    "<code>--index FILE.parquet</code>.</p>"
)
NOTE = "Alike for the model's embedding; that says nothing about who has the same disease."


class Cases:
    """Handlers; see serve_room."""

    def __init__(self, room: Room):
        self.room = room

    def find(self, key: str | None, data: Any, words: str, count: float) -> tuple[Any, ...]:
        visit = self.room.visits.of(key)
        search = self.room.search
        if search is None:
            raise UserError("the page was started without an index")
        count, words = max(1, min(24, int(count))), (words or "").strip()
        path = None if words else visit.session.conversation.photograph.path
        with self.room.visits.model(visit, "similar cases"):
            found = search.by_words(words, count) if path is None else search.by_photograph(load_image(path), count)
        root, shown = Manifest((), search.root), []
        for hit in found:
            record = self.room.known.get(hit.id)
            known = ", ".join(map(display, record.diagnosis or ())) if record else ""
            try:
                image = load_image(root.path(hit.image), at_least=300)
            except UserError:  # moved since, or damaged: the others are still of use
                image = None
            shown.append((image, hit.similarity, hit.id, known))
        return page.hits(shown, NOTE), page.status(f"{len(shown)} of {len(search.ids)} in the index.")


def build(room: Room, line: Any) -> None:
    """Lay out the tab."""
    import gradio as gr

    if room.search is None:
        gr.HTML(NO_INDEX)
        return
    cases = Cases(room)
    with gr.Row():
        words = gr.Textbox(label="Words instead of the photograph", max_length=500, elem_id="words", scale=3)
        count = gr.Slider(1, 24, value=8, step=1, label="How many", elem_id="count", scale=1)
        find = gr.Button("Find similar cases", variant="primary", elem_id="find", scale=1)
    found = gr.HTML("", elem_id="hits")
    wire(find.click, cases.find, [words, count], [found], line)
    wire(words.submit, cases.find, [words, count], [found], line)
