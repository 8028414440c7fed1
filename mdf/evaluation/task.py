"""What an evaluation is made of: the material, gathered once, and the tasks that see it batch by batch.

Shapes: N photographs, C candidate diagnoses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from mdf.evaluation.bootstrap import patient_groups
from mdf.evaluation.operating_point import OperatingPoint
from mdf.processor import Inputs
from mdf.prototypes import truths
from mdf.records import FundusRecord, Manifest

T = TypeVar("T")


def draw(items: Sequence[T], limit: int, seed: int) -> list[T]:
    """At most `limit` of the items, drawn by the seed, in their order; 0 = all."""
    if not limit or limit >= len(items):
        return list(items)
    return [items[i] for i in sorted(np.random.default_rng(seed).permutation(len(items))[:limit])]


@dataclass(frozen=True)
class Material:
    """The photographs of one evaluation and what is known of them."""

    model: Any
    records: list[FundusRecord]  # N
    manifest: Manifest
    groups: list[str]  # [N], the patient of each
    classes: list[str]  # C, the model's candidate diagnoses
    truth: list[tuple[str, ...]]  # [N], some of `classes`; () where none is known
    judged: list[int]  # rows with one
    batch_size: int
    options: dict  # of the bootstrap: resamples, seed
    point: OperatingPoint | None = None  # of the checkpoint, where one was fitted
    gradable: list[str] = field(default_factory=list)  # [N] good, barely or not; empty until the photographs were seen

    @classmethod
    def of(
        cls,
        model: Any,
        records: Sequence[FundusRecord],
        manifest: Manifest,
        batch_size: int,
        resamples: int,
        seed: int,
        point: OperatingPoint | None = None,
    ) -> "Material":
        """Raises nothing: what is missing is for the tasks to refuse."""
        classes = list(model.processor.diagnoses)
        truth = truths(records, classes)
        return cls(
            model,
            list(records),
            manifest,
            patient_groups(records),
            classes,
            truth,
            [i for i, names in enumerate(truth) if names],
            batch_size,
            {"resamples": resamples, "seed": seed},
            point,
        )

    def known(self, rows: Sequence[int]) -> tuple[list[tuple[str, ...]], list[str]]:
        """Truth and patients of some rows."""
        return [self.truth[i] for i in rows], [self.groups[i] for i in rows]


class Task(Protocol):
    """One task: it sees every batch once, then says its figures and what belongs to a photograph's line."""

    looks: bool  # whether it asks the language model, which then sees the photographs of a batch once for all tasks

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        """The photographs `rows`; `masks` as from `load_inputs`."""

    def metrics(self) -> dict:
        """{section: figures}, see docs/results.md's contract: scalars, each with its `NAME_ci`."""

    def line(self, row: int) -> dict:
        """What predictions.jsonl holds of this task about photograph `row`."""
