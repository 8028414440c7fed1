"""What an evaluation leaves behind, of a model whose skill is known."""

import json
from pathlib import Path

import numpy as np

from mdf.evaluation.bootstrap import line_groups
from mdf.evaluation.classification import classification_metrics, softmax

CLASSES = ("normal", "amd", "glaucoma")


def write_evaluation(folder: Path, *, skill: float, sharp: float = 1, count: int = 240, seed: int = 0) -> Path:
    """metrics.json and predictions.jsonl of `count` photographs, two a patient; the same ones and the same noise for
    every `skill`, which is how far the true diagnosis stands out; `sharp` makes all of it surer.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.integers(3, size=count)
    probabilities = softmax(sharp * (skill * np.eye(3)[numbers] + rng.normal(size=(count, 3))))
    ids, patients = [f"p{i}" for i in range(count)], [str(i // 2) for i in range(count)]
    groups = line_groups([{"id": i, "patient": p} for i, p in zip(ids, patients, strict=True)])
    truth = [(CLASSES[n],) for n in numbers]
    metrics = {
        "n": count,
        "checkpoint": folder.name,
        "data_sha256": "same",
        "ids_sha256": "same",
        "classification": classification_metrics(truth, probabilities, CLASSES, groups),
    }
    lines = [
        {
            "id": ids[i],
            "patient": patients[i],
            "truth": list(truth[i]),
            "probabilities": {c: float(p) for c, p in zip(CLASSES, probabilities[i], strict=True)},
        }
        for i in range(count)
    ]
    lines.append({"id": "no diagnosis", "patient": "x", "truth": []})
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
