"""Two baselines for every data set: a linear probe on a frozen encoder, and the same encoder plainly fine-tuned.

Both learn from the train split, choose on val and are judged on test, once: what they found is kept in the user's
cache under a hash of the data, the splits, the settings and the version of this code.

Shapes: N photographs of the test split, C classes.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from mdf import __version__
from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, patient_groups
from mdf.evaluation.classification import classification_metrics
from mdf.evaluation.embedding_tasks import EmbeddingTasks, Plan, Settings, plan
from mdf.evaluation.fine_tuned import FineTuning, Labelled, Photographs, Recipe, probabilities
from mdf.evaluation.photographs import embed_records
from mdf.evaluation.task import Material
from mdf.evaluation.transfer import refuse_torn_patients
from mdf.files import write_json, write_text
from mdf.models.embedder import Embedder
from mdf.prototypes import truths
from mdf.records import SPLITS, FundusRecord, Manifest
from mdf.resources import cache_dir
from mdf.training.data import diagnoses_of
from mdf.training.devices import choose_threads
from mdf.training.saving import write_folder

VERSION = 2  # raised when the same data and settings give other answers
KINDS = ("probe", "cnn")  # folders below DIR; the answers of both stand under "probe", so that they can be paired


def baseline(
    model: Embedder,
    manifest: Manifest,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    classes: Sequence[str] = (),
    name: str = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict]:
    """Train and judge both baselines; writes OUT/probe and OUT/cnn, each with metrics.json and predictions.jsonl as
    `evaluate` writes them for the task probe, the CNN's with model.safetensors and history.json. Returns the metrics.

    `classes` default to the diagnoses of the train split and those of the test split besides. `name` says in
    metrics.json what was trained. A second call answers from the cache; an interrupted one goes on after the last whole
    epoch. Raises UserError where a split is empty or a patient stands in test and in another one.
    """
    recipe = recipe or Recipe()
    recipe.check()
    judged_records, learnt = manifest.split("test"), manifest.split("train") + manifest.split("val")
    if not judged_records:
        raise UserError(
            "a baseline is judged on the test split, and the manifest has none; `prepare.py split` makes it"
        )
    refuse_torn_patients(judged_records, learnt)
    judged = plan(judged_records, diagnoses_of({"": manifest}), classes)
    if not judged.judged:
        raise UserError(f"no photograph of the test split has one of the classes {', '.join(judged.classes)}")
    key = cache_key(model, manifest, judged, recipe, (resamples, seed))
    folder = cache_dir() / "baselines" / key
    folder.mkdir(parents=True, exist_ok=True)
    with waiting_for(folder.with_suffix(".lock")):
        if all((folder / kind / "metrics.json").is_file() for kind in KINDS):
            print(f"baselines of these photographs and settings are in the cache: {folder}")
        else:
            options: dict[str, Any] = {"resamples": resamples, "seed": seed}
            train_both(model, manifest, judged, judged_records, recipe, folder, name, options)
        for kind in KINDS:
            write_folder(Path(out) / kind, lambda draft, kind=kind: copy(folder / kind, draft))  # type: ignore[misc]
    return {kind: json.loads((Path(out) / kind / "metrics.json").read_text(encoding="utf-8")) for kind in KINDS}


def cache_key(model: Embedder, manifest: Manifest, judged: Plan, recipe: Recipe, options: tuple[int, int]) -> str:
    """Hash of everything that the answers depend on but the machine."""
    ids = {split: [r.id for r in manifest.split(split)] for split in SPLITS}
    parts = [VERSION, __version__, manifest.sha256, ids, judged.classes, asdict(recipe), model.hash(), options]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def waiting_for(path: Path) -> Any:
    """The lock `path`, held; says so where another process holds it."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"another process trains these baselines; waiting for it ({path})", file=sys.stderr, flush=True)
        return lock.acquire()


def copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def train_both(
    model: Embedder,
    manifest: Manifest,
    judged: Plan,
    records: Sequence[FundusRecord],
    recipe: Recipe,
    folder: Path,
    name: str,
    options: dict[str, Any],
) -> None:
    """Fill `folder`/probe and `folder`/cnn; arguments as `baseline` made them, `records` are the test split's."""
    if threads := choose_threads(0, 1):
        torch.set_num_threads(threads)
    rows = judged.judged
    groups = patient_groups(records)
    truth, who = [judged.truth[i] for i in rows], [groups[i] for i in rows]
    settings = Settings(judged.classes, 0, "the manifest's", "pooled", options=options)
    material = Material.of(model, records, manifest, settings.batch_size, **options)
    tasks = EmbeddingTasks(material, {"probe"}, manifest, judged, (), settings)
    if not (folder / "probe" / "metrics.json").is_file():
        some = [records[i] for i in rows]
        features = embed_records(model, some, manifest, features="pooled", name="photographs to judge")
        part, table = tasks.probe(truth, who, features)
        write(folder / "probe", manifest, judged, records, table, part, f"{name}, frozen, linear probe")
    splits = {}
    for split in ("train", "val"):
        own = manifest.split(split)
        known = [(r, names) for r, names in zip(own, truths(own, judged.classes), strict=True) if names]
        splits[split] = Labelled([r for r, _ in known], [names for _, names in known])
    photographs = Photographs(model.processor.preprocessing, manifest)
    training = FineTuning(
        model.encoder, photographs, splits["train"], splits["val"], judged.classes, recipe, folder / "last"
    )
    cnn = training.fit()
    once = Photographs(model.processor.preprocessing, manifest, limit=0)
    table = probabilities(cnn, once, [records[i] for i in rows], training.precision, "photographs to judge")
    part = {
        "features": "fine-tuned",
        "classes": len(judged.classes),
        "chance": 1 / len(judged.classes),
        "train": len(splits["train"].records),
        "val": len(splits["val"].records),
        "epoch": training.best["epoch"],
        "epochs": recipe.epochs,
        "precision": training.precision,
        "unlearnt": tasks.unlearnt,
        **classification_metrics(truth, table, judged.classes, who, **options),
    }

    def extra(draft: Path) -> None:
        from safetensors.torch import save_file

        save_file({n: t.contiguous() for n, t in cnn.tensors().items()}, draft / "model.safetensors")
        kept: dict[str, Any] = {"recipe": asdict(recipe), "preprocessing": model.processor.preprocessing.to_dict()}
        kept |= {"classes": list(judged.classes), "epochs": training.history}
        write_text(draft / "history.json", json.dumps(kept, indent=1) + "\n")

    write(folder / "cnn", manifest, judged, records, table, part, f"{name}, fine-tuned whole", extra)
    shutil.rmtree(folder / "last", ignore_errors=True)


def write(
    folder: Path,
    manifest: Manifest,
    judged: Plan,
    records: Sequence[FundusRecord],
    table: np.ndarray,
    part: dict,
    name: str,
    extra: Any = None,
) -> None:
    """metrics.json and predictions.jsonl of a baseline, and what `extra` adds, whole or not at all."""
    metrics = {
        "n": len(records),
        "checkpoint": name,
        "dataset": manifest.meta.get("dataset"),
        "splits": ["test"],
        "data_sha256": manifest.sha256,
        "ids_sha256": hashlib.sha256("\n".join(sorted(r.id for r in records)).encode()).hexdigest(),
        "classes": list(judged.classes),
        "probe": part,
    }
    place = {row: k for k, row in enumerate(judged.judged)}
    lines = []
    for i, record in enumerate(records):
        line: dict = {"id": record.id, "patient": record.patient, "source": record.source}
        line["truth"] = list(judged.truth[i])
        if (k := place.get(i)) is not None:
            line["labels"] = list(judged.truth[i])
            line["probe"] = {n: float(p) for n, p in zip(judged.classes, table[k], strict=True)}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")

    def fill(draft: Path) -> None:
        write_text(draft / "predictions.jsonl", "".join(lines))
        if extra:
            extra(draft)
        write_json(draft / "metrics.json", metrics)

    write_folder(folder, fill)
