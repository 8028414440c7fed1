"""The picture of metrics.jsonl."""

import math

import numpy as np
from PIL import Image

from mdf.training.curves import HIGH, WIDE, curves_of, curves_picture

LINES = [
    {"stage": stage, "step": step, "total": 8, "loss": 2.0 / step, "loss_text": 1.0 / step, "lr_fusion": 0.1}
    | ({"gate_attn_3": step / 10, "gate_ffn_3": -step / 10} if stage == "fuse" else {})
    for stage in ("segment", "fuse")
    for step in range(1, 9)
] + [{"stage": "segment", "step": 8, "total": 8, "val_loss": 0.5, "val_dice": 0.7, "best": True}]


def test_each_stage_has_a_row_and_each_kind_of_number_a_panel(tmp_path):
    assert list(curves_of(LINES, "segment")) == ["loss", "validation"]
    assert list(curves_of(LINES, "fuse")["gates, tanh"]) == ["gate_attn_3", "gate_ffn_3"]
    assert curves_of(LINES, "segment")["loss"]["val_loss"] == [(8, 0.5)]
    curves_picture(LINES, tmp_path / "curves.png")
    picture = np.asarray(Image.open(tmp_path / "curves.png"))
    assert picture.shape == (2 * HIGH, 2 * WIDE, 3)
    assert (picture[HIGH:, WIDE:] != 255).any() and (picture[:HIGH, :WIDE] != 255).any()


def test_numbers_that_are_none_leave_a_gap_and_no_numbers_no_picture(tmp_path):
    broken = [*LINES[:4], {**LINES[4], "loss": math.nan}, {**LINES[5], "loss": math.inf}]
    curves_picture(broken, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
    curves_picture([{"stage": "fuse", "step": 1, "total": 2, "lr_fusion": 0.1}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
