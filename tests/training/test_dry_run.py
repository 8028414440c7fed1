"""The dry run, and the script around both."""

import subprocess
import sys

from mdf.config import save_config
from mdf.preview import marked
from mdf.training.dry_run import dry_run
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
