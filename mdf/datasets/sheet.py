"""A contact sheet: photographs of a manifest with what is known of them, to look at before training."""

from itertools import cycle
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mdf.imaging.decode import load_image, load_mask
from mdf.records import FundusRecord, Manifest
from mdf.vocabulary import display

TILE = 360  # pixels, side of a photograph on the sheet
LINES = 10  # lines of text below it
LINE_HEIGHT = 17
COLOURS = ((0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (255, 128, 0), (128, 160, 255))


def draw_sheet(manifest: Manifest, records: list[FundusRecord], *, masks: bool = False) -> Image.Image:
    """The photographs in a grid, each with id, split, diagnosis, findings and text; `masks` overlays the masks."""
    columns = min(4, len(records))
    rows = -(-len(records) // columns)
    cell = TILE + LINES * LINE_HEIGHT + 8
    sheet = Image.new("RGB", (columns * (TILE + 8), rows * cell), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, record in enumerate(records):
        left, top = i % columns * (TILE + 8), i // columns * cell
        sheet.paste(picture(manifest, record, masks), (left, top))
        for n, line in enumerate(labels(record)):
            pen.text((left + 4, top + TILE + 4 + n * LINE_HEIGHT), line, fill="black", font=font)
    return sheet


def picture(manifest: Manifest, record: FundusRecord, masks: bool) -> Image.Image:
    """The photograph on a black square of TILE pixels, its aspect ratio kept."""
    image = load_image(manifest.path(record.image))
    if masks:
        wanted = [(name, path) for name, path in record.masks.items() if name != "field"]
        for (_, path), colour in zip(wanted, cycle(COLOURS), strict=False):
            inside = load_mask(manifest.path(path))
            if inside.shape == image.shape[:2]:
                image[inside] = (image[inside] // 2 + np.array(colour, dtype=np.uint8) // 2).astype(np.uint8)
    small = ImageOps.contain(Image.fromarray(image), (TILE, TILE), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (TILE, TILE))
    tile.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return tile


def labels(record: FundusRecord) -> list[str]:
    """At most LINES lines of text."""
    head = [record.id, record.split, record.eye and f"{record.eye} eye", record.patient and f"patient {record.patient}"]
    parts = [" · ".join(h for h in head if h)]
    if record.diagnosis is not None:
        parts.append("diagnosis: " + (", ".join(map(display, record.diagnosis)) or "none"))
    if record.findings is not None:
        parts.append("findings: " + (", ".join(display(f.name) for f in record.findings) or "none"))
    parts += [f"{kind}: {text}" for kind, text in record.texts.items()]
    if record.masks:
        parts.append("masks: " + ", ".join(record.masks))
    lines = [line for part in parts for line in wrap(part, 52)]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], lines[LINES - 1][:50] + " …"]
