"""`prepare.py weights`: which release a file is of, whether it is whole, and its conversion."""

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from mdf import preparation
from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.models import zoo
from mdf.models.fundus_encoder import FundusEncoder
from tests.conftest import assert_refused


def weights(*what, **more):
    options = {"out": None, "photograph": None, "picture": None, "interpolate": False}
    preparation.weights([str(word) for word in what], **(options | more))


def test_a_file_is_checked_converted_and_looked_at(small, tmp_path, capsys, photograph):
    found = small("retfound-green")
    torch.save(found.content, tmp_path / "green.pth")
    weights(tmp_path / "green.pth", photograph=str(photograph(tmp_path / "eye.png")))
    printed = capsys.readouterr().out
    assert "green.pth: retfound-green, by names and shapes of its tensors" in printed
    assert "licence     custom, non-commercial (CNCRL)" in printed and "fingerprint" in printed
    assert "4 x 4 patches of width 32 with norms" in printed
    with Image.open(tmp_path / "retfound-green.png") as picture:
        assert picture.size == (3 * 448 + 16, 448)
    made = tmp_path / "retfound-green.safetensors"
    with safe_open(made, "pt") as file:
        assert file.metadata()["mdf_release"] == "retfound-green" and file.metadata()["source"] == "green.pth"
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        first = FundusEncoder(EncoderConfig(weights=f"retfound-green:{tmp_path / 'green.pth'}")).eval()(pixels)[0]
        for named in (f"retfound-green:{made}", str(made)):
            assert torch.equal(FundusEncoder(EncoderConfig(weights=named)).eval()(pixels)[0], first)
    weights("retfound-green", made)
    assert "is converted already" in capsys.readouterr().out
    small("dinoret")
    with pytest.raises(UserError, match=r"was converted from retfound-green, not from dinoret"):
        FundusEncoder(EncoderConfig(weights=f"dinoret:{made}"))
    with pytest.raises(UserError, match=r"has to end in \.safetensors"):
        weights("retfound-green", tmp_path / "green.pth", out=str(tmp_path / "green.bin"))


def test_a_layout_that_releases_share_needs_the_users_word(small, tmp_path, capsys):
    found = small("retfound-mae")
    small("deretfound")
    torch.save(found.content, tmp_path / "mae.pth")
    weights(tmp_path / "mae.pth")
    printed = capsys.readouterr().out
    assert "mae.pth: retfound-mae or deretfound, by names" in printed and "only you can know which" in printed
    assert not list(tmp_path.glob("*.safetensors"))
    weights("deretfound", tmp_path / "mae.pth", out=str(tmp_path / "mine.safetensors"))
    assert (tmp_path / "mine.safetensors").is_file() and (tmp_path / "deretfound.png").is_file()


def test_a_file_of_no_release_is_unknown(tmp_path):
    torch.save({"model": {"weight": torch.ones(2)}, "epoch": 1}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"unknown, .* It holds the entries model \(1 tensors\), epoch"):
        weights(tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"there is no release 'flare'; nearest: flair"):
        weights("flare", tmp_path / "x.pth")
    with pytest.raises(UserError, match="3 words"):
        weights("a", "b", "c")


def test_all_releases_and_one(capsys):
    weights()
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in listed for name in zoo.releases())
    weights("flair")
    one = capsys.readouterr().out
    assert (
        "million numbers in 518 tensors are used" in one
        and "jusiro2/FLAIR" in one
        and "rule pad" in one
        and "Apache-2.0" in one
    )
    with pytest.raises(UserError, match=r"nowhere\.pth: cannot be read"):
        weights("flair", "nowhere.pth")


@pytest.mark.slow
def test_the_script_refuses_a_file_that_is_not_there(run_script):
    assert_refused(run_script("prepare.py", "weights", "flair", "nowhere.pth"), "nowhere.pth: cannot be read")
