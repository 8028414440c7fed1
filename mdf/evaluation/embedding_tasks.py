"""The tasks that read embeddings: zero_shot, probe, few_shot and retrieval, from one pass over the photographs.

Shapes: N photographs, J of them with a class, C classes, E embedding width, D width of the probe's features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdf.captions import caption, tell_cut
from mdf.errors import UserError
from mdf.evaluation import few_shot, probe, retrieval, zero_shot
from mdf.evaluation.classification import classification_metrics
from mdf.evaluation.fellow import beside_fellow, fellows, other_eyes
from mdf.evaluation.photographs import embed, embed_both, embed_records, embed_texts
from mdf.evaluation.released import Released
from mdf.evaluation.task import Material
from mdf.processor import Inputs
from mdf.prototypes import class_embeddings, class_texts, truths
from mdf.records import FundusRecord, Manifest
from mdf.released_prompts import Protocol


@dataclass(frozen=True)
class Plan:
    """What is judged: the classes, and the photographs that have one."""

    classes: tuple[str, ...]
    unseen: tuple[str, ...]  # of the classes: not among the checkpoint's candidates
    truth: list[tuple[str, ...]]  # [N], () where no class is true
    judged: list[int]  # rows with one


@dataclass(frozen=True)
class Settings:
    """How the embeddings are used."""

    classes: tuple[str, ...] = ()  # () = the checkpoint's candidates and what the records have besides
    folds: int = 0  # of the probe; 0 = trained on the train split of `whose`
    whose: str = "the manifest's"  # splits are learnt from, for messages
    features: str = "embedding"  # what the probe reads, see photographs.embed
    fellow: bool = False  # it reads those of the patient's other eye as well
    batch_size: int = 32
    protocol: Protocol | None = None  # of a released CLIP, whose zero-shot is run as well
    definitions: Mapping[str, Sequence[str]] | None = None  # of its classes; None = the vocabulary's
    options: dict = field(default_factory=dict)  # of the bootstrap: resamples, seed


def plan(records: Sequence[FundusRecord], candidates: Sequence[str], asked: Sequence[str] = ()) -> Plan:
    """The classes and which photographs have them. Raises UserError, see `zero_shot.classes_of`."""
    classes = zero_shot.classes_of(records, candidates, asked)
    truth = truths(records, classes)
    unseen = tuple(name for name in classes if name not in candidates)
    return Plan(classes, unseen, truth, [i for i, names in enumerate(truth) if names])


class EmbeddingTasks:
    """The `wanted` embedding tasks; `manifest` is the one whose splits are learnt from.

    Everything that could be missing is read at once: the classes' texts are embedded and the photographs that a probe
    and few shots learn from, so that a long evaluation does not end in an error. Raises UserError for what is missing.
    """

    looks = False

    def __init__(
        self,
        material: Material,
        wanted: set[str],
        manifest: Manifest,
        judged: Plan | None,
        captioned: Sequence[int],
        settings: Settings,
    ):
        self.material, self.model, self.wanted, self.settings = material, material.model, wanted, settings
        self.records, self.judged, self.captioned = material.records, judged, captioned
        self.place = {row: k for k, row in enumerate(judged.judged)} if judged else {}
        self.embeds: list[np.ndarray] = []  # [E] a photograph
        self.features: list[np.ndarray] = []  # [D] that a probe reads, where they are others
        self.tables: dict[str, np.ndarray] = {}  # task -> probabilities [J,C]
        self.texts: dict[str, dict[str, list[str]]] = {}
        self.prototypes: dict[str, np.ndarray] = {}  # [C,E] of each variant
        # (split, features, whether beside the other eye's) -> features and truth
        self.learnt: dict[tuple[str, str, bool], tuple[np.ndarray, list[tuple[str, ...]]]] = {}
        self.others: list[FundusRecord] = []  # other eyes of the photographs, which were drawn without them
        self.beside = np.zeros((0, 0))  # [others,D], what a probe reads of them
        self.unlearnt: list[str] = []  # classes without a photograph to learn from
        if judged is None:
            return
        model = material.model
        if wanted & {"zero_shot", "few_shot"}:
            for variant in zero_shot.VARIANTS:
                texts = class_texts(model.processor.prompts, judged.classes, variant)
                self.texts[variant] = texts
                self.prototypes[variant] = class_embeddings(texts, lambda lines: embed_texts(model, lines))
        self.released: Released | None = None
        if "zero_shot" in wanted and settings.protocol is not None:
            lines = settings.protocol.texts(judged.classes, settings.definitions)
            self.released = Released(model, settings.protocol, lines)
        self.folds: list[tuple[np.ndarray, ...]] = []  # rows of the judged photographs that train, validate, are judged
        if settings.folds:
            some, true = [self.records[i] for i in judged.judged], [judged.truth[i] for i in judged.judged]
            seed = settings.options.get("seed", 0)
            self.folds = probe.rows_of_folds(some, true, judged.classes, folds=settings.folds, seed=seed)
        needed = [("train", "embedding", False)] if "few_shot" in wanted else []
        if "probe" in wanted and not settings.folds:
            needed += [(split, settings.features, settings.fellow) for split in ("train", "val")]
        for key in dict.fromkeys(needed):
            self.learnt[key] = split_features(model, manifest, judged, settings, *key)
        if "probe" in wanted and settings.fellow:
            splits = {r.split for r in self.records}
            pool = [r for r in material.manifest.records if r.split in splits]
            self.others = other_eyes(self.records, pool)
        if self.others:
            self.beside = embed_records(
                model, self.others, material.manifest,
                batch_size=settings.batch_size, features=settings.features, name="other eyes",
            )  # fmt: skip
        seen = {
            name for (split, _, _), (_, truth) in self.learnt.items() if split == "train" for n in truth for name in n
        }
        self.unlearnt = [name for name in judged.classes if name not in seen] if self.learnt else []
        if self.unlearnt:
            print(
                f"{settings.whose} train split has no photograph of {', '.join(self.unlearnt)}: told apart all the "
                "same, but a probe cannot name them and few shots know their text alone"
            )

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        if "probe" in self.wanted and self.settings.features != "embedding":
            embeds, features = embed_both(self.model, inputs, self.settings.features)
            self.features.extend(features)
        else:
            embeds = embed(self.model, inputs)
        self.embeds.extend(embeds)

    def metrics(self) -> dict:
        """{task: its metrics}, and `classes`, what the photographs were told apart as."""
        embeds, groups = np.stack(self.embeds), self.material.groups
        metrics: dict = {}
        if "retrieval" in self.wanted:
            metrics["retrieval"] = captions_and_photographs(
                self.model, self.records, groups, embeds, self.captioned, self.settings
            )
        if self.judged is None:
            return metrics
        rows, classes, options = self.judged.judged, self.judged.classes, self.settings.options
        metrics["classes"] = list(classes)
        truth, who = [self.judged.truth[i] for i in rows], [groups[i] for i in rows]
        scale = float(self.model.encoder.logit_scale)
        if "zero_shot" in self.wanted:
            found = {v: zero_shot.zero_shot_probabilities(embeds[rows], p, scale) for v, p in self.prototypes.items()}
            self.tables["zero_shot"] = found["names"]
            unseen = [n for n in self.judged.unseen if any(n in names for names in truth)]
            part = zero_shot.zero_shot_metrics(truth, found, classes, who, unseen=unseen, **options)
            metrics["zero_shot"] = {**part, "texts": self.texts["described"]}
            if self.released is not None:
                eyes = [self.records[i].eye for i in rows]
                metrics["zero_shot"]["released"] = self.released.metrics(embeds[rows], eyes, truth, who, options)
        if "probe" in self.wanted:
            read = np.stack(self.features) if self.features else embeds
            if self.settings.fellow:
                read = np.concatenate([read, self.beside]) if self.others else read
                read = beside_fellow(read, [*self.records, *self.others])
            metrics["probe"], self.tables["probe"] = self.probe(truth, who, read[rows])
        if "few_shot" in self.wanted:
            train, train_truth = self.learnt["train", "embedding", False]
            part = few_shot.few_shot_metrics(
                train, train_truth, embeds[rows], truth, self.prototypes["names"], scale, classes, who, **options
            )
            metrics["few_shot"] = {**part, "unlearnt": self.unlearnt}
        return metrics

    def line(self, row: int) -> dict:
        """`labels`, and the probabilities that `zero_shot` (without descriptions) and `probe` gave."""
        place = self.place.get(row)
        if self.judged is None or place is None or not self.tables:
            return {}
        line: dict = {"labels": list(self.judged.truth[row])}
        for task, table in self.tables.items():
            line[task] = {n: float(p) for n, p in zip(self.judged.classes, table[place], strict=True)}
        return line

    def probe(
        self, truth: Sequence[Sequence[str]], groups: Sequence[str], features: np.ndarray
    ) -> tuple[dict, np.ndarray]:
        """What a probe reached on `features` [J,D], and its probabilities [J,C]."""
        assert self.judged is not None
        classes, settings = self.judged.classes, self.settings
        part: dict = {"features": settings.features, "classes": len(classes), "chance": 1 / len(classes)}
        if settings.fellow:
            known = fellows([*self.records, *self.others])
            part["with_fellow_eye"] = sum(bool(known[i]) for i in self.judged.judged)
        if settings.folds:
            folded = probe.cross_validate(features, truth, classes, self.folds)
            table = folded.probabilities
            part |= {"folds": settings.folds, "strengths": list(folded.strengths)}
            part |= probe.fold_spread(folded, truth, classes)
        else:
            train, val = (self.learnt[split, settings.features, settings.fellow] for split in ("train", "val"))
            fitted = probe.fit_probe(*train, *val, classes)
            table = fitted.probabilities(features)
            part |= {"train": len(train[1]), "val": len(val[1]), "strength": fitted.strength}
            # of several diagnoses of a photograph a probe learns the first alone
            part["unlearnt"] = [name for i, name in enumerate(classes) if i not in fitted.columns]
        return part | classification_metrics(truth, table, classes, groups, **settings.options), table


def split_features(
    model: Any, manifest: Manifest, judged: Plan, settings: Settings, split: str, features: str, fellow: bool
) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Features of the photographs of a split that have one of the classes, and their truth; with `fellow` beside those
    of the patient's other eye, whatever it has.

    Raises UserError where there are none.
    """
    records = manifest.split(split)
    truth = truths(records, judged.classes)
    some = [i for i, names in enumerate(truth) if names]
    if not some:
        raise UserError(
            f"{settings.whose} {split} split has no photograph of the classes {', '.join(judged.classes)}; "
            "a probe and few shots learn from it. `prepare.py split` makes one, or --folds 5 cross-validates a probe"
        )
    kept = range(len(records)) if fellow else some
    read = [records[i] for i in kept]
    name = f"photographs to learn from ({split})"
    found = embed_records(model, read, manifest, batch_size=settings.batch_size, features=features, name=name)
    return beside_fellow(found, read)[some] if fellow else found, [truth[i] for i in some]


def captions_and_photographs(
    model: Any,
    records: Sequence[FundusRecord],
    groups: Sequence[str],
    embeds: np.ndarray,
    captioned: Sequence[int],
    settings: Settings,
) -> dict:
    """Retrieval: a photograph's right text is its caption; photographs are alike that have the same diagnoses, or,
    where those are not known, the same caption. Captions are cut to what the text tower reads; `captions_cut` of them.
    """
    processor = model.processor
    whole = [caption(records[i], processor.prompts) for i in captioned]
    texts = [processor.fit_caption(text) for text in whole]
    cut = sum(a != b for a, b in zip(texts, whole, strict=True))
    if cut:
        tell_cut()
    # texts that the tower reads alike are one
    ids = dict(zip(texts, map(tuple, processor.caption_ids(texts).tolist()), strict=True))
    first = {ids[text]: text for text in sorted(set(texts), reverse=True)}
    texts = [first[ids[text]] for text in texts]
    different = sorted(set(texts))
    alike = ["+".join(sorted(records[i].diagnosis or ())) or t for i, t in zip(captioned, texts, strict=True)]
    metrics = retrieval.retrieval_metrics(
        embeds[list(captioned)],
        embed_texts(model, different),
        np.array([different.index(t) for t in texts]),
        [groups[i] for i in captioned],
        label_of=np.unique(alike, return_inverse=True)[1],
        **settings.options,
    )
    return metrics | ({"captions_cut": cut} if cut else {})
