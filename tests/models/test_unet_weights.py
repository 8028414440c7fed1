"""The encoder of a whole U-Net of segmentation-models-pytorch as skip source: all of it, from its file, or none."""

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from mdf.config import Config, UNetConfig, load_config
from mdf.errors import UserError
from mdf.models import unet_weights
from mdf.models.photographs import preprocessing_of
from mdf.models.unet import UNet

RELEASED = "tu-seresnext50_32x4d"


def trained(encoder: str = "resnet18", classes: int = 5) -> smp.Unet:
    """A whole U-Net whose BatchNorm has statistics of its own."""
    torch.manual_seed(0)
    model = smp.Unet(encoder, encoder_weights=None, classes=classes).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.uniform_(-0.2, 0.2)
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model


def wrapped(state: dict, prefix: str = "", wrapper: str = "") -> dict:
    state = {prefix + name: value for name, value in state.items()}
    return {wrapper: state, "epoch": 3} if wrapper else state


@torch.no_grad()
@pytest.mark.parametrize(
    ("prefix", "wrapper"), [("", ""), ("module.", "state_dict"), ("model.", "model"), ("module.net.", "state_dict")]
)
def test_the_skips_are_those_of_the_whole_u_net(tmp_path, prefix, wrapper):
    original = trained()
    torch.save(wrapped(original.state_dict(), prefix, wrapper), tmp_path / "unet.pth")
    unet = UNet(UNetConfig(encoder="resnet18", weights=str(tmp_path / "unet.pth"), size=64)).train()
    pixels = torch.rand(2, 3, 64, 64)
    for ours, theirs in zip(unet.encode(pixels), original.encoder(pixels), strict=True):
        assert (ours - theirs).abs().max() < 1e-5
    assert "120 tensors" in unet.loaded and "of its decoder and head left out: ours is made for" in unet.loaded
    assert any(isinstance(m, torch.nn.GroupNorm) for m in unet.net.decoder.modules())


@torch.no_grad()
def test_the_released_lesion_u_net_brings_its_encoder_and_its_normalisation(tmp_path):
    """As PyTorchModelHubMixin wrote it: a .safetensors whose names begin with `model.`, the encoder one of timm's."""
    original = trained(RELEASED)
    state = {f"model.{k}": v.contiguous() for k, v in original.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    cfg = UNetConfig(weights=f"fundus-lesions:{tmp_path / 'model.safetensors'}", size=128)
    unet, pixels = UNet(cfg).eval(), torch.rand(1, 3, 128, 128)
    assert unet.channels == (64, 256, 512, 1024)
    for ours, theirs in zip(unet.encode(pixels), original.encoder(pixels), strict=True):
        assert (ours - theirs).abs().max() < 1e-5
    assert "trained at 1024 px, here unet.size is 128" in unet.loaded
    found = preprocessing_of(Config(unet=cfg))
    assert found.unet_mean == (0.485, 0.456, 0.406) and found.unet_std == (0.229, 0.224, 0.225)
    moved = UNet(cfg, load=False)  # of a checkpoint, which needs the file no longer
    assert moved.state_dict().keys() == unet.state_dict().keys()


def renamed(state: dict) -> None:
    state["encoder.layer1.0.conv9.weight"] = state.pop("encoder.layer1.0.conv1.weight")


def missing(state: dict) -> None:
    del state["encoder.layer4.1.bn2.running_var"]


def extra(state: dict) -> None:
    state["encoder.layer5.0.conv1.weight"] = torch.zeros(3)


def stranger(state: dict) -> None:
    for name in list(state):
        state[f"model.{name}"] = state.pop(name)
    state["critic.weight"] = torch.zeros(3)


def transposed(state: dict) -> None:
    state["encoder.layer2.0.conv1.weight"] = state["encoder.layer2.0.conv1.weight"].transpose(0, 1).contiguous()


def of_another_shape(state: dict) -> None:
    state["encoder.conv1.weight"] = torch.zeros(64, 1, 7, 7)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (renamed, r"1 missing: layer1\.0\.conv1\.weight; 1 extra: layer1\.0\.conv9\.weight"),
        (missing, r"1 missing: layer4\.1\.bn2\.running_var"),
        (extra, r"1 extra: layer5\.0\.conv1\.weight"),
        (stranger, r"belong to no encoder, decoder or head of a U-Net: critic\.weight\. Nothing loaded"),
        (transposed, r"layer2\.0\.conv1\.weight \[64, 128, 3, 3\] instead of \[128, 64, 3, 3\]"),
        (of_another_shape, r"conv1\.weight \[64, 1, 7, 7\] instead of \[64, 3, 7, 7\]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_wrong_tensor_refuses_the_file(tmp_path, monkeypatch, change, why):
    monkeypatch.setattr(unet_weights, "fitting", lambda state: [])  # a search of seconds, tested below
    state = trained().state_dict()
    change(state)
    torch.save(state, tmp_path / "unet.pth")
    with pytest.raises(UserError, match=why):
        UNet(UNetConfig(encoder="resnet18", weights=str(tmp_path / "unet.pth"), size=64))


def test_the_encoder_that_the_tensors_fit_is_named(tmp_path):
    torch.save(trained("resnet18").state_dict(), tmp_path / "unet.pth")
    with pytest.raises(UserError, match=r"do not fit the encoder 'resnet34'.* They fit unet\.encoder=resnet18\."):
        UNet(UNetConfig(encoder="resnet34", weights=str(tmp_path / "unet.pth"), size=64))


def test_an_encoder_of_timm_that_fits_is_named():
    with torch.device("meta"):
        state = smp.encoders.get_encoder(RELEASED, weights=None).state_dict()
    assert unet_weights.fitting(state) == [RELEASED]


def test_encoders_without_a_skip_or_that_there_are_not_are_refused():
    with pytest.raises(UserError, match=r"no encoder 'tu-seresnext50_32'; nearest: .*tu-seresnext50_32x4d"):
        UNet(UNetConfig(encoder="tu-seresnext50_32"))
    with pytest.raises(UserError, match="tu-test_convnext has no map at stride 2"):
        UNet(UNetConfig(encoder="tu-test_convnext"))


def test_a_release_without_its_file_says_where_it_is():
    with pytest.raises(UserError, match=r"names no file; get ClementP/.* \(MIT, 138 MB\) and set unet\.weights="):
        unet_weights.encoder_state(UNetConfig(weights="fundus-lesions"))
    assert UNet(UNetConfig(weights="fundus-lesions"), load=False).channels == (64, 256, 512, 1024)


def test_the_normalisation_of_the_u_net_is_a_setting():
    cfg = load_config(None, ["unet.mean=[0,0,0]", "unet.std=[1,1,1]"])
    found = preprocessing_of(cfg)
    assert found.unet_mean == (0, 0, 0) and found.unet_std == (1, 1, 1)
    with pytest.raises(UserError, match=r"unet\.std: \[0\.0, 1\.0, 1\.0\] must be three numbers above 0"):
        load_config(None, ["unet.std=[0.0,1.0,1.0]"])
