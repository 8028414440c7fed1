"""The written evaluation: one pass over the photographs for all tasks, then metrics.json and predictions.jsonl.

Shapes: N photographs, C candidate diagnoses, K masks, U the U-Net's input side, E embedding width.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdf.captions import can_be_aligned
from mdf.dialogue import Turn, diagnosis_answer
from mdf.errors import UserError
from mdf.evaluation import controls, segmentation, spatial
from mdf.evaluation.bootstrap import patient_groups, put, resample, weighted_mean
from mdf.evaluation.classification import classification_metrics, softmax
from mdf.evaluation.embedding_tasks import EmbeddingTasks, Plan, Settings, plan
from mdf.evaluation.parse import parse_diagnoses, parse_eye
from mdf.evaluation.photographs import Progress, batches, embed, load_inputs
from mdf.evaluation.tasks import ASKED_FOR, DEFAULT_TASKS, EMBEDDING_TASKS, check_tasks
from mdf.evaluation.transfer import common_classes, learnt_records, refuse_shared
from mdf.files import write_text
from mdf.processor import Inputs
from mdf.prototypes import truths
from mdf.records import SPLITS, FundusRecord, Manifest

ANSWER_TOKENS = 24  # a generated diagnosis; longer is no diagnosis
REPORT_TOKENS = 120


@dataclass
class Collected:
    """What the pass over the photographs gathers, one entry a photograph."""

    real: list[np.ndarray] = field(default_factory=list)  # [C] probabilities
    blank: list[np.ndarray] = field(default_factory=list)
    shuffled: list[np.ndarray] = field(default_factory=list)
    generated: list[str] = field(default_factory=list)
    report: list[str] = field(default_factory=list)
    dice: list[np.ndarray] = field(default_factory=list)  # [K]
    wrong: list[np.ndarray] = field(default_factory=list)  # [K]
    embeds: list[np.ndarray] = field(default_factory=list)  # [E]
    features: list[np.ndarray] = field(default_factory=list)  # [D] that a probe reads, where they are others
    answers: list[int] = field(default_factory=list)  # one a spatial question, in their order


def draw(records: Sequence[FundusRecord], limit: int, seed: int) -> list[FundusRecord]:
    """At most `limit` records drawn by `seed`, in their order; 0 = all."""
    if not limit or limit >= len(records):
        return list(records)
    return [records[i] for i in sorted(np.random.default_rng(seed).permutation(len(records))[:limit])]


def candidate_probabilities(model: Any, inputs: Inputs, question: str, candidates: Sequence[str]) -> np.ndarray:
    """float [B, C]: softmax over the summed log-likelihoods of the candidate answers to one question."""
    rows = len(inputs["pixel_values"])
    conversation = [model.system_turn(), Turn("user", question)]
    return softmax(np.asarray(model.score(inputs, [conversation] * rows, [list(candidates)] * rows), dtype=float))


def evaluate(
    model: Any,
    records: Sequence[FundusRecord],
    manifest: Manifest,
    out: str | Path,
    *,
    tasks: Sequence[str] = DEFAULT_TASKS,
    classes: Sequence[str] = (),
    folds: int = 0,
    features: str = "embedding",
    learn_from: Manifest | None = None,
    batch_size: int = 32,
    checkpoint: str = "",
    seed: int = 0,
    resamples: int = 1000,
) -> dict:
    """Evaluate `model` on `records`, write OUT/metrics.json and OUT/predictions.jsonl and return the metrics.

    `classes`, `folds` and `features` are for the embedding tasks, see `embedding_tasks.Settings`; for those an
    `Embedder` does as `model`. `learn_from` is another manifest than `manifest`, whose train and val splits a probe and
    few shots learn from; the classes are then those that both know, unless `classes` names others.

    Diagnosis, generate and controls use the photographs with a true diagnosis among the model's candidates, the others
    are counted aloud; a task that the records know nothing about is left out, said aloud. Raises UserError where
    nothing is left.
    """
    records, processor = list(records), model.processor
    check_tasks(tasks)
    if not records:
        raise UserError("no photograph to evaluate: the split is empty; try --split all")
    model.eval()
    groups = patient_groups([r.patient for r in records], [r.id for r in records])
    diagnoses, truth = list(processor.diagnoses), truths(records, processor.diagnoses)
    judged = [i for i, names in enumerate(truth) if names]
    questions = spatial.spatial_questions(records, processor.prompts, seed=seed) if "spatial" in tasks else []
    mask_names = list(model.config.masks) if "masks" in tasks else []
    captioned = [i for i, r in enumerate(records) if can_be_aligned(r)] if "retrieval" in tasks else []
    if learn_from is not None:
        learnt = learnt_records(learn_from)
        refuse_shared(records, manifest, learnt, learn_from)
        classes = classes or common_classes(records, learnt, diagnoses)
    elif set(tasks) & set(ASKED_FOR) and not folds and any(r.split == "train" for r in records):
        raise UserError(
            "probe and few_shot learn from the train split and cannot be judged on it: use --split test, or "
            "--tasks probe --folds 5, or another manifest with --learn-from"
        )
    judged_classes = plan(records, diagnoses, classes) if set(tasks) & {"zero_shot", *ASKED_FOR} else None
    wanted = _possible(tasks, records, truth, questions, mask_names, captioned, judged_classes)

    options: dict = {"resamples": resamples, "seed": seed}
    whose = "the manifest's" if learn_from is None else "--learn-from's"
    settings = Settings(tuple(classes), folds, whose, features, batch_size, options)
    uses = EmbeddingTasks(model, wanted, records, learn_from or manifest, judged_classes, captioned, settings)

    other = _others(judged, groups, seed, wanted) if "controls" in wanted else {}
    found = Collected()
    progress = Progress("photographs", len(records))
    diagnosis_question = processor.prompts.questions["diagnosis"]["ask"][0]
    with torch.inference_mode():
        for rows in batches(len(records), batch_size):
            part = [records[i] for i in rows]
            inputs, masks = load_inputs(model, part, manifest, mask_names if "masks" in wanted else ())
            if wanted & {"diagnosis", "generate", "controls", "spatial"}:
                inputs = model.look(inputs)
            mine = [i for i in rows if truth[i]]
            if mine and wanted & {"diagnosis", "generate", "controls"}:
                candidates = [diagnosis_answer(processor.prompts, (name,)) for name in diagnoses]
                some = inputs.select([i - rows.start for i in mine])
                found.real.extend(candidate_probabilities(model, some, diagnosis_question, candidates))
                if "controls" in wanted:
                    found.blank.extend(candidate_probabilities(model, some.blank(), diagnosis_question, candidates))
                    theirs, _ = load_inputs(model, [records[other[i]] for i in mine], manifest)
                    found.shuffled.extend(candidate_probabilities(model, theirs, diagnosis_question, candidates))
                if "generate" in wanted:
                    _generate(model, some, diagnosis_question, found)
            if "masks" in wanted:
                pairs = segmentation.dice(
                    model.segment(inputs).float().cpu().numpy(),
                    np.stack([m for m, _ in masks]),
                    np.stack([k for _, k in masks]),
                    inputs["field"].cpu().numpy(),
                )
                found.dice.extend(pairs[0])
                found.wrong.extend(pairs[1])
            if wanted & set(EMBEDDING_TASKS):
                found.embeds.extend(embed(model, inputs))
            if "probe" in wanted and features != "embedding":
                found.features.extend(embed(model, inputs, features))
            if "spatial" in wanted:
                _spatial(model, inputs, rows, questions, batch_size, found)
            progress.step(len(rows))
    metrics: dict = {
        "n": len(records),
        "checkpoint": checkpoint,
        "dataset": manifest.meta.get("dataset"),
        "splits": [s for s in SPLITS if any(r.split == s for r in records)],
        "data_sha256": manifest.sha256,
        "ids_sha256": hashlib.sha256("\n".join(sorted(r.id for r in records)).encode()).hexdigest(),
    }
    if judged_classes is not None:
        metrics["classes"] = list(judged_classes.classes)
    if learn_from is not None:
        metrics["learnt_from"] = {"dataset": learn_from.meta.get("dataset"), "data_sha256": learn_from.sha256}
    judged_truth, judged_groups = [truth[i] for i in judged], [groups[i] for i in judged]
    if "diagnosis" in wanted:
        metrics["classification"] = classification_metrics(
            judged_truth, np.stack(found.real), diagnoses, judged_groups, **options
        )
    if "generate" in wanted:
        metrics["generation"] = _generation_metrics(
            found, [records[i].eye for i in judged], judged_truth, diagnoses, judged_groups, options
        )
    if "masks" in wanted:
        if model.config.stale_masks:
            print("the checkpoint's masks are stale: its U-Net's encoder was trained on after the decoder")
        metrics["segmentation"] = segmentation.segmentation_metrics(
            np.stack(found.dice), np.stack(found.wrong), mask_names, groups, **options
        )
    tables: dict[str, np.ndarray] = {}
    if wanted & set(EMBEDDING_TASKS):
        embeds = np.stack(found.embeds)
        read = np.stack(found.features) if found.features else embeds
        parts, tables = uses.metrics(groups, embeds, read)
        metrics |= parts
    if "spatial" in wanted:
        metrics["spatial"] = spatial.spatial_metrics(questions, found.answers, groups, **options)
    if "controls" in wanted:
        pictures = {name: np.stack(getattr(found, name)) for name in ("real", "blank", "shuffled")}
        metrics["controls"] = controls.control_metrics(judged_truth, pictures, diagnoses, judged_groups, **options)
    out = Path(out)
    write_text(
        out / "predictions.jsonl", _predictions(records, judged, truth, diagnoses, found, judged_classes, tables)
    )
    write_text(out / "metrics.json", json.dumps(_finite(metrics), indent=1) + "\n")
    return metrics


def _possible(
    tasks: Sequence[str],
    records: Sequence[FundusRecord],
    truth: Sequence[tuple[str, ...]],
    questions: Sequence[spatial.SpatialQuestion],
    mask_names: Sequence[str],
    captioned: Sequence[int],
    judged: Plan | None,
) -> set[str]:
    """The tasks that the records can answer; what is left out is said."""
    wanted = set(tasks)
    missing = sum(not names for names in truth)
    if missing and wanted & {"diagnosis", "generate", "controls"}:
        print(f"{missing} of {len(truth)} photographs have no diagnosis that the checkpoint knows: not judged on it")
    reasons = {
        "diagnosis": missing == len(truth) and "no photograph has a diagnosis that the checkpoint knows",
        "masks": not any(n in r.masks for r in records for n in mask_names)
        and "no photograph has one of the checkpoint's masks",
        "retrieval": not captioned and "no photograph has a diagnosis, findings or a text",
        "spatial": not questions and "no photograph has findings",
    }
    reasons["generate"] = reasons["controls"] = reasons["diagnosis"]
    if judged is not None:
        left = len(records) - len(judged.judged)
        if left:
            print(f"{left} of {len(records)} photographs have none of the classes {', '.join(judged.classes)}")
        none = not judged.judged and "no photograph has one of the classes"
        none = none or (len(judged.classes) < 2 and "there are no two classes; name some with --classes")
        reasons |= dict.fromkeys(("zero_shot", *ASKED_FOR), none)
    for task in sorted(wanted):
        if reasons.get(task):
            print(f"task {task} left out: {reasons[task]}")
            wanted.discard(task)
    if not wanted:
        raise UserError(f"none of the tasks {', '.join(tasks)} can be evaluated on these {len(records)} photographs")
    return wanted


def _others(judged: Sequence[int], groups: Sequence[str], seed: int, wanted: set[str]) -> dict[int, int]:
    """Row of another patient's photograph for each judged row; without one, `controls` is taken out of `wanted`."""
    try:
        return {
            i: judged[j] for i, j in zip(judged, controls.shuffle([groups[i] for i in judged], seed=seed), strict=True)
        }
    except UserError as error:
        if wanted == {"controls"}:
            raise
        print(f"task controls left out: {error}")
        wanted.discard("controls")
        return {}


def _generate(model: Any, inputs: Inputs, question: str, found: Collected) -> None:
    rows = len(inputs["pixel_values"])
    prompts = model.processor.prompts
    first = [model.system_turn(), Turn("user", question)]
    found.generated += model.generate_answers(inputs, [first] * rows, max_new_tokens=ANSWER_TOKENS)
    report = [model.system_turn(), Turn("user", prompts.questions["report"]["ask"][0])]
    found.report += model.generate_answers(inputs, [report] * rows, max_new_tokens=REPORT_TOKENS)


def _spatial(
    model: Any,
    inputs: Inputs,
    rows: range,
    questions: Sequence[spatial.SpatialQuestion],
    batch_size: int,
    found: Collected,
) -> None:
    mine = [q for q in questions if q.row in rows]
    for part in batches(len(mine), batch_size):
        some = [mine[i] for i in part]
        conversations = [[model.system_turn(), Turn("user", q.question.text)] for q in some]
        candidates = [list(q.question.candidates) for q in some]
        scores = model.score(inputs, conversations, candidates, rows=[q.row - rows.start for q in some])
        found.answers += [int(np.argmax(row)) for row in scores]


def _generation_metrics(
    found: Collected,
    eyes: Sequence[str | None],
    truth: Sequence[tuple[str, ...]],
    classes: Sequence[str],
    groups: Sequence[str],
    options: dict,
) -> dict:
    """`accuracy` of the generated diagnosis (names a true one and no wrong one), `parsed`: share that names any, and
    `report_eye`: share of the reports naming one eye that name the right one (left out where the eyes are not known).
    """
    parsed = [parse_diagnoses(text, classes) for text in found.generated]
    right = [bool(p) and set(p) <= set(t) for p, t in zip(parsed, truth, strict=True)]
    weights = resample(groups, **options)
    metrics: dict = {"n": len(parsed)}
    put(metrics, "accuracy", weighted_mean(np.array(right, dtype=float)), weights)
    put(metrics, "parsed", weighted_mean(np.array([bool(p) for p in parsed], dtype=float)), weights)
    said = [parse_eye(text) for text in found.report]
    sides = np.array([float(s == eye) if s and eye else np.nan for s, eye in zip(said, eyes, strict=True)])
    if not np.isnan(sides).all():
        put(metrics, "report_eye", weighted_mean(sides), weights)
    return metrics


def _predictions(
    records: Sequence[FundusRecord],
    judged: Sequence[int],
    truth: Sequence[tuple[str, ...]],
    classes: Sequence[str],
    found: Collected,
    judged_classes: Plan | None = None,
    tables: Mapping[str, np.ndarray] | None = None,
) -> str:
    """One JSON object a photograph; `tables` [J,C] are of the rows and classes of `judged_classes`."""
    place = {row: k for k, row in enumerate(judged)}
    by_class = {row: k for k, row in enumerate(judged_classes.judged)} if judged_classes else {}
    lines = []
    for i, record in enumerate(records):
        line: dict = {"id": record.id, "patient": record.patient, "truth": list(truth[i])}
        k = place.get(i)
        if k is not None and found.real:
            line["probabilities"] = {name: round(float(p), 6) for name, p in zip(classes, found.real[k], strict=True)}
            line["predicted"] = classes[int(found.real[k].argmax())]
        if k is not None and found.generated:
            line["generated"], line["report"] = found.generated[k], found.report[k]
            line["parsed"] = list(parse_diagnoses(found.generated[k], classes))
        j = by_class.get(i)
        if judged_classes is not None and j is not None and tables:
            line["labels"] = list(judged_classes.truth[i])
            for task, table in tables.items():
                line[task] = {n: round(float(p), 6) for n, p in zip(judged_classes.classes, table[j], strict=True)}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
