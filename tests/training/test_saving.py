"""Folders that are whole or not there."""

import errno
import random
import re
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from mdf.config import Config, DataConfig, StageConfig
from mdf.errors import UserError
from mdf.training import saving
from mdf.training.saving import (
    differences,
    is_full,
    keep,
    plain,
    random_state,
    recover,
    refuse_other_steps,
    restore_random_state,
    with_defaults,
    write_folder,
    write_tensors,
)


def fill(text):
    return lambda draft: (draft / "file").write_text(text)


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "last"
    write_folder(folder, fill("old"))
    write_folder(folder, fill("new"))
    assert (folder / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_whatever_goes_wrong_leaves_the_old_one(tmp_path):
    folder = tmp_path / "last"
    write_folder(folder, fill("old"))

    def interrupted(draft):
        (draft / "file").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, interrupted)
    assert (folder / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_a_crash_between_the_renames_is_mended(tmp_path):
    folder = tmp_path / "last"
    write_folder(folder, fill("old"))
    folder.rename(tmp_path / ".last.old")
    recover(folder)
    recover(folder)
    assert (folder / "file").read_text() == "old"


def test_every_library_that_meets_a_full_disk_is_understood():
    closing = RuntimeError("unexpected pos 704 vs 598")  # torch's writer, in place of what the disk said
    closing.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_full(closing)
    assert is_full(OSError(errno.EDQUOT, "quota")) and not is_full(OSError(errno.EACCES, "denied"))
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full(ValueError("wrong shape"))


def test_random_state_goes_through_a_file(tmp_path):
    device = torch.device("cpu")
    np.random.standard_normal()  # leaves a second number waiting
    random.gauss()
    write_tensors(tmp_path / "state.pt", random_state(device))
    wanted = (torch.rand(3), np.random.standard_normal(3), random.gauss(), random.random())
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True), device)
    assert torch.equal(torch.rand(3), wanted[0]) and np.array_equal(np.random.standard_normal(3), wanted[1])
    assert (random.gauss(), random.random()) == wanted[2:]


def test_differences_name_the_key_and_both_values():
    saved = {"run": {"threads": 1, "seed": 0}, "fuse": {"losses": {"text": 1.0}}}
    now = {"run": {"threads": 4, "seed": 1}, "fuse": {"losses": {"text": 1.0, "mask": 0.5}}}
    assert differences(saved, now) == ["run.seed: 0 in the run, 1 now", "fuse.losses.mask: None in the run, 0.5 now"]


def test_settings_that_a_run_did_not_know_yet_count_as_their_defaults():
    cfg = Config(align=StageConfig(data=DataConfig(count=3)))
    saved = plain(cfg)
    del saved["align"]["patience"], saved["align"]["data"]["cache_gb"], saved["augment"], saved["fuse"]["parts"]["unet"]
    assert differences(with_defaults(saved, cfg), plain(cfg)) == []
    later = Config(align=StageConfig(data=DataConfig(count=3), patience=2))
    assert differences(with_defaults(saved, later), plain(later)) == ["align.patience: 0 in the run, 2 now"]
    gone = {**saved, "dialogue": {**saved["dialogue"], "hints": 1}}
    assert differences(with_defaults(gone, cfg), plain(cfg)) == ["dialogue.hints: 1 in the run, None now"]


def moments(monkeypatch, of: Path, act) -> list[Path]:
    """Copies of the folder `of` at each moment at which `act` asks the disk for something: what a crash would leave."""
    copies: list[Path] = []
    names = (name for i in count() if not (name := of.with_name(f"moment-{i}")).exists())

    def before(function):
        def asked(*args, **kwargs):
            copies.append(shutil.copytree(of, next(names), copy_function=shutil.copy))
            return function(*args, **kwargs)

        return asked

    with monkeypatch.context() as patch:
        patch.setattr(saving, "sync", before(saving.sync))
        patch.setattr(Path, "rename", before(Path.rename))
        patch.setattr(saving.shutil, "rmtree", before(shutil.rmtree))
        act()
    return copies


def test_a_crash_at_any_moment_leaves_the_old_folder_or_the_new_one(tmp_path, monkeypatch):
    run = tmp_path / "run"
    write_folder(run / "last", fill("old"))
    copies = moments(monkeypatch, run, lambda: write_folder(run / "last", fill("new")))
    found = []
    for copy in copies:
        recover(copy / "last")
        found.append((copy / "last" / "file").read_text())
        write_folder(copy / "last", fill("next"))  # whatever a crash has left is no hindrance
        assert [p.name for p in copy.iterdir()] == ["last"]
    assert len(found) > 5 and found == sorted(found, reverse=True) and set(found) == {"old", "new"}


def test_a_crash_at_any_moment_leaves_kept_checkpoints_whole(tmp_path, monkeypatch):
    run = tmp_path / "run"
    for step in (1, 2, 3):
        write_folder(run / "last", fill(str(step)))
        copies = moments(monkeypatch, run, lambda step=step: keep(run / "last", run / "kept", 0, "fuse", step, 2))
    assert sorted(p.name for p in (run / "kept").iterdir()) == ["0-fuse-000002", "0-fuse-000003"]
    for copy in copies:
        for kept in (copy / "kept").glob("[!.]*"):
            assert (kept / "file").read_text() == str(int(kept.name[-6:]))


def test_steps_are_kept_in_the_order_of_stages_and_later_ones_of_a_run_that_went_back_are_left(tmp_path):
    write_folder(tmp_path / "last", fill("x"))
    for order, stage, step in ((0, "align", 900), (1, "fuse", 10), (1, "fuse", 20), (1, "fuse", 100), (1, "fuse", 15)):
        keep(tmp_path / "last", tmp_path / "kept", order, stage, step, 3)
    names = sorted(p.name for p in (tmp_path / "kept").iterdir())
    assert names == ["1-fuse-000010", "1-fuse-000015", "1-fuse-000020", "1-fuse-000100"]


@pytest.mark.parametrize(
    ("stage", "processes", "cut", "way"),
    [
        ("fuse", 4, (2, 2), None),
        ("fuse", 1, (4, 4), None),
        ("fuse", 1, (4, 2), "4 · 2 · 2 = 16 then, 4 · 1 · 2 = 8 now; set fuse.accumulation=4"),
        ("fuse", 8, (4, 2), "set fuse.batch_size=2 fuse.accumulation=1"),
        ("fuse", 3, (4, 2), "16 cannot be shared by 3 processes: launch a number that divides it"),
        ("align", 4, (2, 2), None),
        ("align", 1, (4, 4), "set align.accumulation=2 align.batch_size=8"),
        ("align", 1, (4, 2), "set align.batch_size=8"),
        ("align", 2, (8, 1), "set align.accumulation=2 align.batch_size=4"),
    ],
)
def test_a_step_keeps_its_photographs_however_it_is_cut(tiny, stage, processes, cut, way):
    """A loss that compares photographs also keeps how many it sees at a time. It was 4 · 2 processes · 2."""
    cfg = tiny(**{f"{stage}.batch_size": 4, f"{stage}.accumulation": 2})
    state = {"stage": stage, "processes": 2, "config": plain(cfg)}
    now = tiny(**{f"{stage}.batch_size": cut[0], f"{stage}.accumulation": cut[1], "run.stages": (stage,)})
    if way is None:
        refuse_other_steps(state, now, processes)
    else:
        with pytest.raises(UserError, match=re.escape(way)):
            refuse_other_steps(state, now, processes)


def test_a_stage_that_is_done_keeps_the_step_that_it_was_trained_with(tiny):
    """On whatever number of processes: what is said of it has to stay true."""
    cfg = tiny(**{"segment.batch_size": 8})
    state = {"stage": "fuse", "processes": 2, "config": plain(cfg)}
    refuse_other_steps(state, tiny(**{"segment.batch_size": 8, "fuse.batch_size": 8}), 1)
    with pytest.raises(UserError, match=r"segment: 8 · 2 · 1 = 16 then.*is done, set segment\.batch_size=8"):
        refuse_other_steps(state, tiny(**{"segment.batch_size": 5, "fuse.batch_size": 8}), 1)
