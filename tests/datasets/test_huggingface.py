"""Hugging Face data sets: photographs that are files stay where they are, those inside Arrow become files once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mdf.config import DataConfig
from mdf.datasets import huggingface, load
from mdf.errors import UserError

Write = Callable[..., Path]


class TestImageFolder:
    def test_metadata_says_what_each_file_is(self, tmp_path: Path, photograph: Write):
        for split, name, label in (("train", "a.png", "glaucoma"), ("test", "b.png", "normal")):
            photograph(tmp_path / split / "pictures" / name)
            row = {"file_name": f"pictures/{name}", "label": [label, "drusen"], "age": 61, "extra": None}
            (tmp_path / split / "metadata.jsonl").write_text(json.dumps(row) + "\n")
        records, root = huggingface.read(str(tmp_path), tmp_path / "unused")
        assert root == tmp_path and not (tmp_path / "unused").exists()
        assert [(r.image, r.split, r.diagnosis, r.age) for r in records] == [
            ("test/pictures/b.png", "test", ("normal", "drusen"), 61),
            ("train/pictures/a.png", "train", ("glaucoma", "drusen"), 61),
        ]

    def test_a_csv_with_columns_of_the_users_own(self, tmp_path: Path, photograph: Write):
        photograph(tmp_path / "a.png")
        (tmp_path / "metadata.csv").write_text("file_name,befund\na.png,cataract\n")
        records, _ = huggingface.read(str(tmp_path), tmp_path, {"diagnosis": "befund"})
        assert records[0].diagnosis == ("cataract",)

    def test_without_metadata_the_sub_folders_are_classes(self, tmp_path: Path, photograph: Write):
        photograph(tmp_path / "train" / "glaucoma" / "a.png")
        records, _ = huggingface.read(str(tmp_path), tmp_path)
        assert [(r.split, r.diagnosis) for r in records] == [("train", ("glaucoma",))]

    def test_metadata_without_file_names_is_refused(self, tmp_path: Path):
        (tmp_path / "metadata.csv").write_text("name\na.png\n")
        with pytest.raises(UserError, match="column file_name is missing; it has name"):
            huggingface.read(str(tmp_path), tmp_path)


class TestSaved:
    @pytest.fixture
    def saved(self, tmp_path: Path, photograph: Write) -> Path:
        """Three photographs of three formats in two splits, saved by the library; the labels are class numbers."""
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "vessels": datasets.Image(),
                "label": datasets.ClassLabel(names=["normal", "glaucoma"]),
                "report": datasets.Value("string"),
            }
        )
        files = [photograph(tmp_path / "source" / name, seed=i) for i, name in enumerate(("a.png", "b.jpg", "c.tif"))]
        cells = [
            {
                "image": {"bytes": f.read_bytes(), "path": f.name},
                "vessels": str(files[0]),
                "label": i % 2,
                "report": f"r{i}",
            }
            for i, f in enumerate(files)
        ]
        parts = {"train": cells[:2], "validation": cells[2:]}
        data = datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows, features=features) for split, rows in parts.items()}
        )
        data.save_to_disk(str(tmp_path / "saved"))
        return tmp_path / "saved"

    def test_photographs_are_written_once_with_their_own_bytes(self, saved: Path, tmp_path: Path, capsys):
        columns = {"mask_vessel": "vessels"}
        records, root = huggingface.read(str(saved), tmp_path / "out", columns)
        assert [(r.image, r.split, r.diagnosis, r.texts) for r in records] == [
            ("train/0000000.png", "train", ("normal",), {"text": "r0"}),
            ("train/0000001.jpg", "train", ("glaucoma",), {"text": "r1"}),
            ("validation/0000000.tif", "val", ("normal",), {"text": "r2"}),
        ]
        assert root.parent == tmp_path / "out" and str(root) in capsys.readouterr().out
        sources = sorted((tmp_path / "source").iterdir())
        assert [(root / r.image).read_bytes() for r in records] == [s.read_bytes() for s in sources]
        assert records[0].masks == {"vessel": "train/0000000_vessels.png"}
        before = {f: f.stat().st_mtime_ns for f in root.rglob("*") if f.is_file()}
        again, _ = huggingface.read(str(saved), tmp_path / "out", columns)
        assert again == records and before == {f: f.stat().st_mtime_ns for f in root.rglob("*") if f.is_file()}

    def test_two_columns_of_pictures_need_a_name(self, saved: Path, tmp_path: Path):
        datasets = pytest.importorskip("datasets")
        data = datasets.load_from_disk(str(saved)).rename_column("image", "fundus")
        data.save_to_disk(str(tmp_path / "two"))
        with pytest.raises(UserError, match=r"2 columns are of the type Image.*--columns image=COLUMN"):
            huggingface.read(str(tmp_path / "two"), tmp_path / "out")
        records, _ = huggingface.read(str(tmp_path / "two"), tmp_path / "out", {"image": "fundus"})
        assert len(records) == 3

    def test_it_is_data_that_a_run_can_train_on(self, saved: Path, tmp_path: Path):
        manifest = load(DataConfig(name="huggingface", root=str(saved)), seed=0, cache_dir=tmp_path / "cache")
        assert manifest.root.is_relative_to(tmp_path / "cache")
        assert all(manifest.path(r.image).is_file() for r in manifest.records)

    def test_a_damaged_copy_is_refused(self, saved: Path, tmp_path: Path):
        (saved / "train" / "state.json").write_text("{")
        with pytest.raises(UserError, match="cannot be loaded"):
            huggingface.read(str(saved), tmp_path / "out")


class TestHub:
    @pytest.mark.parametrize("name", ["a/b/c", "no where", "../no-such-folder", ""])
    def test_what_is_neither_folder_nor_name_is_refused(self, name: str, tmp_path: Path):
        with pytest.raises(UserError, match=r"no name on the hub|data.root"):
            load(DataConfig(name="huggingface", root=name), seed=0, cache_dir=tmp_path)

    def test_a_hub_that_does_not_answer_is_said(self, tmp_path: Path, monkeypatch):
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match="nobody/nothing cannot be loaded from the hub"):
            huggingface.read("nobody/nothing", tmp_path)
