"""Samples do not depend on the order they are drawn in, and a batch is its samples side by side."""

from dataclasses import replace

import pytest
import torch

from mdf.batches import FundusDataset, Sample, branches, collate, pad, stable_hash
from mdf.config import AugmentConfig, DialogueConfig
from mdf.datasets.phantom import draw_manifest
from mdf.dialogue import Encoded, Turn
from mdf.errors import UserError
from mdf.records import Manifest
from tests.tiny_processor import tiny_processor

MASKS = ("vessel", "disc", "drusen")
STILL = AugmentConfig(0, 0, 0, 0, 0, 0, 0, flip=0.0)
TENSORS = ("pixel_values", "unet_pixels", "field", "masks", "mask_known")


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return tiny_processor(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    out = tmp_path_factory.mktemp("phantoms") / "set"
    return draw_manifest(out, count=8, size=96, seed=1, val=0.25, test=0.25)


@pytest.fixture(scope="module")
def dataset(manifest, processor):
    def make(records=None, **kwargs):
        settings = {"seed": 5, "augment": AugmentConfig(flip=0.5), "masks": MASKS, "want_caption": True} | kwargs
        dialogue = settings.pop("dialogue", DialogueConfig(turns=3))
        return FundusDataset(list(records or manifest.records), manifest, processor, dialogue, **settings)

    return make


def assert_same(a: Sample, b: Sample) -> None:
    assert (a.record, a.conversation, a.caption) == (b.record, b.conversation, b.caption)
    for name in TENSORS:
        assert torch.equal(getattr(a.prepared, name), getattr(b.prepared, name)), name


def test_a_sample_is_the_same_whatever_was_drawn_before_it(dataset, manifest):
    straight = dataset()
    wanted = {(epoch, i): straight[epoch, i] for epoch in (0, 1) for i in range(4)}
    other_way = dataset()
    for key in reversed(wanted):
        torch.rand(1)
        assert_same(other_way[key], wanted[key])
    turned = dataset(reversed(manifest.records))  # another place in the list: the id counts, not the index
    assert_same(turned[1, len(manifest.records) - 3], wanted[1, 2])
    assert_same(straight[2], wanted[0, 2])


def test_a_sample_is_the_same_whoever_draws_it(dataset):
    samples = dataset()
    loader = torch.utils.data.DataLoader(samples, batch_sampler=[[(3, 1), (3, 0)]], collate_fn=list, num_workers=1)
    for got, index in zip(next(iter(loader)), (1, 0), strict=True):
        assert_same(got, samples[3, index])


def test_epoch_seed_and_id_each_make_another_sample(dataset):
    base = dataset()[0, 0]
    for other in (dataset()[1, 0], dataset(seed=6)[0, 0]):
        assert other.record.id == base.record.id
        assert not torch.equal(other.prepared.pixel_values, base.prepared.pixel_values)
    talks = {str(dataset()[epoch, 0].conversation) for epoch in range(4)}
    assert len(talks) > 1


def test_the_length_of_a_conversation_is_known_without_its_photograph(dataset, monkeypatch):
    samples = dataset()
    lengths = {(epoch, i): len(samples[epoch, i].conversation.input_ids) for epoch in (0, 1) for i in range(4)}
    monkeypatch.setattr(samples, "crop", None)
    assert {key: samples.length(key) for key in lengths} == lengths
    assert len(set(lengths.values())) > 1 and dataset(want_text=False).length((0, 0)) == 0


def test_without_augmentation_the_photograph_is_what_inference_sees(dataset, manifest, processor):
    got = dataset(augment=None)[7, 3].prepared
    seen = processor(manifest.path(manifest.records[3].image))
    for name in ("pixel_values", "unet_pixels", "field"):
        assert torch.equal(getattr(got, name), seen[name][0])


def test_a_flip_changes_the_eye_and_the_words_as_well_as_the_pixels(dataset, manifest, processor):
    record = replace(
        manifest.records[0], eye="left", texts={"report": "Left eye. Drusen on the right, superotemporal."}
    )
    ask_eye = DialogueConfig(questions={"eye": 1.0}, diagnosis_first=0.0)
    plain, flipped = (
        dataset([record], augment=replace(STILL, flip=flip), dialogue=ask_eye)[0, 0] for flip in (0.0, 1.0)
    )
    assert (plain.record.eye, flipped.record.eye) == ("left", "right")
    assert flipped.record.texts["report"] == "Right eye. Drusen on the left, superotemporal."
    assert flipped.record.findings == record.findings and flipped.record.diagnosis == record.diagnosis

    def said(sample):
        return processor.tokenizer.decode([i for i in sample.conversation.labels if i >= 0], skip_special_tokens=True)

    assert (said(plain), said(flipped)) == ("Left eye.", "Right eye.")
    assert manifest.records[0].texts["report"] != record.texts["report"]  # the manifest's own record stays as it is
    assert (plain.prepared.pixel_values.flip(-1) - flipped.prepared.pixel_values).abs().mean() < 0.02
    assert (plain.prepared.pixel_values - flipped.prepared.pixel_values).abs().mean() > 0.1
    disc = MASKS.index("disc")
    mirrored, got = plain.prepared.masks[disc].flip(-1), flipped.prepared.masks[disc]
    assert 2 * (mirrored * got).sum() / (mirrored + got).sum() > 0.95


@pytest.fixture(scope="module")
def samples(dataset):
    rows = [dataset()[0, i] for i in range(4)]
    assert len({len(s.conversation.input_ids) for s in rows}) > 1
    return rows


def test_a_batch_is_its_samples_side_by_side(samples, processor):
    together = collate(samples, processor)
    for i, single in enumerate(collate([s], processor) for s in samples):
        for name in (*TENSORS, "caption_ids", "caption_group", "label_ids"):
            assert torch.equal(getattr(together, name)[i], getattr(single, name)[0]), name
        length = single.input_ids.shape[1]
        for name in ("input_ids", "attention_mask", "labels", "prompt_mask"):
            assert torch.equal(getattr(together, name)[i, :length], getattr(single, name)[0]), name
        assert (together.sample_ids[i], together.patient_ids[i], together.eyes[i]) == (
            single.sample_ids[0], single.patient_ids[0], single.eyes[0],
        )  # fmt: skip
    assert together.image_index.tolist() == [0, 1, 2, 3]
    assert together.supervised == sum(collate([s], processor).supervised for s in samples)


def test_shapes_and_types(samples, processor):
    batch = collate(samples, processor)
    tokens = max(len(s.conversation.input_ids) for s in samples)
    wanted = {
        "pixel_values": (torch.float32, (4, 3, 64, 64)), "unet_pixels": (torch.float32, (4, 3, 64, 64)),
        "field": (torch.bool, (4, 1, 64, 64)),
        "masks": (torch.float32, (4, 3, 64, 64)), "mask_known": (torch.bool, (4, 3)),
        "input_ids": (torch.int64, (4, tokens)), "attention_mask": (torch.int64, (4, tokens)),
        "labels": (torch.int64, (4, tokens)), "prompt_mask": (torch.bool, (4, tokens)),
        "caption_ids": (torch.int64, (4, processor.context_length)), "caption_group": (torch.int64, (4,)),
        "label_ids": (torch.int64, (4,)), "image_index": (torch.int64, (4,)),
    }  # fmt: skip
    assert {name: (getattr(batch, name).dtype, tuple(getattr(batch, name).shape)) for name in wanted} == wanted
    assert set(batch.masks.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(batch.to("cpu").labels, batch.labels) and batch.to("cpu").sample_ids == batch.sample_ids


def test_padding_is_on_the_right_and_never_supervised_or_seen(samples, processor):
    batch = collate(samples, processor)
    for i, sample in enumerate(samples):
        length = len(sample.conversation.input_ids)
        assert batch.attention_mask[i].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
        assert (batch.input_ids[i, length:] == processor.pad_id).all()
        assert (batch.labels[i, length:] == -100).all() and not batch.prompt_mask[i, length:].any()
    assert processor.pad_id != processor.tokenizer.eos_token_id
    assert pad([[1, 2], [3]], 0).tolist() == [[1, 2], [3, 0]]
    assert pad([[1, 2], [3]], 0, left=True).tolist() == [[1, 2], [0, 3]]


def test_padding_is_told_by_its_place_and_not_by_its_token(samples, processor):
    with pytest.raises(UserError, match="endoftext"):
        processor.encode([Turn("user", "what is <|endoftext|> here?")])
    conversation = processor.encode([Turn("user", "what is it here?"), Turn("assistant", "Yes it.")])
    it = processor.tokenizer.encode(" it", add_special_tokens=False)[0]
    ids = [processor.pad_id if i == it else i for i in conversation.input_ids]
    labels = [processor.pad_id if i == it else i for i in conversation.labels]
    conversation = replace(conversation, input_ids=ids, labels=labels)
    assert ids.count(processor.pad_id) == 2
    batch = collate([samples[0], replace(samples[1], conversation=conversation)], processor)
    length = len(conversation.input_ids)
    assert batch.attention_mask[1].sum() == length and batch.attention_mask[1, :length].all()
    assert (batch.labels[1] == processor.pad_id).sum() == 1  # the one inside the answer


def test_a_mask_that_nobody_drew_is_not_known(dataset, manifest, processor):
    record = replace(manifest.records[0], masks={"disc": manifest.records[0].masks["disc"]})
    batch = collate([dataset([record])[0]], processor)
    assert batch.mask_known.tolist() == [[False, True, False]]
    assert not batch.masks[0, 0].any() and batch.masks[0, 1].any()


def test_groups_are_of_equal_captions_and_equal_diagnoses(samples, processor):
    a, b, c, d = samples
    rows = [replace(a, caption="x"), replace(b, caption="y"), replace(c, caption="x"), replace(d, caption="z")]
    named = [("amd", "glaucoma"), ("glaucoma", "amd"), None, None]
    rows = [replace(r, record=replace(r.record, diagnosis=n)) for r, n in zip(rows, named, strict=True)]
    batch = collate(rows, processor)
    groups = batch.caption_group.tolist()
    assert groups[0] == groups[2] and len(set(groups)) == 3
    labels = batch.label_ids.tolist()
    assert labels[0] == labels[1] and len(set(labels)) == 3  # without a diagnosis each is its own
    # the same in every session and process, or ranks would not agree
    assert stable_hash("x") == 1637211439935739938


def test_what_a_stage_does_not_need_is_none(dataset, processor):
    batch = collate([dataset(want_text=False, want_caption=False)[0]], processor)
    assert all(
        getattr(batch, n) is None for n in ("input_ids", "labels", "attention_mask", "prompt_mask", "caption_ids")
    )


def test_focus_is_the_mask_that_the_next_token_speaks_of_where_it_is_known(dataset, processor):
    questions = {"presence": 1.0, "eye": 1.0, "diagnosis": 0.0, "quadrant": 0.0, "count": 0.0, "report": 0.0}
    samples = dataset(dialogue=DialogueConfig(turns=6, questions=questions))
    batch = collate([samples[i] for i in range(8)], processor)
    spoken = set()
    for row, sample in enumerate([samples[i] for i in range(8)]):
        findings = [*sample.conversation.findings[1:], None]
        for t, name in enumerate(findings):
            assert int(batch.focus[row, t]) == (MASKS.index(name) if name in MASKS else -1)
            assert name is None or batch.labels[row, t + 1] >= 0
            spoken.add(name)
        assert (batch.focus[row, len(findings) :] == -1).all()
    assert {"disc", "drusen", "haemorrhage"} <= spoken  # of haemorrhages there is no mask here
    assert collate([dataset(masks=())[0]], processor).focus is None


def test_a_row_without_any_supervised_token_is_an_error(samples, processor):
    silent = Encoded([1, 5, 6], [-100, -100, -100], [True, True, True], [None] * 3)
    with pytest.raises(ValueError, match=f"no supervised token in {samples[1].record.id}"):
        collate([samples[0], replace(samples[1], conversation=silent)], processor)


def test_padding_behind_branches_sees_itself_and_nobody_sees_padding():
    """A row of a mask without a single True is NaN in some kernels, and then everywhere in backward."""
    branch = torch.tensor([[0, 0, 1, 2, 0, 0], [0, 0, 0, 1, 1, 2]])
    attention_mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    sees, _ = branches(branch, attention_mask)
    assert sees.any(-1).all()
    assert not sees[0, 0, :4, 4:].any() and torch.equal(sees[0, 0, 4:, 4:], torch.eye(2, dtype=torch.bool))
