"""A small data set of phantom photographs, clean until a test plants something in it."""

import io
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mdf.datasets.validation import validate
from mdf.datasets.validation.report import Report
from mdf.imaging.phantom import draw
from mdf.records import read_manifest

SIZE = 128
CLEAN = {"a": "train", "b": "train", "c": "val", "d": "test", "e": "test"}  # id -> split


@cache
def photograph(seed: int) -> bytes:
    """PNG bytes of the phantom of this seed; each is drawn once a process."""
    buffer = io.BytesIO()
    Image.fromarray(draw(seed, SIZE, eye="right").image).save(buffer, "PNG")
    return buffer.getvalue()


class Planted:
    """Rows of a manifest by id, and the folder of their photographs; `write` makes the manifest.

    A clean set has five right eyes of five patients with their own photograph, a vessel mask and the label glaucoma.
    """

    def __init__(self, root: Path, names: dict[str, str] | None = None):
        self.root = root
        self.rows: dict[str, dict[str, Any]] = {}
        for seed, (name, split) in enumerate((names or CLEAN).items()):
            self.add(name, seed, split)

    def add(self, name: str, seed: int, split: str | None = "train", **fields: Any) -> dict[str, Any]:
        self.file(f"{name}.png").write_bytes(photograph(seed))
        self.mask(f"{name}_vessel.png")
        row = {"id": name, "image": f"{name}.png", "patient": f"p{name}", "eye": "right", "diagnosis": ["glaucoma"]}
        self.rows[name] = row | {"split": split, "masks": {"vessel": f"{name}_vessel.png"}, "source": "here"} | fields
        return self.rows[name]

    def file(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def mask(self, name: str, size: int = SIZE, share: float = 0.1) -> None:
        """A mask whose upper `share` of the rows is foreground."""
        pixels = np.zeros((size, size), dtype=np.uint8)
        pixels[: round(share * size)] = 255
        Image.fromarray(pixels).save(self.file(name))

    def same_photograph(self, first: str, second: str) -> None:
        """The second one's file becomes the first one's."""
        shutil.copy(self.file(f"{first}.png"), self.file(f"{second}.png"))

    def write(self, order: list[str] | None = None) -> Path:
        path = self.file("set.jsonl")
        path.write_text("".join(json.dumps(self.rows[name]) + "\n" for name in order or self.rows))
        return path

    def report(self, order: list[str] | None = None) -> Report:
        return validate(read_manifest(self.write(order)), workers=1)

    def found(self, order: list[str] | None = None) -> dict[str, set[frozenset[str]]]:
        """Name of each finding -> the photographs of each of its cases."""
        return {i.name: {frozenset(case.ids) for case in i.cases} for i in self.report(order).issues}
