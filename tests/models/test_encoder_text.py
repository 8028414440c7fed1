"""A BERT-family model as text tower: pooled over real tokens, with its own tokenizer, kept whole in a checkpoint."""

import shutil

import pytest
import torch

from mdf.caption_tokenizer import CaptionTokenizer
from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.models.embedder import Embedder
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.fusion import MDFModel
from mdf.models.text_tower import TextTower, longest
from mdf.models.towers import captions_of
from tests.tiny import tiny_config
from tests.tiny_text import tiny_bert

TEXTS = ["Glaucoma.", "The optic disc and the macula are unremarkable in this photograph"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("text") / "bert")


@pytest.fixture(scope="module")
def encoder(bert) -> FundusEncoder:
    return FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text=str(bert))).eval()


def test_padding_and_neighbours_change_nothing(encoder):
    captions = captions_of(encoder.architecture)
    alone, both = captions(TEXTS[:1]), captions(TEXTS)
    assert alone.shape[1] < both.shape[1] <= encoder.context_length == 48
    with torch.no_grad():
        expected = encoder.encode_text(alone)
        padded = torch.nn.functional.pad(alone, (0, 20))
        assert torch.allclose(encoder.encode_text(padded), expected, atol=1e-6)
        assert torch.allclose(encoder.encode_text(both)[:1], expected, atol=1e-6)
        assert not torch.allclose(encoder.encode_text(both)[1:], expected, atol=1e-2)


def test_it_is_the_mean_of_the_real_tokens_with_the_weights_of_the_folder(encoder, bert):
    from transformers import AutoModel

    ids = captions_of(encoder.architecture)(TEXTS[:1])
    with torch.no_grad():
        mean = AutoModel.from_pretrained(bert).eval()(ids).last_hidden_state.mean(1)
        expected = torch.nn.functional.normalize(mean @ encoder.clip.text.proj.weight.T, dim=-1)
        assert torch.allclose(encoder.encode_text(ids), expected, atol=1e-6)


def test_no_parameter_idles(encoder):
    ids = captions_of(encoder.architecture)(TEXTS)
    encoder.encode_text(ids).sum().backward()
    idle = [n for n, p in encoder.clip.text.named_parameters() if p.grad is None]
    encoder.zero_grad()
    assert idle == []


def test_a_checkpoint_needs_neither_the_folder_nor_the_hub(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "bert")
    cfg = tiny_config(tmp_path, **{"encoder.text": str(folder), "encoder.image": "test_vit", "encoder.size": 64})
    model = MDFModel.build(cfg, ("normal",)).eval()
    pixels, expected = torch.rand(1, 3, 64, 64), model.embed_text(TEXTS)
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(folder)
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    for again in (MDFModel.from_pretrained(moved), Embedder.from_pretrained(moved)):
        assert torch.equal(again.embed_text(TEXTS), expected)
        assert torch.equal(again.embed_image(pixels), model.embed_image(pixels))
    again = MDFModel.from_pretrained(moved)
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / "captions" / "tokenizer.json").is_file()
    assert again.processor.tokenize_captions(["macula " * 60]).shape[1] <= 48 == again.processor.context_length


def test_the_length_of_captions_is_a_setting(bert):
    settings = EncoderConfig(model="fundus-vit-tiny", text=str(bert), context_length=16)
    assert FundusEncoder(settings, load=False).context_length == 16
    with pytest.raises(UserError, match=r"encoder\.context_length: 64, but the text tower has 48"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text=str(bert), context_length=64))
    clip = FundusEncoder(EncoderConfig(model="fundus-vit-tiny", context_length=100))
    assert clip.encode_text(captions_of(clip.architecture)(TEXTS)).shape == (2, 32)


def test_positions_that_roberta_keeps_for_padding_are_not_counted():
    assert longest({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert longest({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}) == 512


def test_the_rest_of_the_family_is_built_alike():
    from transformers import DistilBertConfig, ModernBertConfig, RobertaConfig, T5Config

    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    configs = (
        RobertaConfig(**small, intermediate_size=16, max_position_embeddings=20),
        DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=16),
        ModernBertConfig(**small, intermediate_size=16, pad_token_id=0, attn_implementation="eager"),
        T5Config(vocab_size=50, d_model=16, num_layers=1, num_heads=2, d_ff=16, d_kv=8),
    )
    for config in configs:
        tower = TextTower(config.to_dict() | {"model_type": config.model_type}, 8).eval()
        ids = torch.tensor([[5, 6, 7]])
        longer = torch.nn.functional.pad(ids, (0, 4), value=tower.pad_id)
        with torch.no_grad():
            assert torch.allclose(tower(ids), tower(longer), atol=1e-5), config.model_type


def test_clips_own_tokens_are_as_before():
    from open_clip import SimpleTokenizer

    captions = CaptionTokenizer()
    assert torch.equal(captions(TEXTS), SimpleTokenizer()(TEXTS))
    assert captions.length("drusen") == int((captions(["drusen"]) > 0).sum())


def test_folders_that_hold_no_whole_text_model_are_refused(bert, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(bert, tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    state.pop("encoder.layer.1.output.dense.weight")
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 tensors.*encoder\.layer\.1\.output\.dense\.weight"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text=str(broken)))
    with pytest.raises(UserError, match=r"encoder\.text: there is no folder"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text=str(tmp_path / "absent")))
    other = tiny_bert(tmp_path / "other", pad_token_id=7)
    with pytest.raises(UserError, match="is not that of the model"):
        MDFModel.build(tiny_config(tmp_path, **{"encoder.text": str(other)}), ("normal",))
