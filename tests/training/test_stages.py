"""What the losses that compare photographs with captions are given by a stage, and what a stage refuses."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mdf import datasets
from mdf.batches import Batch, Sample, eyes_of, label_sets
from mdf.checking import CONTRASTS, problems
from mdf.dialogue import Prompts
from mdf.errors import UserError
from mdf.losses.contrastive import contrastive_loss
from mdf.losses.label_aware import label_aware_contrastive_loss
from mdf.losses.patient import patient_contrastive_loss
from mdf.losses.sigmoid import sigmoid_loss
from mdf.records import FundusRecord, Manifest
from mdf.resources import bundled
from mdf.training.data import lacks, pairs_in, sampler_of, some_of, stage_data
from mdf.training.stages import Task

# patient, eye, diagnosis, caption of a photograph
ROWS = [
    ("a", "right", ("amd",), "amd"),
    ("a", "left", ("normal",), "normal"),
    ("b", "left", ("glaucoma", "amd"), "both"),
    (None, "left", ("amd",), "amd"),
    ("c", "right", ("normal",), "normal"),
    ("d", "left", ("normal",), "normal"),
    ("e", "right", None, ""),  # nothing to align with, or a file that is gone
    ("e", "left", ("amd",), "amd"),
    ("f", "right", ("amd",), "amd"),
    ("f", "left", ("normal",), "normal"),
]
PATIENTS = [[1, 0], [2, -1], [-1, 4], [5, -1], [7, -1], [9, 8]]  # rows of left and right


def samples_of(rows=ROWS) -> list[Sample]:
    def sample(number, patient, eye, diagnosis, text):
        record = FundusRecord(str(number), f"{number}.png", patient=patient, eye=eye, diagnosis=diagnosis)
        return Sample(record, None, None, text)

    return [sample(number, *row) for number, row in enumerate(rows)]


def batch_of(rows=ROWS) -> Batch:
    """The batch as `collate` makes it, without photographs."""
    samples, names = samples_of(rows), sorted({text for *_, text in rows if text})
    sets = sorted({tuple(sorted(diagnosis or (str(n),))) for n, (*_, diagnosis, _) in enumerate(rows)})
    empty = torch.empty(0)
    return Batch(
        sample_ids=[s.record.id for s in samples],
        patient_ids=[s.record.patient for s in samples],
        eyes=[s.record.eye for s in samples],
        pixel_values=empty,
        unet_pixels=empty,
        field=empty,
        image_index=empty,
        caption_group=torch.tensor([names.index(s.caption) if s.caption else -1 for s in samples]),
        label_ids=torch.tensor(
            [sets.index(tuple(sorted(r[2] or (str(n),)))) if r[3] else -1 for n, r in enumerate(rows)]
        ),
        label_sets=label_sets([s.record for s in samples]),
        patients=torch.tensor(eyes_of(samples), dtype=torch.int64).reshape(-1, 2),
    )


def output(count: int = len(ROWS), bias: float | None = -2.0) -> SimpleNamespace:
    """What the model's forward gives: unit vectors, a scale and a bias."""
    draw = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(count, 6, generator=draw).double(), dim=-1) for _ in range(2))
    bias = None if bias is None else torch.tensor(bias).double()
    scale = torch.tensor(5.0).double()
    return SimpleNamespace(image_embeds=images, text_embeds=texts, logit_scale=scale, logit_bias=bias)


@pytest.fixture
def task(tiny):
    return lambda *losses, **settings: Task(tiny(**{"align.losses": dict.fromkeys(losses, 1.0), **settings}), "align")


def test_a_right_eye_and_the_left_one_of_its_patient_after_it_are_one_patient():
    assert eyes_of(samples_of()) == PATIENTS
    assert eyes_of(samples_of([ROWS[1], ROWS[0]])) == [[0, -1], [-1, 1]]
    other = samples_of(ROWS[:2])
    other[1] = replace(other[1], record=replace(other[1].record, source="another hospital, whose patient a is another"))
    assert eyes_of(other) == [[-1, 0], [1, -1]]


def test_each_loss_counts_what_it_compares(task):
    counts = task(*CONTRASTS).counts(batch_of())
    assert counts == dict.fromkeys(CONTRASTS, 9.0) | {"patient": 6.0}


def test_the_patient_loss_has_the_captions_of_left_eyes_of_right_eyes_and_of_both(task):
    out, batch = output(), batch_of()
    v, t = (torch.zeros(6, 2, 6).double() for _ in range(2))
    for patient, rows in enumerate(PATIENTS):
        for eye, row in enumerate(rows):
            if row >= 0:
                v[patient, eye], t[patient, eye] = out.image_embeds[row], out.text_embeds[row]
    eyes = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 0], [1, 0], [1, 1]]).bool()
    # normal and amd; both; normal; normal; amd; normal and amd
    classes = torch.tensor([[0, 1, 0], [2, -1, 1], [-1, 0, 2], [0, -1, 3], [1, -1, 4], [0, 1, 0]])
    wanted = patient_contrastive_loss(v, t, out.logit_scale, eyes, positives=classes)
    torch.testing.assert_close(task("patient").contrast("patient", batch, out), wanted)
    assert wanted != patient_contrastive_loss(v, t, out.logit_scale, eyes)


def test_label_overlap_shares_targets_by_the_diagnoses_in_common(task):
    out, batch = output(), batch_of()
    known = batch.caption_group >= 0
    sets = torch.zeros(len(ROWS), 3).bool()
    for row, (_, _, diagnosis, _) in enumerate(ROWS):
        for name in diagnosis or ():
            sets[row, ("amd", "glaucoma", "normal").index(name)] = True
    pairs = out.image_embeds[known], out.text_embeds[known], out.logit_scale
    wanted = label_aware_contrastive_loss(*pairs, label_sets=sets[known])
    torch.testing.assert_close(task("label_overlap").contrast("label_overlap", batch, out), wanted)
    hard = task("label_aware").contrast(
        "label_aware", batch, out
    )  # to it amd and amd with glaucoma have nothing in common
    torch.testing.assert_close(hard, label_aware_contrastive_loss(*pairs, label_ids=batch.label_ids[known]))
    assert abs(hard - wanted) > 1e-3


def test_contrastive_and_sigmoid_have_equal_captions_as_positives(task):
    out, batch = output(), batch_of()
    both = task("contrastive", "sigmoid")
    v, t, s = out.image_embeds, out.text_embeds, out.logit_scale
    torch.testing.assert_close(both.contrast("contrastive", batch, out), contrastive_loss(v, t, s, batch.caption_group))
    wanted = sigmoid_loss(v, t, s, out.logit_bias, batch.caption_group)
    torch.testing.assert_close(both.contrast("sigmoid", batch, out), wanted)
    with pytest.raises(UserError, match="init_logit_bias=-10"):
        both.contrast("sigmoid", batch, output(bias=None))


def test_a_batch_without_patients_or_photographs_to_align_adds_nothing(task):
    nothing = [(None, None, None, "") for _ in range(4)]
    out, batch = output(4), batch_of(nothing)
    every = task(*CONTRASTS)
    assert every.counts(batch) == dict.fromkeys(CONTRASTS, 0.0)
    assert all(every.contrast(loss, batch, out) == 0 for loss in CONTRASTS)
    assert every.of_one_class(batch) == []


ONE_CLASS = {
    "several": (ROWS, ()),
    "one caption": ([ROWS[0], ROWS[3], ROWS[6], ROWS[8]], CONTRASTS),
    "one diagnosis": ([ROWS[0], (*ROWS[3][:3], "amd, drusen")], ("label_aware", "label_overlap", "patient")),
    "two patients of one kind": ([*ROWS[:2], *ROWS[8:]], ("patient",)),
    "one patient among others": ([*ROWS[:2], (None, "left", ("amd",), "amd")], ("patient",)),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "losses"), ONE_CLASS.values(), ids=ONE_CLASS)
def test_a_batch_of_one_class_is_known_to_each_loss_that_finds_nothing_to_contrast(task, rows, losses):
    every, batch = task(*CONTRASTS), batch_of(rows)
    assert set(every.of_one_class(batch)) == set(losses)
    for loss in CONTRASTS:
        out = output(len(rows))
        out.image_embeds.requires_grad_()
        every.contrast(loss, batch, out).backward()
        assert bool(out.image_embeds.grad.any()) == (loss not in losses or loss == "sigmoid")


def test_what_is_said_of_a_batch_of_one_class_proposes_what_is_possible(task):
    assert "align.balance=true or a larger align.batch_size" in task("label_aware").one_class_note(["label_aware"])
    for settings in ({"align.balance": True}, {"data.name": "shards"}):
        assert "balance" not in task("label_aware", **settings).one_class_note(["label_aware"])


# -- data -------------------------------------------------------------------------------------------------------------


def stage(tiny, records: list[FundusRecord], said: list[str] | None = None, **settings):
    cfg = tiny(**{"data.missing": "skip", **settings})
    manifest = Manifest(tuple(records), bundled("prompts"), {})
    return stage_data(cfg, Task(cfg, "align"), manifest, Prompts(bundled("prompts")), (said or []).append)


@pytest.fixture
def phantoms(tiny):
    return datasets.load(tiny().data, 0).records


def test_a_photograph_of_an_unknown_patient_or_eye_serves_the_other_losses_and_is_counted_aloud(tiny, phantoms):
    changed = [replace(r, **({"eye": None} if n == 0 else {"patient": None} if n == 1 else {})) for n, r in
               enumerate(r for r in phantoms if r.split == "train")]  # fmt: skip
    said = ["\n"]
    data = stage(tiny, changed, said, **{"align.losses": {"patient": 1.0, "contrastive": 1.0}})
    assert data.train == changed
    assert "align: 2 training photographs do not serve patient: patient or eye not known" in said
    assert any("times both eyes of a patient to train on" in line for line in said)
    alone = stage(tiny, changed, said, **{"align.losses": {"patient": 1.0}})
    assert alone.train == changed[2:]
    assert "align: 2 training photographs left out: patient or eye not known" in said


def test_validation_has_both_eyes_of_a_patient_or_none(tiny, phantoms):
    cfg = tiny(**{"align.losses": {"patient": 1.0}, "align.eval_photographs": 6})
    some = some_of(list(phantoms), Task(cfg, "align"), cfg)
    assert len(some) in (6, 7)
    pairs = pairs_in(some, cfg)
    assert pairs == tuple((2 * i, 2 * i + 1) for i in range(len(pairs))) and pairs
    of_all = {r.id for pair in pairs_in(list(phantoms), cfg) for r in (phantoms[i] for i in pair)}
    assert sum(r.id in of_all for r in some) == 2 * len(pairs)


def test_a_patient_is_balanced_by_what_either_eye_has(tiny):
    cfg = tiny(**{"align.losses": {"patient": 1.0}, "align.balance": True})
    records = [s.record for s in samples_of([r for r in ROWS if r[3]])]
    sampler = sampler_of(cfg, Task(cfg, "align"), records)
    assert sampler.groups[:2] == ("amd", "amd") and sampler.groups[4] == "normal"  # one eye of the first is normal
    assert sampler.pairs == ((0, 1), (7, 8))


@pytest.mark.parametrize("loss", CONTRASTS)
def test_training_photographs_of_one_class_are_refused(tiny, phantoms, loss):
    same = [replace(r, diagnosis=("normal",), findings=()) for r in phantoms if r.split == "train"]
    with pytest.raises(UserError, match=rf"align\.losses\.{loss}: the 13 training .* nothing to contrast"):
        stage(tiny, same, **{"align.losses": {loss: 1.0}, "encoder.init_logit_bias": -10.0})
    stage(tiny, [*same[1:], replace(same[0], diagnosis=("amd",))], **{"align.losses": {loss: 1.0}})


def test_a_batch_that_can_compare_nothing_is_refused(tiny, phantoms):
    for loss, batch_size, processes in (("contrastive", 1, 1), ("sigmoid", 1, 1), ("patient", 2, 1)):
        cfg = tiny(**{"align.losses": {loss: 1.0}, "align.batch_size": batch_size, "align.accumulation": 4})
        with pytest.raises(UserError, match=rf"align\.batch_size: {batch_size} on 1 process is one"):
            sampler_of(cfg, Task(cfg, "align"), list(phantoms), 0, processes)
        sampler_of(cfg, Task(cfg, "align"), list(phantoms), 0, 2)
    masks = tiny(**{"align.losses": {"mask": 1.0}, "align.batch_size": 1})
    sampler_of(masks, Task(masks, "align"), list(phantoms))


WRONG = {
    "no bias": ({"align.losses": {"sigmoid": 1.0}}, "set encoder.init_logit_bias=-10 and encoder.init_logit_scale=10"),
    "odd": ({"align.losses": {"patient": 1.0}, "align.batch_size": 5}, "align.batch_size=6"),
    "flip": ({"align.losses": {"patient": 1.0}, "augment.flip": 0.5}, "set augment.flip=0 or align.augment=false"),
    "shards": ({"align.losses": {"patient": 1.0}, "data.name": "shards"}, "align.losses.patient: given, but its data"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_is_refused_with_what_to_do(tiny, settings, message):
    assert any(message in line for line in problems(tiny(**settings)))


def test_a_bias_of_the_configuration_or_of_an_architecture_is_enough(tiny):
    for bias in ({"encoder.init_logit_bias": -10.0}, {"encoder.model": "ViT-B-16-SigLIP"}):
        assert problems(tiny(**{"align.losses": {"sigmoid": 1.0}, **bias})) == []


def test_what_lacks_a_caption_lacks_every_contrast(tiny):
    cfg = tiny(**{"align.losses": dict.fromkeys(CONTRASTS, 1.0)})
    lacking = lacks(FundusRecord("a", "a.png"), Task(cfg, "align"), cfg, Prompts(bundled("prompts")))
    assert lacking == dict.fromkeys(CONTRASTS, "neither diagnosis, finding nor text")
