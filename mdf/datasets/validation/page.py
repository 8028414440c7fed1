"""The page of a validation: one HTML file with its pictures inside, which opens anywhere without a network.

It holds photographs and what is said of them, so it is as confidential as the data set.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageOps

from mdf.datasets import summary
from mdf.datasets.validation.report import Issue, Report
from mdf.errors import UserError
from mdf.files import write_text
from mdf.imaging.decode import load_image
from mdf.records import SPLITS, FundusRecord, Manifest
from mdf.vocabulary import display

TILE = 128  # pixels, side of a thumbnail: about 4 kB
PER_CLASS = 6  # photographs shown of a class
CASES = 200  # cases of a finding in words
PICTURED = 8  # cases of a finding with photographs
PER_CASE = 4  # photographs of a case
CLASSES = 60  # with photographs, the most frequent ones

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2429; background: #fff }
body { max-width: 1080px; margin: 2em auto; padding: 0 1em } .mend { color: #566 }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #d5dbe0 }
table { border-collapse: collapse; margin: .6em 0 }
td, th { padding: .15em .9em .15em 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
.problem { color: #a11 } .note { color: #7a5a00 } .accepted { color: #566 } .good { color: #176b2c }
.row { display: flex; flex-wrap: wrap; gap: 6px; margin: .4em 0 1em }
figure { margin: 0; width: 128px }
figcaption { font-size: 11px; overflow-wrap: anywhere } img { display: block; background: #000; border-radius: 3px }
li { overflow-wrap: anywhere }
"""


class Thumbnails:
    """Pictures as data URIs, each decoded once."""

    def __init__(self, manifest: Manifest):
        self.manifest = manifest
        self.records = {r.id: r for r in manifest.records}
        self.made: dict[str, str] = {}

    def figure(self, photograph: str) -> str:
        record = self.records[photograph]
        if photograph not in self.made:
            self.made[photograph] = self.picture(record)
        labels = ", ".join(map(display, record.diagnosis or ()))
        caption = " · ".join(part for part in (record.id, labels, record.split) if part)
        return f"<figure>{self.made[photograph]}<figcaption>{escape(caption)}</figcaption></figure>"

    def picture(self, record: FundusRecord) -> str:
        try:
            image = Image.fromarray(load_image(self.manifest.path(record.image)))
        except UserError:
            return f'<div style="width:{TILE}px;height:{TILE}px;background:#eee">cannot be read</div>'
        small = ImageOps.pad(image, (TILE, TILE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=75)
        data = base64.b64encode(buffer.getvalue()).decode()
        return f'<img width="{TILE}" height="{TILE}" alt="" src="data:image/jpeg;base64,{data}">'

    def row(self, photographs: Iterable[str]) -> str:
        return f'<div class="row">{"".join(map(self.figure, photographs))}</div>'


def write_page(path: Path, manifest: Manifest, report: Report) -> None:
    """Write the page. Raises UserError where the folder cannot be written to."""
    thumbnails = Thumbnails(manifest)
    title = f"{manifest.meta.get('dataset') or path.name.split('.')[0]}: validation"
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>",
        f"<p>{escape(summary(manifest.records))}. Manifest {manifest.sha256[:12]}.</p>",
        verdict(report),
        overview(report),
        *(section(issue, report, thumbnails) for issue in report.issues),
        shortcut_table(report),
        sources(manifest.records),
        classes(manifest.records, thumbnails),
        "</body></html>\n",
    ]
    try:
        write_text(path, "\n".join(parts))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another file with --page") from None


def verdict(report: Report) -> str:
    if report.problems:
        count = sum(len(i.cases) for i in report.problems)
        return f'<p class="problem"><b>{count} problems have to be mended or accepted by name.</b></p>'
    accepted = f" {len(report.accepted)} findings were accepted." if report.accepted else ""
    return f'<p class="good"><b>Nothing stands against training on this.</b>{accepted}</p>'


def state(issue: Issue, report: Report) -> str:
    return "accepted" if issue.name in report.accept else "problem" if issue.check.problem else "note"


def overview(report: Report) -> str:
    rows = [
        f'<tr><td class="{state(i, report)}">{state(i, report)}</td><td><a href="#{i.name}">{i.name}</a></td>'
        f'<td class="n">{len(i.cases)}</td><td>{escape(i.check.means)}</td></tr>'
        for i in sorted(report.issues, key=lambda i: ("problem", "accepted", "note").index(state(i, report)))
    ]
    return table(("", "finding", "cases", "what it means"), rows) if rows else "<p>No findings.</p>"


def section(issue: Issue, report: Report, thumbnails: Thumbnails) -> str:
    parts = [
        f'<h2 id="{issue.name}"><span class="{state(issue, report)}">{issue.name}</span> ({len(issue.cases)})</h2>',
        f'<p>{escape(issue.check.means)}. <span class="mend">What to do: {escape(issue.check.mend)}.</span></p>',
    ]
    for case in issue.cases[:PICTURED]:
        parts.append(f"<p>{escape(case.text)}</p>" + thumbnails.row(case.ids[:PER_CASE]))
    rest = issue.cases[PICTURED:CASES]
    parts += ["<ul>", *(f"<li>{escape(case.text)}</li>" for case in rest), "</ul>"] if rest else []
    if len(issue.cases) > CASES:
        parts.append(f"<p>… and {len(issue.cases) - CASES} more.</p>")
    return "\n".join(parts)


def shortcut_table(report: Report) -> str:
    head = "<h2>The label guessed without the eye</h2>"
    if not report.shortcuts:
        return f"{head}<p>Not judged: too few labelled photographs, one label only, or nothing that differs.</p>"
    rows = [
        f'<tr><td>{escape(s.thing)}</td><td class="n">{s.values}</td><td class="n">{s.accuracy:.3f}</td>'
        f'<td class="n">{s.majority:.3f}</td><td class="n">{s.bits:.2f} of {s.entropy:.2f}</td></tr>'
        for s in report.shortcuts
    ]
    return head + table(("known alone", "values", "accuracy", "majority", "bits of the label"), rows)


def sources(records: Sequence[FundusRecord]) -> str:
    """Photographs by source and label, where there are several sources."""
    counts = Counter((r.source or "(none)", name) for r in records for name in r.diagnosis or ("(no diagnosis)",))
    names = sorted({s for s, _ in counts})
    if len(names) < 2:
        return ""
    rows = [
        f"<tr><td>{escape(label)}</td>" + "".join(f'<td class="n">{counts[s, label]}</td>' for s in names) + "</tr>"
        for label in sorted({d for _, d in counts})
    ]
    return "<h2>Labels by source</h2>" + table(("", *names), rows)


def classes(records: Sequence[FundusRecord], thumbnails: Thumbnails) -> str:
    """Counts by split, and photographs of each class, evenly from the manifest."""
    members: dict[str, list[FundusRecord]] = {}
    for r in records:
        for name in r.diagnosis or ("(no diagnosis)",):
            members.setdefault(name, []).append(r)
    order = sorted(members, key=lambda name: (-len(members[name]), name))
    splits = [s for s in (*SPLITS, None) if any(r.split == s for r in records)]
    rows = [
        f"<tr><td>{escape(name)}</td>"
        + "".join(f'<td class="n">{sum(r.split == s for r in members[name])}</td>' for s in splits)
        + f'<td class="n">{len(members[name])}</td></tr>'
        for name in order
    ]
    parts = ["<h2>Classes</h2>", table(("", *(s or "no split" for s in splits), "all"), rows)]
    for name in order[:CLASSES]:
        photographs = members[name]
        shown = min(PER_CLASS, len(photographs))
        chosen = [photographs[i * len(photographs) // shown].id for i in range(shown)]
        parts.append(f"<h3>{escape(name)} ({len(photographs)})</h3>" + thumbnails.row(chosen))
    if len(order) > CLASSES:
        parts.append(f"<p>Without photographs here: {len(order) - CLASSES} rarer classes.</p>")
    return "\n".join(parts)


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f"<th>{escape(h)}</th>" for h in head)
    return f"<table><tr>{cells}</tr>{''.join(rows)}</table>"
