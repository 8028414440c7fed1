"""How much a picture looks like a retina: a few measures, each of which adds to or takes from one score.

What every value of a measure adds is in data/retina_score.json, fitted on phantoms against pictures that are no retinas
(`python -m tests.imaging.fit_retina_score`). No photograph of a patient took part.
"""

import json
from functools import cache

import numpy as np
from scipy import ndimage

from mdf.imaging.retina_maps import SIDE, blur
from mdf.resources import DATA

FILE = DATA / "retina_score.json"
RIM = 9  # pixels along the rim that are not looked at
DIRECTIONS = 8  # in which lines are looked for
HALF_LENGTH, OFFSET = 6, 3  # pixels; of a line, and from its middle to what it is compared with
NEIGHBOURHOOD = 12  # pixels of standard deviation; light is made even over it
MIN_PIXELS = 500  # a smaller field cannot be judged

# What the measures of a group are about, in the words used where they speak against a retina.
GROUPS = {
    "not of a retina's colour": ("red_over_green", "green_over_blue", "hue_of_red", "hue_of_blue"),
    "no vessels, which are darker in green than in red": ("line_colour", "fine_line_colour", "blue_as_green"),
    "no dark lines that stand out from bright ones": ("dark_lines",),
    "print, noise or strong light and shade rather than a smooth surface": ("texture", "red_edges", "uneven"),
}
COLOURLESS = (*list(GROUPS.values())[2], *list(GROUPS.values())[3])  # what can be measured without colour, too
GREY = 3.0  # grey levels; a picture whose channels differ less on average is one without colour


def is_grey(pixels: np.ndarray, field: np.ndarray) -> bool:
    """Whether [SIDE, SIDE, 3] has no colour, as an angiogram or a red-free photograph has none."""
    inside = pixels[field].astype(np.float32)
    return not inside.size or float(np.ptp(inside, axis=1).mean()) < GREY


def measure(pixels: np.ndarray, field: np.ndarray) -> dict[str, float] | None:
    """The measures of what `field_copy` gives; None where the field is too small to be judged."""
    values = pixels.astype(np.float32)
    inner = ndimage.binary_erosion(field, iterations=RIM, border_value=int(field.mean() > 0.97))
    if inner.sum() < MIN_PIXELS:
        return None
    even, fine, smooth = [], [], []
    for channel in range(3):
        mean = blur(values[:, :, channel], field, NEIGHBOURHOOD)
        filled = np.where(field, values[:, :, channel], mean)
        smooth.append(ndimage.gaussian_filter(filled, 4))
        plane = filled / np.maximum(mean, 6)
        even.append(plane)
        fine.append((ndimage.gaussian_filter(plane, 1) - ndimage.gaussian_filter(plane, 4))[inner])
    dark, bright, _ = (v[inner] for v in lines(even[1]))
    red_dark, _, red_steps = (v[inner] for v in lines(even[0]))
    best = dark >= np.quantile(dark, 0.95)

    means = values[inner].mean(axis=0) + 1
    smooth = [plane[inner] + 4 for plane in smooth]
    light = values.mean(axis=2)
    mean_light = max(float(light[inner].mean()), 4.0)
    return {
        "red_over_green": float(np.log(means[0] / means[1])),
        "green_over_blue": float(np.log(means[1] / means[2])),
        "hue_of_red": _log(float(np.log(smooth[0] / smooth[1]).std()), 0.005),
        "hue_of_blue": _log(float(np.log(smooth[1] / smooth[2]).std()), 0.005),
        "line_colour": _log(float(dark[best].mean())) - _log(float(red_dark[best].mean())),
        "fine_line_colour": _log(_top(dark, 0.995)) - _log(_top(red_dark, 0.995)),
        "blue_as_green": _correlation(fine[1], fine[2]),
        "dark_lines": _log(_top(dark, 0.97)) - _log(_top(bright, 0.97)),
        "texture": _log(float(np.abs(light - ndimage.uniform_filter(light, 3))[inner].mean()) / mean_light),
        "red_edges": _log(_top(red_steps, 0.97)),
        "uneven": _log(_residual(ndimage.gaussian_filter(light, 3), inner) / mean_light, 0.01),
    }


def lines(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much each pixel of [SIDE, SIDE] looks like part of a dark line, of a bright line and of an edge.

    The mean along a short line is compared with those of the lines at both its sides: a dark line is darker than
    either, an edge has two different sides. The best of all directions counts.
    """
    margin = HALF_LENGTH + OFFSET + 1
    padded = np.pad(ndimage.gaussian_filter(plane, 1), margin, mode="edge")
    dark, bright, step = (np.zeros((SIDE, SIDE), dtype=np.float32) for _ in range(3))
    for turn in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        along, across = np.array([np.sin(turn), np.cos(turn)]), np.array([np.cos(turn), -np.sin(turn)])
        means = []
        for offset in (0, OFFSET, -OFFSET):
            places = [
                np.round(along * s + across * offset).astype(int) + margin
                for s in range(-HALF_LENGTH, HALF_LENGTH + 1, 2)
            ]
            means.append(sum(padded[y : y + SIDE, x : x + SIDE] for y, x in places) / len(places))
        middle, one, other = means
        dark = np.maximum(dark, np.minimum(one, other) - middle)
        bright = np.maximum(bright, middle - np.maximum(one, other))
        step = np.maximum(step, np.abs(one - other))
    return dark, bright, step


def retina_score(pixels: np.ndarray, field: np.ndarray) -> tuple[float, dict[str, float]]:
    """The score of what `field_copy` gives, and what each group of measures adds to it; -inf where too small.

    From 0 on a picture is taken for a retina; the more, the surer. A picture without colour is judged without it, and
    also as its negative, since the vessels of an angiogram are bright.
    """
    if not is_grey(pixels, field):
        return score(measure(pixels, field), "colour")
    both = (score(measure(picture, field), "grey") for picture in (pixels, 255 - pixels))
    return max(both, key=lambda found: found[0])


def score(measures: dict[str, float] | None, table: str) -> tuple[float, dict[str, float]]:
    """The score by one of the fitted tables, see retina_score."""
    if measures is None:
        return -np.inf, {}
    fitted = coefficients()[table]
    adds = {name: float(np.interp(measures[name], t["at"], t["add"])) for name, t in fitted["measures"].items()}
    groups = {words: sum(adds.get(name, 0.0) for name in names) for words, names in GROUPS.items()}
    return fitted["constant"] + sum(adds.values()), groups


def against(adds: dict[str, float]) -> tuple[str, ...]:
    """Words for what speaks against a retina, of the groups that `retina_score` gives; the strongest first."""
    if not adds:
        return ("too small to be judged",)
    worst = sorted(adds, key=lambda words: adds[words])
    return tuple(words for words in worst if adds[words] < -1) or (worst[0],)


@cache
def coefficients() -> dict:
    """The fitted tables: a constant, and for each measure what is added `at` which values, straight lines between."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def _top(values: np.ndarray, share: float) -> float:
    return float(np.quantile(values, share))


def _log(value: float, least: float = 0.003) -> float:
    """Logarithm of a strength, with what is too weak to matter set apart from 0."""
    return float(np.log(value + least))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else 1.0


def _residual(light: np.ndarray, inner: np.ndarray) -> float:
    """Standard deviation of what a quadratic surface does not explain, grey levels."""
    y, x = (np.flatnonzero(inner) // SIDE / SIDE - 0.5), (np.flatnonzero(inner) % SIDE / SIDE - 0.5)
    surface = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    target = light[inner]
    return float((target - surface @ np.linalg.lstsq(surface, target, rcond=None)[0]).std())
