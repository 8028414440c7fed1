"""Folders that are whole or not there."""

import errno
import random

import numpy as np
import pytest
import torch

from mdf.config import Config, DataConfig, StageConfig
from mdf.training.saving import (
    differences,
    is_full,
    plain,
    random_state,
    recover,
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
