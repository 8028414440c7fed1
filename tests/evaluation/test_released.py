"""Zero-shot as the authors of a release run it, against their scoring written out, and what is put right beside it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.evaluation.released import Released
from mdf.imaging.preprocess import Preprocessing
from mdf.models.embedder import Embedder, EncoderProcessor
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.text_tower import LAYERS, LAYERS_PADDED
from mdf.models.towers import captions_of, resolve
from mdf.released_prompts import protocols
from tests.tiny_text import tiny_bert

CLASSES = ("normal", "glaucoma", "amd")


def embedder(folder, **text) -> Embedder:
    """A tiny image tower beside a tiny BERT whose settings are those of a release."""
    cfg = EncoderConfig(model="fundus-vit-tiny", text=str(folder))
    architecture = resolve(cfg)
    architecture["text_cfg"] |= {"tokenizer_kwargs": {"clean": "none"}, **text}
    torch.manual_seed(0)
    encoder = FundusEncoder(cfg, load=False, architecture=architecture)
    return Embedder(encoder, EncoderProcessor(Preprocessing(encoder_size=32), captions_of(architecture)))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    torch.manual_seed(3)
    return F.normalize(torch.randn(40, 32), dim=-1).numpy()


@torch.no_grad()
def test_flair_is_asked_class_by_class_and_its_means_are_left_as_they_are(bert, images):
    model = embedder(bert, hf_pooler_type=LAYERS_PADDED)
    texts = protocols()["flair"].texts(CLASSES)
    found = Released(model, protocols()["flair"], texts)
    means, scale = [], model.encoder.logit_scale
    for lines in texts.values():
        tokens = model.processor.caption_tokenizer.tokenizer.tokenizer(lines, padding=True, return_tensors="pt")
        unit = F.normalize(model.encoder.clip.text(tokens.input_ids), dim=-1)
        means.append(unit.mean(0))
    expected = (scale * torch.from_numpy(images) @ torch.stack(means).T).softmax(1)
    assert np.allclose(found.probabilities(images)[0], expected.numpy(), atol=1e-5)
    assert (found.prototypes.norm(dim=1) < 0.9999).any()
    part = found.metrics(
        images, [None] * 40, [("normal",), ("amd",)] * 20, [str(i) for i in range(40)], {"resamples": 5}
    )
    assert part["corrected"]["of"] == ["padding"] and part["difference"]["prototype_cosine"] < 0.9999
    assert part["texts"] == texts and 0 <= part["corrected"]["balanced_accuracy"] <= 1
    right = embedder(bert, hf_pooler_type=LAYERS)
    assert Released(right, protocols()["flair"], texts).wrongs == []


def test_mm_fundus_clips_sigmoid_ties_what_a_softmax_of_cosines_tells_apart(images):
    torch.manual_seed(0)
    model = Embedder.build(EncoderConfig(model="fundus-vit-tiny"))
    found = Released(model, protocols()["mmfundusclip"], protocols()["mmfundusclip"].texts(CLASSES))
    found.scale = 100.0
    found.prototypes = F.normalize(torch.eye(32)[:3] + 1.0, dim=-1)  # alike, as texts of one field are
    found.corrected = {"": found.prototypes}
    close = F.normalize(torch.ones(3, 32) + torch.eye(32)[:3] * torch.tensor([[1.0], [2.0], [3.0]]), dim=-1).numpy()
    table, ties = found.probabilities(close)
    assert ties.all() and (table.argmax(1) == 0).all()  # every cosine is beyond 0.167: the first class takes all
    assert (found.corrected_probabilities(close, [None] * 3).argmax(1) == [0, 1, 2]).all()


@torch.no_grad()
def test_ret_clip_looks_at_an_eye_without_a_head_and_the_corrected_way_through_its_own(bert, images):
    model = embedder(
        bert, hf_pooler_type="cls_last_hidden_state_pooler", hf_proj_type="relu", sides=True, fixed_length=True
    )
    protocol = protocols()["ret-clip"]
    texts = protocol.texts(CLASSES)
    found, sides = Released(model, protocol, texts), model.encoder.clip.sides
    ids = [model.processor.tokenize_captions(lines) for lines in texts.values()]
    left, right = (
        torch.stack([F.normalize(model.encoder.encode_reports(i)[at].mean(0), dim=0) for i in ids]) for at in (1, 2)
    )
    x = torch.from_numpy(images)
    assert np.allclose(found.probabilities(images)[0], (100 * x @ left.T).softmax(1).numpy(), atol=1e-4)
    own = {"left": sides.eye(x, "left") @ left.T, "right": sides.eye(x, "right") @ right.T}
    eyes = ["left", "right", None, "left"] * 10
    expected = [(100 * (own[e] if e else (own["left"] + own["right"]) / 2)[i]).softmax(0) for i, e in enumerate(eyes)]
    assert np.allclose(found.corrected_probabilities(images, eyes), torch.stack(expected).numpy(), atol=1e-4)
    with pytest.raises(UserError, match="a head for left eyes, and this encoder has none"):
        Released(embedder(bert), protocol, texts)
