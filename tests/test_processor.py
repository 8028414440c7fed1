"""Tokenizer, preprocessing and prompts of a checkpoint are read back as written and do not change unnoticed."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.processor import IMAGE_TOKENS, MDFProcessor, choose_token
from tests.tiny_processor import DIAGNOSES, QUESTIONS, tiny_processor

TALK = [Turn("system", "Read."), Turn("user", "Which eye is this?"), Turn("assistant", "Left eye.")]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return tiny_processor(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def written(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, size=(80, 100, 3), dtype=np.uint8)


def edit(folder, **changes):
    path = folder / "preprocessing.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def test_what_was_written_is_read_back(processor, written, picture):
    read = MDFProcessor.from_pretrained(written)
    assert read.preprocessing == processor.preprocessing
    assert read.preprocessing.hash() == json.loads((written / "preprocessing.json").read_text())["hash"]
    for name in ("image_tokens", "context_length", "diagnoses", "image_token_id", "pad_id"):
        assert getattr(read, name) == getattr(processor, name), name
    assert read.diagnoses == DIAGNOSES and read.questions == QUESTIONS
    assert read.encode(TALK) == processor.encode(TALK)
    assert read.tokenizer.chat_template == processor.tokenizer.chat_template
    for name, tensor in processor(picture).items():
        assert torch.equal(read(picture)[name], tensor)
    for name in ("system", "questions", "captions"):
        assert getattr(read.prompts, name) == getattr(processor.prompts, name)
    names = {p.name for p in processor.prompts.folder.iterdir() if p.is_file()}
    assert {p.name for p in (written / "prompts").iterdir()} >= names
    assert read.prompts.folder == written / "prompts"  # its own copy: the package's prompts may change later


def test_a_checkpoint_from_before_its_questions_were_written_down_names_none(copy):
    edit(copy, questions=None)
    assert MDFProcessor.from_pretrained(copy).questions == ()


@pytest.mark.parametrize(
    "change", [{"unet_size": 96}, {"encoder_mean": [0.5, 0.5, 0.5]}, {"crop_field": False}, {"hash": "0" * 12}]
)
def test_an_edited_preprocessing_is_refused(copy, change):
    edit(copy, **change)
    with pytest.raises(UserError, match=r"preprocessing\.json was changed after training .*restore it"):
        MDFProcessor.from_pretrained(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_tokens": None}, "image_tokens is missing"),
        ({"hash": None, "diagnoses": None}, "diagnoses, hash is missing"),
        ({"sharpen": True}, "unknown setting sharpen"),
        ({"version": 99}, "version 99 is not this mdf's version"),
    ],
)
def test_a_preprocessing_of_another_form_is_refused(copy, change, said):
    edit(copy, **change)
    with pytest.raises(UserError, match=said):
        MDFProcessor.from_pretrained(copy)


@pytest.mark.parametrize("content", ["", '{"unet_size": 6', "[1, 2]", "\x00\x01"])
def test_a_damaged_preprocessing_is_one_clear_error(copy, content):
    (copy / "preprocessing.json").write_text(content)
    with pytest.raises(UserError, match=r"preprocessing\.json is damaged"):
        MDFProcessor.from_pretrained(copy)


@pytest.mark.parametrize(
    "name", ["preprocessing.json", "tokenizer", "tokenizer/tokenizer.json", "prompts", "prompts/system.txt"]
)
def test_what_is_missing_is_named(copy, name):
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=name.split("/")[0].replace(".", r"\.")):
        MDFProcessor.from_pretrained(copy)


def test_path_picture_and_array_are_the_same_photograph(processor, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    wanted = processor(picture)
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(picture)):
        for name, tensor in processor(same).items():
            assert torch.equal(tensor, wanted[name])
    assert {k: tuple(v.shape) for k, v in processor([picture, picture]).items()} == {
        "pixel_values": (2, 3, 64, 64), "unet_pixels": (2, 3, 64, 64), "field": (2, 1, 64, 64),
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8)]
)
def test_arrays_of_another_kind_are_refused(processor, wrong):
    with pytest.raises(UserError, match="uint8 array"):
        processor(wrong)


def test_rows_of_the_inputs(processor, picture):
    x = processor([picture, picture[::-1].copy()])
    assert torch.equal(x.select([1, 1, 0])["pixel_values"], x["pixel_values"][[1, 1, 0]])
    blank = x.blank()
    assert not blank["pixel_values"].any() and blank["field"].dtype == torch.bool
    assert torch.equal(blank["field"], x["field"]) and x["pixel_values"].any()


def test_a_tokenizer_without_an_unused_token_is_refused(processor):
    assert choose_token(processor.tokenizer, IMAGE_TOKENS, "the image placeholder") == "<filename>"
    with pytest.raises(UserError, match="holds none of <nothing> to serve as padding"):
        choose_token(processor.tokenizer, ("<nothing>",), "padding")
    with pytest.raises(UserError):  # its end token does not serve, or it would never learn to stop
        choose_token(processor.tokenizer, ("<|im_end|>",), "padding")
