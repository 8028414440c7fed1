"""Features that are kept and conversations that are sorted by length: what they save, and that a run stays the same."""

import pytest

from mdf.training.data import dataset, load_manifests, sampler_of, stage_data, training_batches
from mdf.training.run import train
from mdf.training.stages import Task
from tests.training.conftest import losses, metrics
from tests.training.test_loop import crash, stop_at

FUSE = {"run.stages": ("fuse",), "fuse.augment": False, "fuse.steps": 8, "fuse.eval_every": 4}  # two epochs and more


def test_a_run_that_remembers_what_frozen_parts_make_of_photographs_is_the_same_run(tiny, capsys):
    anew, kept = tiny(**FUSE, **{"fuse.features_gb": 0.0}), tiny(**FUSE, **{"run.name": "kept"})
    assert [train(anew), train(kept)] == [0, 0]
    assert losses(kept) == pytest.approx(losses(anew), rel=1e-5)  # matrix products of other numbers of rows
    assert capsys.readouterr().out.count("make of 17 photographs is kept in memory, 0.00 GB") == 1


@pytest.mark.parametrize("accumulation", [1, 2])
def test_sorted_by_length_and_with_features_kept_resume_is_exact(tiny, monkeypatch, accumulation):
    settings = FUSE | {"fuse.bucket": 8, "fuse.batch_size": 4 // accumulation, "fuse.accumulation": accumulation}
    straight, stopped = tiny(**settings), tiny(**settings, **{"run.name": "stopped"})
    assert train(straight) == 0
    stop_at(monkeypatch, "fuse", 5, crash)
    with pytest.raises(RuntimeError):
        train(stopped)
    assert train(stopped, resume=True) == 0
    assert metrics(stopped) == metrics(straight)


def test_batches_of_sorted_conversations_hold_less_padding_and_the_same_photographs(tiny):
    found = {}
    for bucket in (0, 12):
        cfg = tiny(**FUSE, **{"fuse.bucket": bucket, "fuse.batch_size": 2, "dialogue.turns": 6})
        from mdf.models.fusion import MDFModel

        model, task = MDFModel.build(cfg, ("normal", "amd")), Task(cfg, "fuse")
        data = stage_data(cfg, task, load_manifests(cfg)["fuse"], model.processor.prompts, print)
        samples = dataset(cfg, task, data, model.processor, train=True)
        sampler = sampler_of(cfg, task, data.train)
        batches = list(training_batches(samples, sampler, done=0, total=6, workers=0))
        padding = sum(int((1 - b.attention_mask).sum()) for b in batches)
        found[bucket] = padding, sorted(i for b in batches for i in b.sample_ids)
    assert found[12][1] == found[0][1]
    assert found[12][0] < found[0][0] / 2
