"""Pictures that say what an answer was read from: maps and masks on the photograph, in its own pixels.

Shapes: H x W the photograph, G patches a side, W' words, L depths.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from mdf.dialogue import Turn, diagnosis_answer
from mdf.errors import UserError
from mdf.evaluation.diagnosis import diagnosis_question
from mdf.files import write_text
from mdf.imaging.frame import Frame
from mdf.inference.layers import COVER, HEAT
from mdf.inference.pictures import COLOURS
from mdf.inference.predictor import Photograph, Predictor
from mdf.models.attention import AttentionMaps, attention_maps
from mdf.models.attribution import patch_attribution

TILE, COLUMNS, MARGIN, LINE = 156, 6, 16, 18  # pixels of a page
MAX_WORDS = 48  # tiles on a page
INK, FAINT, PAPER = (235, 235, 235), (150, 150, 150), (18, 18, 20)


@dataclass(frozen=True)
class Tile:
    """A small map below the large one."""

    caption: str
    note: str
    map: np.ndarray  # float [h,w] of the networks' square
    frame: Frame | None = None  # where that lies, if not where the large one's does


def heat(image: np.ndarray, values: np.ndarray, highest: float) -> np.ndarray:
    """uint8 [H,W,3]: the photograph in grey with `values` float [H,W] over it, of which `highest` is the brightest."""
    v = np.clip(values / max(highest, 1e-12), 0, 1)[..., None]
    grey = image.astype(float).mean(2, keepdims=True)
    at = v[..., 0] * (len(HEAT) - 1)
    colour = np.stack([np.interp(at, np.arange(len(HEAT)), HEAT[:, c]) for c in range(3)], -1)
    cover = COVER * np.sqrt(v)
    return (0.8 * grey * (1 - cover) + colour * cover).round().astype(np.uint8)


def draw_masks(image: np.ndarray, frame: Frame, masks: Mapping[str, np.ndarray]) -> np.ndarray:
    """uint8 [H,W,3]: the photograph with the outline and a veil of each mask, probabilities float [U,U] by name."""
    out = image.astype(float)
    width = max(1, round(frame.side / 400))
    for (_, p), colour in zip(masks.items(), COLOURS * len(masks), strict=False):
        inside = frame.place(p) >= 0.5
        rim = inside & ~ndimage.binary_erosion(inside, iterations=width)
        cover = (0.25 * inside + 0.65 * rim)[..., None]
        out = out * (1 - cover) + np.array(colour) * cover
    return out.round().astype(np.uint8)


def scaled(image: np.ndarray, side: int) -> Image.Image:
    """The picture with a longer side of `side` pixels."""
    factor = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC)


def page(
    image: np.ndarray, frame: Frame, title: str, lines: Sequence[str], large: np.ndarray, tiles: Sequence[Tile]
) -> Image.Image:
    """The photograph beside its map `large` float [h,w], and `tiles` below, each map on its own scale."""
    width = COLUMNS * TILE + (COLUMNS + 1) * MARGIN
    wrapped = [part for line in lines for part in wrap(line, (width - 2 * MARGIN) // 8)]
    half = (width - 3 * MARGIN) // 2
    photograph = scaled(image, half)
    top = MARGIN + 26 + LINE * len(wrapped) + 8
    start = top + photograph.height + MARGIN + 4
    step = TILE * photograph.height // max(photograph.size) + 2 * LINE + 12
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (width, start + rows * step + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, fill=INK, font_size=19)
    for i, line in enumerate(wrapped):
        pen.text((MARGIN, MARGIN + 28 + LINE * i), line, fill=FAINT, font_size=14)
    sheet.paste(photograph, (MARGIN, top))
    sheet.paste(scaled(heat(image, frame.place(large), float(large.max())), half), (2 * MARGIN + half, top))
    for i, tile in enumerate(tiles):
        x, y = MARGIN + (i % COLUMNS) * (TILE + MARGIN), start + (i // COLUMNS) * step
        sheet.paste(scaled(heat(image, (tile.frame or frame).place(tile.map), float(tile.map.max())), TILE), (x, y))
        below = y + step - 2 * LINE - 10
        pen.text((x, below), cut(tile.caption, 20), fill=INK, font_size=14)
        pen.text((x, below + LINE - 1), tile.note, fill=FAINT, font_size=12)
    return sheet


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most about `width` letters."""
    import textwrap

    return textwrap.wrap(text, width) or [""]


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 2] + ".."


def word_tiles(maps: AttentionMaps, adapters: Sequence[int]) -> list[Tile]:
    """The question and each word of the answer, the mean over `adapters`. Below each stands how much of the attention
    its brightest patch has and how much went to nothing.
    """
    chosen = list(adapters)
    asked = maps.question[chosen].mean(0).numpy()
    tiles = [Tile("(the question)", f"brightest {asked.max():.2f}", asked)]
    for w, word in enumerate(maps.words[:MAX_WORDS]):
        values = maps.maps[w, chosen].mean(0).numpy()
        note = f"brightest {values.max():.2f}, nothing {float(maps.nothing[w, chosen].mean()):.2f}"
        tiles.append(Tile(word, note, values))
    if (more := len(maps.words) - MAX_WORDS) > 0:
        tiles[-1] = Tile(tiles[-1].caption, f"and {more} words more", tiles[-1].map)
    return tiles


def unplaced(maps: AttentionMaps) -> str:
    """How much of the attention went to no patch: what a map that is scaled to its brightest place cannot show."""
    return f"{float(maps.nothing.mean()):.0%} of the attention went to no place; the maps show the rest, brightened"


def explain(
    predictor: Predictor,
    photograph: Photograph,
    question: str,
    answer: str,
    out: str | Path,
    history: list[Turn] | None = None,
) -> list[Path]:
    """Write what `answer` to `question` was read from into the folder `out`; returns the files.

    mean.png and depth_N.png: where the adapters looked, for the whole answer and for each word; gradient.png: which
    patches speak for the answer, the encoder's too; overlay.png and masks.png: the mean map, and what the U-Net draws,
    in the photograph's own pixels (none where the masks are stale); maps.json: the colours of the masks, words, shares
    that went to nothing, and the maps themselves. Files of these names are replaced. Raises UserError for a model
    without adapters and an answer without words.
    """
    model, image, out = predictor.model, photograph.image, Path(out)
    if not model.fusion.layers:
        raise UserError(
            "the checkpoint has no adapters (fusion.depths: []), so that there are no maps of what they read"
        )
    if not answer.strip():
        raise UserError("the answer is empty, so that there is no map of it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, where a folder for the maps is needed; name another")
    turns = [*(history or [model.system_turn()]), Turn("user", question)]
    maps = attention_maps(model, photograph.inputs, [turns], [answer])[0]
    frame = Frame.of(image, predictor.processor.preprocessing)
    out.mkdir(parents=True, exist_ok=True)
    said = [question, *(line for line in answer.splitlines() if line.strip()), unplaced(maps)]
    every, whole = list(range(len(maps.layers))), maps.answer
    pages = {"mean.png": ("Where the adapters looked, mean over all depths", every)}
    for depth in sorted(set(maps.depths)):
        mine = [i for i in every if maps.depths[i] == depth]
        layers = ", ".join(str(maps.layers[i]) for i in mine)
        name = f"Where the adapter at layer {layers} looked: depth {depth} of the U-Net, stride {2**depth}"
        pages[f"depth_{depth}.png"] = (name, mine)
    written = []
    for file, (title, mine) in pages.items():
        sheet = page(image, frame, title, said, whole[mine].mean(0).numpy(), word_tiles(maps, mine))
        sheet.save(out / file)
        written.append(out / file)
    found = patch_attribution(model, photograph.inputs, [turns], [[answer]])
    assert found.memory is not None
    effects = found.memory[0].clamp(min=0).cpu().numpy()
    tiles = [Tile(f"depth {d}", "", effects[k]) for k, d in enumerate(model.fusion.depths)]
    if found.encoder is not None:
        own = Frame.of_encoder(image, predictor.processor.preprocessing)
        tiles.append(Tile("the encoder", "", found.encoder[0].clamp(min=0).cpu().numpy(), own))
    speaks = found.memory[0].sum(0).clamp(min=0).cpu().numpy()
    title = "Which patches speak for the answer: gradient of its log-likelihood times what each holds"
    page(image, frame, title, said, speaks, tiles).save(out / "gradient.png")
    mean = whole.mean(0).numpy()
    Image.fromarray(heat(image, frame.place(mean), float(mean.max()))).save(out / "overlay.png")
    masks = {} if model.config.stale_masks else predictor.masks(photograph)
    (out / "masks.png").unlink(missing_ok=True)  # of another answer
    if masks:
        Image.fromarray(draw_masks(image, frame, masks)).save(out / "masks.png")
    values = {
        "question": question,
        "answer": answer,
        "words": list(maps.words),
        "layers": list(maps.layers),
        "depths": list(maps.depths),
        "colours": dict(zip(masks, map(list, COLOURS * len(masks)), strict=False)),
        "square": {"corner": list(frame.corner), "side": frame.side},
        "nothing": rounded(maps.nothing.numpy()),
        "unplaced": unplaced(maps),
        "maps": rounded(maps.maps.numpy()),
    }
    write_text(out / "maps.json", json.dumps(values) + "\n")
    names = ("gradient.png", "overlay.png", *(("masks.png",) if masks else ()), "maps.json")
    return [*written, *(out / name for name in names)]


def diagnosis_map(model: Any, image: np.ndarray, diagnosis: str) -> np.ndarray:
    """uint8 [H,W,3]: the photograph, and over it where the adapters look for the words that name `diagnosis`."""
    question, _ = diagnosis_question(model.processor)
    turns = [model.system_turn(), Turn("user", question)]
    answer = diagnosis_answer(model.processor.prompts, (diagnosis,))
    mean = attention_maps(model, model.processor(image), [turns], [answer])[0].answer.mean(0).numpy()
    frame = Frame.of(image, model.processor.preprocessing)
    return heat(image, frame.place(mean), float(mean.max()))


def rounded(values: np.ndarray) -> list:
    return np.round(values.astype(float), 6).tolist()
