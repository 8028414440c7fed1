import numpy as np
import pytest

from mdf.config import DataConfig
from mdf.datasets import load
from mdf.datasets.phantom import cached, draw_manifest
from mdf.errors import UserError
from mdf.imaging.decode import load_image, load_mask
from mdf.imaging.phantom import MASKS, draw

REQUEST = {"count": 24, "size": 96, "seed": 3, "val": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms") / "set"
    return out, draw_manifest(out, **REQUEST, workers=1)


def test_files_are_what_was_drawn(drawn):
    _, manifest = drawn
    assert [record.id for record in manifest.records] == [f"phantom_{number:06d}" for number in range(24)]
    for record in manifest.records[:6]:
        phantom = draw(record.extra["seed"], 96, eye=record.eye)
        assert np.array_equal(load_image(manifest.path(record.image)), phantom.image)
        assert set(record.masks) == set(MASKS)
        for name, path in record.masks.items():
            assert np.array_equal(load_mask(manifest.path(path)), phantom.masks[name]), name
        assert record.findings == phantom.findings and record.texts == phantom.texts and record.eye == phantom.eye
        assert record.boxes == phantom.boxes and record.points["fovea"] == list(phantom.fovea)


def test_patients_have_one_split_and_two_different_eyes(drawn):
    _, manifest = drawn
    splits, eyes = {}, {}
    for record in manifest.records:
        splits.setdefault(record.patient, set()).add(record.split)
        eyes.setdefault(record.patient, []).append(record.eye)
    assert all(len(names) == 1 for names in splits.values())
    assert all(len(sides) == len(set(sides)) for sides in eyes.values())
    assert any(len(sides) == 2 for sides in eyes.values())
    assert all(manifest.split(name) for name in ("train", "val", "test"))


def test_the_same_request_is_not_drawn_again(drawn):
    out, manifest = drawn
    before = (out / "manifest.jsonl").stat().st_mtime_ns
    assert draw_manifest(out, **REQUEST).sha256 == manifest.sha256
    assert (out / "manifest.jsonl").stat().st_mtime_ns == before


def test_another_request_has_another_place_and_replaces_nothing(drawn, tmp_path):
    out, manifest = drawn
    with pytest.raises(UserError, match=rf"count {REQUEST['count']} and not 4.*Name another folder"):
        draw_manifest(out, **{**REQUEST, "count": 4})
    with pytest.raises(UserError, match="seed"):
        draw_manifest(out, **{**REQUEST, "seed": REQUEST["seed"] + 1})
    assert draw_manifest(out, **REQUEST).sha256 == manifest.sha256
    changed = [{**REQUEST, key: REQUEST[key] * 2 + 1} for key in ("count", "size", "seed", "val", "test")]
    assert len({cached(tmp_path, **request) for request in [REQUEST, *changed]}) == 6


def test_photographs_of_the_users_own_are_never_replaced(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "patient7.png").write_bytes(b"a photograph")
    with pytest.raises(UserError, match="something else than phantom photographs, images"):
        load(DataConfig(root=str(tmp_path), count=2, size=96), seed=0)
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["patient7.png"] * 2
    (tmp_path / "empty").mkdir()
    assert len(draw_manifest(tmp_path / "empty", **{**REQUEST, "count": 2}).records) == 2


def test_number_of_processes_does_not_matter(tmp_path):
    request = {**REQUEST, "count": 64}
    one = draw_manifest(tmp_path / "one", **request, workers=1)
    two = draw_manifest(tmp_path / "two", **request, workers=2)
    assert one.sha256 == two.sha256
    name = one.records[63].image
    assert one.path(name).read_bytes() == two.path(name).read_bytes()


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(UserError, match="something else"):
        draw_manifest(tmp_path, **REQUEST)
    with pytest.raises(UserError, match="at least one"):
        draw_manifest(tmp_path / "none", **{**REQUEST, "count": 0})
    with pytest.raises(UserError, match="96"):
        draw_manifest(tmp_path / "tiny", **{**REQUEST, "size": 32})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
