"""Are the explanation maps true: do they point at the lesion, and does the answer hang on what they show.

Each map is judged beside a random one, a Gaussian in the middle of the field and the U-Net's own mask.

Shapes: N photographs, Q questions, K masks, U the U-Net's input side, G patches a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mdf.dialogue import SMALL_LESIONS, Turn, ask, diagnosis_answer
from mdf.errors import UserError
from mdf.evaluation import pointing
from mdf.evaluation.bootstrap import RESAMPLES, patient_groups, put, resample, weighted_mean
from mdf.evaluation.photographs import Progress, batches, load_inputs
from mdf.models.attention import attention_maps
from mdf.models.attribution import patch_attribution
from mdf.models.degraded import blurred
from mdf.models.readings import DISC
from mdf.processor import Inputs
from mdf.prototypes import truths
from mdf.records import FundusRecord, Manifest
from mdf.vocabulary import display

VESSEL = "vessel"
MAPS = ("attention", "gradient")  # and attention of each depth
REFERENCES = ("random", "centre", "unet")
FIGURES = ("pointing", "energy", "iou", "deletion", "insertion")
CURVES = 24  # questions whose curves are drawn: each costs as many answers as there are shares, maps and directions
ROWS = 16  # questions that the language model works on at once


@dataclass(frozen=True)
class MapQuestion:
    """A question whose answer is read in one known place: that of `mask` (bool [U,U]) of photograph `row`."""

    row: int
    name: str  # of the mask
    mask: np.ndarray
    text: str
    candidates: tuple[str, ...]  # the true answer first


@dataclass
class Judged:
    """The figures of one question by map: name of the map -> name of the figure -> value."""

    row: int
    name: str
    values: dict[str, dict[str, float]] = field(default_factory=dict)


def map_questions(
    model: Any, record: FundusRecord, row: int, masks: np.ndarray, known: np.ndarray
) -> list[MapQuestion]:
    """The questions about one photograph, `masks` [K,U,U] and `known` [K] in the order of the model's.

    "Are there …?" of every kind of small lesion that is drawn, answered "yes"; which eye it is, where the disc is
    drawn; and the diagnosis where vessels are drawn and no lesion.
    """
    prompts, names = model.processor.prompts, model.config.masks
    drawn = {n: masks[k] > 0.5 for k, n in enumerate(names) if known[k] and (masks[k] > 0.5).any()}
    found = []
    spec = prompts.spec("presence")
    for name in (name for name in SMALL_LESIONS if name in drawn):
        text = prompts.phrasing("presence", None).format(finding=display(name))
        found.append(MapQuestion(row, name, drawn[name], text, (spec["yes"], spec["no"])))
    diagnoses = model.processor.diagnoses
    if VESSEL in drawn and not found and (true := truths([record], diagnoses)[0]):
        names = [true[0], *(d for d in diagnoses if d not in true)]
        answers = tuple(diagnosis_answer(prompts, (name,)) for name in names)
        found.append(MapQuestion(row, VESSEL, drawn[VESSEL], prompts.phrasing("diagnosis", None), answers))
    eye = ask(record, "eye", prompts, diagnoses) if DISC in drawn else None
    if eye is not None:
        rest = tuple(c for c in eye.candidates if c != eye.answer)
        found.append(MapQuestion(row, DISC, drawn[DISC], eye.text, (eye.answer, *rest)))
    return found


class Faithfulness:
    """One task of an evaluation: `see` a batch after the other, then `metrics` and a `line` for each photograph.

    Maps are of the true answer, given to the model: attention of the adapters (the mean over depths, and each) and
    gradient times activation on the memory (`mdf.models.attribution`).
    """

    looks = False  # gradients go through the photographs themselves

    def __init__(
        self,
        model: Any,
        records: Sequence[FundusRecord],
        *,
        curves: int = CURVES,
        tolerance: float = pointing.TOLERANCE,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ):
        """`curves`: of how many photographs, the first that have a lesion, one lesion's deletion and insertion curves
        are drawn; 0 = none. Raises UserError for a model without adapters.
        """
        if not len(model.fusion.adapters):
            raise UserError(
                "task maps: the checkpoint has no adapters (fusion.depths: [], or another fusion.kind), and so no maps"
            )
        if curves and model.processor.preprocessing.shown != "field":
            print(
                "maps: deletion and insertion curves are left out, since the encoder is shown another part of the "
                "photograph (encoder.resize, or the recipe of its weights) than the U-Net: what is taken away from the "
                "U-Net's picture would stay in its own"
            )
            curves = 0
        self.model, self.records = model, records
        self.tolerance, self.resamples, self.seed, self.left = tolerance, resamples, seed, curves
        self.judged: list[Judged] = []

    def see(self, rows: range, inputs: Inputs, masks: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Photographs `rows` of the records as inputs, and (masks [K,U,U], known [K]) of each."""
        questions = [
            q for at, row in enumerate(rows) for q in map_questions(self.model, self.records[row], row, *masks[at])
        ]
        for part in batches(len(questions), ROWS):
            self.judge(questions[part.start : part.stop], rows, inputs)

    def judge(self, questions: list[MapQuestion], rows: range, inputs: Inputs) -> None:
        """All figures of some questions."""
        model, grid = self.model, self.model.fusion.grid
        at = [q.row - rows.start for q in questions]
        turns = [[model.system_turn(), Turn("user", q.text)] for q in questions]
        candidates = [q.candidates for q in questions]
        attention = attention_maps(model, inputs, turns, [c[0] for c in candidates], rows=at)
        gradient = patch_attribution(model, inputs, turns, candidates, rows=at).memory
        assert gradient is not None
        drawn = model.segment(inputs).float().cpu().numpy()
        inside = inputs["field"][:, 0].cpu().numpy()
        shown = []
        for n, q in enumerate(questions):
            rng = np.random.default_rng([self.seed, q.row, model.config.masks.index(q.name)])
            side = q.mask.shape[0]
            maps = {"attention": attention[n].answer.mean(0).numpy()}
            depths = attention[n].depths
            for depth in sorted(set(depths)):
                mine = [i for i, d in enumerate(depths) if d == depth]
                maps[f"attention_depth_{depth}"] = attention[n].answer[mine].mean(0).numpy()
            maps["gradient"] = gradient[n].sum(0).clamp(min=0).cpu().numpy()
            maps["random"] = rng.random((grid, grid))
            maps["centre"] = centred(inside[at[n]])
            maps["unet"] = drawn[at[n], model.config.masks.index(q.name)]
            large = {name: pointing.enlarge(m, side) if m.shape[0] != side else m for name, m in maps.items()}
            shown.append(large)
            self.judged.append(
                Judged(q.row, q.name, {k: self.places(maps[k], m, q.mask, inside[at[n]]) for k, m in large.items()})
            )
        self.curves(questions, turns, at, inputs, shown, self.judged[len(self.judged) - len(questions) :])

    def places(self, own: np.ndarray, large: np.ndarray, mask: np.ndarray, inside: np.ndarray) -> dict[str, float]:
        """The figures that need no further answer of the model; `own` is the map as it is, `large` as [U,U]."""
        return {
            "pointing": pointing.pointing(large, mask, inside, self.tolerance),
            "energy": pointing.energy(own, mask, self.model.fusion.grid),
            "iou": pointing.overlap(large, mask, inside),
        }

    def curves(
        self,
        questions: list[MapQuestion],
        turns: list[list[Turn]],
        at: list[int],
        inputs: Inputs,
        shown: list[dict[str, np.ndarray]],
        judged: list[Judged],
    ) -> None:
        """Deletion and insertion of the first lesion of each photograph, until there are enough."""
        first: dict[int, int] = {}
        for n, q in enumerate(questions):
            if q.name in SMALL_LESIONS and not any(
                j.row == q.row and "deletion" in j.values["random"] for j in self.judged
            ):
                first.setdefault(q.row, n)
        chosen = list(first.values())[: self.left]
        if not chosen:
            return
        self.left -= len(chosen)

        def rng(n: int) -> np.random.Generator:
            return np.random.default_rng([self.seed, questions[n].row])

        names = ("pixel_values", "unet_pixels", "field", "tiles", "aspect_ratio_ids", "aspect_ratio_mask")
        whole = Inputs({k: inputs[k] for k in names if k in inputs}).select([at[n] for n in chosen])
        soft = blurred(whole)
        answer = pointing.answer_probability(
            self.model, [turns[n] for n in chosen], [questions[n].candidates for n in chosen]
        )
        ends = answer(whole), answer(soft)
        inside = inputs["field"][:, 0].cpu().numpy()
        for name in (*MAPS, *REFERENCES):
            order = np.stack([pointing.ranks(shown[n][name], inside[at[n]], rng(n)) for n in chosen])
            ordered = torch.from_numpy(order).to(whole["field"].device)
            deleted = pointing.area(pointing.curve(answer, whole, soft, ordered, ends=ends))
            inserted = pointing.area(pointing.curve(answer, soft, whole, ordered, ends=ends[::-1]))
            for n, d, i in zip(chosen, deleted, inserted, strict=True):
                judged[n].values[name] |= {"deletion": float(d), "insertion": float(i)}

    def metrics(self) -> dict:
        """`maps`: `tolerance` (share of the side) and for `lesions`, `disc` and `vessel`, as far as they were drawn:
        `n` questions, and by map each of FIGURES with its 95 % interval, patients drawn; `gain_over_random`: pointing
        of attention less that of a random map, on the same resamples. `by_lesion`: pointing of attention for each
        kind. Raises UserError where no mask was drawn.
        """
        if not self.judged:
            raise UserError(
                "task maps: no photograph has a mask of a lesion, disc or vessels that the checkpoint draws"
            )
        groups = patient_groups(self.records)
        metrics: dict = {"tolerance": self.tolerance, "shares": list(pointing.SHARES)}
        kinds = {"lesions": SMALL_LESIONS, "disc": (DISC,), "vessel": (VESSEL,)}
        for kind, names in kinds.items():
            mine = [j for j in self.judged if j.name in names]
            if mine:
                metrics[kind] = self.table(mine, groups)
        lesions = {name: [j for j in self.judged if j.name == name] for name in SMALL_LESIONS}
        metrics["by_lesion"] = {}
        for name, mine in lesions.items():
            if mine:
                metrics["by_lesion"][name] = {"n": len(mine)}
                weights = resample([groups[j.row] for j in mine], resamples=self.resamples, seed=self.seed)
                put(
                    metrics["by_lesion"][name],
                    "pointing",
                    weighted_mean(column(mine, "attention", "pointing")),
                    weights,
                )
        return {"maps": metrics}

    def table(self, mine: list[Judged], groups: Sequence[str]) -> dict:
        """The figures of some questions, by map."""
        weights = resample([groups[j.row] for j in mine], resamples=self.resamples, seed=self.seed)
        found: dict = {"n": len(mine), "photographs": len({j.row for j in mine})}
        for name in mine[0].values:
            found[name] = {}
            for figure in FIGURES:
                values = column(mine, name, figure)
                if not np.isnan(values).all():
                    put(found[name], figure, weighted_mean(values), weights)
        gain = column(mine, "attention", "pointing") - column(mine, "random", "pointing")
        put(found, "gain_over_random", weighted_mean(gain), weights)
        return found

    def line(self, row: int) -> dict:
        """What predictions.jsonl says of a photograph: of each mask whether attention and gradient pointed at it."""
        mine = [j for j in self.judged if j.row == row]
        return {"maps": {j.name: {m: round(j.values[m]["pointing"], 3) for m in MAPS} for j in mine}} if mine else {}


def column(judged: Sequence[Judged], name: str, figure: str) -> np.ndarray:
    """float [Q] of one figure of one map, NaN where it was not measured."""
    return np.array([j.values[name].get(figure, np.nan) for j in judged], dtype=float)


def centred(inside: np.ndarray) -> np.ndarray:
    """A Gaussian float [U,U] in the middle of the field, half its radius wide."""
    rows, columns = np.nonzero(inside) if inside.any() else np.nonzero(np.ones_like(inside))
    y, x = np.indices(inside.shape)
    width = np.sqrt(len(rows) / np.pi) / 2
    return np.exp(-((y - rows.mean()) ** 2 + (x - columns.mean()) ** 2) / (2 * width**2))


def faithfulness_metrics(
    model: Any,
    records: Sequence[FundusRecord],
    manifest: Manifest,
    *,
    batch_size: int = 16,
    curves: int = CURVES,
    tolerance: float = pointing.TOLERANCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """The figures of the maps on these photographs, a pass of its own."""
    task = Faithfulness(model, records, curves=curves, tolerance=tolerance, resamples=resamples, seed=seed)
    progress = Progress("maps", len(records))
    for rows in batches(len(records), batch_size):
        inputs, masks = load_inputs(model, [records[i] for i in rows], manifest, model.config.masks)
        task.see(rows, inputs, masks)
        progress.step(len(rows))
    return task.metrics()["maps"]
