"""Released encoders in a run: looked at without their weights, trained, and kept by a checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from mdf.models import zoo
from mdf.models.fusion import MDFModel
from mdf.training.dry_run import dry_run
from mdf.training.run import train
from tests.tiny_text import tiny_bert
from tests.training.conftest import losses

RELEASES = [n for n in zoo.read_table(zoo.TABLE) if not n.startswith("visionfm-") or n == "visionfm-fundus"]
QUICK = ["flair", "retfound-mae", "visionfm-fundus", "retinavlm"]


def look(name, tiny, capsys):
    assert dry_run(tiny(**{"run.stages": ("fuse",), "encoder.weights": name, "unet.size": 64})) == 0
    printed = capsys.readouterr().out
    release = zoo.releases()[name]
    assert f"NOT CHECKED: model: encoder.weights: {name} is named without its file" in printed
    assert f"{release.title} ({name}; {release.licence}) brings its own architecture and preprocessing" in printed
    assert "memory of fuse, GiB on each GPU" in printed


@pytest.mark.parametrize("name", QUICK)
def test_a_release_is_looked_at_in_its_true_size_without_its_file(name, tiny, capsys):
    look(name, tiny, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in RELEASES if n not in QUICK])
def test_every_release_is_looked_at_in_its_true_size_without_its_file(name, tiny, capsys):
    look(name, tiny, capsys)


@pytest.mark.parametrize("name", ["retfound-green", "ret-clip"])
def test_a_release_trains_and_its_checkpoint_needs_no_file(name, tiny, small, tmp_path):
    found = small(name)
    path = tmp_path / "file.pth"
    torch.save(found.content, path)
    more = {"encoder.text": str(tiny_bert(tmp_path / "bert"))} if name == "ret-clip" else {"encoder.image_lora": 2}
    cfg = tiny(**{
        "run.stages": ("align", "fuse"), "align.steps": 1, "fuse.steps": 1, "encoder.weights": f"{name}:{path}",
        "encoder.layer_decay": 0.8, **more,
    })  # fmt: skip
    before = MDFModel.build(cfg, ("normal",)).encoder
    assert train(cfg) == 0 and len(losses(cfg)) == 2
    run = Path(cfg.run.dir) / cfg.run.name
    path.unlink()
    trained = MDFModel.from_pretrained(run / "last")
    state = trained.encoder.state_dict()
    moved = {n for n, t in before.state_dict().items() if not torch.equal(t, state[n])}
    blocks = {n for n in moved if n.startswith("clip.visual.")}
    assert any("lora_B" in n for n in blocks) if name == "retfound-green" else len(blocks) > 20
    assert not moved & trained.encoder.fixed
    provenance = trained.encoder.architecture["weights"]
    assert provenance == before.architecture["weights"] and provenance["file"] == "file.pth"
    assert json.loads((run / "environment.json").read_text())["encoder"]["fingerprint"] == provenance["fingerprint"]
    assert "do not apply" in (run / "trainable.txt").read_text()
    preprocessing = trained.processor.preprocessing
    assert preprocessing.recipe is not None and preprocessing.encoder_size == 32
    photograph = (torch.rand(50, 70, 3) * 255).to(torch.uint8).numpy()
    pixels = trained.processor(photograph)["pixel_values"]
    assert torch.equal(pixels[0], preprocessing.recipe.apply(photograph))
    assert trained.embed_image(pixels).shape == (1, zoo.releases()[name].width)
