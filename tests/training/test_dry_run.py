"""The dry run, and the script around both."""

import subprocess
import sys

import pytest
import torch

from mdf.config import load_config, save_config
from mdf.preview import marked
from mdf.training.data import diagnoses_of, load_manifests
from mdf.training.dry_run import activations, contrastive_activations, dry_run, first_batch
from mdf.training.stages import Task
from mdf.training.start import first_model
from tests.conftest import REPO, assert_refused


def test_shows_the_parts_the_batch_and_the_supervised_span(tiny, capsys):
    cfg = tiny(**{"dialogue.diagnosis_first": 1.0})
    assert dry_run(cfg, strict=True) == 0
    printed = capsys.readouterr().out
    for stage in cfg.run.stages:
        assert f"stage {stage}\n" in printed and f"memory of {stage}, GiB: weights" in printed
    assert "| <|im_start|>assistant\n  | [[" in printed and "<|im_end|>]]" in printed
    assert "<filename>×4" in printed and "[[<|im_start|>" not in printed
    assert "unet_pixels     float32  [4, 3, 64, 64]" in printed


def test_what_is_not_at_hand_is_not_checked(tiny, tmp_path, capsys):
    cfg = tiny(**{"data.name": "folder", "data.root": str(tmp_path / "nowhere")})
    assert dry_run(cfg) == 0
    assert "NOT CHECKED: data: " in capsys.readouterr().out
    assert dry_run(cfg, strict=True) == 2


def aligning(tiny, **changes):
    cfg = tiny(**{"run.stages": ("align",), "align.batch_size": 12, **changes})
    manifests = load_manifests(cfg)
    model, task = first_model(cfg, diagnoses_of(manifests), torch.float32), Task(cfg, "align")
    model.set_trainable(task.stage.parts, tuple(task.weights))
    return model, task, first_batch(cfg, task, manifests["align"], model)


def test_a_contrastive_batch_in_chunks_needs_less_memory(tiny):
    needed = []
    for chunk in (0, 2):
        model, task, _ = aligning(tiny, **{"align.chunk": chunk})
        needed.append(contrastive_activations(model, task, "fp32"))
    assert 0 < needed[1] < needed[0] / 3  # a sixth, and what does not grow with the photographs


def test_what_is_counted_without_computing_is_what_a_step_keeps(tiny):
    model, task, batch = aligning(tiny)
    # beside the encoder's there are those of the loss, 12 x 12 numbers a few times over
    assert contrastive_activations(model, task, "fp32") == pytest.approx(
        activations(model, task, batch, "fp32"), rel=0.02
    )


def test_weights_that_are_not_at_hand_leave_the_rest_to_look_at(tiny, capsys):
    cfg = tiny(**{"run.stages": ("align",), "encoder.weights": "nowhere.safetensors"})
    assert dry_run(cfg) == 0 and dry_run(cfg, strict=True) == 2
    printed = capsys.readouterr().out
    assert "NOT CHECKED: model: encoder.weights" in printed
    assert "stage align\n" in printed and "activations (counted)" in printed


@pytest.mark.parametrize("recipe", ["flair", "mm_fundus_clip", "ret_clip"])
def test_a_recipe_is_a_configuration_that_loads(recipe):
    cfg = load_config(recipe, [])
    assert cfg.run.stages == ("align",) and cfg.align.batch_size >= 128


@pytest.mark.slow
def test_a_recipe_is_looked_at_without_its_weights_and_data(capsys):
    assert dry_run(load_config("ret_clip", ["align.batch_size=4"])) == 0
    printed = capsys.readouterr().out
    assert "image tower VisionTransformer: QuickGELU, 224 px" in printed and "up to 100 tokens" in printed
    assert "NOT CHECKED: data: " in printed and "activations (counted)" in printed


def test_the_mark_goes_round_the_supervised_tokens():
    class Tokenizer:
        def decode(self, ids, **_):
            return "".join(chr(i) for i in ids)

    ids = [ord(c) for c in "question:yes.question:no."]
    labels = [i if 9 <= k < 13 or k >= 22 else -100 for k, i in enumerate(ids)]
    assert marked(ids, labels, Tokenizer()) == "question:[[yes.]]question:[[no.]]"


def test_the_script_refuses_wrong_input_without_a_traceback(run_script, tiny, tmp_path):
    save_config(tiny(), tmp_path / "run.yaml")
    assert_refused(run_script("train.py", "--config", tmp_path / "run.yaml", "fuse.step=3"), "fuse.step", "fuse.steps")
    assert_refused(run_script("train.py", "--config", tmp_path / "run.yaml", "--resume"), "leave --resume away")
    assert run_script("train.py", "--help").returncode == 0


def test_help_loads_no_torch():
    code = (
        "import runpy, sys\nsys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('scripts/train.py', run_name='__main__')\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env={"PYTHONPATH": str(REPO)}, check=True, capture_output=True
    )
