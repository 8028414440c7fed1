"""The text towers of released fundus CLIPs, against forward passes written from plain transformers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel

from mdf.caption_tokenizer import CaptionTokenizer
from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.sides import SideHeads
from mdf.models.text_tower import LAYERS, LAYERS_PADDED, TextTower
from mdf.models.towers import captions_of, resolve
from tests.tiny_text import tiny_bert

TINY = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
CONFIG = {"model_type": "bert", "max_position_embeddings": 120, "pad_token_id": 0, **TINY}


def ids(*lengths: int, width: int) -> torch.Tensor:
    """Rows of random tokens of these lengths, padded to `width`."""
    torch.manual_seed(1)
    out = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in zip(out, lengths, strict=True):
        row[:length] = torch.randint(1, 60, (length,))
    return out


def stock(tower: TextTower) -> BertModel:
    """transformers' own model with the weights of the tower, eager attention, pooler and all."""
    model = BertModel(BertConfig(**TINY, max_position_embeddings=120, attn_implementation="eager"))
    found = model.load_state_dict(tower.transformer.state_dict(), strict=False)
    assert all(name.startswith("pooler.") for name in found.missing_keys) and not found.unexpected_keys
    return model.eval()


@pytest.fixture(scope="module")
def flair() -> TextTower:
    torch.manual_seed(0)
    return TextTower(CONFIG, 16, LAYERS_PADDED, "linear").eval()


@torch.no_grad()
def test_flairs_text_tower_is_its_own_forward_pass(flair):
    """Three layers stacked, averaged over all positions and over the stack, unit, projected without bias, unit."""
    tokens = ids(5, 9, 12, width=12)
    out = stock(flair)(input_ids=tokens, attention_mask=(tokens > 0).long(), output_hidden_states=True)
    stack = torch.stack([out.hidden_states[1], out.hidden_states[2], out.hidden_states[-1]])
    pooled = stack.permute(1, 0, 2, 3).mean(2).mean(1)
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)  # before a projection without bias this changes the length only
    expected = F.normalize(pooled @ flair.proj.weight.T, dim=-1)
    assert (F.normalize(flair(tokens), dim=-1) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_padding_changes_flairs_embedding_and_not_the_corrected_one(flair):
    torch.manual_seed(0)
    corrected = TextTower(CONFIG, 16, LAYERS, "linear").eval()
    corrected.load_state_dict(flair.state_dict())
    alone, padded = ids(6, width=6), F.pad(ids(6, width=6), (0, 14))
    assert F.cosine_similarity(flair(alone), flair(padded)) < 0.99
    assert (corrected(alone) - corrected(padded)).abs().max() < 1e-5
    assert (corrected(alone) - flair(alone)).abs().max() < 1e-5  # without padding they are one


@torch.no_grad()
def test_ret_clips_texts_and_eyes_are_its_own_forward_pass():
    torch.manual_seed(0)
    tower = TextTower(CONFIG, 16, "cls_last_hidden_state_pooler", "relu").eval()
    sides = SideHeads(16, tower.width).eval()
    tokens = ids(7, 20, width=100)
    first = stock(tower)(input_ids=tokens, attention_mask=(tokens > 0).long()).last_hidden_state[:, 0]

    def mapped(head: nn.Module) -> torch.Tensor:
        hidden = torch.relu(first @ head[0].weight.T + head[0].bias)
        return F.normalize(hidden @ head[2].weight.T + head[2].bias, dim=-1)

    assert (F.normalize(tower(tokens), dim=-1) - mapped(tower.proj)).abs().max() < 1e-5
    assert (sides.text(tower.pooled(tokens), "left") - mapped(sides.text_left)).abs().max() < 1e-5
    assert (sides.text(tower.pooled(tokens), "right") - mapped(sides.text_right)).abs().max() < 1e-5
    assert (tower(tokens) - tower(tokens[:, :20])).abs().max() < 1e-5  # its padding to 100 changes nothing
    left, right = torch.randn(2, 16), torch.randn(2, 16)
    patient = torch.cat((left, right), 1) @ sides.patient.weight.T
    assert torch.allclose(sides.both(left, right), F.normalize(patient, dim=-1), atol=1e-6)
    assert torch.allclose(sides.eye(right, "right"), F.normalize(right @ sides.right.weight.T, dim=-1), atol=1e-6)


@pytest.fixture(scope="module")
def ret_clip(tmp_path_factory) -> FundusEncoder:
    """A tiny encoder with RET-CLIP's heads."""
    cfg = EncoderConfig(model="fundus-vit-tiny", text=str(tiny_bert(tmp_path_factory.mktemp("bert"))))
    architecture = resolve(cfg)
    architecture["text_cfg"] |= {
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_proj_type": "relu",
        "sides": True,
        "fixed_length": True,
        "tokenizer_kwargs": {"clean": "chinese"},
    }
    return FundusEncoder(cfg, load=False, architecture=architecture).eval()


@torch.no_grad()
def test_a_patient_has_an_embedding_of_both_eyes(ret_clip):
    left, right = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    patient, *eyes = ret_clip.encode_patient(left, right)
    captions = captions_of(ret_clip.architecture)(["macula", "glaucoma of the left eye"])
    reports = ret_clip.encode_reports(captions)
    for found in (patient, *eyes, *reports):
        assert found.shape == (2, ret_clip.embed_dim)
        assert torch.allclose(found.norm(dim=-1), torch.ones(2), atol=1e-5)
    swapped = ret_clip.encode_patient(right, left)[0]
    assert not torch.allclose(patient, swapped, atol=1e-3)
    assert torch.allclose(
        reports[0], ret_clip.encode_text(captions_of(ret_clip.architecture)(["macula", "glaucoma of the left eye"]))
    )


def test_heads_of_the_eyes_do_not_train(ret_clip):
    heads = {name for name, _ in ret_clip.named_parameters() if name.startswith("clip.sides.")}
    assert heads and heads <= ret_clip.fixed


def test_captions_are_padded_and_cleaned_as_the_release_does(ret_clip):
    captions = captions_of(ret_clip.architecture)
    assert captions(["macula"]).shape == (1, ret_clip.context_length)
    assert captions.tokenizer.clean_fn("“AMD”，  OK") == '"amd"，  ok'


def test_cleaning_travels_with_a_checkpoint(tmp_path):
    made = CaptionTokenizer(20, str(tiny_bert(tmp_path / "bert")), trim=True, clean="none")
    assert made.tokenizer.clean_fn(" a  b ") == " a  b "
    made.save(tmp_path)
    assert CaptionTokenizer.load(tmp_path, 20).tokenizer.clean_fn(" a  b ") == " a  b "


def test_the_pooling_of_a_text_tower_is_a_setting(tmp_path):
    bert = str(tiny_bert(tmp_path / "bert"))
    encoder = FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text=bert, text_pooling=LAYERS_PADDED))
    assert encoder.clip.text.pool == LAYERS_PADDED
    assert "what an embedding is depends on its batch" in "\n".join(encoder.describe())
    with pytest.raises(UserError, match=r"encoder\.text_pooling: mean_pooler, but the text tower of .* is no BERT"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text_pooling="mean_pooler"))
    with pytest.raises(UserError, match="pooling 'best' of the text tower must be one of"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text=bert, text_pooling="best"))
    one = str(tiny_bert(tmp_path / "one", num_hidden_layers=1))
    with pytest.raises(UserError, match="reads two layers"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text=one, text_pooling=LAYERS))


def test_recomputing_layers_changes_no_gradient_of_three_pooled_layers(tmp_path):
    from mdf.models.recompute import recompute_layers

    torch.manual_seed(0)
    still = CONFIG | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tower, tokens, found = TextTower(still, 16, LAYERS, "linear").train(), ids(5, 9, width=9), []
    for again in (False, True):
        recompute_layers(tower.transformer, again)
        tower.zero_grad()
        (tower(tokens) ** 2).sum().backward()
        found.append({name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def test_an_encoder_without_heads_of_the_eyes_says_so():
    encoder = FundusEncoder(EncoderConfig(model="fundus-vit-tiny"))
    with pytest.raises(UserError, match="no heads for left eye, right eye and patient"):
        encoder.encode_reports(torch.ones(1, 77, dtype=torch.long))
