"""Trackers get the numbers and nothing else, stay on this machine, and go on where a resumed run does."""

import json
import sqlite3

import pytest
from accelerate import Accelerator

from mdf.config import check
from mdf.errors import ConfigError, UserError
from mdf.training.run import train
from mdf.training.run_folder import RunFolder
from mdf.training.trackers import Trackers, shared, tracking
from tests.tiny import put
from tests.training.test_loop import crash, folder, stop_at

SHORT = {"run.stages": ("segment", "fuse"), "segment.steps": 2, "fuse.steps": 3, "run.keep_last_every": 1}


def resumed(tiny, monkeypatch, name: str):
    """A run with a tracker that crashed after a step of fuse which nothing saved, and went on."""
    cfg = tiny(**SHORT, **{"run.trackers": (name,)})
    with monkeypatch.context() as patch:
        stop_at(patch, "fuse", 2, crash)
        with pytest.raises(RuntimeError, match="the power went"):
            train(cfg)
    assert train(cfg, resume=True) == 0
    return cfg


def logged(cfg, name: str) -> dict[int, float]:
    """Step through all stages -> a number of metrics.jsonl, as a tracker should have it."""
    lines = [json.loads(line) for line in (folder(cfg) / "metrics.jsonl").read_text().splitlines()]
    stage, _, key = name.partition("/")
    before = 0 if stage == "segment" else 2
    return {before + line["step"]: line[key] for line in lines if line["stage"] == stage and key in line}


def private(cfg, data: bytes) -> None:
    """Neither a path of the run nor a photograph is in what a tracker wrote."""
    record = json.loads((folder(cfg) / "data.jsonl").read_text().splitlines()[0])
    for secret in (cfg.run.dir, cfg.data.root, cfg.language.model, record["id"], record["image"]):
        assert str(secret).encode() not in data, secret


def test_tensorboard_has_every_number_once_at_its_step_through_all_stages(tiny, monkeypatch):
    pytest.importorskip("tensorboard", reason='needs pip install "mdf-mllm[tensorboard]"')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = resumed(tiny, monkeypatch, "tensorboard")
    written = folder(cfg) / "tensorboard" / "mdf"
    events = EventAccumulator(str(written)).Reload()
    for name in ("segment/loss", "segment/val_dice", "fuse/loss", "fuse/grad_norm_fusion", "fuse/gate_attn_0"):
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx(logged(cfg, name)) and found
    private(cfg, b"".join(path.read_bytes() for path in written.rglob("*") if path.is_file()))


def test_wandb_is_offline_is_one_run_and_knows_no_paths(tiny, monkeypatch):
    pytest.importorskip("wandb", reason='needs pip install "mdf-mllm[wandb]"')
    monkeypatch.delenv("WANDB_MODE", raising=False)
    cfg = resumed(tiny, monkeypatch, "wandb")
    files = sorted((folder(cfg) / "wandb").glob("offline-run-*/run-*.wandb"))
    own = json.loads((folder(cfg) / "trackers.json").read_text())["wandb"]
    assert len(files) == 2 and all(own in path.name for path in files)  # two parts of one run, for `wandb sync`
    data = b"".join(path.read_bytes() for path in files)
    assert b"fuse/grad_norm_fusion" in data
    private(cfg, data)


def test_mlflow_goes_on_with_its_run_in_the_runs_folder(tiny, monkeypatch):
    pytest.importorskip("mlflow", reason='needs pip install "mdf-mllm[mlflow]"')
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cfg = resumed(tiny, monkeypatch, "mlflow")
    with sqlite3.connect(folder(cfg) / "mlflow.db") as database:
        runs = database.execute("select run_uuid, name from runs").fetchall()
        rows = database.execute("select step, value from metrics where key = 'fuse/loss' order by timestamp").fetchall()
        tags = dict(database.execute("select key, value from tags").fetchall())
    assert runs == [(json.loads((folder(cfg) / "trackers.json").read_text())["mlflow"], "tiny")]
    assert dict(rows) == pytest.approx(logged(cfg, "fuse/loss"))
    assert tags["mlflow.source.name"] == "mdf" and tags["mlflow.user"] == "-"


def test_trackio_goes_on_with_its_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason='needs pip install "mdf-mllm[trackio]"')
    resumed(tiny, monkeypatch, "trackio")
    (found,) = (tmp_path / "trackio").glob("mdf*.db")
    with sqlite3.connect(found) as database:
        assert database.execute("select count(distinct run_name) from metrics").fetchone() == (1,)


def test_what_is_shared_are_numbers_switches_and_words_of_closed_lists(tiny):
    cfg = tiny(**{"encoder.weights": "/home/someone/patients/weights.pt", "data.columns": {"id": "name"}})
    told = shared(cfg)
    assert told["fuse.parts.language.mode"] == "lora" and told["fuse.losses.text"] == 1.0
    assert told["encoder.gradient_checkpointing"] is False and told["run.seed"] == 0
    assert not any(key.startswith("data") or ".data" in key for key in told)
    assert not any("/" in str(value) for value in told.values())
    assert "language.model" not in told and "run.name" not in told


def test_a_tracker_that_is_not_installed_is_one_error_with_the_command(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cfg = tiny(**{"run.trackers": ("tensorboard", "mlflow")})
    with pytest.raises(
        UserError, match=r'tensorboard, mlflow not installed; pip install "mdf-mllm\[tensorboard,mlflow'
    ):
        train(cfg)
    assert not folder(cfg).exists()


def test_a_tracker_that_does_not_start_is_one_error(tiny, monkeypatch):
    pytest.importorskip("mlflow", reason='needs pip install "mdf-mllm[mlflow]"')
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "no-such-store://")
    with pytest.raises(UserError, match=r"run\.trackers: mlflow did not start .*; mend that, or leave it out"):
        train(tiny(**SHORT, **{"run.trackers": ("mlflow",)}))


def test_an_unknown_tracker_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"run\.trackers: 'tensorbord' must be of tensorboard, wandb"):
        check(tiny(**{"run.trackers": ("tensorbord",)}))
    with pytest.raises(ConfigError, match="a tracker is listed twice"):
        check(tiny(**{"run.trackers": ("wandb", "wandb")}))


def test_a_tracker_that_fails_is_left_out_aloud_and_the_run_goes_on(tiny):
    cfg, said = tiny(**{"run.stages": ("fuse",)}), []
    accelerator = Accelerator(cpu=True)
    trackers = Trackers(accelerator, cfg, RunFolder(cfg), said.append)

    class Broken:
        name = "broken"

        def log(self, values, step):
            raise OSError("no route to host\nat line 5")

    accelerator.trackers.append(Broken())
    trackers.log({"stage": "fuse", "step": 1, "total": 4, "loss": 1.0})
    trackers.log({"stage": "fuse", "step": 2, "total": 4, "loss": 1.0})
    assert said == ["broken failed and is left out from here on (OSError: no route to host); metrics.jsonl goes on"]


def test_without_trackers_nothing_is_asked_of_accelerate(tiny):
    assert tracking(tiny().run) == {}
    assert tracking(put(tiny(), "run.trackers", ()).run) == {}
