"""A grid of runs: what its file may say, in which order it runs, what it leaves alone, and what it does about failures.

What is run here stands in for the scripts where only the order of things matters; the slow test has the scripts.
"""

import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace

import pytest
import yaml

from mdf.config import load_config
from mdf.errors import ConfigError, UserError
from mdf.resources import bundled
from mdf.training.grid import DONE, Runner, evaluations, is_done, plan, record, request, slots
from mdf.training.grid_file import GridConfig, cells_of, read_grid
from mdf.training.saving import plain
from tests.scripts import run, start

TRAIN = """
import hashlib, json, pathlib, sys, time, yaml
run = yaml.safe_load(open(sys.argv[sys.argv.index("--config") + 1]))["run"]
folder = pathlib.Path(run["dir"]) / run["name"]
with (folder.parent / "order.txt").open("a") as file:
    file.write(" ".join([run["name"], str(bool(run["start_from"])), *sys.argv[3:]]) + chr(10))
if (folder.parent / "slow").exists():
    time.sleep(60)
if (folder.parent / f"bad-{run['name']}").exists():
    sys.exit("error: there is no such photograph")
(folder / "best").mkdir(parents=True, exist_ok=True)
learnt = folder.parent / "learnt.txt"
(folder / "best" / "model.safetensors").write_text(learnt.read_text() if learnt.exists() else "weights")
start = run["start_from"]
start = start and hashlib.sha256((pathlib.Path(start) / "model.safetensors").read_bytes()).hexdigest()
(folder / "environment.json").write_text(json.dumps({"start_from": start}))
"""
EVALUATE = """
import json, pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = pathlib.Path(words["--out"])
if (out.parent.parent / f"bad-evaluation-{out.parent.name}").exists():
    sys.exit("error: the photographs cannot be read")
out.mkdir(parents=True, exist_ok=True)
value = {"one": 0.5, "two": 0.75}[out.parent.name.split("-")[0]]
(out / "metrics.json").write_text(json.dumps({"classification": {"accuracy": value}, "limit": words["--limit"]}))
"""
GRID = {
    "common": ["fuse.steps=30"],
    "start": {"stages": ["segment", "align"]},
    "metrics": ["classification.accuracy"],
}


@pytest.fixture
def grid_file(tmp_path):
    def write(**changes):
        path = tmp_path / "grid.yaml"
        rows = {"one": [], "two": {"settings": ["fuse.batch_size=2"], "parts": ["unet"]}}
        path.write_text(yaml.safe_dump({**GRID, "rows": rows, **changes}))
        return path

    return write


@pytest.fixture
def runner(grid_file, tmp_path):
    """runner(jobs, **changes of the file) -> a Runner over scripts that stand in, and what it said."""
    for name, text in (("train.py", TRAIN), ("evaluate.py", EVALUATE)):
        (tmp_path / name).write_text(text)

    def make(jobs=1, **changes):
        grid = read_grid(grid_file(**changes))
        commands = tuple([sys.executable, str(tmp_path / name)] for name in ("train.py", "evaluate.py"))
        said: list[str] = []
        return Runner(
            cells_of(grid, tmp_path / "out"), grid, commands, slots(jobs), say=said.append, wait=0.02
        ), said  # fmt: skip

    (tmp_path / "out").mkdir()
    return make


def order(tmp_path):
    return (tmp_path / "out" / "order.txt").read_text().splitlines()


def test_rows_go_on_from_the_start_of_their_seed(grid_file, tmp_path):
    cells = cells_of(read_grid(grid_file(seeds=[3, 5])), tmp_path / "out", threads=1)
    assert [c.name for c in cells] == ["start-s3", "start-s5", "one-s3", "two-s3", "one-s5", "two-s5"]
    begin, two = cells[0], cells[5]
    assert begin.cfg.run.stages == ("segment", "align") and begin.cfg.run.start_from is None
    assert two.cfg.run.stages == ("fuse",) and two.cfg.run.seed == 5 and two.cfg.run.threads == 1
    assert two.cfg.run.start_from == str(tmp_path / "out" / "start-s5" / "best")
    assert two.cfg.run.start_parts == ("unet",) and cells[4].cfg.run.start_parts == ("encoder", "unet")
    assert (two.cfg.fuse.batch_size, two.cfg.fuse.steps, two.steps) == (2, 30, 30)


def test_the_order_is_starts_then_rows_and_a_second_call_has_nothing_to_do(runner, tmp_path):
    first, said = runner(jobs=2, seeds=[0, 1])
    assert first.run() == 0
    names = [line.split()[0] for line in order(tmp_path)]
    assert {"start-s0", "start-s1"} == set(names[:2]) and len(names) == 6
    assert all(names.index(f"start-s{name[-1]}") < names.index(name) for name in names if "start" not in name)
    assert all(is_done(cell, first.grid.evaluate) for cell in first.cells)
    assert "6 of 6" in said[-1] and any("ETA" in text for text in said)
    again, said = runner(jobs=2, seeds=[0, 1])
    assert again.run() == 0 and len(order(tmp_path)) == 6
    assert said == ["6 of 6 runs are done already"]
    other, _ = runner(seeds=[0, 1], evaluate={"limit": 3})  # asked for other photographs: evaluated anew
    assert other.run() == 0
    assert json.loads((tmp_path / "out" / "one-s0" / "evaluation" / "metrics.json").read_text())["limit"] == "3"


def test_a_run_that_fails_is_said_and_tried_again_and_stops_no_other(runner, tmp_path):
    from mdf.evaluation.grid_table import write_table

    (tmp_path / "out" / "bad-one-s0").touch()
    first, said = runner()
    assert first.run() == 1
    assert [line.split()[0] for line in order(tmp_path)] == ["start-s0", "one-s0", "two-s0"]
    assert list(first.failed) == ["one-s0"] and "there is no such photograph" in first.failed["one-s0"]
    assert any("one-s0: FAILED, exit code 1: there is no such photograph" in text for text in said)
    folders = {row: {0: tmp_path / "out" / f"{row}-s0" / "evaluation"} for row in ("one", "two")}
    text = write_table(folders, first.grid.metrics, first.failed, tmp_path / "out")
    assert "| two | 1 | 0.750 |" in text and "- one-s0: exit code 1: there is no such photograph" in text
    (tmp_path / "out" / "bad-one-s0").unlink()
    again, _ = runner()
    assert again.run() == 0
    assert [line.split()[0] for line in order(tmp_path)][3:] == ["one-s0"]


def test_rows_whose_start_failed_are_said_and_not_run(runner, tmp_path):
    (tmp_path / "out" / "bad-start-s0").touch()
    first, _ = runner()
    assert first.run() == 1
    assert set(first.failed) == {"start-s0", "one-s0", "two-s0"} and len(order(tmp_path)) == 1
    assert "start-s0, from which it goes on, failed" in first.failed["two-s0"]


def test_a_stopped_grid_says_so_and_goes_on(runner, tmp_path):
    (tmp_path / "out" / "slow").touch()
    first, said = runner()
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    assert first.run() == 143
    assert said[-1] == "stopped; the same command goes on" and first.failed == {}
    (tmp_path / "out" / "slow").unlink()
    (tmp_path / "out" / "start-s0" / "last").mkdir(parents=True)  # something was saved
    (tmp_path / "out" / "one-s0").mkdir()  # nothing was
    again, _ = runner()
    assert again.run() == 0
    assert order(tmp_path)[1:] == ["start-s0 False --resume", "one-s0 True run.overwrite=true", "two-s0 True"]
    assert record(again.cells[0])["seconds"] is None, "of a resumed run the time is not known"


def saved(cell, **changes):
    """Have the folder of a cell hold a run of its settings but for `changes` of its last stage."""
    stage = cell.cfg.run.stages[-1]
    other = replace(cell.cfg, **{stage: replace(getattr(cell.cfg, stage), **changes)})
    state = {"format": 2, "config": plain(other), "standing": {"best": {}, "ended": False}, "stage": stage, "step": 1}
    (cell.folder / "last" / "trainer_state").mkdir(parents=True)
    (cell.folder / "last" / "trainer_state" / "state.json").write_text(
        json.dumps({**state, "total": 1, "processes": 1})
    )


def test_a_run_that_was_trained_otherwise_is_not_taken_for_this_one(runner, tmp_path):
    first, _ = runner()
    saved(first.cells[1], steps=7)
    with pytest.raises(UserError, match=r"fuse\.steps: 7 in the run, 30 now"):
        first.run()
    assert not (tmp_path / "out" / "order.txt").exists()


def test_a_done_run_whose_steps_held_other_photographs_is_not_taken_for_this_one(runner, tmp_path):
    first, _ = runner()
    assert first.run() == 0
    for cell in first.cells:
        saved(cell)
    assert runner()[0].run() == 0
    for settings, name, said in (
        (["fuse.batch_size=64"], "one-s0", r"fuse: 4 · 1 · 1 = 4 then, 64 · 1 · 1 = 64 now"),
        (["fuse.accumulation=16"], "two-s0", r"fuse: 2 · 1 · 1 = 2 then, 2 · 1 · 16 = 32 now"),
        (["align.accumulation=2"], "start-s0", r"align: 32 · 1 · 1 = 32 then, 32 · 1 · 2 = 64 now"),
        (["segment.batch_size=4"], "start-s0", r"segment: 8 .*; is done, set segment\.batch_size=8"),
    ):
        with pytest.raises(UserError, match=rf"{name}: {said}"):
            runner(common=["fuse.steps=30", *settings])[0].run()
    other, _ = runner(common=["fuse.steps=30", "segment.batch_size=4", "segment.accumulation=2"])
    assert other.run() == 0, "the same photographs a step, otherwise cut"
    assert len(order(tmp_path)) == 3


def test_rows_of_a_start_that_was_trained_anew_are_refused_by_name(runner, tmp_path):
    first, _ = runner()
    assert first.run() == 0
    begin, one, two = (cell.folder for cell in first.cells)
    weights = begin / "best" / "model.safetensors"
    weights.write_text("trained anew")
    with pytest.raises(UserError) as caught:
        runner()[0].run()
    another = "went on from another start-s0 than the one that is there"
    assert f"{one}: {another}" in str(caught.value) and f"{two}: {another}" in str(caught.value)
    assert "write the grid into another folder with --out, or remove these runs" in str(caught.value)
    weights.write_text("weights")
    assert runner()[0].run() == 0, "the same weights"
    begin.rename(tmp_path / "away")
    with pytest.raises(UserError, match=rf"(?s){one}: went on from a start-s0 that is not there any more.*{two}: "):
        runner()[0].run()
    shutil.rmtree(one)
    shutil.rmtree(two)
    assert runner()[0].run() == 0 and len(order(tmp_path)) == 6


def test_rows_are_named_together_with_a_start_of_other_settings(runner, tmp_path):
    first, _ = runner()
    assert first.run() == 0
    saved(first.cells[0], steps=7)
    with pytest.raises(
        UserError, match=r"start-s0: align\.steps: 7 in the run, 60 now\n.*one-s0: went on from start-s0"
    ):
        runner()[0].run()


def test_runs_of_an_older_mdf_stay_as_long_as_their_start_is_of_one_too(runner, tmp_path):
    first, _ = runner()
    assert first.run() == 0
    begin, one, _ = (cell.folder / "environment.json" for cell in first.cells)
    one.write_text("{}")
    with pytest.raises(UserError, match=r"one-s0: went on from another start-s0") as caught:
        runner()[0].run()
    assert "two-s0" not in str(caught.value)
    begin.write_text("{}")
    assert runner()[0].run() == 0 and len(order(tmp_path)) == 3


def test_the_table_holds_only_what_was_evaluated_as_it_is_asked_now(runner, tmp_path):
    first, _ = runner(evaluate={"limit": 9})
    assert first.run() == 0
    (tmp_path / "out" / "bad-evaluation-one-s0").touch()
    again, _ = runner()
    assert again.run() == 1 and list(again.failed) == ["one-s0"]
    two = tmp_path / "out" / "two-s0" / "evaluation"
    assert evaluations(again.cells, again.grid.evaluate) == {"one": {}, "two": {0: two}}
    assert evaluations(again.cells, first.grid.evaluate) == {"one": {}, "two": {}}, "a failed one may be of either"


def test_the_plan_names_every_run_its_steps_and_what_is_known_of_its_time(runner):
    first, _ = runner()
    text = plan(first.cells, first.grid.evaluate, 2)
    assert "start-s0" in text and "segment 220, align 60" in text and "fuse 30 after start-s0" in text
    assert "3 of 3 runs to do, 2 at a time, 340 steps; how long they take is known once one is done" in text
    first.run()
    assert "0 of 3 runs to do" in plan(first.cells, first.grid.evaluate, 2)
    epochs, _ = runner(common=["fuse.steps=0", "fuse.epochs=2"], start={}, rows={"one": []})
    assert epochs.cells[0].steps is None and "fuse 2 epochs" in plan(epochs.cells, epochs.grid.evaluate, 1)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"rows": {}}, "rows: empty"),
        ({"rows": {"a/b": []}}, "it names a folder"),
        ({"rows": {"start": []}}, "rows.start: must be"),
        ({"rows": {"one": {"setting": []}}}, "did you mean rows.one.settings"),
        ({"rows": {"one": {"parts": ["language"]}}}, "rows.one.parts: 'language' must be of encoder, unet, fusion"),
        ({"rows": {"one": {"parts": ["unet"]}}, "start": {}}, "rows.one.parts: given, but start.stages is empty"),
        ({"seeds": [1, 1]}, "must be one or more different numbers"),
        ({"start": {"stages": ["pretrain"]}}, "start.stages: 'pretrain' must be of segment, align, fuse"),
        ({"metrics": []}, "must not be empty"),
        ({"evaluate": {"limit": -1}}, "evaluate.limit: -1"),
        ({"seed": [1]}, "seed: no such setting; did you mean seeds"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_with_its_reason(grid_file, changes, part):
    with pytest.raises(ConfigError) as caught:
        read_grid(grid_file(**changes))
    assert part in str(caught.value)


def test_a_row_with_a_wrong_setting_is_named(grid_file, tmp_path):
    grid = read_grid(grid_file(rows={"one": ["fuse.stepz=3"], "two": ["fusion.kind=sum"]}))
    with pytest.raises(ConfigError, match=r"(?s)one: .*fuse\.stepz.*two: .*fusion\.kind"):
        cells_of(grid, tmp_path)


def test_an_unknown_grid_names_the_ones_that_come_with_mdf():
    with pytest.raises(ConfigError, match=r"did you mean variants\?.*ablations, odir, variants"):
        read_grid("variant")
    assert isinstance(read_grid("variants"), GridConfig)


def test_jobs_on_the_processor_share_its_threads(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert slots(0) == [{}] and slots(4) == [{"OMP_NUM_THREADS": "2"}] * 4


def test_every_visible_gpu_gets_a_run_and_more_jobs_share_them(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert slots(0) == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots(3)] == ["3", "5", "3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots(0)] == ["0", "1"]


def test_the_script_refuses_what_is_wrong_and_plans_without_training(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train.py", "grid", "nothing.yaml") == 2
    assert run("train.py", "grid", "variants", "--jobs", "-1") == 2
    assert run("train.py", "grid", "variants", "--limit", "-1") == 2
    assert run("train.py", "grid", "variants", "--dry-run") == 0
    said = capsys.readouterr()
    assert "42 of 42 runs to do" in said.out and "baseline-lora-s0" in said.out
    assert "--jobs must be at least 1" in said.err and "--limit must be at least 1" in said.err
    assert not (tmp_path / "runs").exists()
    assert run("train.py", "grid", "odir", "data.root=photographs", "--seeds", "4", "--dry-run", "fuse.steps=7") == 0
    said = capsys.readouterr().out
    assert "6 of 6 runs to do" in said and "fuse 7 after start-s4" in said
    assert run("train.py", "grid", "odir", "fuse.stops=7") == 2
    assert "fuse.stops" in capsys.readouterr().err


def test_the_command_line_has_the_last_word_on_how_many_photographs_judge_a_run(grid_file, tmp_path, capsys):
    file, out = str(grid_file(evaluate={"limit": 9})), tmp_path / "out"
    asked = read_grid(file).evaluate
    for cell in cells_of(read_grid(file), out):  # as if all were done, judged by nine photographs
        cell.folder.mkdir(parents=True)
        (cell.folder / DONE).write_text(json.dumps({"evaluate": request(cell, asked)}))
    for limit, left in ((["--limit", "9"], 0), ([], 0), (["--limit", "5"], 2)):
        assert run("train.py", "grid", file, "--out", str(out), "--dry-run", *limit) == 0
        assert f"{left} of 3 runs to do" in capsys.readouterr().out


SMALL = (
    "data.count=24", "data.size=96", "data.val=0.25", "data.test=0.25", "encoder.model=fundus-vit-tiny",
    "encoder.size=0", "encoder.weights=null", "unet.weights=null", "unet.size=64",
    "unet.decoder_channels=[16,16,8,8,8]", "fusion.grid=4", "fusion.layers=[]", "fusion.width=64",
    "fusion.film.hidden=32", "language.prefix_side=2", "language.lora_rank=4", "run.precision=fp32",
)  # fmt: skip
ROWS = [
    (file.stem, row)
    for file in sorted((bundled("configs") / "grids").glob("*.yaml"))
    for row in read_grid(file).rows
]  # fmt: skip


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_every_row_of_the_grids_computes_a_step_with_tiny_parts(name, row, world):
    import torch

    from mdf.batches import FundusDataset, collate
    from mdf.datasets import load
    from mdf.models.fusion import MDFModel
    from mdf.training.stages import Task
    from tests.tiny import tiny_language

    grid = read_grid(name)
    grid = replace(grid, common=(*grid.common, "data.name=phantom"))
    cell = next(c for c in cells_of(grid, "runs") if c.row == row)
    file = world / f"{name}-{row}.yaml"
    from mdf.config import save_config

    save_config(cell.cfg, file)
    side = ["fusion.token_side=2"] if cell.cfg.fusion.kind == "tokens" else []
    places = [f"language.model={tiny_language(world / 'language')}", f"data.root={world / 'phantoms'}"]
    cfg = load_config(file, [*SMALL, *side, *places])
    manifest = load(cfg.data, cfg.run.seed)
    model = MDFModel.build(cfg, ("normal", "diabetic_retinopathy", "amd", "glaucoma"))
    task = Task(cfg, "fuse")
    model.set_trainable(cfg.fuse.parts, tuple(task.weights))
    data = FundusDataset(
        manifest.split("train")[:2], manifest, model.processor, cfg.dialogue, masks=cfg.unet.masks,
        want_caption=task.wants_captions,
    )  # fmt: skip
    batch = collate([data[i] for i in range(2)], model.processor)
    terms, _ = task(model.train(), batch)
    loss = task.total(terms, task.counts(batch), 1)
    loss.backward()
    assert torch.isfinite(loss)
    # nothing of the fusion reaches the answers at step 0, so that the U-Net learns from them from the second step on
    for parameter in model.fusion.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    task.total(task(model, batch)[0], task.counts(batch), 1).backward()
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    modes = {part for part in ("encoder", "unet", "language") if getattr(cfg.fuse.parts, part).mode != "frozen"}
    assert trained == {"fusion", *modes}


@pytest.mark.slow
def test_a_grid_from_end_to_end_and_again_after_a_crash(world, tmp_path):
    from tests.tiny import tiny_language

    language = tiny_language(world / "language")
    small = [*SMALL, f"language.model={language}", f"data.root={world / 'phantoms'}", "run.threads=1"]
    small += [f"{stage}.{w}" for stage in ("segment", "align", "fuse") for w in ("steps=2", "batch_size=4")]
    small += ["fuse.samples=0", "fuse.losses.grounding=null", "run.keep_last_every=1"]
    grid = {
        "common": small,
        "start": {"stages": ["segment", "align"]},
        "rows": {"adapters": [], "concat": ["fusion.kind=concat"], "impossible": ["language.model=/nowhere"]},
        "evaluate": {"tasks": ["diagnosis"], "limit": 4},
        "metrics": ["classification.accuracy"],
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    words = ("train.py", "grid", tmp_path / "grid.yaml", "--out", tmp_path / "out")
    result = start(*words)
    assert result.returncode == 1, result.stdout + result.stderr
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert set(table["rows"]) == {"adapters", "concat", "impossible"} and list(table["failed"]) == ["impossible-s0"]
    assert "/nowhere" in table["failed"]["impossible-s0"]
    found = table["rows"]["concat"]["classification.accuracy"]
    assert found["ci"] is not None and found["difference_ci"] is not None
    assert (tmp_path / "out" / "table.md").read_text() in result.stdout
    for name in ("cell.json", "evaluation/metrics.json"):
        (tmp_path / "out" / "concat-s0" / name).unlink()  # as if it had been stopped on the way
    again = start(*words)
    assert again.returncode == 1 and "2 of 4 runs are done already" in again.stdout
    assert json.loads((tmp_path / "out" / "table.json").read_text())["rows"]["concat"] == table["rows"]["concat"]
