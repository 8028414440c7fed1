"""What best/ is chosen by, when a stage ends early, and what a run does whose embeddings collapse."""

import json
import math
from dataclasses import replace

import pytest

from mdf.checking import problems
from mdf.config import Config, PartConfig, StageConfig
from mdf.errors import UserError
from mdf.models.fusion import MDFModel
from mdf.training.run import train
from mdf.training.saving import STATE
from mdf.training.standing import Collapsed, Standing
from mdf.training.validation import score_of
from tests.training.conftest import metrics
from tests.training.test_loop import assert_same_run, crash, folder, stop_at

# a learning rate at which nothing moves, so that every validation is as good as the first
STILL = {"run.stages": ("align", "segment"), "align.steps": 9, "align.eval_every": 1, "align.patience": 2,
         "align.parts.encoder": PartConfig("full", 1e-12), "run.keep_last_every": 1, "segment.steps": 1,
         "align.eval_photographs": 6}  # fmt: skip
ABSURD = {"run.stages": ("align",), "align.steps": 6, "align.eval_every": 6, "align.warmup": 0.0,
          "align.parts.encoder": PartConfig("full", 0.1), "align.eval_photographs": 6}  # fmt: skip


def state(cfg: Config) -> dict:
    return json.loads((folder(cfg) / "last" / STATE / "state.json").read_text())


def standing(by: str = "zero_shot", **settings) -> Standing:
    return Standing("align", StageConfig(**settings), by)


def quality(value: float) -> dict[str, float]:
    return {"val_zero_shot_balanced_accuracy": value, "val_loss": 1.0}


def test_a_tie_keeps_the_earlier_and_patience_counts_from_the_best():
    one = standing(patience=2)
    values = [0.25, 0.5, 0.5, 0.75, 0.5, 0.75]
    assert [one.judge(quality(v), step, last=False) for step, v in enumerate(values, 1)] == [
        True, True, False, True, False, False
    ]  # fmt: skip
    assert one.best == {"score": 0.75, "step": 4} and one.ended
    assert "2 validations without a better zero_shot" in one.news(6)[0] and "best/ is of step 4" in one.news(6)[0]


def test_without_patience_a_stage_runs_to_its_end_and_the_last_step_is_no_early_one():
    never, late = standing(), standing(patience=1)
    for step in range(1, 9):
        never.judge(quality(0.5), step, last=False)
    assert not never.ended
    late.judge(quality(0.5), 1, last=False)
    late.judge(quality(0.5), 2, last=True)
    assert not late.ended


def test_a_validation_that_is_no_number_is_worse_than_any_other():
    one = standing("loss", patience=3)
    values = [math.nan, math.nan, 2.0, math.nan, 1.0]
    found = []
    for step, value in enumerate(values, 1):
        found.append(one.judge({"val_loss": value}, step, last=False))
        assert ("is not a number" in "".join(one.news(step))) is math.isnan(value)
    assert found == [True, False, True, False, True] and one.best == {"score": -1.0, "step": 5}
    older = standing("loss")
    older.restore({"by": "loss", "best": {"score": math.nan, "step": 5}})
    assert older.judge({"val_loss": 2.0}, 6, last=False)


def test_a_standing_goes_through_json():
    one, other = standing(patience=3), standing(patience=3)
    for step, value in enumerate((0.5, 0.25), 1):
        one.judge(quality(value) | {"val_rank": 3.0, "val_uniformity": -1.0, "val_captions": 4}, step, last=False)
    other.restore(json.loads(json.dumps(one.state())))
    assert other.state() == one.state()
    assert not other.judge(quality(0.25), 3, last=False) and other.judge(quality(0.75), 4, last=False)


def test_a_collapsed_validation_is_not_the_best_of_a_stage_that_stops_on_it():
    figures = {"val_rank": 5.0, "val_uniformity": -1.0, "val_captions": 6}
    fallen = {"val_rank": 1.0, "val_uniformity": -1e-6, "val_captions": 6}
    for stops in (True, False):
        one = standing("loss", stop_on_collapse=stops)
        assert one.judge(figures | {"val_loss": 3.0}, 1, last=False)
        assert one.judge(fallen | {"val_loss": 2.7}, 2, last=False) is not stops  # the loss of chance is better
        assert "COLLAPSE" in one.news(2)[0] and "Lower align.parts.encoder.lr" in one.news(2)[0]
        one.judge(fallen | {"val_loss": 2.7}, 3, last=False)
        assert "still" in one.news(3)[0] and "Lower" not in one.news(3)[0]
        if stops:
            with pytest.raises(Collapsed, match=r"best/ is of step 1.*--resume with align\.stop_on_collapse=false"):
                one.refuse(2)
        else:
            one.refuse(2)


def test_the_measure_is_what_it_is_named():
    found = {"val_loss": 2.0, "val_dice": 0.5, "val_zero_shot_balanced_accuracy": 0.25}
    assert [score_of(found, by) for by in ("loss", "dice", "zero_shot")] == [-2.0, 0.5, 0.25]
    with pytest.raises(UserError, match="is there any more"):
        score_of({"val_loss": 2.0}, "zero_shot")


def test_settings_that_contradict_each_other_are_refused(tiny):
    cfg = tiny()
    wrong = replace(cfg, segment=replace(cfg.segment, best="zero_shot", stop_on_collapse=True),
                    align=replace(cfg.align, best="dice", ema=1.0, patience=-1),
                    fuse=replace(cfg.fuse, best="los"))  # fmt: skip
    said = "\n".join(problems(wrong))
    for key in ("segment.best", "segment.stop_on_collapse", "align.best", "align.ema", "align.patience", "fuse.best"):
        assert f"{key}:" in said
    assert not problems(replace(cfg, align=replace(cfg.align, best="zero_shot", ema=0.999, stop_on_collapse=True)))


@pytest.fixture(scope="module")
def early(world, tmp_path_factory):
    from tests.tiny import tiny_config

    cfg = tiny_config(world, **{"run.dir": str(tmp_path_factory.mktemp("runs")), **STILL})
    assert train(cfg) == 0
    return cfg


def test_a_stage_ends_early_by_zero_shot_quality_and_the_next_one_starts(early):
    lines = metrics(early)
    assert [(line["stage"], line["step"]) for line in lines if "loss" in line] == [
        ("align", 1), ("align", 2), ("align", 3), ("segment", 1)
    ]  # fmt: skip
    found = [line for line in lines if line["stage"] == "align" and "val_loss" in line]
    assert [line["step"] for line in found] == [0, 1, 2, 3]  # 0: before the first step
    names = ("zero_shot_balanced_accuracy", "rank", "alignment", "uniformity", "captions")
    assert all(f"val_{name}" in line for line in found for name in names)
    assert [line.get("best") for line in found] == [None, True, False, False]
    assert [line.get("ended") for line in found] == [None, None, None, True]


@pytest.mark.parametrize(("stage", "step"), [("align", 3), ("segment", 1)])
def test_resume_around_an_early_end_is_exact(tiny, monkeypatch, early, stage, step):
    """`segment` 1: the run stopped where last/ is of the stage that ended early, which is not trained further."""
    cfg = tiny(**STILL)
    stop_at(monkeypatch, stage, step, crash)
    with pytest.raises(RuntimeError):
        train(cfg)
    assert (state(cfg)["stage"], state(cfg)["standing"]["ended"]) == ("align", stage == "segment")
    assert train(cfg, resume=True) == 0
    assert_same_run(early, cfg)


def test_a_collapse_is_said_and_counted(tiny, capsys):
    cfg = tiny(**ABSURD)
    assert train(cfg) == 0
    said = capsys.readouterr().out
    assert "align, step 6: COLLAPSE: all photographs are embedded in nearly the same place" in said
    assert "narrow cone" in said  # before the first step
    last = metrics(cfg)[-1]
    assert last["collapsed"] and last["best"] and last["val_rank"] < 1.2
    MDFModel.from_pretrained(folder(cfg) / "best")


def test_a_run_stops_on_a_collapse_where_it_is_asked_to(tiny, capsys):
    """Resumed it stops again, unless it is told to go on."""
    cfg = tiny(**ABSURD, **{"align.stop_on_collapse": True})
    for resume in (False, True):
        assert train(cfg, resume=resume) == 1
        error = capsys.readouterr().err
        assert "error: align, step 6: stopped, because all photographs" in error and "no step of it became" in error
    assert state(cfg)["step"] == 6 and not (folder(cfg) / "best").exists()
    assert train(replace(cfg, align=replace(cfg.align, stop_on_collapse=False)), resume=True) == 0
    assert (folder(cfg) / "best" / "model.safetensors").is_file()


def test_a_healthy_run_raises_no_alarm(tiny, capsys):
    cfg = tiny(**{"run.stages": ("align",), "align.steps": 6, "align.eval_every": 2, "align.eval_photographs": 6})
    assert train(cfg) == 0
    assert "COLLAPSE" not in capsys.readouterr().out
    assert not any("collapsed" in line for line in metrics(cfg))


def test_what_the_validation_photographs_cannot_tell_is_refused(tiny, world):
    none = {"data.val": 0.0, "data.root": str(world / "without-val"), "run.stages": ("align",)}
    with pytest.raises(UserError, match=r"align\.patience: 2, but there is no validation photograph"):
        train(tiny(**none, **{"align.patience": 2}))
    with pytest.raises(UserError, match=r"align\.best: zero_shot, but no validation photograph has a diagnosis"):
        train(tiny(**none, **{"align.best": "zero_shot", "run.name": "other"}))
