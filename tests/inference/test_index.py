"""The index of embeddings: what is in the file, going on where a job stopped, searching, and refusing strangers."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from mdf.errors import UserError
from mdf.evaluation.photographs import embed_records
from mdf.imaging.decode import load_image
from mdf.inference import index as index_module
from mdf.inference.batch import Shard
from mdf.inference.index import Index, Search
from mdf.inference.worklist import read_photographs
from mdf.models.embedder import Embedder
from tests.scripts import SCRIPTS, environment, run


@pytest.fixture(scope="module")
def encoder(checkpoint) -> Embedder:
    return Embedder.from_pretrained(checkpoint.run / "best")


@pytest.fixture
def small_parts(monkeypatch) -> int:
    """Parts of so few photographs that the phantoms make several."""
    monkeypatch.setattr(index_module, "PART", 5)
    return -(-24 // 5)


@pytest.fixture
def made(checkpoint, encoder, tmp_path):
    """The index of all phantoms."""
    out = tmp_path / "phantoms.parquet"
    assert Index(encoder, checkpoint.manifest, out).make().whole
    return out


def test_a_row_is_id_image_vector_and_model(checkpoint, encoder, made):
    rows = parquet.read_table(made)
    assert rows.column_names == ["id", "image", "vector", "model"]
    assert rows["id"].to_pylist() == [r.id for r in checkpoint.manifest.records]
    assert rows["model"].unique().to_pylist() == [encoder.hash()]
    vectors = np.array(rows["vector"].to_pylist(), dtype=np.float32)
    assert np.array_equal(vectors, embed_records(encoder, checkpoint.manifest.records, checkpoint.manifest))
    assert sorted(p.name for p in made.parent.iterdir()) == [made.name]  # neither parts nor locks are left


def test_processes_share_the_photographs_and_make_the_same_file(checkpoint, encoder, tmp_path, small_parts):
    alone, out = tmp_path / "alone.parquet", tmp_path / "shared.parquet"
    assert Index(encoder, checkpoint.manifest, alone).make(batch_size=2).whole
    for number in (2, 0):
        assert not Index(encoder, checkpoint.manifest, out).make(Shard(number, 3), batch_size=2).whole
    assert not out.exists() and len(list((tmp_path / "shared.parquet.parts").glob("0*.parquet"))) == small_parts - 2
    assert Index(encoder, checkpoint.manifest, out).make(Shard(1, 3), batch_size=2).whole
    assert parquet.read_table(out).equals(parquet.read_table(alone), check_metadata=True)  # to the last bit
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.parquet", "shared.parquet"]


def test_a_stopped_job_goes_on_where_it_was(checkpoint, encoder, tmp_path, monkeypatch, small_parts):
    out, embedded = tmp_path / "index.parquet", []

    def stops(model, records, manifest, **kwargs):
        if len(embedded) == 3:
            raise KeyboardInterrupt
        embedded.append(records[0].id)
        return embed_records(model, records, manifest, **kwargs)

    monkeypatch.setattr(index_module, "embed_records", stops)
    with pytest.raises(KeyboardInterrupt):
        Index(encoder, checkpoint.manifest, out).make()
    assert len(embedded) == 3 and not out.exists()
    again = []
    monkeypatch.setattr(
        index_module, "embed_records", lambda m, r, f, **k: again.append(r[0].id) or embed_records(m, r, f, **k)
    )
    assert Index(encoder, checkpoint.manifest, out).make().whole
    assert len(again) == small_parts - 3 and not set(again) & set(embedded)
    assert Index(encoder, checkpoint.manifest, out).make().whole and len(again) == small_parts - 3  # done is done
    assert parquet.read_table(out)["id"].to_pylist() == [r.id for r in checkpoint.manifest.records]


def test_a_photograph_finds_itself_and_then_the_most_similar(checkpoint, encoder, made):
    search = Search(made, encoder)
    hits = search.by_photograph(load_image(checkpoint.photograph), 4)
    assert hits[0].id == checkpoint.manifest.records[0].id and hits[0].similarity == pytest.approx(1, abs=1e-5)
    vectors = embed_records(encoder, checkpoint.manifest.records, checkpoint.manifest)
    nearest = np.argsort(-(vectors @ vectors[0]), kind="stable")[:4]
    assert [h.id for h in hits] == [checkpoint.manifest.records[i].id for i in nearest]
    assert len(search.by_photograph(load_image(checkpoint.photograph), 99)) == 24


def test_words_are_compared_in_the_space_of_photographs(checkpoint, encoder, made):
    words = "a fundus photograph showing drusen"
    hits = Search(made, encoder).by_words(words, 24)
    vectors = embed_records(encoder, checkpoint.manifest.records, checkpoint.manifest)
    similarity = vectors @ encoder.embed_text([words])[0].numpy()
    ids = [r.id for r in checkpoint.manifest.records]
    assert [h.similarity for h in hits] == pytest.approx(sorted(similarity.tolist(), reverse=True), abs=1e-6)
    assert {h.id: pytest.approx(h.similarity) for h in hits} == dict(zip(ids, similarity, strict=True))


def test_faiss_finds_the_same(checkpoint, encoder, made):
    pytest.importorskip("faiss", reason="faiss is not installed")
    search = Search(made, encoder)
    with_faiss = search.by_photograph(load_image(checkpoint.photograph), 5)
    search.faiss = None
    assert [h.id for h in search.by_photograph(load_image(checkpoint.photograph), 5)] == [h.id for h in with_faiss]


def test_another_model_is_refused(checkpoint, encoder, made):
    other = Embedder.from_pretrained(checkpoint.run / "best")
    assert Search(made, other).ids  # the same weights are the same model
    other.encoder.clip.logit_scale.data += 1e-3
    assert other.hash() != encoder.hash()
    with pytest.raises(UserError, match=f"another model .{encoder.hash()}, this one is {other.hash()}"):
        Search(made, other)
    with pytest.raises(UserError, match="there already, of another model"):
        Index(other, checkpoint.manifest, made).make()


def test_parts_of_another_index_are_not_gone_on_with(checkpoint, encoder, tmp_path, small_parts):
    out = tmp_path / "index.parquet"
    Index(encoder, checkpoint.manifest, out).make(Shard(0, 2))
    with pytest.raises(UserError, match=r"made otherwise \(features: embedding, now pooled\)"):
        Index(encoder, checkpoint.manifest, out, "pooled").make(Shard(1, 2))
    with pytest.raises(UserError, match="batch_size: 32, now 4"):
        Index(encoder, checkpoint.manifest, out).make(Shard(1, 2), batch_size=4)


def test_pooled_features_have_no_words(checkpoint, encoder, tmp_path):
    out = tmp_path / "pooled.parquet"
    Index(encoder, checkpoint.manifest, out, "pooled").make()
    search = Search(out, encoder)
    assert search.by_photograph(load_image(checkpoint.photograph), 1)[0].id == checkpoint.manifest.records[0].id
    with pytest.raises(UserError, match="search by photograph"):
        search.by_words("drusen", 1)


def test_a_folder_is_as_good_as_a_manifest(checkpoint, tmp_path):
    folder = tmp_path / "photographs"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(checkpoint.photograph, folder / "one.png")
    shutil.copy(checkpoint.photograph, folder / "deep" / "two.png")
    assert [r.id for r in read_photographs(folder).records] == ["deep/two", "one"]


def test_the_script_embeds_and_finds(checkpoint, tmp_path, capsys):
    out, sheet = tmp_path / "index.parquet", tmp_path / "sheets" / "found.png"
    model = ("--checkpoint", checkpoint.run)
    assert run("embed.py", *model, "--data", checkpoint.data, "--out", out) == 0
    assert "24 photographs in" in capsys.readouterr().out
    query = ("--index", out, "--image", checkpoint.photograph, "--force", "-k", 6)
    assert run("embed.py", "search", *model, *query, "--sheet", sheet, "--data", checkpoint.data) == 0
    said = capsys.readouterr().out
    assert f"1  +1.000  {checkpoint.manifest.records[0].id}" in said
    assert checkpoint.manifest.records[0].diagnosis[0] in said
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG" and drawn.width > 5 * 256 and drawn.height > 2 * 256
    words = ("--index", out, "--text", "diabetic retinopathy", "--sheet", sheet)
    assert run("embed.py", "search", *model, *words) == 0
    other = ("--encoder", "fundus-vit-tiny", "--size", 64)
    assert run("embed.py", "search", *other, *words) == 2
    assert "another model" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_at_once_make_one_file(checkpoint, tmp_path):
    out = tmp_path / "index.parquet"
    words = [sys.executable, SCRIPTS / "embed.py", "--encoder", "fundus-vit-tiny", "--data", checkpoint.data]
    env = {**environment(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    code = "import runpy, sys, mdf.inference.index as i; i.PART = 3; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    both = [
        subprocess.Popen(
            [words[0], "-c", code, *map(str, words[1:]), "--out", str(out)],
            env=env | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert parquet.read_table(out)["id"].to_pylist() == [r.id for r in checkpoint.manifest.records]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "DATA", "--out", "index.csv"), ".parquet"),
        (("--data", "missing.jsonl", "--out", "index.parquet"), "missing.jsonl"),
        (("--data", "DATA", "--out", "index.parquet", "--size", "64"), "--encoder"),
        (("--data", "DATA", "--out", "index.parquet", "--batch-size", "0"), "--batch-size"),
        (("search", "--index", "missing.parquet", "--text", "drusen"), "missing.parquet"),
        (("search", "--index", "DATA", "--text", "drusen"), "cannot be read"),
        (("search", "--index", "OTHER", "--text", "drusen"), "was not written by scripts/embed.py"),
        (("search", "--index", "OTHER", "--text", " "), "--text"),
        (("search", "--index", "OTHER", "--text", "drusen", "-k", "0"), "-k"),
        (("search", "--index", "OTHER", "--image", "missing.png"), "missing.png"),
    ],
    ids=["ending", "no-data", "size", "batch", "no-index", "no-parquet", "foreign", "no-words", "none", "no-image"],
)
def test_wrong_input_gets_one_message_and_code_2(checkpoint, tmp_path, capsys, monkeypatch, words, said):
    import pyarrow

    monkeypatch.chdir(tmp_path)
    parquet.write_table(pyarrow.table({"id": ["1"]}), tmp_path / "other.parquet")
    names = {"DATA": str(checkpoint.data), "OTHER": "other.parquet"}
    given = [names.get(word, word) for word in words]
    model = ("--checkpoint", checkpoint.run)
    assert run("embed.py", *given[: given[0] == "search"], *model, *given[given[0] == "search" :]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("error:") == 1
    assert not (tmp_path / "index.parquet").exists()


def test_sigterm_ends_after_the_present_part(checkpoint, encoder, tmp_path, monkeypatch, small_parts):
    out, parts = tmp_path / "index.parquet", tmp_path / "index.parquet.parts"

    def asked_to_stop(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return embed_records(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(index_module, "embed_records", asked_to_stop)
        outcome = Index(encoder, checkpoint.manifest, out).make()
    assert outcome.code == 143 and not outcome.whole and len(list(parts.glob("0*.parquet"))) == 1
    assert Index(encoder, checkpoint.manifest, out).make().code == 0 and not parts.exists()


def test_a_part_that_breaks_stops_no_other_and_is_tried_again(
    checkpoint, encoder, tmp_path, capsys, monkeypatch, small_parts
):
    out = tmp_path / "index.parquet"
    words = ("--checkpoint", checkpoint.run, "--data", checkpoint.data, "--out", out)

    def breaks(model, records, *args, **kwargs):
        if records[0].id == checkpoint.manifest.records[5].id:
            raise RuntimeError("no memory")
        return embed_records(model, records, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(index_module, "embed_records", breaks)
        assert run("embed.py", *words) == 1
    assert "1 parts broke (RuntimeError: no memory); the same command tries" in capsys.readouterr().out
    assert len(list((tmp_path / "index.parquet.parts").glob("0*.parquet"))) == small_parts - 1 and not out.exists()
    assert run("embed.py", *words) == 0 and parquet.read_table(out).num_rows == 24


def test_bad_photographs_are_listed_and_left_out_until_they_are_mended(
    checkpoint, encoder, tmp_path, capsys, monkeypatch, small_parts
):
    folder = shutil.copytree(checkpoint.data.parent, tmp_path / "data")
    manifest = read_photographs(folder / checkpoint.data.name)
    bad = [manifest.records[n] for n in (0, 12, *range(15, 20))]  # part 3 has no other
    for record in bad:
        manifest.path(record.image).write_bytes(b"no picture")
    out = tmp_path / "index.parquet"
    words = ("--checkpoint", checkpoint.run, "--data", folder / checkpoint.data.name, "--out", out)
    assert run("embed.py", *words) == 1
    said = capsys.readouterr().out
    assert "17 photographs in" in said and "7 photographs cannot be read" in said and manifest.records[12].image in said
    good = [r.id for r in manifest.records if r not in bad]
    assert parquet.read_table(out)["id"].to_pylist() == good
    assert run("embed.py", *words) == 1 and parquet.read_table(out).num_rows == 17  # not tried again by itself
    shutil.copytree(checkpoint.data.parent, folder, dirs_exist_ok=True)
    assert run("embed.py", *words, "--retry") == 0
    whole = tmp_path / "whole.parquet"
    assert Index(encoder, manifest, whole).make().whole
    assert parquet.read_table(out).equals(parquet.read_table(whole))
    assert not (tmp_path / "index.parquet.parts").exists()


def test_photographs_that_are_all_bad_make_no_index(encoder, tmp_path):
    (tmp_path / "eye.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"none of the photographs can be read: photograph .*eye\.jpg"):
        Index(encoder, read_photographs(tmp_path), tmp_path / "index.parquet").make()
    assert not (tmp_path / "index.parquet").exists()
