"""Every released encoder of the table loads strictly and gives the features of its own code."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.models import zoo, zoo_identify
from mdf.models.fundus_encoder import FundusEncoder, statistics
from mdf.models.weight_files import Content
from tests.models.released import alike, published

RELEASES = list(zoo.read_table(zoo.TABLE))
VISIONFM = [name for name in RELEASES if name.startswith("visionfm-")]
ONE_OF_EACH = [name for name in RELEASES if name not in VISIONFM[1:]]  # they differ in mean and standard deviation


def pixels_for(name, found):
    side = zoo.releases()[name].side
    return torch.randn(2, found.channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_features_are_those_of_its_own_code(name, small, tmp_path):
    found = small(name)
    torch.save(found.content, tmp_path / "file.pth")
    encoder = FundusEncoder(EncoderConfig(weights=f"{name}:{tmp_path / 'file.pth'}")).eval()
    pixels = pixels_for(name, found)
    ours, expected = encoder(pixels)[0], F.normalize(found.forward(pixels), dim=-1)
    assert ours.shape == expected.shape == (2, zoo.releases()[name].width)
    assert F.cosine_similarity(ours, expected).min() >= 0.9999
    assert (ours - expected).abs().max() <= 1e-4
    if name != "flair":  # whose features are made unit before they are projected
        assert (encoder.features(pixels)[0] - found.forward(pixels)).abs().max() <= 1e-4 * expected.shape[1] ** 0.5
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retfound-green", "urfound", "eyeclip"])
@torch.no_grad()
def test_features_in_true_size_are_those_of_its_own_code(name, tmp_path):
    found = published(name, true=True)
    torch.save(found.content, tmp_path / "file.pth")
    encoder = FundusEncoder(EncoderConfig(weights=f"{name}:{tmp_path / 'file.pth'}")).eval()
    pixels = pixels_for(name, found)
    ours, expected = encoder(pixels)[0], F.normalize(found.forward(pixels), dim=-1)
    assert F.cosine_similarity(ours, expected).min() >= 0.9999 and (ours - expected).abs().max() <= 1e-4


def targets(release, name):
    """Our names of a tensor of the file."""
    rule, match = zoo.first_match(release, name)
    return [match.expand(to) for to in rule.to]


def renamed(state, name):
    state[f"{name}_"] = state.pop(name)


def transposed(state, name):
    state[name] = state[name].transpose(0, 1).contiguous()


CHANGES = {
    "renamed": renamed,
    "missing": lambda state, name: state.pop(name),
    "extra": lambda state, name: state.update({f"{name}.more": torch.zeros(2)}),
    "transposed": transposed,
    "shorter": lambda state, name: state.update({name: state[name][:-1]}),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_changed_tensor_is_refused_and_nothing_is_loaded(name, change, small, tmp_path):
    found = small(name)
    content = Content(Path("x"), found.content)
    release = zoo.releases()[name]
    state = next(found.content[w] if w else found.content for w in release.wrapper if content.inside(w))
    # a matrix that is not square, in the middle of the image tower
    victims = [n for n, t in state.items() if t.ndim > 1 and t.shape[0] != t.shape[1] and t.shape[0] > 2]
    victims = [n for n in victims if any(to.startswith("visual.") for to in targets(release, n))]
    CHANGES[change](state, victims[len(victims) // 2])
    torch.save(found.content, tmp_path / "file.pth")
    with pytest.raises(UserError, match=f"does not fit {name} .*nothing loaded"):
        FundusEncoder(EncoderConfig(weights=f"{name}:{tmp_path / 'file.pth'}"))


@pytest.mark.parametrize("name", RELEASES)
def test_the_true_layout_is_told_from_names_and_shapes_alone(name):
    with torch.device("meta"):
        found = published(name, true=True)
    content = Content(Path("file.pth"), found.content)
    release = zoo.read_table(zoo.TABLE)[name]
    expected = set(VISIONFM) if name in VISIONFM else alike(name)
    assert set(zoo_identify.identify(content)) == expected
    known = {"flair", "retfound-finetuned", "retfound-green"}
    if name in known:
        assert len(zoo.unwrap(release, content)) == release.tensors


def test_files_of_something_else_are_unknown():
    linear = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    for content in (linear, {"model": linear}, {"teacher": {"backbone.cls_token": torch.zeros(1, 1, 1024)}}):
        assert zoo_identify.identify(Content(Path("x.pth"), content)) == []


def test_a_release_brings_its_statistics_whatever_the_configuration_says():
    fundus = statistics(EncoderConfig(weights="visionfm-fundus:x.pth", mean=(0.1, 0.1, 0.1)))
    assert fundus[0] == pytest.approx((0.4237, 0.2609, 0.1284), abs=1e-4)
    assert statistics(EncoderConfig(weights="visionfm-oct:x.pth")) != fundus
    assert statistics(EncoderConfig(weights="flair:x.pth")) == ((0, 0, 0), (1, 1, 1))


# -- what is wrong with a file ----------------------------------------------------------------------------------------


def encoder_of(name, path, **settings):
    return FundusEncoder(EncoderConfig(weights=f"{name}:{path}", **settings))


def saved(content, tmp_path, name="file.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def test_a_name_that_is_no_release_or_has_no_file_is_one_error(tmp_path):
    with pytest.raises(UserError, match=r"no release 'retfound_mae'; nearest: retfound-mae"):
        FundusEncoder(EncoderConfig(weights="retfound_mae:x.pth"))
    with pytest.raises(
        UserError, match=r"flair is named without its file; give flair:FILE \(FLAIR, from jusiro2/FLAIR"
    ):
        FundusEncoder(EncoderConfig(weights="flair"))
    with pytest.raises(UserError, match=r"nowhere\.pth: cannot be read"):
        FundusEncoder(EncoderConfig(weights=f"retfound-green:{tmp_path / 'nowhere.pth'}"))
    with pytest.raises(UserError, match=r"encoder\.interpolate: is for a released encoder"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", interpolate=True))


def test_two_releases_of_one_name_are_refused(tmp_path):
    text = zoo.TABLE.read_text()
    (tmp_path / "zoo.yaml").write_text(text + "\nflair:\n  title: another\n")
    with pytest.raises(UserError, match=r"line \d+: 'flair' is there twice"):
        zoo.read_table(tmp_path / "zoo.yaml")
    (tmp_path / "zoo.yaml").write_text(text.replace("  title: FLAIR\n", "  title: FLAIR\n  sise: 3\n"))
    with pytest.raises(UserError, match=r"flair: unknown setting sise"):
        zoo.read_table(tmp_path / "zoo.yaml")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_and_said(kind, small, tmp_path):
    found = small("retfound-green")
    path = saved({n: t.to(kind) for n, t in found.content.items()}, tmp_path)
    encoder = encoder_of("retfound-green", path)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    assert f"tensors of {str(kind)[6:]} converted to float32" in "\n".join(encoder.describe())


def test_the_wrong_release_is_told_with_the_right_one(small, tmp_path):
    path = saved(small("retfound-green").content, tmp_path)
    small("dinoret")
    with pytest.raises(UserError, match=r"does not fit dinoret .*encoder\.weights=retfound-green:"):
        encoder_of("dinoret", path)
    with pytest.raises(UserError, match=r"no file of retfound-dinov2, nothing loaded: its tensors would be below the "
                       r"entry 'teacher', and the file holds \d+ tensors and nothing around them"):  # fmt: skip
        encoder_of("retfound-dinov2", path)


def test_a_whole_training_state_is_told_from_an_encoder(small, tmp_path):
    found = small("retfound-green")
    path = saved({"net": found.content, "optimizer": {"state": {}}, "epoch": 3}, tmp_path)
    with pytest.raises(UserError, match=r"the file holds the entries net \(\d+ tensors\), optimizer, epoch\. .*whole "
                       r"training state, with tensors below 'net'"):  # fmt: skip
        encoder_of("retfound-green", path)
    ours = {f"encoder.{n}": t for n, t in FundusEncoder(EncoderConfig(model="fundus-vit-tiny")).state_dict().items()}
    with pytest.raises(UserError, match=r"checkpoint of mdf, a whole model: name its folder as run\.start_from"):
        encoder_of("retfound-green", saved(ours, tmp_path))
    from mdf.models.fusion import MDFModel

    with pytest.raises(UserError, match=r"this is a file, and a checkpoint is a run's folder best/ or last/"):
        MDFModel.from_pretrained(path)


def test_a_renamed_tensor_is_named_with_what_it_may_be(small, tmp_path):
    found = small("retfound-green")
    renamed(found.content, "blocks.0.attn.proj.weight")
    renaming = (
        r"Renamed\? visual\.trunk\.blocks\.0\.attn\.proj\.weight_ for visual\.trunk\.blocks\.0\.attn\.proj\.weight"
    )
    with pytest.raises(UserError, match=rf"1 missing: visual\.trunk.*; 1 too many: .*{renaming} \[32, 32\]"):
        encoder_of("retfound-green", saved(found.content, tmp_path))
    found = small("retfound-green")
    found.content["regtoken"] = found.content.pop("reg_token")
    with pytest.raises(UserError, match=r"1 not known: regtoken\. Renamed\? regtoken for visual\.trunk\.reg_token"):
        encoder_of("retfound-green", saved(found.content, tmp_path))


def test_values_that_are_no_numbers_are_refused(small, tmp_path):
    found = small("retfound-green")
    found.content["norm.weight"][0] = float("nan")
    with pytest.raises(UserError, match=r"1 tensors hold values that are no finite numbers \(visual\.trunk\.norm"):
        encoder_of("retfound-green", saved(found.content, tmp_path))


@pytest.mark.parametrize("name", ["dinoret", "ret-clip", "medsiglip"])
@torch.no_grad()
def test_positions_are_interpolated_only_when_asked_for_and_it_is_said(name, small, tmp_path):
    found = small(name)
    path = saved(found.content, tmp_path)
    encoder = encoder_of(name, path, interpolate=True, size=64).eval()
    assert encoder.size == 64 and encoder.grid == (8, 8)
    assert encoder.architecture["recipe"]["side"] == 64
    said = "\n".join(encoder.describe())
    assert "position embeddings interpolated from" in said
    assert encoder_of(name, path, size=64).size == 32  # its own side, without being asked
    same = encoder_of(name, path, interpolate=True)
    assert same.size == 32 and "interpolated" not in "\n".join(same.describe())


def test_a_file_with_positions_of_another_side_says_so(small, tmp_path):
    found = small("dinoret")
    found.content["pos_embed"] = torch.randn(1, 65, 32)
    path = saved(found.content, tmp_path)
    with pytest.raises(UserError, match=r"Its positions are not those of 32 px; encoder\.interpolate=true"):
        encoder_of("dinoret", path)
    assert "from [1, 65, 32] to [1, 17, 32]" in "\n".join(encoder_of("dinoret", path, interpolate=True).describe())


# -- what a run and a checkpoint know of it ---------------------------------------------------------------------------


@torch.no_grad()
def test_an_encoder_is_built_again_from_its_architecture_without_the_file(small, tmp_path):
    import json

    for name in ("ret-clip", "visionfm-fundus", "visionunite", "retinavlm"):
        found = small(name)
        path = saved(found.content, tmp_path)
        cfg = EncoderConfig(weights=f"{name}:{path}")
        first = FundusEncoder(cfg).eval()
        path.unlink()
        kept = json.loads(json.dumps(first.architecture))
        again = FundusEncoder(cfg, load=False, architecture=kept).eval()
        again.load_state_dict(first.state_dict())
        pixels = pixels_for(name, found)
        assert torch.equal(first(pixels)[0], again(pixels)[0])
        assert again.statistics == first.statistics and again.describe() == first.describe()


def test_a_fingerprint_and_norms_tell_two_files_apart(small, tmp_path):
    found = small("retfound-green")
    first = encoder_of("retfound-green", saved(found.content, tmp_path)).architecture["weights"]
    assert list(first["norms"]) == [f"layer {n}" for n in range(6)]  # stem, four blocks, norm
    assert (
        first["fingerprint"]
        == encoder_of("retfound-green", tmp_path / "file.pth").architecture["weights"]["fingerprint"]
    )
    found.content["blocks.2.mlp.fc1.weight"] *= 2
    other = encoder_of("retfound-green", saved(found.content, tmp_path)).architecture["weights"]
    changed = [layer for layer in first["norms"] if first["norms"][layer] != other["norms"][layer]]
    assert changed == ["layer 3"] and first["fingerprint"] != other["fingerprint"]


def test_what_is_left_out_and_what_is_fresh_is_said(small, tmp_path):
    path = saved(small("retfound-mae").content, tmp_path)
    encoder = encoder_of("retfound-mae", path, model="fundus-vit-tiny", size=96, resize="squash", mean=(0, 0, 0))
    said = "\n".join(encoder.describe())
    assert "encoder.model, image, size, resize, mean, std do not apply" in said
    assert "10 dropped: the decoder of its pretraining" in said and "fresh: its pretraining had no pooling" in said
    assert "it has no text tower: encoder.text or encoder.model gives one" in said
    assert encoder.size == 32 and encoder.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_lora_and_layer_decay_reach_the_blocks_of_a_release(small, tmp_path):
    path = saved(small("visionfm-fundus").content, tmp_path)
    encoder = encoder_of("visionfm-fundus", path, image_lora=2, layer_decay=0.5)
    lora = [n for n, _ in encoder.named_parameters() if "lora_" in n]
    assert len(lora) == 2 * 4 * 4  # A and B of qkv, proj, fc1 and fc2 in four blocks
    layers = encoder.layers()
    assert layers["clip.visual.trunk.pos_embed"] == (0, 5) and layers["clip.visual.trunk.norm.weight"] == (5, 5)
    assert all(n in encoder.fixed for n, _ in encoder.named_parameters() if "trunk" in n and "lora" not in n)
