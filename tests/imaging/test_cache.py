"""A cached photograph is the same photograph, whoever wrote it, and the cache keeps to its size."""

import multiprocessing
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdf.config import AugmentConfig
from mdf.errors import UserError
from mdf.imaging.augment import sample
from mdf.imaging.cache import DRAFT, PreparedCache
from mdf.imaging.decode import load_image
from mdf.imaging.phantom import draw
from mdf.imaging.preprocess import Crop, Preprocessing

SETTINGS = Preprocessing(encoder_size=64, unet_size=96, language_size=80)
NAMES = ("vessel", "disc")


@pytest.fixture
def photograph(tmp_path) -> Path:
    """A phantom's file of 160 pixels."""
    Image.fromarray(draw(3, 160).image).save(tmp_path / "eye.png")
    return tmp_path / "eye.png"


@pytest.fixture
def cache(tmp_path) -> PreparedCache:
    return PreparedCache(0.01, tmp_path / "cache")


def made(path: Path, augmented: bool = False) -> Crop:
    return SETTINGS.crop(load_image(path), dict(list(draw(3, 160).masks.items())[:2]), augmented=augmented)


def refuse() -> Crop:
    raise AssertionError("the cache was to answer")


def entries(cache: PreparedCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*"))


@pytest.mark.parametrize("augmented", [False, True])
def test_what_comes_out_of_the_cache_is_equal_bit_for_bit(cache, photograph, augmented):
    masks = {name: draw(3, 160).masks[name] for name in NAMES}
    transform = sample(AugmentConfig(), np.random.default_rng(1)) if augmented else None
    direct = SETTINGS.prepare(load_image(photograph), masks, NAMES, transform)
    for make in (lambda: SETTINGS.crop(load_image(photograph), masks, augmented=augmented), refuse):
        crop = cache.get(SETTINGS, [("", photograph)], make, augmented)
        got = SETTINGS.finish(crop, NAMES, transform)
        for name, value in vars(direct).items():
            assert torch.equal(getattr(got, name), value), name
    assert len(entries(cache)) == 1


def test_another_file_setting_or_kind_is_another_entry(cache, photograph, tmp_path):
    def ask(settings=SETTINGS, files=(("", photograph),), augmented=False):
        cache.get(settings, list(files), lambda: made(photograph, augmented), augmented)
        return len(entries(cache))

    assert [ask(), ask()] == [1, 1]
    assert ask(settings=Preprocessing(encoder_size=64, unet_size=96, crop_field=False)) == 2
    assert ask(augmented=True) == 3
    (tmp_path / "mask.png").write_bytes(b"1")
    assert ask(files=(("", photograph), ("vessel", tmp_path / "mask.png"))) == 4
    assert ask(files=(("", photograph), ("disc", tmp_path / "mask.png"))) == 5
    os.utime(photograph, ns=(1, 1))  # of the same size, written at another time
    assert ask() == 6


def test_other_code_makes_other_entries(cache, photograph, monkeypatch):
    monkeypatch.setattr("mdf.imaging.cache.makers", lambda: "before")
    cache.get(SETTINGS, [("", photograph)], lambda: made(photograph), False)
    monkeypatch.setattr("mdf.imaging.cache.makers", lambda: "after")
    cache.get(SETTINGS, [("", photograph)], lambda: made(photograph), False)
    assert len(entries(cache)) == 2


def test_names_tell_nothing_of_the_patient(cache, photograph):
    named = photograph.rename(photograph.with_name("Jane_Doe_1950.png"))
    cache.get(SETTINGS, [("", named)], lambda: made(named), False)
    (entry,) = entries(cache)
    assert "Jane" not in str(entry) and b"Jane" not in entry.read_bytes()


SPOILT = {
    "cut": lambda data: data[:-9],
    "flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "empty": lambda data: b"",
    "headless": lambda data: data[9:],
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_entry_is_made_anew(cache, photograph, spoil, capsys):
    crop = cache.get(SETTINGS, [("", photograph)], lambda: made(photograph), False)
    (entry,) = entries(cache)
    entry.write_bytes(spoil(entry.read_bytes()))
    again = cache.get(SETTINGS, [("", photograph)], lambda: made(photograph), False)
    assert torch.equal(again.pictures[0], crop.pictures[0]) and "is made anew" in capsys.readouterr().err
    cache.get(SETTINGS, [("", photograph)], refuse, False)
    assert int((cache.folder / "size").read_text()) == entry.stat().st_size


def test_a_disk_that_is_full_leaves_no_draft_and_no_debt(cache, photograph, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdf.imaging.cache.os.replace", full)
    cache.get(SETTINGS, [("", photograph)], lambda: made(photograph), False)
    assert "No space left on device" in capsys.readouterr().err
    assert not entries(cache) and (cache.folder / "size").read_text() == "0"


def test_a_full_cache_keeps_what_it_has_and_says_so_once(photograph, tmp_path, capsys):
    size = len(made(photograph).to_bytes())
    cache = PreparedCache(2.5 * size / 1e9, tmp_path / "cache")
    for mtime in (1, 2, 3, 4):
        os.utime(photograph, ns=(mtime, mtime))
        cache.get(SETTINGS, [("", photograph)], lambda: made(photograph), False)
    assert len(entries(cache)) == 2
    assert capsys.readouterr().err.count("data.cache_gb") == 1
    os.utime(photograph, ns=(1, 1))
    cache.get(SETTINGS, [("", photograph)], refuse, False)
    again = PreparedCache(2.5 * size / 1e9, tmp_path / "cache")  # another run finds it full
    os.utime(photograph, ns=(5, 5))
    again.get(SETTINGS, [("", photograph)], lambda: made(photograph), False)
    assert len(entries(cache)) == 2


def test_a_file_that_is_not_there_is_named(cache, tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        cache.get(SETTINGS, [("", tmp_path / "gone.png")], lambda: made(tmp_path / "gone.png"), False)
    assert not entries(cache)


def test_drafts_of_killed_processes_are_removed(cache, tmp_path):
    (cache.folder / "ab").mkdir()
    for name, age in (("old", 7200), ("new", 0)):
        draft = cache.folder / "ab" / f"{DRAFT}{name}"
        draft.write_bytes(b"half")
        os.utime(draft, (draft.stat().st_mtime - age,) * 2)
    PreparedCache(0.01, cache.folder)
    assert [p.name for p in entries(cache)] == [f"{DRAFT}new"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_to_costs_only_time(cache, photograph, capsys):
    cache.folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    cache.get(SETTINGS, [("", photograph)], lambda: made(photograph), False)
    assert "cannot be written to" in capsys.readouterr().err


def fill(folder: Path, photographs: list[Path], gigabytes: float) -> None:
    torch.set_num_threads(1)
    cache = PreparedCache(gigabytes, folder)
    for _ in range(2):
        for path in photographs:
            crop = cache.get(SETTINGS, [("", path)], lambda path=path: made(path), False)
            assert torch.equal(crop.pictures[0], made(path).pictures[0])


def test_processes_write_at_once_and_keep_to_the_size_together(photograph, tmp_path):
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(draw(number, 96).image).resize((160, 160)).save(paths[-1])
    size = len(made(photograph).to_bytes())
    folder = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=fill, args=(folder, paths[::step], 4.5 * size / 1e9)) for step in (1, -1, 1)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    found = list(folder.glob("*/*"))
    assert 0 < len(found) <= 4 and all(f.suffix == ".crop" for f in found)
    assert int((folder / "size").read_text()) == sum(f.stat().st_size for f in found)  # counted once
    for file in found:
        Crop.from_bytes(file.read_bytes())
