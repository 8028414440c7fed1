"""The pieces of the web page that are made here: every word of a person, a file or the model is escaped, pictures are
in the page itself, so that no file of a visitor is ever served.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from mdf.inference.conversation import Answer
from mdf.inference.explain import scaled
from mdf.inference.gate import BANNER
from mdf.inference.predictor import Photograph
from mdf.inference.session import TITLES, Session

KINDS = {"html": "text/html", "json": "application/json", "pdf": "application/pdf", "md": "text/markdown"}
KINDS |= {"zip": "application/zip", "csv": "text/csv"}
NO_PHOTOGRAPH = '<p class="mdf-hint">No photograph yet.</p>'
NOTHING_SAID = '<div class="mdf-log"><p class="mdf-hint">Add a photograph, then ask about it.</p></div>'
GRADABLE = {"good": "can be graded", "barely": "can barely be graded", "not": "cannot be graded"}


def banner() -> str:
    """What stands on top of the page at all times."""
    first, rest = BANNER.split(". ", 1)
    return f'<div class="mdf-banner" role="note" aria-label="Draft"><b>{escape(first)}.</b> {escape(rest)}</div>'


def picture(image: np.ndarray, alt: str, side: int = 480) -> str:
    """An image tag that holds the picture, its longer side at most `side` pixels, with no metadata."""
    buffer = io.BytesIO()
    scaled(image, min(side, max(image.shape[:2]))).save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}">'


def download(content: bytes | str, name: str, title: str) -> str:
    """A link that holds the file."""
    raw = content.encode() if isinstance(content, str) else content
    kind = KINDS.get(name.rpartition(".")[2], "application/octet-stream")
    data = base64.b64encode(raw).decode()
    return (
        f'<a class="mdf-download" download="{escape(name)}" href="data:{kind};base64,{data}">{escape(title)}'
        f" <small>{max(1, len(raw) // 1000):,} kB</small></a>"
    )


def status(text: str = "", *, wrong: bool = False) -> str:
    """One line that screen readers say."""
    role, kind = ("alert", "mdf-status wrong") if wrong else ("status", "mdf-status")
    return f'<div role="{role}" aria-live="polite" class="{kind}">{escape(text)}</div>'


def shelf(session: Session, warnings: Mapping[str, Sequence[str]]) -> str:
    """The photographs of a visit as cards, the one that is talked about marked."""
    if not session.places:
        return NO_PHOTOGRAPH
    cards = []
    for place, conversation in session.places.items():
        photograph = conversation.photograph
        now = place == session.current
        said = "".join(f'<li class="warn">{escape(w)}</li>' for w in warnings.get(place, ()))
        cards.append(
            f'<figure class="mdf-card{" now" if now else ""}"{" aria-current=true" if now else ""}>'
            f"{picture(photograph.image, TITLES[place], 360)}"
            f"<figcaption><b>{TITLES[place]}</b> <bdi>{escape(photograph.path.stem)}</bdi>"
            f"<ul><li>{quality(photograph)}</li>{said}</ul></figcaption></figure>"
        )
    return f'<div class="mdf-shelf">{"".join(cards)}</div>'


def quality(photograph: Photograph) -> str:
    """The gate's verdict in words."""
    found = photograph.quality
    if not found.is_retina:
        return "No fundus photograph"
    because = f": {'; '.join(found.reasons)}" if found.reasons else ""
    return escape(f"Quality {found.score:.2f}, {GRADABLE[found.gradable]}{because}")


def log(session: Session, asking: str | None = None, words: str = "") -> str:
    """The conversation about the photograph that is talked about; `asking` is being answered with `words` so far."""
    if session.current is None:
        return NOTHING_SAID
    answers = session.conversation.answers
    parts = [f'<p class="mdf-hint">About: {TITLES[session.current]}. The model sees one photograph at a time.</p>']
    for i, answer in enumerate(answers):
        parts.append(f'<div class="mdf-q"><span class="mdf-who">You</span>{escape(answer.question)}</div>')
        parts.append(said(answer, i))
    if asking is not None:
        parts.append(f'<div class="mdf-q"><span class="mdf-who">You</span>{escape(asking)}</div>')
        shown = f'{escape(words)}<i class="caret"></i>'
        parts.append(f'<div class="mdf-a" aria-busy="true"><span class="mdf-who">Draft</span>{shown}</div>')
    return f'<div class="mdf-log" role="log" aria-label="Conversation">{"".join(parts)}</div>'


def said(answer: Answer, number: int, title: str = "") -> str:
    """One answer with all that stands beside it."""
    who = escape(f"Draft, {title}" if title else "Draft")
    words = escape(answer.text).replace("\n", "<br>") or "<i>no words</i>"
    notes = "".join(f"<li{' class=warn' if note in answer.flags else ''}>{escape(note)}</li>" for note in answer.notes)
    show = (
        f'<button type="button" class="mdf-evidence" data-answer="{number}">Evidence map</button>'
        if answer.history and answer.text and not title
        else ""
    )
    return (
        f'<div class="mdf-a"><span class="mdf-who">{who}</span><div class="mdf-words">{words}</div>'
        f"{bars(answer)}<ul class='mdf-notes'>{notes}</ul>{show}</div>"
    )


def bars(answer: Answer) -> str:
    """The probabilities as bars, with a mark where the threshold lies."""
    reading = answer.reading
    if reading is None:
        return ""
    rows = []
    for name, p in reading.probabilities.items():
        limit = reading.thresholds.get(name)
        above = reading.above(name)
        mark = "" if limit is None else f'<i class="limit" style="left:{limit:.1%}"></i>'
        verdict = "" if above is None else f" · {'above' if above else 'below'} its threshold {limit:.2f}"
        rows.append(
            f"<tr{' class=above' if above else ''}><th scope=row>{escape(name.rstrip('.'))}</th>"
            f'<td class="bar"><span><i style="width:{p:.1%}"></i>{mark}</span></td><td>{p:.2f}{verdict}</td></tr>'
        )
    kind = "Calibrated probabilities" if reading.calibrated else "Probabilities (not calibrated)"
    caption = f"<caption>{kind} of the standard question, asked alone</caption>"
    return f'<table class="mdf-bars">{caption}{"".join(rows)}</table>'


def maps(question: str, answer: str, shown: Sequence[tuple[str, np.ndarray]], note: str) -> str:
    """Evidence maps of one answer, one to be chosen at a time without any script."""
    tabs, panes = [], []
    for i, (title, image) in enumerate(shown):
        pick = f'<input type="radio" name="mdf-map" id="mdf-map-{i}"{" checked" if i == 0 else ""}>'
        tabs.append(f'<label for="mdf-map-{i}">{pick}{escape(title)}</label>')
        panes.append(f"<div class='pane p{i}'>{picture(image, title, 900)}</div>")
    style = "".join(f".mdf-maps:has(#mdf-map-{i}:checked) .p{i}{{display:block}}" for i in range(len(shown)))
    return (
        f"<details open class='mdf-maps'><style>{style}</style><summary>What the answer was read from</summary>"
        f"<p><b>{escape(question)}</b> {escape(answer)}</p><div class='tabs' role='radiogroup' aria-label='Map'>"
        f"{''.join(tabs)}</div>{''.join(panes)}<p class='mdf-hint'>{escape(note)}</p></details>"
    )


def hits(found: Sequence[tuple[np.ndarray | None, float, str, str]], note: str) -> str:
    """Similar cases: picture (None where it is not to be had), similarity, id, what is known."""
    cards = []
    for rank, (image, similarity, name, known) in enumerate(found, 1):
        shown = "<p>not at hand</p>" if image is None else picture(image, f"similar case {rank}", 300)
        cards.append(
            f'<figure class="mdf-card">{shown}<figcaption><b>{rank}. similarity {similarity:.3f}</b> '
            f"<bdi>{escape(name)}</bdi><br>{escape(known)}</figcaption></figure>"
        )
    return f'<p class="mdf-hint">{escape(note)}</p><div class="mdf-hits">{"".join(cards)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], done: int, total: int, left: str) -> str:
    """A batch so far: a bar of progress, then one row a photograph."""
    bar = f'<progress max="{total}" value="{done}" aria-label="Photographs done"></progress>'
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th scope=col>{escape(h)}</th>" for h in head)
    whole = f'<table class="mdf-table"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'<p class="mdf-progress">{bar} {done} of {total} {escape(left)}</p><div class="mdf-wide">{whole}</div>'
