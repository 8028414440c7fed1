"""A picture of metrics.jsonl: a row a stage with its losses, what validation says, and the gates of its adapters."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from mdf.training.picture import COLOURS

WIDE, HIGH, LEFT, RIGHT, EDGE = 600, 260, 56, 190, 28  # pixels of a panel; its margins, names on the right
TICKS = 4
INK, GRID, PAPER = (40, 40, 40), (225, 225, 225), (255, 255, 255)
Curve = list[tuple[float, float]]  # (step, value)

PANELS = {  # title -> whether a number of metrics.jsonl belongs there
    "loss": lambda name: name.startswith(("loss", "val_loss")),
    "validation": lambda name: name.startswith(("val_dice", "val_zero_shot", "val_rank", "val_uniformity")),
    "gates, tanh": lambda name: name.startswith("gate_"),
}


def curves_of(lines: list[dict[str, Any]], stage: str) -> dict[str, dict[str, Curve]]:
    """Title of a panel -> name -> (step, value) of one stage; panels without numbers are left out."""
    found: dict[str, dict[str, Curve]] = {}
    for line in lines:
        if line["stage"] != stage:
            continue
        for name, value in line.items():
            title = next((t for t, belongs in PANELS.items() if belongs(name)), None)
            if title and isinstance(value, int | float):
                found.setdefault(title, {}).setdefault(name, []).append((line["step"], value))
    return {title: found[title] for title in PANELS if title in found}


def colour(number: int) -> tuple[int, ...]:
    """A colour that can be seen on white."""
    return tuple(channel * 7 // 10 for channel in COLOURS[number % len(COLOURS)])


def bounds(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], title: str, curves: dict[str, Curve]) -> None:
    """Draw one panel with its axes, curves and names, the last value of each beside its name."""
    font = ImageFont.load_default(11)
    x0, y0 = corner[0] + LEFT, corner[1] + EDGE
    wide, high = WIDE - LEFT - RIGHT, HIGH - EDGE - 24
    first, last = bounds([step for curve in curves.values() for step, _ in curve])
    low, top = bounds([value for curve in curves.values() for _, value in curve])
    draw.text((x0, corner[1] + 8), title, INK, font)
    for i in range(TICKS + 1):
        x, y = x0 + wide * i / TICKS, y0 + high - high * i / TICKS
        draw.line([(x0, y), (x0 + wide, y)], GRID)
        draw.text((x0 - 6, y), f"{low + (top - low) * i / TICKS:.3g}", INK, font, anchor="rm")
        draw.text((x, y0 + high + 4), f"{first + (last - first) * i / TICKS:.0f}", INK, font, anchor="ma")
    for number, (name, curve) in enumerate(curves.items()):
        at = [
            (x0 + wide * (step - first) / (last - first), y0 + high * (top - value) / (top - low))
            for step, value in curve
        ]
        draw.line(at, colour(number), 2)
        if len(at) < 12:
            for x, y in at:
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), colour(number))
        if number < 15:  # as many names as the panel is high
            text = f"{name.removeprefix('val_zero_shot_')} {curve[-1][1]:.3g}"
            draw.text((x0 + wide + 10, y0 + 14 * number), text, colour(number), font)


def curves_picture(lines: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG of the lines of a metrics.jsonl."""
    finite = [
        {k: v for k, v in line.items() if not isinstance(v, float) or abs(v) < float("inf")} for line in lines
    ]  # a nan is not below it either
    rows = {stage: curves_of(finite, stage) for stage in dict.fromkeys(line["stage"] for line in finite)}
    rows = {stage: panels for stage, panels in rows.items() if panels}
    if not rows:
        return
    picture = Image.new("RGB", (WIDE * max(map(len, rows.values())), HIGH * len(rows)), PAPER)
    draw = ImageDraw.Draw(picture)
    for row, (stage, panels) in enumerate(rows.items()):
        for column, (title, curves) in enumerate(panels.items()):
            panel(draw, (column * WIDE, row * HIGH), f"{stage}: {title}", curves)
    picture.save(path)
