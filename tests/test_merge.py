"""Several manifests become one that says where each record is from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mdf.datasets.merge import common_root, merge
from mdf.errors import UserError
from mdf.evaluation.overlap import find_overlap, refuse_overlap
from mdf.records import FundusRecord, read_manifest, write_manifest
from mdf.trained_on import TrainedOn
from tests.conftest import assert_refused
from tests.scripts import run


@pytest.fixture
def two(tmp_path, photograph) -> list[Path]:
    """Manifests a.jsonl and b.jsonl of photographs in sets/a and sets/b; both have an id "1"."""
    paths = []
    for name in ("a", "b"):
        root = tmp_path / "sets" / name
        records = []
        for number in ("1", f"{name}2"):
            photograph(root / "images" / f"{number}.png")
            photograph(root / "masks" / f"{number}.png")
            source = {"source": "set_a"} if name == "a" else {}
            records.append(
                FundusRecord(
                    id=number, image=f"images/{number}.png", masks={"vessel": f"masks/{number}.png"},
                    patient=number, split="train", **source,
                )
            )  # fmt: skip
        paths.append(tmp_path / f"{name}.jsonl")
        write_manifest(paths[-1], records, root=root, dataset=name)
    return paths


def test_merged_records_are_found_and_say_where_they_are_from(two, run_script, tmp_path):
    done = run_script("prepare.py", "merge", *two, "--out", tmp_path / "both.jsonl")
    assert done.returncode == 0, done.stderr
    merged = read_manifest(tmp_path / "both.jsonl")
    assert [(r.id, r.source) for r in merged.records] == [
        ("set_a/1", "set_a"), ("a2", "set_a"), ("b/1", "b"), ("b2", "b"),
    ]  # fmt: skip
    assert merged.root == tmp_path / "sets"
    for record in merged.records:
        assert merged.path(record.image).is_file() and merged.path(record.masks["vessel"]).is_file()


def test_photographs_of_two_places_are_merged_where_both_are_linked_below_one_folder(two, run_script, tmp_path):
    """Which is what the message about manifests without a folder in common tells people to do."""
    linked = []
    for path in two:
        link = tmp_path / "linked" / path.stem
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "sets" / path.stem, target_is_directory=True)
        linked.append(tmp_path / "linked" / path.name)
        write_manifest(linked[-1], read_manifest(path).records, root=link, dataset=path.stem)
    done = run_script("prepare.py", "merge", *linked, "--out", tmp_path / "both.jsonl")
    assert done.returncode == 0, done.stderr
    merged = read_manifest(tmp_path / "both.jsonl")
    assert merged.root == tmp_path / "linked"
    assert all(merged.path(record.image).is_file() for record in merged.records)


def test_what_cannot_be_merged_is_refused(two, run_script, tmp_path):
    out = ("--out", tmp_path / "both.jsonl")
    assert_refused(run_script("prepare.py", "merge", two[0], *out), "two or more")
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(two[0].read_bytes())
    copy.with_name("copy.meta.json").write_bytes(two[0].with_name("a.meta.json").read_bytes())
    assert_refused(run_script("prepare.py", "merge", two[0], copy, *out), "the same photograph", "images/1.png")
    lines = [json.loads(line) for line in two[1].read_text().splitlines()]
    two[1].write_text("".join(json.dumps({k: v for k, v in line.items() if k != "split"}) + "\n" for line in lines))
    assert_refused(run_script("prepare.py", "merge", *two, *out), "b.jsonl: records without a split")
    assert not (tmp_path / "both.jsonl").exists()


def test_sources_are_not_confused(two, tmp_path):
    """Two hospitals' patient 1 are two patients."""
    alike = tmp_path / "elsewhere" / "b.jsonl"
    alike.parent.mkdir()
    record = FundusRecord(id="9", image="images/a2.png", patient="1", split="train")
    write_manifest(alike, [record], root=tmp_path / "sets" / "a", dataset="b")
    with pytest.raises(UserError, match=r"named b\.jsonl"):
        merge([two[1], alike])


@pytest.fixture
def hospitals(tmp_path: Path, photograph) -> list[Path]:
    """Two hospitals' photographs, each in a folder `images`, named alike."""
    for i, name in enumerate("AB"):
        for number in range(8):
            photograph(
                tmp_path / name / "images" / ("glaucoma", "normal")[number % 2] / f"{number}.png", seed=i * 8 + number
            )
    return [tmp_path / name / "images" for name in "AB"]


def test_two_hospitals_whose_folders_have_one_name_are_told_apart_by_their_source(hospitals, tmp_path, capsys):
    alike, apart, both = ([tmp_path / f"{n}{name}.jsonl" for name in "ab"] for n in ("alike_", "apart_", "both_"))
    for i, root in enumerate(hospitals):
        assert run("prepare.py", "folder", "--root", root, "--out", alike[i]) == 0
        assert run("prepare.py", "folder", "--root", root, "--out", apart[i], "--source", f"hospital {i}") == 0
    assert run("prepare.py", "merge", *alike, "--out", both[0]) == 2
    said = capsys.readouterr().err
    assert "8 times the same id stands in two manifests" in said and "--source NAME" in said
    assert run("prepare.py", "merge", *apart, "--out", both[0]) == 0
    merged = read_manifest(both[0])
    assert len(merged.records) == 16 and {r.source for r in merged.records} == {"hospital 0", "hospital 1"}
    first, second = (read_manifest(path) for path in apart)
    assert find_overlap(second.records, second, TrainedOn.of(first.records)) == {}
    found = find_overlap(read_manifest(alike[1]).records, second, TrainedOn.of(read_manifest(alike[0]).records))
    with pytest.raises(UserError, match="--source NAME"):
        refuse_overlap(found, 8)


def test_patients_of_two_places_that_count_as_one_are_said(two, tmp_path, capsys):
    merge(two)
    assert "count as one" not in capsys.readouterr().out
    records = [replace(r, source="set_a", id=f"b{r.id}") for r in read_manifest(two[1]).records]
    write_manifest(two[1], records, root=tmp_path / "sets" / "b", dataset="b")
    merge(two)
    said = capsys.readouterr().out
    assert "1 patients stand in several manifests and count as one each, such as '1' of the source 'set_a'" in said


def test_a_merged_split_that_we_drew_is_drawn_anew_and_a_releases_own_is_kept(hospitals, tmp_path, capsys):
    """Copies that lie in two of the manifests are then together, as validate says that they will be."""
    shutil.rmtree(hospitals[1])
    shutil.copytree(hospitals[0], hospitals[1])
    parts, both, anew = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "both.jsonl", tmp_path / "anew.jsonl"
    for seed, (root, part) in enumerate(zip(hospitals, parts, strict=True)):
        assert run("prepare.py", "folder", "--root", root, "--out", part, "--seed", seed, "--source", part.stem) == 0
    assert run("prepare.py", "merge", *parts, "--out", both) == 0
    capsys.readouterr()
    assert run("prepare.py", "validate", both) == 2 and "with --redraw where" in capsys.readouterr().err
    assert run("prepare.py", "split", both, "--out", anew) == 0
    assert run("prepare.py", "validate", anew) == 0

    own = [replace(r, split="train") for r in read_manifest(parts[0]).records]
    write_manifest(parts[0], own, root=hospitals[0], dataset="a")
    assert run("prepare.py", "merge", *parts, "--out", both) == 0
    assert read_manifest(both).meta["split"]["parts"] == {"a": "release", "b": "patient"}
    assert run("prepare.py", "split", both, "--out", anew) == 0
    assert read_manifest(anew).records == read_manifest(both).records
    assert "--redraw draws another one" in capsys.readouterr().out


def test_photographs_without_a_common_folder_are_refused():
    assert common_root([Path("/data/a"), Path("/data/b/c")]) == Path("/data")
    with pytest.raises(UserError, match="share no folder"):
        common_root([Path("/data/a"), Path("/mnt/b")])
