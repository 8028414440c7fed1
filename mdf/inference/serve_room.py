"""What the tabs of the page share: the model, its visitors, and how a handler is called.

A handler gets the visitor's key and the values of its inputs, and returns, or yields, the values of its outputs with a
line of status behind them. What it raises becomes the status: a UserError in its own words, anything else as a number
under which the log has it, without a word of what the visitor brought.
"""

import itertools
import logging
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

from mdf.errors import UserError
from mdf.inference.index import Search
from mdf.inference.predictor import Predictor
from mdf.inference.serve_html import status
from mdf.inference.visits import Visit, Visits
from mdf.records import FundusRecord, read_manifest

log = logging.getLogger("mdf.serve")
numbers = itertools.count(1)


@dataclass
class Room:
    """One model and all who use it."""

    visits: Visits
    search: Search | None = None
    known: Mapping[str, FundusRecord] = field(default_factory=dict)  # records of the index, by id

    @property
    def predictor(self) -> Predictor:
        return self.visits.predictor


def open_index(
    predictor: Predictor, index: str | None, data: str | None = None, data_root: str | None = None
) -> tuple[Search | None, dict[str, FundusRecord]]:
    """The index, searched with the predictor's own encoder, and the records whose diagnoses are shown.

    Raises UserError for an index of another model.
    """
    if index is None:
        return None, {}
    from mdf.models.embedder import Embedder
    from mdf.processor import MDFProcessor

    model = predictor.model
    search = Search(index, Embedder(model.encoder, MDFProcessor.from_pretrained(predictor.checkpoint), model.device))
    if data_root is not None:
        search.root = Path(data_root)
    return search, {r.id: r for r in read_manifest(data, data_root=data_root).records} if data else {}


def failure(error: BaseException) -> str:
    """The line of status for what was raised."""
    if isinstance(error, UserError):
        return status(str(error), wrong=True)
    number = next(numbers)
    place = traceback.extract_tb(error.__traceback__)[-1]
    log.error("failure %d: %s at %s:%s", number, type(error).__name__, place.filename.rpartition("/")[2], place.lineno)
    return status(f"Something went wrong (failure {number} of the log). Nothing was lost; try again.", wrong=True)


def wire(
    event: Any,
    handler: Callable,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    line: Any,
    *,
    emptied: int = 0,
    **how: Any,
) -> Any:
    """Call `handler(key, event data, *inputs)` on a Gradio event. Nothing of it is part of a public API.

    Where it fails the first `emptied` outputs are emptied, and all others stay as they are.
    The model answers one event at a time, in order, unless `how` gives another `concurrency_id`.
    """
    import gradio as gr

    skipped = [None if i < emptied else gr.skip() for i in range(len(outputs))]

    def once(request: gr.Request, data: gr.EventData, *values: Any) -> Any:
        try:
            return tuple(handler(request.session_hash, data, *values))
        except Exception as error:
            return (*skipped, failure(error))

    def steps(request: gr.Request, data: gr.EventData, *values: Any) -> Iterator[Any]:
        try:
            for step in handler(request.session_hash, data, *values):
                yield tuple(step)
        except Exception as error:
            yield (*skipped, failure(error))

    how = {
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "show_progress": "minimal",
        "api_visibility": "private",
    } | how
    fn = steps if isgeneratorfunction(handler) else once
    return event(fn, list(inputs), [*outputs, line], **how)


def spoken(visits: Visits, visit: Visit, what: str, work: Callable[..., Any]) -> Iterator[str]:
    """The words of `work(say, stop)` so far, as they come, while another thread does it in the visitor's turn.

    Whoever goes away in the middle stops it. Raises what `work` raises.
    """
    words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with visits.model(visit, what) as stop:
                work(words.put, stop)
        except BaseException as error:
            raised.append(error)
        finally:
            words.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    said, ended = "", False
    try:
        while not ended:
            part = words.get()
            while part is not None and not words.empty():  # what came meanwhile goes with it
                said, part = said + part, words.get()
            ended = part is None
            said += part or ""
            if not ended:
                yield said
    finally:
        if not ended:
            visit.stop.set()
    thread.join()
    if raised:
        raise raised[0]
