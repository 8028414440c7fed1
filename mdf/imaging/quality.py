"""Is this a photograph of a retina (see retina_score), and can it be graded? Rules with thresholds."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from mdf.imaging.field import Field, find_field
from mdf.imaging.retina_maps import field_copy
from mdf.imaging.retina_score import against, is_grey, retina_score

WORKING_SIDE = 160  # pixels; the field is looked at on a copy whose sides are between this and twice this
SMALLEST = 32  # pixels; a field smaller than this cannot be judged
FLAT, BLACK = 0.008, 0.5  # standard deviation over the mean, and in grey levels; less is a plain surface
# A picture without a round field in a dark surround has to look more like a retina, and needs colour to do so: without
# any, everyday pictures cannot be told from retinas by their texture alone.
SURE_ROUND, SURE_WHOLE = 0.0, 1.0
COARSEST = 8.0  # mean fine detail in grey levels; noise and print have more

# Gradability: what each part is worth, 0..1, at which value of what it measures, straight lines between. Below NOT a
# photograph cannot be graded, below BARELY it can barely be. Contrast and sharpness are relative to the mean, so that
# they hold in dim light, and strengths of detail go by their logarithm.
NOT, BARELY = 1 / 3, 2 / 3
BRIGHTNESS = ((0.0, 0.06, 0.12, 0.3, 0.7, 0.82, 0.92, 1.0), (0, NOT, BARELY, 1, 1, BARELY, NOT, 0))  # mean, 0..1
SHADED = ((0.1, 0.35, 0.6, 1.0), (1, BARELY, NOT, 0))  # share of the field that is too dark or overexposed
CONTRAST = ((0.015, 0.045, 0.07, 0.2), (0, NOT, BARELY, 1))  # 5th to 95th percentile of vessel-sized detail in green
SHARPNESS = ((0.0015, 0.0045, 0.0075, 0.02), (0, NOT, BARELY, 1))  # mean finest detail in green
SHOWN = ((0.0, 0.3, 0.5, 0.8), (0, NOT, BARELY, 1))  # share of the round field that the picture shows
TOO_DARK, OVEREXPOSED = 12, 250  # grey levels, of the brightest channel and of all three; nothing is seen there
LIGHT = {-1: "too dark", 0: "unevenly lit", 1: "too bright"}
WORDS = {
    "sharpness": "out of focus or hazy",
    "contrast": "vessels hardly visible",
    "field": "much of the field is cut off",
}


@dataclass(frozen=True)
class Quality:
    is_retina: bool
    gradable: str  # good | barely | not
    reasons: tuple[str, ...]  # in words, for what is not a retina or not good
    score: float  # gradability: the worst part, 0..1; 0 for what is not a retina
    parts: dict[str, float]  # illumination, sharpness, contrast and field, 0..1; empty where nothing can be judged
    retina: float  # how much it looks like a retina; the more above 0 the surer, see retina_score
    brightness: float  # mean luminance in the field, 0..1
    contrast: float  # of vessel-sized detail, relative to the mean
    sharpness: float  # finest detail, relative to the mean
    field_share: float  # of the picture that is field, 0..1


def assess(image: np.ndarray, found: Field | None = None) -> Quality:
    """Assess a photograph uint8 [H, W, 3]. What is not a retina is never gradable."""
    found = found or find_field(image)
    left, top, right, bottom = found.box
    if min(right - left, bottom - top) < SMALLEST:
        return Quality(False, "not", ("too small to be judged",), 0.0, {}, -np.inf, 0.0, 0.0, 0.0, found.share)
    factor = max(1, min(right - left, bottom - top) // WORKING_SIDE)
    pixels = np.asarray(Image.fromarray(image[top:bottom, left:right]).reduce(factor)).astype(np.float32)
    mask = np.asarray(Image.fromarray(found.mask[top:bottom, left:right].astype(np.uint8) * 255).reduce(factor)) > 250
    inner = ndimage.binary_erosion(mask, iterations=4, border_value=int(found.share == 1))
    inner = inner if inner.any() else mask

    light = pixels.mean(axis=2)
    brightness = float(light[inner].mean() / 255)
    green = pixels[:, :, 1]
    mean_green = max(float(green[inner].mean()), 4.0)
    fine = np.abs(green - ndimage.uniform_filter(green, 3))[inner]
    vessels = (ndimage.uniform_filter(green, 3) - ndimage.uniform_filter(green, 13))[inner]
    sharpness, contrast = (
        float(fine.mean()) / mean_green,
        float(np.subtract(*np.percentile(vessels, (95, 5)))) / mean_green,
    )
    small, field = field_copy(image, found)
    retina, adds = retina_score(small, field)
    measured = {"retina": retina, "brightness": brightness, "contrast": contrast, "sharpness": sharpness}
    if speaks_against := _not_a_retina(light, mask, inner, retina, adds, is_grey(small, field)):
        return Quality(False, "not", speaks_against, 0.0, {}, field_share=found.share, **measured)

    lost = (pixels.max(axis=2) < TOO_DARK) | (pixels.min(axis=2) > OVEREXPOSED)
    lit, even = np.interp(brightness, *BRIGHTNESS), np.interp(lost[inner].mean(), *SHADED)
    round_field = np.pi / 4 * max(right - left, bottom - top) ** 2
    shown = 1.0 if found.share == 1 else np.count_nonzero(found.mask) / round_field
    parts = {
        "illumination": float(min(lit, even)),
        "sharpness": _strength(sharpness, SHARPNESS),
        "contrast": _strength(contrast, CONTRAST),
        "field": float(np.interp(shown, *SHOWN)),
    }
    score = min(parts.values())
    gradable = "good" if score >= BARELY else "barely" if score >= NOT else "not"
    turn = 0 if even < lit else -1 if brightness < 0.5 else 1
    words = {"illumination": LIGHT[turn], **WORDS}
    reasons = tuple(words[name] for name, part in parts.items() if part < BARELY)
    return Quality(True, gradable, reasons, score, parts, field_share=found.share, **measured)


def _not_a_retina(
    light: np.ndarray, mask: np.ndarray, inner: np.ndarray, score: float, adds: dict[str, float], grey: bool
) -> tuple[str, ...]:
    """In words, what speaks against a retina; empty for a retina."""
    if float(light[inner].std()) < max(BLACK, FLAT * float(light[inner].mean())):
        return ("a plain surface",)
    if float(np.abs(light - ndimage.uniform_filter(light, 3))[inner].mean()) > COARSEST:
        return ("print or noise rather than a smooth surface",)
    edge = max(2, round(0.06 * min(mask.shape)))
    ends = (np.s_[:edge], np.s_[-edge:])
    is_round = sum(not mask[rows, columns].any() for rows in ends for columns in ends) >= 3
    if score >= SURE_WHOLE or (is_round and score >= SURE_ROUND):
        return () if is_round or not grey else ("no round field in a dark surround", "without colour")
    return against(adds) if is_round else ("no round field in a dark surround", *against(adds))


def _strength(value: float, worth: tuple[tuple[float, ...], tuple[float, ...]]) -> float:
    at, parts = worth
    return float(np.interp(np.log(max(value, at[0])), np.log(at), parts))
