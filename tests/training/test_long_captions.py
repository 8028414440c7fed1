"""A stage that aligns photographs with their reports: what it leaves out, and what it says and counts of the cut."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mdf import datasets
from mdf.captions import tell_cut
from mdf.config import CaptionsConfig
from mdf.dialogue import Prompts
from mdf.errors import UserError
from mdf.models.fusion import MDFModel
from mdf.records import write_manifest
from mdf.resources import bundled
from mdf.training.data import dataset, loader, stage_data
from mdf.training.run import train
from mdf.training.saving import STATE
from mdf.training.stages import Task
from tests.training.conftest import metrics

LONG = "The macula is flat. " + "Drusen lie in every quadrant and around the disc " * 12
ALIGN = {"run.stages": ("align",), "align.steps": 3, "align.eval_every": 3, "run.keep_last_every": 99}


@pytest.fixture
def reports(tiny, tmp_path):
    """reports(texts, sources) -> Config on the phantoms; every second training photograph has LONG, or `texts`."""

    def make(sources, text=lambda n: {"report": LONG} if n % 2 else {"report": f"Report {n}."}, **overrides):
        base = tiny()
        manifest = datasets.load(base.data, base.run.seed)
        numbers = {r.id: n for n, r in enumerate(manifest.split("train"))}
        records = [replace(r, texts=text(numbers[r.id])) if r.id in numbers else r for r in manifest.records]
        write_manifest(tmp_path / "own.jsonl", records, root=manifest.root, dataset="own")
        data = {"data.name": "manifest", "data.manifest": str(tmp_path / "own.jsonl"), "data.root": None}
        return tiny(**data | ALIGN | {"captions": CaptionsConfig(sources)} | overrides)

    return make


def test_long_reports_are_cut_said_once_and_counted(reports, capsys):
    cfg = reports({"text": 1.0})
    tell_cut.cache_clear()
    assert train(cfg) == 0
    said = capsys.readouterr().err
    assert said.count("is longer than what the text tower reads") == 1 and "quadrant" not in said
    counts = [line["captions_cut"] for line in metrics(cfg) if "loss" in line]
    assert counts == sorted(counts) and 0 < counts[-1] < 12


def test_loader_workers_count_what_this_process_would(reports):
    cfg = reports({"text": 1.0})
    manifest, task, prompts = datasets.load(cfg.data, 0), Task(cfg, "align"), Prompts(bundled("prompts"))
    processor = MDFModel.build(cfg, ()).processor
    samples = dataset(cfg, task, stage_data(cfg, task, manifest, prompts, print), processor, train=True)
    keys = [[(0, i), (0, i + 1)] for i in range(0, 6, 2)]
    assert [[b.cut for b in loader(samples, keys, workers=w)] for w in (0, 2)] == [[1] * 3] * 2


def test_a_text_only_loss_leaves_out_what_has_no_text(reports):
    cfg = reports({"text": 1.0}, lambda n: {"report": f"Drusen {n}."} if n < 5 else {})
    manifest, said = datasets.load(cfg.data, 0), list[str]()
    data = stage_data(cfg, Task(cfg, "align"), manifest, Prompts(bundled("prompts")), said.append)
    left = len(manifest.split("train")) - 5
    assert len(data.train) == 5 and f"align: {left} training photographs left out: no text" in said
    with pytest.raises(UserError, match=r"none of the \d+ training photographs has what contrastive needs"):
        train(reports({"text": 1.0}, lambda n: {}))


def test_reports_that_begin_alike_are_contrasted_by_their_other_sentences(reports):
    cfg = reports({"sentences": 1.0}, lambda n: {"report": f"Fundus of one eye. Drusen {n}."})
    stage_data(cfg, Task(cfg, "align"), datasets.load(cfg.data, 0), Prompts(bundled("prompts")), print)
    same = reports({"sentences": 1.0}, lambda n: {"report": "Fundus of one eye. Drusen."})
    with pytest.raises(UserError, match="have one caption"):
        stage_data(same, Task(same, "align"), datasets.load(same.data, 0), Prompts(bundled("prompts")), print)


def test_an_empty_report_stops_the_run_before_its_first_step(reports):
    with pytest.raises(UserError, match=r"record phantom_\d+: its text is empty"):
        train(reports({"text": 1.0}, lambda n: {"report": " \n"}))


def test_short_captions_are_not_counted_and_a_run_from_before_there_were_such_settings_can_be_resumed(reports):
    cfg = reports({})
    assert train(cfg) == 0
    assert not any("captions_cut" in line for line in metrics(cfg))
    path = Path(cfg.run.dir) / cfg.run.name / "last" / STATE / "state.json"
    state = json.loads(path.read_text())
    del state["config"]["captions"], state["captions_cut"]
    path.write_text(json.dumps(state))
    assert train(cfg, resume=True) == 0
    with pytest.raises(UserError, match=r"captions\.sources"):
        train(replace(cfg, captions=CaptionsConfig({"text": 1.0})), resume=True)
