"""Is this a colour photograph of a retina, and can it be graded? Rules with thresholds, no learning."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from mdf.imaging.field import find_field

WORKING_SIDE = 160  # pixels; the field is looked at on a copy whose sides are between this and twice this

# A retina is redder than green and blue, of nearly one hue, and smooth. Inside a round field in a dark surround little
# colour is asked for (hazy lenses make grey-green photographs); a picture without that outline has to show more of it.
ROUND_RED_GREEN, ROUND_RED_BLUE = 0.9, 1.06  # mean red over mean green and blue, at least
WHOLE_RED_GREEN, WHOLE_RED_BLUE = 1.3, 1.6
ROUND_HUES, WHOLE_HUES = 0.2, 0.1  # standard deviation of red's or green's share of the light, at most
ROUND_TEXTURE, WHOLE_TEXTURE = 8.0, 3.2  # mean fine detail in grey levels, at most; noise and print have more
WHOLE_SPREAD = 30  # grey levels of standard deviation, at most, without a round field: a retina's middle is evenly lit
FLAT = 1.5  # grey levels of standard deviation; less is a plain surface

# Gradability: below the first number "not", below the second "barely". Relative to the mean, so that they hold in dim
# light.
BRIGHTNESS = (0.06, 0.12)  # mean luminance, 0..1
BRIGHTNESS_TOP = (0.92, 0.82)  # above the first "not", above the second "barely"
CONTRAST = (0.045, 0.07)  # spread (5th to 95th percentile) of vessel-sized detail in green over mean green
SHARPNESS = (0.0045, 0.0075)  # mean finest detail in green over mean green


@dataclass(frozen=True)
class Quality:
    is_retina: bool
    gradable: str  # good | barely | not
    reasons: tuple[str, ...]  # in words, for what is not a retina or not good
    brightness: float  # mean luminance in the field, 0..1
    contrast: float  # of vessel-sized detail, relative to the mean
    sharpness: float  # finest detail, relative to the mean
    field_share: float  # of the picture that is field, 0..1


def assess(image: np.ndarray) -> Quality:
    """Assess a photograph uint8 [H, W, 3]. What is not a retina is never gradable."""
    found = find_field(image)
    left, top, right, bottom = found.box
    factor = max(1, min(right - left, bottom - top) // WORKING_SIDE)
    pixels = np.asarray(Image.fromarray(image[top:bottom, left:right]).reduce(factor)).astype(np.float32)
    mask = np.asarray(Image.fromarray(found.mask[top:bottom, left:right].astype(np.uint8) * 255).reduce(factor)) > 250
    inner = (
        ndimage.binary_erosion(mask, iterations=4, border_value=int(found.share == 1)) if min(mask.shape) > 32 else mask
    )
    inner = inner if inner.any() else mask
    if not inner.any():
        return Quality(False, "not", ("too small to be judged",), 0.0, 0.0, 0.0, found.share)

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

    reasons = _not_a_retina(pixels, light, mask, inner)
    if reasons:
        return Quality(False, "not", tuple(reasons), brightness, contrast, sharpness, found.share)
    worst, reasons = 0, []
    for value, limits, words in (
        (brightness, BRIGHTNESS, "too dark"),
        (-brightness, tuple(-limit for limit in BRIGHTNESS_TOP), "too bright"),
        (contrast, CONTRAST, "vessels hardly visible"),
        (sharpness, SHARPNESS, "out of focus or hazy"),
    ):
        level = 2 if value < limits[0] else 1 if value < limits[1] else 0
        if level:
            reasons.append(words)
        worst = max(worst, level)
    return Quality(True, ("good", "barely", "not")[worst], tuple(reasons), brightness, contrast, sharpness, found.share)


def _not_a_retina(pixels: np.ndarray, light: np.ndarray, mask: np.ndarray, inner: np.ndarray) -> list[str]:
    edge = max(2, round(0.06 * min(mask.shape)))
    corners = [
        mask[rows, columns] for rows in (np.s_[:edge], np.s_[-edge:]) for columns in (np.s_[:edge], np.s_[-edge:])
    ]
    is_round = sum(not corner.any() for corner in corners) >= 3
    inside = pixels[inner]
    red, green, blue = np.maximum(inside.mean(axis=0), 1)
    total = inside.sum(axis=1) + 1
    hues = max(float((inside[:, channel] / total).std()) for channel in (0, 1))
    spread = float(light[inner].std())
    texture = float(np.abs(light - ndimage.uniform_filter(light, 3))[inner].mean())
    reasons = []
    if spread < FLAT:
        reasons.append("a plain surface")
    if red / green < (ROUND_RED_GREEN if is_round else WHOLE_RED_GREEN) or red / blue < (
        ROUND_RED_BLUE if is_round else WHOLE_RED_BLUE
    ):
        reasons.append("not of a retina's colour")
    if hues > (ROUND_HUES if is_round else WHOLE_HUES):
        reasons.append("many colours")
    if texture > (ROUND_TEXTURE if is_round else WHOLE_TEXTURE):
        reasons.append("print or noise rather than a smooth surface")
    if spread > WHOLE_SPREAD and not is_round:
        reasons.append("strong light and shade")
    if reasons and not is_round:
        reasons.insert(0, "no round field in a dark surround")
    return reasons
