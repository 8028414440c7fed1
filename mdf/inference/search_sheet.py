"""A contact sheet of a search: what was looked for, then what was found, the most similar first."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mdf.imaging.decode import load_image
from mdf.inference.index import Hit
from mdf.records import FundusRecord, Manifest
from mdf.vocabulary import display

TILE = 256  # pixels, side of a photograph
LINE, LINES = 16, 4  # height and number of the lines of text below it
COLUMNS = 5
GAP = 8


def draw_search(
    query: np.ndarray | str, hits: Sequence[Hit], manifest: Manifest, known: Mapping[str, FundusRecord] | None = None
) -> Image.Image:
    """The sheet; `query` is a photograph uint8 [H,W,3] or words, `known` records by id, whose diagnoses are shown.

    Raises UserError for a photograph that is not where the index says.
    """
    cells = [(query, ["looked for"])]
    for rank, hit in enumerate(hits, 1):
        record = (known or {}).get(hit.id)
        names = ", ".join(map(display, record.diagnosis or ())) if record else ""
        text = [f"{rank}. similarity {hit.similarity:.3f}", *wrap(hit.id, 36)[:1], *wrap(names, 36)[:2]]
        cells.append((load_image(manifest.path(hit.image)), text))
    columns = min(COLUMNS, len(cells))
    height = TILE + LINES * LINE + GAP
    sheet = Image.new("RGB", (columns * (TILE + GAP), -(-len(cells) // columns) * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (shown, lines) in enumerate(cells):
        left, top = number % columns * (TILE + GAP), number // columns * height
        sheet.paste(tile(shown), (left, top))
        for row, line in enumerate(lines):
            pen.text((left + 4, top + TILE + 2 + row * LINE), line, fill="black", font=font)
    return sheet


def tile(shown: np.ndarray | str) -> Image.Image:
    """A photograph on a black square of TILE pixels, or words on a grey one."""
    if isinstance(shown, str):
        square = Image.new("RGB", (TILE, TILE), (230, 230, 230))
        pen, font = ImageDraw.Draw(square), ImageFont.load_default(16)
        for row, line in enumerate(wrap(shown, 28)[:11]):
            pen.text((10, 10 + row * 21), line, fill="black", font=font)
        return square
    small = ImageOps.contain(Image.fromarray(shown), (TILE, TILE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (TILE, TILE))
    square.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return square
