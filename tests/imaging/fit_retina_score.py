"""Fit mdf/data/retina_score.json: `python -m tests.imaging.fit_retina_score`, about five minutes on one core.

Positives are phantoms as a camera would take them, negatives are drawings and half of scikit-image's pictures; what is
tested on the other half, and on photographs of patients, had no part in it.
"""

import json
import sys
from collections.abc import Iterable, Iterator

import numpy as np
from sklearn.linear_model import LogisticRegression

from mdf.imaging.field import find_field
from mdf.imaging.phantom import draw
from mdf.imaging.retina_maps import field_copy
from mdf.imaging.retina_score import COLOURLESS, FILE, measure
from tests.imaging.damage import photographed
from tests.imaging.no_retinas import PICTURES, drawings, photographs

KNOTS = 7  # of each measure, at quantiles
STRENGTH = 0.1  # of the fit, as scikit-learn's C: the less, the smaller the additions
FITTED_ON, TESTED_ON = PICTURES[::2], PICTURES[1::2]
PHANTOMS, DRAWINGS, SEEDS = 700, 640, (1, 2)
# The score is 0 this far below what this share of the phantoms has: to refuse a retina is worse than to pass another
# picture, and many photographs of patients are worse than any phantom.
PASS = 0.995
MARGIN = {"colour": 1.8, "grey": -0.4}  # without colour much less is known, and more is asked

Row = dict[str, float]


def phantoms(count: int, first: int = 50_000) -> Iterator[np.ndarray]:
    """Phantoms as photographs, a third of them cut out of the middle of the field."""
    for seed in range(count):
        rng = np.random.default_rng([9, seed])
        image = draw(first + seed, int(rng.choice([192, 256, 320]))).image
        if rng.uniform() < 0.35:
            half = int(image.shape[0] * rng.uniform(0.22, 0.34))
            y, x = (int(image.shape[0] * (0.5 + shift)) for shift in rng.uniform(-0.06, 0.06, 2))
            image = np.ascontiguousarray(image[y - half : y + half, x - half : x + half])
        yield photographed(image, rng)


def tables(images: Iterable[np.ndarray]) -> tuple[list[Row], list[Row]]:
    """The measures of each picture whose field is large enough, and those of every second one without colour."""
    coloured, colourless = [], []
    for n, image in enumerate(images):
        pixels, field = field_copy(image, find_field(image))
        if (row := measure(pixels, field)) is None:
            continue
        coloured.append(row)
        if n % 2 == 0:
            light = pixels[:, :, 1:2].repeat(3, axis=2)  # as a red-free photograph has it
            colourless.append({name: value for name, value in measure(light, field).items() if name in COLOURLESS})
    return coloured, colourless


def fit(retinas: list[Row], others: list[Row], margin: float) -> dict:
    """A logistic regression on straight lines between knots at quantiles of each measure."""
    names = list(retinas[0])
    values = np.array([[row[name] for name in names] for row in retinas + others])
    knots = [np.unique(np.quantile(column, np.linspace(0.02, 0.98, KNOTS)).round(3)) for column in values.T]
    basis = [
        np.interp(column, at, unit) for column, at in zip(values.T, knots, strict=True) for unit in np.eye(len(at))
    ]
    model = LogisticRegression(C=STRENGTH, max_iter=5000, class_weight="balanced")
    model.fit(np.stack(basis, axis=1), [1] * len(retinas) + [0] * len(others))
    scores = model.coef_[0] @ np.array(basis)[:, : len(retinas)]
    adds = np.split(model.coef_[0], np.cumsum([len(at) for at in knots])[:-1])
    return {
        "constant": round(margin - float(np.quantile(scores, 1 - PASS)), 3),
        "measures": {
            name: {"at": at.tolist(), "add": add.round(3).tolist()}
            for name, at, add in zip(names, knots, adds, strict=True)
        },
    }


def fitted(pictures: tuple[str, ...] = FITTED_ON) -> dict:
    """The tables as shipped, or with other pictures among the negatives."""
    others = [image for _, image in drawings(DRAWINGS, seed=1)]
    others += [image for seed in (0, *SEEDS) for _, image in photographs(pictures, seed=seed)]
    retinas, no_retinas = tables(phantoms(PHANTOMS)), tables(others)
    return {name: fit(retinas[n], no_retinas[n], MARGIN[name]) for n, name in enumerate(MARGIN)}


if __name__ == "__main__":
    text = json.dumps(fitted(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        print("the same" if json.loads(text) == json.loads(FILE.read_text(encoding="utf-8")) else "not the same")
    else:
        FILE.write_text(text, encoding="utf-8")
        print(f"wrote {FILE}")
