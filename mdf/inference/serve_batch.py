"""The tab of many photographs: each by itself, one bad file never stops the rest, and a table to take home."""

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdf.errors import UserError
from mdf.inference import serve_html as page
from mdf.inference.gate import BANNER
from mdf.inference.questions import Asked, read
from mdf.inference.serve_room import Room, failure, wire
from mdf.inference.upload import ENDINGS, admit
from mdf.inference.visits import Visit

MOST = 64  # photographs at a time
HEAD = ("photograph", "quality", "likeliest", "probability", "sure enough", "said")


def row(room: Room, visit: Visit, file: Path) -> tuple[str, ...]:
    """One photograph in the words of HEAD. The upload is removed."""
    try:
        path = admit(file, visit.folder)
    finally:
        file.unlink(missing_ok=True)
    try:
        with room.visits.model(visit, "one of many", apart=True):
            photograph = room.predictor.read(path, force=True)
            quality = photograph.quality
            if not quality.is_retina or quality.gradable == "not":
                why = "; ".join(quality.reasons) or "no fundus photograph"
                kind = "cannot be graded: repeat it or examine the eye" if quality.is_retina else "no fundus photograph"
                return path.stem, f"{quality.score:.2f}", "", "", "", f"{kind} ({why})"
            reading = read(room.predictor.model, photograph.inputs, Asked("diagnosis"), visit.session.point)
    finally:
        path.unlink(missing_ok=True)
    if reading is None:
        raise UserError("the checkpoint knows fewer than two diagnoses")
    first, p = reading.first, reading.probabilities[reading.first]
    sure = "" if not reading.calibrated else "no" if reading.abstains else "yes"
    return path.stem, f"{quality.score:.2f}", first.rstrip("."), f"{p:.2f}", sure, photograph.warning or ""


def as_csv(rows: list[tuple[str, ...]]) -> str:
    """The table as a file; what a spreadsheet would take for a formula is made text."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([BANNER])
    writer.writerow(HEAD)
    writer.writerows([["'" + c if c[:1] in ("=", "+", "-", "@", "\t") else c for c in cells] for cells in rows])
    return out.getvalue()


class Batch:
    """Handlers; see serve_room."""

    def __init__(self, room: Room):
        self.room = room

    def go(self, key: str | None, data: Any, files: Any) -> Iterator[tuple[Any, ...]]:
        visit = self.room.visits.of(key)
        paths = [Path(f) for f in files or ()]
        if not 0 < len(paths) <= MOST:
            for path in paths:
                path.unlink(missing_ok=True)
            raise UserError(f"choose 1 to {MOST} photographs, not {len(paths)}")
        rows: list[tuple[str, ...]] = []
        start = time.monotonic()
        yield None, page.table(HEAD, rows, 0, len(paths), ""), "", page.status("Reading …")
        for i, path in enumerate(paths):
            if visit.left:
                path.unlink(missing_ok=True)
                continue
            try:
                rows.append(row(self.room, visit, path))
            except UserError as error:
                rows.append((path.stem, "", "", "", "", str(error)))
            except Exception as error:
                failure(error)
                rows.append((path.stem, "", "", "", "", "could not be read; see the log"))
            each = (time.monotonic() - start) / (i + 1)
            left = f"· about {each * (len(paths) - i - 1):.0f} s left" if i + 1 < len(paths) else ""
            yield None, page.table(HEAD, rows, i + 1, len(paths), left), "", page.status("Reading …")
        whole = page.table(HEAD, rows, len(paths), len(paths), "")
        link = page.download(as_csv(rows), "photographs.csv", "Save the table (CSV)")
        yield None, whole, link, page.status(f"{len(paths)} photographs read.")


def build(room: Room, line: Any) -> None:
    """Lay out the tab."""
    import gradio as gr

    batch = Batch(room)
    files = gr.File(
        label=f"Photographs (at most {MOST})", file_types=list(ENDINGS), file_count="multiple", height=140,
        elem_id="many",
    )  # fmt: skip
    go = gr.Button("Read them all", variant="primary", elem_id="go")
    table = gr.HTML("", elem_id="table")
    link = gr.HTML("", elem_id="table-link")
    how = {"concurrency_id": "batch", "concurrency_limit": 2}  # the model is asked for once a photograph, in turn
    wire(go.click, batch.go, [files], [files, table, link], line, emptied=1, **how)
