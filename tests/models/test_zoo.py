"""Every released encoder of the table loads strictly and gives the features of its own code."""

from dataclasses import replace
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


@pytest.fixture
def small(monkeypatch):
    """small(name): its published file with random weights, and the table with a small stand-in for it."""

    def made(name):
        found = published(name)
        monkeypatch.setitem(zoo.releases(), name, replace(zoo.releases()[name], **found.changes))
        return found

    return made


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
