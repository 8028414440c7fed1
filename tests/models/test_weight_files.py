"""Files of weights are read as data, and what is none of them is told for what it is."""

import argparse
import json
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from mdf.errors import UserError
from mdf.models import weight_files

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Code:
    def __reduce__(self):
        return print, ("ran",)


def whole(path):
    found = weight_files.load(path)
    return found.keys() == STATE.keys() and all(torch.equal(found[n], t) for n, t in STATE.items())


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.ckpt"])
@pytest.mark.parametrize("wrapped", [STATE, {"model": STATE, "epoch": 3}, {"state_dict": STATE, "loss": 0.1}])
def test_a_state_dict_is_found_in_its_wrapper(tmp_path, name, wrapped):
    torch.save(wrapped, tmp_path / name)
    assert whole(tmp_path / name)
    torch.save(wrapped, tmp_path / name, _use_new_zipfile_serialization=False)  # as before torch 1.6
    assert whole(tmp_path / name)


def test_archives_folders_and_shards(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert whole(tmp_path / "model.safetensors") and whole(tmp_path)
    torch.save(STATE, tmp_path / "w.pth")
    assert whole(tmp_path)  # of the two the one that cannot hold code
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(tmp_path / "w.pth", "folder/w.pth")
        archive.writestr("folder/README", "how to use it")
    assert whole(tmp_path / "packed.zip")
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, name in enumerate(STATE, 1):
        save_file({name: STATE[name]}, shards / f"model-{number}.safetensors")
    index = {"weight_map": {name: f"model-{number}.safetensors" for number, name in enumerate(STATE, 1)}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    assert whole(shards) and whole(shards / "model.safetensors.index.json")
    (shards / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards is missing \(model-2\.safetensors\)"):
        weight_files.load(shards)
    save_file({"other": torch.ones(1)}, shards / "model-2.safetensors")
    with pytest.raises(UserError, match=r"the shards lack 1 tensors that the index lists \(a\.bias\)"):
        weight_files.load(shards)


def test_settings_of_a_training_script_do_no_harm(tmp_path):
    torch.save({"model": STATE, "args": argparse.Namespace(lr=1e-3), "optimizer": {"state": {}}}, tmp_path / "w.pth")
    content = weight_files.read(tmp_path / "w.pth")
    assert content.wrappers() == ["model"] and content.entries["args"].lr == 1e-3
    assert str(content) == "the entries model (2 tensors), args, optimizer"


@pytest.mark.parametrize("where", ["alone", "beside"])
def test_code_is_refused_and_does_not_run(tmp_path, capsys, where):
    torch.save(Code() if where == "alone" else {"model": STATE, "config": Code()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"refused, the file holds Python objects \(.*print\) that could run code"):
        weight_files.read(tmp_path / "w.pth")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(UserError, match="TorchScript program, which holds code"):
        weight_files.read(tmp_path / "w.pt")


OTHERS = {
    "web page": (b"<!DOCTYPE html><html><head><title>Sign in</title>", "this is a web page, not weights"),
    "late page": (b"\n\n  <HTML>\n<body>Virus scan warning</body>", "this is a web page, not weights"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1213000000\n",
        "Git LFS pointer, a file of 1213 MB, not the weights; fetch them with `git lfs pull`",
    ),
    "nothing": (b"", "the file is empty"),
    "error": (b'{"error": "Repository not found"}', "a server's error message"),
    "text": (b"just some words that are no weights at all", "refused, the file is damaged|cannot be read"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "gzip archive; unpack it"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_file_of_weights_is_told_for_what_it_is(tmp_path, kind, name):
    content, message = OTHERS[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        weight_files.read(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pth", "old.pth", "w.safetensors", "w.zip"])
def test_a_download_that_broke_off_is_one_clear_error(tmp_path, name):
    path, state = tmp_path / name, {"w": torch.rand(100, 100)}
    if name == "w.zip":
        torch.save(state, tmp_path / "inner.pth")
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "inner.pth", "inner.pth")
    elif name == "w.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "w.pth")
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UserError, match=r"weights .*: (the file cannot be read|refused, the file is damaged)"):
        weight_files.read(path)


def test_two_files_are_one_too_many(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    torch.save(STATE, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"holds 2 files of weights \(a\.pth, b\.pth\); name one"):
        weight_files.read(tmp_path)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.write(tmp_path / "a.pth", "a.pth")
        archive.write(tmp_path / "b.pth", "b.pth")
    with pytest.raises(UserError, match=r"holds 2 files of weights \(a\.pth, b\.pth\); unpack it"):
        weight_files.read(tmp_path / "w.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the folder holds no file of weights"):
        weight_files.read(tmp_path / "empty")
    with pytest.raises(UserError, match="cannot be read"):
        weight_files.read(tmp_path / "nowhere.pth")


def test_a_list_is_no_dictionary_of_tensors(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "w.pth")
    with pytest.raises(UserError, match="expected a state dict of tensors, found list"):
        weight_files.read(tmp_path / "w.pth")
    torch.save({"optimizer": {"state": {}, "param_groups": []}, "epoch": 1}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="expected a state dict of tensors, found the entries optimizer, epoch"):
        weight_files.load(tmp_path / "w.pth")
