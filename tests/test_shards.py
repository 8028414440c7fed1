"""Shards are plain tar files in WebDataset's layout, hold every file unchanged, and are read by one process each."""

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from mdf.config import DataConfig, load_config
from mdf.datasets import load
from mdf.datasets.phantom import draw_manifest
from mdf.datasets.shards import field_of, key_of, read, read_member, shard_of, stream, verify, write_shards
from mdf.errors import UserError
from mdf.records import FundusRecord, Manifest
from tests.conftest import assert_refused

LIMIT = 0.1  # MB


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return draw_manifest(tmp_path_factory.mktemp("set") / "phantoms", count=30, size=96, seed=0, val=0.2, test=0.2)


@pytest.fixture(scope="module")
def folder(manifest, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    write_shards(manifest, out, megabytes=LIMIT)
    return out


def test_a_shard_is_a_tar_of_unchanged_files_with_the_record_beside_them(folder, manifest):
    index = json.loads((folder / "index.json").read_text())
    found: list[FundusRecord] = []
    for split, shards in index["splits"].items():
        assert len(shards) > 1 and sum(s["count"] for s in shards) == len(manifest.split(split))
        for shard in shards:
            data = (folder / shard["file"]).read_bytes()
            assert len(data) == shard["bytes"] <= LIMIT * 1e6
            assert hashlib.sha256(data).hexdigest() == shard["sha256"]
            with tarfile.open(folder / shard["file"]) as tar:
                names = tar.getnames()
                keys = list(dict.fromkeys(n.partition(".")[0] for n in names))
                assert len(keys) == shard["count"] and [n.partition(".")[0] for n in names] == sorted(
                    n.partition(".")[0] for n in names
                )
                for key in keys:
                    record = json.load(tar.extractfile(f"{key}.json"))
                    original = next(r for r in manifest.records if r.id == record["id"])
                    assert tar.extractfile(f"{key}.png").read() == manifest.path(original.image).read_bytes()
                    for name, path in original.masks.items():
                        assert tar.extractfile(f"{key}.mask_{name}.png").read() == manifest.path(path).read_bytes()
                    assert record | {"image": 0, "masks": 0} == original.to_dict() | {"image": 0, "masks": 0}
                    found.append(original)
    assert sorted(r.id for r in found) == sorted(r.id for r in manifest.records)


def test_the_records_come_back_with_the_splits_and_say_where_their_files_are(folder, manifest):
    got = load(DataConfig(name="shards", root=str(folder)), 0)
    assert {r.id: r.split for r in got.records} == {r.id: r.split for r in manifest.records}
    for record in got.records[::7]:
        original = next(r for r in manifest.records if r.id == record.id)
        assert read_member(got.root, record.image) == manifest.path(original.image).read_bytes()
        assert (key_of(record.image), field_of(record.image)) == (record.image[-12:-4], "png")
    assert verify(folder) == len(manifest.records)


def test_other_readers_read_them(folder, manifest):
    import datasets

    files = {"train": sorted(str(path) for path in folder.glob("train-*.tar"))}
    found = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    assert sorted(example["json"]["id"] for example in found) == sorted(r.id for r in manifest.split("train"))


def test_a_shard_with_a_damaged_header_loses_no_photograph_silently(folder, tmp_path):
    manifest = read(folder)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = manifest.split("train")[-1]
    shard = tmp_path / shard_of(record.image)
    data, start = shard.read_bytes(), shard.read_bytes().index(key_of(record.image).encode())
    shard.write_bytes(data[:start] + b"x" * 400 + data[start + 400 :])
    elsewhere = replace(manifest, root=tmp_path)
    with pytest.raises(UserError, match=rf"{shard.name} is damaged .*photographs are found"):
        keys_of(elsewhere, seed=0, rank=0, processes=1, epoch=0)
    with pytest.raises(UserError, match=rf"{shard.name} is damaged"):
        read_member(tmp_path, record.image)


def test_names_that_mean_something_in_a_shard_do_no_harm(photograph, tmp_path):
    """Endings of files, and names of masks, are the user's."""
    masks = {"a.b": "m.PNG", "Vessel": "n.json"}
    for number, name in enumerate(["eye.png#2", *masks.values()]):
        photograph(tmp_path / "set" / f"{number}.png", seed=number).rename(tmp_path / "set" / name)
    record = FundusRecord(id="1", image="eye.png#2", masks=masks, split="train")
    write_shards(Manifest((record,), tmp_path / "set"), tmp_path / "shards")
    got = read(tmp_path / "shards")
    for path, original in [(got.records[0].image, "eye.png#2"), *((got.records[0].masks[n], masks[n]) for n in masks)]:
        data = (tmp_path / "set" / original).read_bytes()
        assert read_member(got.root, path) == data
        ((_, members),) = stream(got, "train", seed=0, rank=0, processes=1, epoch=0)
        assert members[field_of(path)] == data


def test_what_stops_the_writing_leaves_nothing_behind(manifest, tmp_path):
    gone = replace(manifest.split("train")[-1], id="gone", image="gone.png")
    with pytest.raises(UserError, match=r"gone\.png cannot be read"):
        write_shards(Manifest((*manifest.records, gone), manifest.root), tmp_path / "shards", megabytes=LIMIT)
    assert not list(tmp_path.iterdir())


def keys_of(manifest: Manifest, **share) -> list[str]:
    return [key for key, _ in stream(manifest, "train", **share)]


def test_two_processes_read_shards_of_their_own_whose_union_is_the_epoch(folder, tmp_path):
    manifest = read(folder)
    everything = sorted(key_of(r.image) for r in manifest.split("train"))
    seen = [keys_of(manifest, seed=3, rank=rank, processes=2, epoch=0) for rank in range(2)]
    assert sorted(seen[0] + seen[1]) == everything and seen[0] and seen[1]
    shards_of = [{r.image.partition("/")[0] for r in manifest.records if key_of(r.image) in keys} for keys in seen]
    assert not shards_of[0] & shards_of[1]
    for shard in shards_of[1]:  # process 0 never opens them: what is in them does not matter to it
        (tmp_path / shard).write_bytes(b"no tar")
    for file in folder.iterdir():
        if file.name not in shards_of[1]:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    elsewhere = replace(manifest, root=tmp_path)
    assert keys_of(elsewhere, seed=3, rank=0, processes=2, epoch=0) == seen[0]
    with pytest.raises(UserError, match=f"{shards_of[1].pop()[:5]}.* is damaged"):
        keys_of(elsewhere, seed=3, rank=1, processes=2, epoch=0)


def test_each_epoch_and_seed_has_its_own_order_and_always_the_same(folder):
    manifest = read(folder)
    share = {"rank": 0, "processes": 1}
    first, again, later, other = (
        keys_of(manifest, seed=seed, epoch=epoch, **share) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again and sorted(first) == sorted(later) == sorted(other)
    assert len({tuple(first), tuple(later), tuple(other)}) == 3


def test_more_processes_than_shards_are_refused(folder):
    with pytest.raises(UserError, match="cannot be shared by 99 processes"):
        keys_of(read(folder), seed=0, rank=0, processes=99, epoch=0)


def test_what_is_not_whole_is_refused(manifest, tmp_path, run_script):
    out = tmp_path / "shards"
    write_shards(manifest, out, megabytes=LIMIT)
    with pytest.raises(UserError, match="exists already"):
        write_shards(manifest, out)
    shard = out / "train-00001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
    assert_refused(run_script("prepare.py", "shards", out), "train-00001.tar", "copy them again")
    shard.write_bytes(data[:-512])
    with pytest.raises(UserError, match=r"train-00001\.tar has \d+ bytes, index\.json says"):
        read(out)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-00001\.tar is missing"):
        read(out)
    with pytest.raises(UserError, match="no folder of shards"):
        read(tmp_path)


def test_what_shards_cannot_hold_is_refused(manifest, tmp_path):
    without = Manifest((replace(manifest.records[0], split=None),), manifest.root)
    with pytest.raises(UserError, match="have no split"):
        write_shards(without, tmp_path / "a")
    (tmp_path / "eye.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"Doe^Jane")
    record = FundusRecord(id="1", image="eye.dcm", split="train")
    with pytest.raises(UserError, match="may name the patient"):
        write_shards(Manifest((record,), tmp_path), tmp_path / "b")


def test_settings_that_shards_have_no_use_for_are_refused():
    words = ("data.name=shards", "data.root=x", "data.weights={a: 1}", "data.cache_gb=1", "data.missing=skip")
    with pytest.raises(UserError) as caught:
        load_config(None, [*words, "fuse.balance=true", "fuse.bucket=8"])
    for key in ("data.weights", "data.cache_gb", "data.missing", "fuse.balance", "fuse.bucket"):
        assert f"{key}: " in str(caught.value)


def test_a_release_becomes_shards_by_script(manifest, tmp_path, run_script):
    path = manifest.root / "manifest.jsonl"
    done = run_script("prepare.py", "shards", path, "--out", tmp_path / "s", "--megabytes", LIMIT)
    assert done.returncode == 0, done.stderr
    assert "train: " in done.stdout and verify(tmp_path / "s") == len(manifest.records)
    assert_refused(run_script("prepare.py", "shards", path), "--out DIR")
