"""A report as one page for the reading room: the photograph beside what is said of it, to be checked, changed, printed.

The page holds everything it shows and asks nothing of any server. Every word is escaped; its own script and style are
named in its policy by their hashes, so that no other can run. A review is saved as a file, see review.py.

Shapes: H, W of the photograph.
"""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from mdf.dialogue import QUADRANTS
from mdf.evaluation.page_file import css_string
from mdf.inference import wording
from mdf.inference.layers import fitted, heat, outlined
from mdf.inference.report import EyeReport, Impression, Lesion, Report
from mdf.inference.review import fingerprint, state_of
from mdf.resources import DATA
from mdf.vocabulary import display, names

if TYPE_CHECKING:
    from mdf.inference.pictures import Pictures

HIDDEN = ("vessel", "disc", "cup", "field")  # layers that are switched off at first: they would hide the lesions
BARELY = 0.5  # part of the quality below which its bar is marked
ZONES = (*QUADRANTS, "macula", "disc")


def page(report: Report, pictures: Sequence["Pictures"], name: str) -> str:
    """The page. `pictures` are in the order of `report.eyes`, or none; `name` begins the name of the saved review."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([DATA / "reading_room", DATA / "page"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals |= {
        "origins": wording.ORIGINS, "urgencies": wording.URGENCIES, "gradable": wording.GRADABLE, "zones": ZONES,
        "no_evidence": wording.NO_EVIDENCE, "barely": BARELY, "masks": wording.masks, "counted": wording.counted,
        "reviewed": wording.reviewed, "own_changes": wording.own_changes, "map_note": wording.map_note,
        "fields": wording.FIELDS, "marks": marks, "kinds": kinds, "diagnoses": diagnoses, "pad": 6,
    }  # fmt: skip
    head, rest = report.banner.split(". ", 1)
    foot = f"Report {report.id}, {report.created:%Y-%m-%d}"
    style = "".join(
        source(environment, file, banner=report.banner, footing=foot) for file in ("page.css", "report.css")
    )
    script = (DATA / "reading_room" / "report.js").read_text(encoding="utf-8")
    state = state_of(report)
    return environment.get_template("report.html").render(
        report=report,
        title=wording.title(report),
        eyes=wording.in_order(report),
        pictures=[drawn(p, eye) for p, eye in zip(pictures, report.eyes, strict=True)]
        if pictures
        else [None] * len(report.eyes),
        banner_head=f"{head}.",
        banner_rest=rest,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src {source_hash(style)}; script-src {source_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        state=Markup(inert({"state": state, "of": fingerprint(state), "name": wording.line(name)})),
    )


def source(environment: jinja2.Environment, file: str, **words: str) -> str:
    return environment.get_template(file).render(**words) + "\n"


def source_hash(text: str) -> str:
    """How a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def inert(value: Any) -> str:
    """JSON that stays data between the tags of a script, whatever is in it."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def marks(number: int, eye: EyeReport) -> list[tuple[str, list[tuple[int, int, int, int]]]]:
    """Path of each statement that rests on places in the photograph, and the places."""
    here = f"eyes.{number}"
    said: list[tuple[str, Any]] = [(f"{here}.laterality", eye.laterality)]
    said += [(f"{here}.lesions.{i}", lesion) for i, lesion in enumerate(eye.lesions or ())]
    said += [(f"{here}.grades.{i}", grade) for i, grade in enumerate(eye.grades)]
    said += [(f"{here}.{name}", part) for name in ("impression", "referral") if (part := getattr(eye, name))]
    said += [(f"{here}.{path}", statement) for path, _, statement in wording.statements(eye)]
    return [(path, places) for path, part in said if (places := wording.boxes(part))]


def kinds(eye: EyeReport) -> list[tuple[str, str]]:
    """Findings of the vocabulary that the report does not speak of yet."""
    there = {lesion.kind for lesion in eye.lesions or ()}
    return sorted(((n, display(n)) for n in names("finding") if n not in there), key=lambda pair: pair[1].lower())


def diagnoses(impression: Impression) -> list[tuple[str, str]]:
    """Diagnoses to choose from: the candidates, the likeliest first, then all others of the vocabulary."""
    own = [d.name for d in impression.diagnoses] or []
    if impression.diagnosis and impression.diagnosis not in own:
        own.append(impression.diagnosis)
    others = sorted((n for n in names("diagnosis") if n not in own), key=lambda n: display(n).lower())
    return [(n, wording.shown(n)) for n in (*own, *others)]


def by_presence(lesions: Sequence[Lesion]) -> list[tuple[int, Lesion]]:
    """Lesions with their places in the report: what is there first, then what is unsure, then what is absent."""
    return sorted(enumerate(lesions), key=lambda place: {True: 0, None: 1, False: 2}[place[1].present])


def drawn(pictures: "Pictures", eye: EyeReport) -> dict[str, Any]:
    """Photograph, layers and maps as addresses that hold the picture itself."""
    meant = {lesion.kind for lesion in eye.lesions or () if lesion.present is not False}
    layers = []
    for name, mask in pictures.layers.items():
        colour = pictures.colour(name)
        layers.append(
            {
                "name": name,
                "colour": "#{:02x}{:02x}{:02x}".format(*colour),
                "shown": name not in HIDDEN and (name in meant or eye.lesions is None),
                "empty": not np.any(mask),
                "picture": png(outlined(np.asarray(mask) > 0, colour)),
            }
        )
    photograph = fitted(Image.fromarray(pictures.photograph))
    return {
        "photograph": jpeg(photograph),
        "width": photograph.width,
        "height": photograph.height,
        "layers": layers,
        "maps": [{"name": name, "picture": png(heat(values))} for name, values in pictures.maps.items()],
    }


def jpeg(image: Image.Image) -> str:
    return address(image, "jpeg", quality=90)


def png(image: Image.Image) -> str:
    return address(image, "png")


def address(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


FILTERS = {
    "plain": wording.plain,
    "line": wording.line,
    "shown": wording.shown,
    "sure": wording.sure,
    "boxes": wording.boxes,
    "sources": wording.sources,
    "zoned": wording.zoned,
    "values": wording.values_of,
    "statements": wording.statements,
    "anatomy": wording.anatomy,
    "by_presence": by_presence,
    "unseen": wording.unseen,
    "tri": lambda value: {True: "true", False: "false", None: ""}[value],
    "css_string": css_string,
}
