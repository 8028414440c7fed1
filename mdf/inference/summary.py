"""What came of many reports: OUT/index.html, to read, and OUT/index.csv, with every photograph.

The page holds everything it shows, asks nothing of any server and runs no script; it links to the reports beside it.
The most urgent stand first, and of very many only the first ROWS stand in the page.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdf.errors import UserError
from mdf.evaluation.page_file import render
from mdf.evaluation.page_tables import Cell, Table
from mdf.evaluation.page_tables import Line as Row
from mdf.files import write_text
from mdf.inference.batch import DONE, FAILED, REFUSED, Line, read_lines, read_plan
from mdf.inference.gate import BANNER
from mdf.inference.report import Urgency
from mdf.inference.worklist import PAIRED
from mdf.vocabulary import display

ROWS = 1000  # of a table in the page; a browser shows ten thousand, a person reads none of them
COLUMNS = ("photograph", "patient", "eye", "status", "urgency", "gradability", "diagnosis", "probability", "confident",
           "report", "reason", "seconds")  # fmt: skip
SOONEST = [urgency.value for urgency in reversed(Urgency)]
GRADABLE = {"good": "can be graded", "barely": "can barely be graded", "not": "cannot be graded"}
UNSURE, UNGRADED = "no confident diagnosis", "not graded"
UNSAID = ("made", "items", "photographs")  # of the plan: no path of the machine stands in the page
LINKED = {"html": ".html", "pdf": ".pdf", "md": ".md", "json": ".json", "fhir": ".fhir.json"}  # the first that was made


def write_summary(out: str | Path, left: int | None = None) -> Path:
    """Write OUT/index.csv and OUT/index.html of all that is in the folder so far; the page's path.

    `left` is how many items have no line, where that is known: photographs may have been taken out of the list.
    Raises UserError for a folder without reports.
    """
    from filelock import FileLock

    out = Path(out)
    plan = read_plan(out)
    if plan.get("made") != "reports":
        raise UserError(f"{out} holds no reports; give the folder that was named with --data … --out")
    with FileLock(out / ".batch.lock"):  # whoever writes last has seen the lines of all
        lines = latest(read_lines(out).values())
        rows = sorted((row for line in lines for row in line), key=order)
        write_text(out / "index.csv", to_csv(rows))
        return render(
            "summary.html", out, content(rows, max(0, plan["items"] - len(lines)) if left is None else left, plan)
        )


def latest(lines: Iterable[Line]) -> list[list[dict[str, Any]]]:
    """The rows of each item that has any. A photograph that got or lost a fellow eye from one command to the next is in
    the lines of two items: its newer row counts, and a report before what says that there is none.
    """
    seen: set[str] = set()
    reported: set[str] = set()
    found = []
    for line in sorted(lines, key=lambda line: line["at"], reverse=True):
        rows = []
        for row in rows_of(line):
            names = [row["photograph"]] if row["status"] == DONE else row["photograph"].split(PAIRED)
            if not (reported if row["status"] == DONE else seen).issuperset(names):
                rows.append(row)
        seen |= {row["photograph"] for row in rows}
        reported |= {row["photograph"] for row in rows if row["status"] == DONE}
        found += [rows] if rows else []
    return found


def rows_of(line: Line) -> list[dict[str, Any]]:
    """A row for each photograph of an item."""
    shared = {name: line.get(name) for name in ("patient", "seconds")}
    eyes = line.get("eyes", [])
    first = line.get("urgency")
    rows = [
        {**shared, **eye, "status": DONE, "report": line["report"], "first": first, "reason": "; ".join(eye["reasons"])}
        for eye in eyes
    ]
    bad = line.get("bad", [])
    rows += [{**shared, **one} for one in bad]
    if not eyes and not bad:
        rows.append({**shared, "photograph": line["id"], "status": line["status"], "reason": line.get("reason", "")})
    return rows


def order(row: Mapping[str, Any]) -> tuple:
    """The most urgent report first, its eyes beside each other; what has none at the end."""
    if row["status"] != DONE:
        return (2, row["status"] == REFUSED, "", row["photograph"])
    soon = SOONEST.index(row["first"]) if row["first"] in SOONEST else len(SOONEST)
    return (1, soon, row["report"], row["photograph"])


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([harmless(row.get(name)) for name in COLUMNS] for row in rows)
    return buffer.getvalue()


def harmless(value: Any) -> Any:
    """A cell that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def content(rows: Sequence[dict[str, Any]], missing: int, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows."""
    made = [row for row in rows if row["status"] == DONE]
    bad = [row for row in rows if row["status"] != DONE]
    states = Counter(row["status"] for row in rows)
    urgent = Counter(row["urgency"] or "not said" for row in made)
    reports = len({row["report"] for row in made})
    tiles = [
        ("reports", reports, f"of {len(made):,} photographs"),
        ("same day", urgent[Urgency.IMMEDIATE.value], "photographs"),
        ("urgent", urgent[Urgency.URGENT.value], "photographs, within days"),
        ("cannot be graded", sum(row["gradability"] != "good" for row in made), "photographs, wholly or barely"),
        ("refused", states[REFUSED], "photographs"),
        ("failed", states[FAILED], "photographs"),
    ]
    return {
        "title": f"Draft reports of {len(rows):,} photographs",
        "stamps": [BANNER],
        "tiles": [{"title": title, "value": f"{count:,}", "about": about} for title, count, about in tiles],
        "missing": f"{missing:,} of {plan['items']:,} reports are not made yet." if missing else "",
        "counts": [
            bars("Urgency", urgent, [*SOONEST, "not said"]),
            bars("Gradability", Counter(GRADABLE[row["gradability"]] for row in made), list(GRADABLE.values())),
            bars("First diagnosis", Counter(map(diagnosis, made))),
        ],
        "rows": [shown(row, plan) for row in made[:ROWS]],
        "made": len(made),
        "bad": bad[:ROWS],
        "all_bad": len(bad),
        "facts": Table(
            ["", ""], [Row([Cell(n), Cell(written(v))]) for n, v in plan.items() if n not in UNSAID], style="facts"
        ),
    }


def bars(title: str, counts: Mapping[str, int], names: Sequence[str] = ()) -> dict[str, Any]:
    """Counts as bars, in the order of `names`, else the most frequent first."""
    names = [n for n in names if counts.get(n)] or sorted(counts, key=lambda n: (-counts[n], n))
    whole = sum(counts.values())
    lines = [
        {
            "name": n,
            "count": f"{counts[n]:,}",
            "share": f"{100 * counts[n] / whole:.1f} %",
            "width": 100 * counts[n] / whole,
        }
        for n in names
    ]
    return {"title": title, "lines": lines}


def diagnosis(row: Mapping[str, Any]) -> str:
    if row["diagnosis"] is None:
        return UNGRADED
    return display(row["diagnosis"]) if row["confident"] else UNSURE


def shown(row: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the page's table."""
    likely = "" if row["diagnosis"] is None else f"{display(row['diagnosis'])} {row['probability']:.2f}"
    formats = plan["format"].split(",")
    ending = next(end for name, end in LINKED.items() if name in formats)
    return {
        **row,
        "link": row["report"] + ending,
        "likely": likely,
        "gradable": GRADABLE[row["gradability"]],
        "late": SOONEST.index(row["urgency"]) if row["urgency"] in SOONEST else len(SOONEST),
    }


def written(value: Any) -> str:
    return {None: "told from each photograph", True: "yes", False: "no"}.get(value, str(value))
