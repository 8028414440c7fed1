"""A draft report in Markdown for a clinician to correct and sign. Its form is prompts/report_form.md."""

import string
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw

from mdf import __version__
from mdf.errors import UserError
from mdf.files import write_text
from mdf.imaging.eye_side import eye_side
from mdf.imaging.preprocess import Preprocessing
from mdf.imaging.quality import BARELY, NOT, Quality
from mdf.inference.gate import BANNER
from mdf.inference.predictor import Finding, Photograph, Predictor
from mdf.processor import Inputs
from mdf.resources import bundled
from mdf.vocabulary import display

CONFIDENT = 0.5  # probability of the first diagnosis below which there is no impression
OVERLAY_SIDE = 768  # pixels
COLOURS = (  # of the masks in their order; told apart with red-green blindness too
    (0, 190, 255),
    (255, 220, 0),
    (255, 90, 200),
    (120, 255, 160),
    (255, 140, 0),
    (170, 120, 255),
    (255, 255, 255),
    (40, 80, 255),
)


def read_prompt(predictor: Predictor, name: str) -> tuple[str, Path]:
    """Text and path of a prompt file: the checkpoint's own copy, or the one that comes with mdf where it has none."""
    path = predictor.prompts.folder / name
    if not path.is_file():
        path = bundled("prompts") / name
    return path.read_text(encoding="utf-8"), path


def quality_lines(quality: Quality) -> str:
    """Gradability in words, its reasons, and what each part of it is worth."""
    text = f"gradable: {quality.gradable}" + (f" ({'; '.join(quality.reasons)})" if quality.reasons else "")
    if not quality.parts:
        return text
    parts = ", ".join(f"{name} {part:.2f}" for name, part in quality.parts.items())
    limits = f"below {BARELY:.2f} barely, below {NOT:.2f} not gradable"
    return f"{text}\n\nScore {quality.score:.2f} of 1, the worst of {parts}; {limits}."


def impression(probabilities: dict[str, float], photograph: Photograph, rules: dict[str, str]) -> tuple[str, str]:
    """The impression and the recommendation, from the probabilities (highest first), the quality and the clinician's
    rules.
    """
    if not photograph.quality.is_retina or photograph.quality.gradable == "not":
        return "No impression: the photograph cannot be graded.", rules["ungradable"]
    top, p = next(iter(probabilities.items()))
    if p < CONFIDENT:
        return f"No confident impression: the most likely, {display(top)}, has a probability of only {p:.2f}.", rules[
            "uncertain"
        ]
    return f"{display(top).capitalize()} (probability {p:.2f}).", rules.get(top, rules["default"])


def which_eye(image: np.ndarray, given: str | None) -> tuple[str | None, str]:
    """The eye side to work with and how the report says it: as `given`, else told from uint8 [H,W,3] where that is
    sure, else None.
    """
    if given:
        return given, f"{given}, as given"
    told = eye_side(image)
    if told.side is None:
        return None, "not given, and the photograph alone does not tell it"
    return told.side, f"{told.side}, told from the photograph (confidence {told.confidence:.2f}), not given: check it"


def findings_table(findings: list[Finding]) -> str:
    """A Markdown table: what the language model answers beside what the U-Net draws."""
    lines = [
        "| finding | language model: present | quadrant | number | U-Net: regions | quadrants |",
        "|---|---|---|---|---|---|",
    ]
    for f in findings:
        verdict = "yes" if f.present >= 0.5 else "no"
        quadrant, count = (f"{a[0]} ({a[1]:.2f})" if a else "-" for a in (f.quadrant, f.count))
        regions = "no such mask" if f.regions is None else str(f.regions)
        places = (
            "-"
            if not f.regions
            else "eye side unknown"
            if f.region_quadrants is None
            else ", ".join(f.region_quadrants)
        )
        lines.append(
            f"| {display(f.name)} | {verdict} ({f.present:.2f}) | {quadrant} | {count} | {regions} | {places} |"
        )
    if any(f.regions and f.region_quadrants is None for f in findings):
        lines += ["", "U-Net quadrants not given: eye side unknown (say it with --eye left or --eye right)."]
    return "\n".join(lines)


def probabilities_table(probabilities: dict[str, float]) -> str:
    """A Markdown table of every candidate diagnosis."""
    return "\n".join(
        ["| diagnosis | probability |", "|---|---|", *(f"| {display(n)} | {p:.3f} |" for n, p in probabilities.items())]
    )


def overlay(inputs: Inputs, preprocessing: Preprocessing, masks: dict[str, np.ndarray]) -> Image.Image:
    """What the U-Net saw with its masks drawn over it in colour, and a legend below."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.unet_mean, preprocessing.unet_std))
    picture = ((inputs["unet_pixels"][0].float().cpu() * std + mean).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    for (_, p), colour in zip(masks.items(), COLOURS * len(masks), strict=False):
        cover = (0.75 * (p >= 0.5))[..., None]
        picture = picture * (1 - cover) + np.array(colour) * cover
    seen = Image.fromarray(picture.round().astype(np.uint8)).resize(
        (OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.BICUBIC
    )
    whole = Image.new("RGB", (OVERLAY_SIDE, OVERLAY_SIDE + 28 * max(1, -(-len(masks) // 4))))
    whole.paste(seen, (0, 0))
    pen = ImageDraw.Draw(whole)
    for i, (name, colour) in enumerate(zip(masks, COLOURS * len(masks), strict=False)):
        x, y = 8 + (i % 4) * OVERLAY_SIDE // 4, OVERLAY_SIDE + 6 + 28 * (i // 4)
        pen.rectangle((x, y, x + 14, y + 14), fill=colour)
        pen.text((x + 20, y), name.replace("_", " "), fill=(255, 255, 255), font_size=14)
    return whole


def write_report(
    predictor: Predictor,
    path: str | Path,
    out: str | Path,
    *,
    force: bool = False,
    eye: str | None = None,
    name: str | None = None,
) -> Path:
    """Write OUT/NAME.md with OUT/NAME_photograph.jpg and OUT/NAME_masks.png; NAME is the photograph's own stem unless
    given.

    The photograph is written anew, without the metadata of its file, which may name the patient. Raises UserError for a
    file that is no fundus photograph (unless `force`) and for a form with unknown fields.
    """
    photograph, out = predictor.read(path, force=force), Path(out)
    name = name or Path(path).stem
    form, form_path = read_prompt(predictor, "report_form.md")
    rules_text, rules_path = read_prompt(predictor, "recommendations.yaml")
    rules = yaml.safe_load(rules_text)
    for needed in ("default", "uncertain", "ungradable"):
        if not isinstance(rules, dict) or needed not in rules:
            raise UserError(f"{rules_path}: the line `{needed}: …` is missing")
    masks = predictor.masks(photograph)
    probabilities = predictor.diagnose(photograph)
    said, advice = impression(probabilities, photograph, rules)
    side, eye_line = which_eye(photograph.image, eye)
    quality = photograph.quality
    draft = predictor.ask(photograph, predictor.prompts.questions["report"]["ask"][0]) or "(the model said nothing)"
    fields = {
        "banner": BANNER,
        "name": name,
        "warning": f"> **WARNING: {photograph.warning}**\n" if photograph.warning else "",
        "eye": eye_line,
        "photograph": f"{name}_photograph.jpg",
        "overlay": f"{name}_masks.png",
        "masks": ", ".join(m.replace("_", " ") for m in masks)
        + (" (stale: do not rely on them)" if predictor.model.config.stale_masks else ""),
        "quality": quality_lines(quality),
        "findings": findings_table(predictor.findings(photograph, masks, side)),
        "impression": said,
        "probabilities": probabilities_table(probabilities),
        "recommendation": advice,
        "draft": draft.replace("\n", "\n> "),  # stays inside the form's quotation
        "version": __version__,
        "checkpoint": str(predictor.checkpoint),
        "preprocessing": predictor.processor.preprocessing.hash(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    try:
        text = string.Template(form).substitute(fields)
    except KeyError as error:
        raise UserError(
            f"{form_path}: there is no field ${error.args[0]}; fields are {', '.join('$' + f for f in fields)}"
        ) from None
    except ValueError as error:
        raise UserError(f"{form_path}: {error}; a dollar sign that is no field is written $$") from None
    if BANNER not in text:  # a form that was edited may lose it; the report may not
        text = f"> **{BANNER}**\n\n{text}"
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph.image).save(out / fields["photograph"], quality=95)
    overlay(photograph.inputs, predictor.processor.preprocessing, masks).save(out / fields["overlay"])
    write_text(out / f"{name}.md", text)
    return out / f"{name}.md"
