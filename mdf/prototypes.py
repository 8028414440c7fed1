"""Classes as texts: what a photograph is compared with in zero-shot screening, and which class it truly has.

A class is a few texts (prompts/zero_shot.yaml) and their embeddings' mean direction, its prototype. A photograph may
have several true diagnoses; a prediction is right when it is one of them.

Shapes: N photographs, C classes, E embedding width.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mdf.dialogue import Prompts
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import ancestors, describe, display

FILE = "zero_shot.yaml"
FIELDS = {"templates": "{label}", "described": "{description}"}


def read_templates(prompts: Prompts) -> dict[str, list[str]]:
    """The lists `templates` and `described` of prompts/zero_shot.yaml. Raises UserError for another shape."""
    spec = prompts.read(FILE)
    for key, field in FIELDS.items():
        lines = spec.get(key) if isinstance(spec, dict) else None
        if not isinstance(lines, list) or not lines or not all(isinstance(t, str) and field in t for t in lines):
            raise UserError(f"{prompts.folder / FILE}: {key} must be a list of texts that each hold {field}")
        try:
            [line.format(label="", description="") for line in lines]
        except (KeyError, IndexError, ValueError):
            raise UserError(
                f"{prompts.folder / FILE}: {key}: in braces only {{label}} and {{description}} are known"
            ) from None
    return spec


def class_texts(prompts: Prompts, classes: Sequence[str], variant: str) -> dict[str, list[str]]:
    """The texts of each class: the templates with its name, and for `described` those with its description as well."""
    spec = read_templates(prompts)
    templates = spec["templates"] + (spec["described"] if variant == "described" else [])
    return {name: [t.format(label=display(name), description=describe(name)) for t in templates] for name in classes}


def class_embeddings(texts: Mapping[str, Sequence[str]], embed: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
    """float [C,E] unit vectors: the mean of each class's text embeddings, made a unit vector again (Radford et al.
    2021, section 3.1.4). `embed` makes unit vectors [·,E] of texts.
    """
    flat = [text for lines in texts.values() for text in lines]
    embeds = embed(flat)
    ends = np.cumsum([len(lines) for lines in texts.values()])
    means = np.stack([part.mean(axis=0) for part in np.split(embeds, ends[:-1])])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def to_candidate(name: str, diagnoses: Sequence[str]) -> str | None:
    """The nearest of `name` and its ancestors that is a candidate diagnosis, or None."""
    return next((n for n in (name, *ancestors(name)) if n in diagnoses), None)


def truths(records: Sequence[FundusRecord], diagnoses: Sequence[str]) -> list[tuple[str, ...]]:
    """The true diagnoses of each photograph as candidates (mild NPDR as diabetic retinopathy), () where unknown."""
    found = []
    for record in records:
        names = [to_candidate(name, diagnoses) for name in record.diagnosis or ()]
        found.append(tuple(dict.fromkeys(n for n in names if n is not None)))
    return found


def truth_table(truth: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """bool [N, C]: which candidate diagnoses are true of each photograph."""
    return np.array([[name in set(names) for name in classes] for names in truth], dtype=bool).reshape(
        len(truth), len(classes)
    )


def single_truth(truth: Sequence[Sequence[str]], predicted: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """int [N]: the class each photograph is counted under: the predicted one where it is true, else the first true."""
    table = truth_table(truth, classes)
    if not table.any(axis=1).all():
        raise ValueError("a photograph has no true diagnosis among the candidates")
    first = np.array([next(classes.index(n) for n in names if n in classes) for names in truth], dtype=int)
    return np.where(table[np.arange(len(predicted)), predicted], predicted, first)


def mean_recall(truth: Sequence[Sequence[str]], predicted: np.ndarray, classes: Sequence[str]) -> float:
    """Balanced accuracy of class numbers int [N]: the mean recall of the classes that are there."""
    counted = single_truth(truth, predicted, classes)
    return float(np.mean([(predicted[counted == c] == c).mean() for c in np.unique(counted)]))
