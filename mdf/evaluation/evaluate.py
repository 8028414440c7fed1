"""The written evaluation: one pass over the photographs for all tasks, then metrics.json and predictions.jsonl."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdf import __version__
from mdf.captions import can_be_aligned
from mdf.errors import UserError
from mdf.evaluation import spatial
from mdf.evaluation.cases import MAIN, choose, read_answers
from mdf.evaluation.classification import refuse_too_few
from mdf.evaluation.controls import Controls
from mdf.evaluation.counterfactual import Counterfactual
from mdf.evaluation.diagnosis import Diagnosis
from mdf.evaluation.embedding_tasks import EmbeddingTasks, Settings, plan
from mdf.evaluation.faithfulness import Faithfulness
from mdf.evaluation.generation import Generation
from mdf.evaluation.masks import Masks
from mdf.evaluation.operating_point import OperatingPoint
from mdf.evaluation.overlap import STAMP
from mdf.evaluation.page import write_page
from mdf.evaluation.photographs import Progress, batches, load_images, load_inputs
from mdf.evaluation.reports import Reports
from mdf.evaluation.small_lesions import SmallLesions
from mdf.evaluation.task import Material, Task
from mdf.evaluation.tasks import ASKED_FOR, DEFAULT_TASKS, EMBEDDING_TASKS, GENERATED, check_tasks
from mdf.evaluation.transfer import LEARNT, common_classes, learnt_records, refuse_shared, refuse_torn_patients
from mdf.files import finite, write_json, write_text
from mdf.imaging.decode import load_image
from mdf.imaging.quality import assess
from mdf.records import SPLITS, FundusRecord, Manifest
from mdf.released_prompts import Protocol, protocols


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
    fellow: bool = False,
    learn_from: Manifest | None = None,
    protocol: Protocol | None = None,
    definitions: Mapping[str, Sequence[str]] | None = None,
    batch_size: int = 32,
    generated: int = GENERATED,
    checkpoint: str = "",
    point: OperatingPoint | None = None,
    overlap: Mapping[str, Sequence[str]] | None = None,
    draw_map: Callable[[np.ndarray, str], np.ndarray] | None = None,
    photographs: bool = True,
    date: str = "",
    seed: int = 0,
    resamples: int = 1000,
) -> dict:
    """Evaluate `model` on `records`; write OUT/metrics.json, predictions.jsonl and index.html and return the metrics.

    `classes`, `folds`, `features` and `fellow` are for the embedding tasks, see `embedding_tasks.Settings`; for those
    an `Embedder` does as `model`. `learn_from` is another manifest than `manifest`, whose train and val splits a probe
    and few shots learn from; the classes are then those that both know, unless `classes` names others. `protocol` and
    `definitions` are a released CLIP's, see `mdf.evaluation.released`; None = of the encoder's own. At most `generated`
    photographs are put into words (0 = all). `point` is the checkpoint's operating point, where one was fitted.
    `overlap` is what `find_overlap` found and was allowed; it is stamped. `draw_map` makes of a photograph uint8
    [H,W,3] and a diagnosis a picture of where the model looked, for the cases that the page shows; without
    `photographs` it shows none. `date` stands on it.

    Diagnosis, generate and controls use the photographs with a true diagnosis among the model's candidates, the others
    are counted aloud; a task that the records know nothing about is left out, said aloud. Raises UserError where
    nothing is left.
    """
    check_tasks(tasks)
    if not records:
        raise UserError("no photograph to evaluate: the split is empty; try --split all")
    model.eval()
    material = Material.of(model, records, manifest, batch_size, resamples, seed, point)
    if learn_from is not None:
        learnt = learnt_records(learn_from)
        refuse_shared(records, manifest, learnt, learn_from)
        classes = classes or common_classes(records, learnt, material.classes)
    elif set(tasks) & set(ASKED_FOR) and not folds:
        read = LEARNT if "probe" in tasks else ("train",)
        if any(r.split in read for r in records):
            raise UserError(
                "probe and few_shot learn from the train split, and a probe chooses its regularisation on val; they "
                "cannot be judged there: use --split test, or --tasks probe --folds 5, or another manifest with "
                "--learn-from"
            )
        refuse_torn_patients(records, [r for r in manifest.records if r.split in read])
    whose = "the manifest's" if learn_from is None else "--learn-from's"
    if "zero_shot" in tasks:
        protocol = protocol or protocols().get(model.encoder.architecture.get("release"))
    if definitions is not None and (protocol is None or not protocol.definitions):
        raise UserError("--definitions goes with the task zero_shot and the prompts of a release that has some (flair)")
    settings = Settings(
        tuple(classes), folds, whose, features, fellow, batch_size, protocol, definitions, material.options
    )
    doing = make_tasks(material, tasks, settings, learn_from or manifest, generated)

    masked = model.config.masks if any(isinstance(task, Masks | Faithfulness) for task in doing) else ()
    looks = any(task.looks for task in doing)
    assessed = "diagnosis" in tasks and bool(material.judged)
    progress = Progress("photographs", len(records))
    with torch.inference_mode():
        for rows in batches(len(records), batch_size):
            part = material.records[rows.start : rows.stop]
            images = load_images(part, manifest)
            if assessed:
                material.gradable.extend(assess(image).gradable for image in images)
            inputs, masks = load_inputs(model, part, manifest, masked, images)
            inputs = model.look(inputs) if looks else inputs
            for task in doing:
                task.see(rows, inputs, masks)
            progress.step(len(rows))
    metrics: dict = {
        "n": len(records),
        "checkpoint": checkpoint,
        "dataset": manifest.meta.get("dataset"),
        "splits": [s for s in SPLITS if any(r.split == s for r in records)],
        "data_sha256": manifest.sha256,
        "version": __version__,
        "seed": seed,
        "resamples": resamples,
        **({"date": date} if date else {}),
        "ids_sha256": hashlib.sha256("\n".join(sorted(r.id for r in records)).encode()).hexdigest(),
    }
    if overlap:
        metrics["overlap"] = {name: len(ids) for name, ids in overlap.items()}
    if learn_from is not None:
        metrics["learnt_from"] = {"dataset": learn_from.meta.get("dataset"), "data_sha256": learn_from.sha256}
    asked = [task for task in doing if not (isinstance(task, Diagnosis) and "diagnosis" not in tasks)]
    for task in asked:
        metrics |= task.metrics()
    out = Path(out)
    for task in doing:
        if isinstance(task, Counterfactual):
            pairs = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in task.asked.lines())
            write_text(out / "counterfactuals.jsonl", pairs)
    lines = []
    for i, record in enumerate(material.records):
        line: dict = {"id": record.id, "patient": record.patient, "source": record.source}
        line["truth"] = list(material.truth[i])
        for task in doing:
            line |= task.line(i)
        lines.append(line)
    write_text(out / "predictions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    metrics = finite(metrics)
    write_json(out / "metrics.json", metrics)
    maps = maps_of(material, lines, draw_map) if draw_map and photographs else None
    embeddings = next((np.stack(task.embeds) for task in doing if isinstance(task, EmbeddingTasks)), None)
    stamps = [STAMP] if overlap else []
    write_page(
        out,
        metrics,
        lines,
        material.records,
        manifest,
        embeddings=embeddings,
        maps=maps,
        stamps=stamps,
        photographs=photographs,
    )
    return metrics


def maps_of(
    material: Material, lines: Sequence[dict], draw_map: Callable[[np.ndarray, str], np.ndarray]
) -> dict[str, np.ndarray]:
    """Where the model looked, of the cases that the page shows."""
    rows = {i for kind in choose(lines, read_answers(lines).get(MAIN)).values() for i in kind}
    return {
        lines[i]["id"]: draw_map(load_image(material.manifest.path(material.records[i].image)), lines[i]["predicted"])
        for i in sorted(rows)
        if "predicted" in lines[i]
    }


def make_tasks(
    material: Material, tasks: Sequence[str], settings: Settings, learnt: Manifest, generated: int
) -> list[Task]:
    """The tasks that the records can answer; what is left out is said. Raises UserError where none is left."""
    m, records = material, material.records
    questions, captioned, judged = [], [], None
    if "spatial" in tasks:
        processor = m.model.processor
        kinds = spatial.kinds_of(processor.questions)
        questions = spatial.spatial_questions(records, processor.prompts, kinds=kinds, seed=m.options["seed"])
    if "retrieval" in tasks:
        captioned = [i for i, r in enumerate(records) if can_be_aligned(r)]
    if set(tasks) & {"zero_shot", *ASKED_FOR}:
        judged = plan(records, m.classes, settings.classes)
    missing = len(records) - len(m.judged)
    if missing and set(tasks) & {"diagnosis", "generate", "controls"}:
        print(f"{missing} of {len(records)} photographs have no diagnosis that the checkpoint knows: not judged on it")
    masked = not set(tasks) & {"masks", "maps"} or any(n in r.masks for r in records for n in m.model.config.masks)
    reasons: dict[str, Any] = {
        "diagnosis": unjudged(m),
        "masks": not masked and "no photograph has one of the checkpoint's masks",
        "retrieval": not captioned and "no photograph has a diagnosis, findings or a text",
        "spatial": not questions and "no photograph has findings",
    }
    reasons["maps"], reasons["controls"] = reasons["masks"], reasons["diagnosis"]
    reasons["reports"] = all(r.findings is None for r in records) and "no photograph has findings"
    told = m.judged or any(can_be_aligned(r) for r in records)
    reasons["generate"] = not told and "no photograph has a diagnosis, findings or a text"
    if judged is not None:
        left = len(records) - len(judged.judged)
        if left:
            print(f"{left} of {len(records)} photographs have none of the classes {', '.join(judged.classes)}")
        none: Any = not judged.judged and "no photograph has one of the classes"
        none = none or (len(judged.classes) < 2 and "there are no two classes; name some with --classes")
        none = none or too_few([judged.truth[i] for i in judged.judged], judged.classes, m.known(judged.judged)[1])
        reasons |= dict.fromkeys(("zero_shot", *ASKED_FOR), none)
    wanted = set(tasks)
    for task in sorted(wanted):
        if reasons.get(task):
            print(f"task {task} left out: {reasons[task]}")
            wanted.discard(task)
    doing: list[Task] = []
    if wanted & {"diagnosis", "controls"}:
        diagnosis = Diagnosis(m)
        doing.append(diagnosis)
        if "controls" in wanted:
            try:
                doing.append(Controls(m, diagnosis))
            except UserError as error:
                if wanted == {"controls"}:
                    raise
                print(f"task controls left out: {error}")
                wanted.discard("controls")
    if "generate" in wanted:
        doing.append(Generation(m, generated))
    if "masks" in wanted:
        doing.append(Masks(m))
    if wanted & set(EMBEDDING_TASKS):
        doing.append(EmbeddingTasks(m, wanted, learnt, judged, captioned, settings))
    if "spatial" in wanted:
        doing.append(SmallLesions(m, questions))
    if "maps" in wanted:
        doing.append(Faithfulness(m.model, records, **m.options))
    if "counterfactual" in wanted:
        doing.append(Counterfactual(m))
    if "reports" in wanted:
        doing.append(Reports(m))
    if not wanted:
        raise UserError(f"none of the tasks {', '.join(tasks)} can be evaluated on these {len(records)} photographs")
    return doing


def unjudged(m: Material) -> str | None:
    """Why the diagnosis cannot be judged on these photographs, None where it can."""
    if not m.judged:
        return "no photograph has a diagnosis that the checkpoint knows"
    truth, groups = m.known(m.judged)
    return too_few(truth, m.classes, groups)


def too_few(truth: Sequence[Sequence[str]], classes: Sequence[str], groups: Sequence[str]) -> str | None:
    """Why classes cannot be told apart on these photographs, None where they can."""
    try:
        refuse_too_few(truth, classes, groups)
    except UserError as error:
        return str(error)
    return None
