"""Reports of many photographs by the real script on a tiny checkpoint: what is written, listed, and gone on with."""

import csv
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from mdf.inference import batch_reports
from mdf.inference.batch import read_lines
from mdf.inference.gate import BANNER
from mdf.inference.report import read_report
from mdf.records import FundusRecord, write_manifest
from tests.page_reader import Page
from tests.scripts import run


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """Four phantoms, two of one name, and three files that are no good."""
    folder = tmp_path_factory.mktemp("clinic")
    for number, name in enumerate(("a/eye.png", "b/eye.png", "c/third.png", "fourth")):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(checkpoint.manifest.path(checkpoint.manifest.records[number].image), folder / name)
    whole = (folder / "a" / "eye.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "letter.jpg").write_text("Dear <b>colleague</b>")
    noise = np.random.default_rng(0).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


def make(checkpoint, data, out, *words):
    return run(
        "report.py", "--checkpoint", checkpoint.run / "best", "--data", data, "--out", out, "--format", "json", *words
    )


@pytest.fixture(scope="module")
def made(checkpoint, folder, tmp_path_factory):
    """The folder's reports by one process that was never stopped."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert make(checkpoint, folder, out) == 1
    return out


def reports(out):
    """All reports by their files' names, without what is different in each."""
    found = {}
    for path in sorted((out / "reports").rglob("*.json")):
        report = read_report(path.read_text(encoding="utf-8"), path.name)
        found[path.relative_to(out).as_posix()] = report.model_dump(exclude={"id", "created"})
    return found


def lines(out):
    return {i: {k: v for k, v in line.items() if k not in ("at", "seconds")} for i, line in read_lines(out).items()}


def rows(out):
    with (out / "index.csv").open(encoding="utf-8", newline="") as stream:
        return {row["photograph"]: row for row in csv.DictReader(stream)}


def test_bad_photographs_are_listed_and_the_others_reported(made):
    found = rows(made)
    states = {name: row["status"] for name, row in found.items()}
    good = dict.fromkeys(("a/eye.png", "b/eye.png", "c/third.png", "fourth"), "done")
    assert states == {**good, "cut.png": "failed", "letter.jpg": "failed", "noise.png": "refused"}
    assert "cut.png: damaged or cut short" in found["cut.png"]["reason"]
    assert "letter.jpg: not an image" in found["letter.jpg"]["reason"]
    assert "noise.png is not a fundus photograph" in found["noise.png"]["reason"]
    assert len(reports(made)) == 4


def test_a_line_says_what_its_report_says(made):
    for name, line in lines(made).items():
        if line["status"] != "done":
            continue
        report = read_report((made / f"{line['report']}.json").read_text(encoding="utf-8"), name)
        eye, said = report.eyes[0], line["eyes"][0]
        assert line["id"] == said["photograph"] == name and eye.photograph.name == name.split("/")[-1]
        assert said["gradability"] == eye.gradability.value
        assert line["urgency"] == said["urgency"] == eye.referral.urgency.value
        if eye.impression:
            first = eye.impression.diagnoses[0]
            assert (said["diagnosis"], said["probability"]) == (first.name, round(first.probability, 4))


def test_two_shards_make_what_one_process_makes(checkpoint, folder, made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert make(checkpoint, folder, out, "--shard", "2/2") in (0, 1)
    assert "reports are not made yet" in Page(out / "index.html").text
    monkeypatch.setenv("RANK", "0")  # the other one by a launcher
    monkeypatch.setenv("WORLD_SIZE", "2")
    make(checkpoint, folder, out)
    assert reports(out) == reports(made) and lines(out) == lines(made)
    assert "not made yet" not in Page(out / "index.html").text


def test_stopped_and_gone_on_with_makes_what_was_never_stopped(checkpoint, folder, made, tmp_path, monkeypatch):
    out, drafted = tmp_path / "out", []
    draft = batch_reports.draft

    def stops(predictor, photographs, **options):
        drafted.append(photographs[0].path)
        if len(drafted) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draft(predictor, photographs, **options)

    monkeypatch.setattr(batch_reports, "draft", stops)
    assert make(checkpoint, folder, out) == 143
    assert len(reports(out)) == 2
    assert make(checkpoint, folder, out) == 1
    assert len(drafted) == len(set(drafted)) == 4
    assert reports(out) == reports(made) and lines(out) == lines(made)


def test_what_failed_is_tried_again_where_that_is_asked_for(checkpoint, folder, made, tmp_path):
    data, out = shutil.copytree(folder, tmp_path / "data"), tmp_path / "out"
    for name in ("a", "b", "c", "fourth"):  # to be quick
        shutil.rmtree(data / name) if (data / name).is_dir() else (data / name).unlink()
    assert make(checkpoint, data, out) == 1
    shutil.copy(folder / "fourth", data / "cut.png")
    assert make(checkpoint, data, out) == 1 and rows(out)["cut.png"]["status"] == "failed"
    (data / "letter.jpg").unlink()
    assert make(checkpoint, data, out, "--retry") == 0  # what is no longer there counts no more
    assert rows(out)["cut.png"]["status"] == "done"


def test_another_checkpoint_or_option_is_refused_before_anything_is_loaded(
    checkpoint, folder, made, tmp_path, capsys, monkeypatch
):
    other = shutil.copytree(checkpoint.run, tmp_path / "other")
    with (other / "best" / "prompts" / "recommendations.yaml").open("a") as stream:
        stream.write("\n# changed\n")
    before = lines(made)
    monkeypatch.setattr(batch_reports, "work_through", None)
    for words in (("--checkpoint", other), ("--rules", "ADA"), ("--format", "json,md"), ("--eye", "left")):
        assert make(checkpoint, folder, made, *words) == 2
        error = capsys.readouterr().err
        assert error.count("error:") == 1 and "made otherwise" in error and "another --out" in error
    assert lines(made) == before


def test_both_eyes_of_a_patient_go_into_one_report(checkpoint, folder, tmp_path, capsys):
    known = checkpoint.manifest.records
    eyes = {side: next(r for r in known if r.eye == side) for side in ("right", "left")}
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    records = []
    for patient, broken in (("p1", None), ("p2", "left")):
        for side, record in eyes.items():
            name = f"{patient}_{side}.png"
            shutil.copy(folder / "cut.png" if side == broken else checkpoint.manifest.path(record.image), data / name)
            records.append(FundusRecord(id=f"{patient} {side}", image=name, patient=patient, eye=side))
    write_manifest(data / "m.jsonl", records, root=data, dataset="clinic")
    assert make(checkpoint, data / "m.jsonl", out) == 1
    both, one = sorted(reports(out).values(), key=lambda r: -len(r["eyes"]))
    assert [eye["laterality"]["eye"] for eye in both["eyes"]] == ["left", "right"] and both["patient"] == "p1"
    assert [eye["laterality"]["eye"] for eye in one["eyes"]] == ["right"] and one["patient"] == "p2"
    found = rows(out)
    assert {name: row["status"] for name, row in found.items()} == {
        "p1 left": "done", "p1 right": "done", "p2 right": "done", "p2 left": "failed",
    }  # fmt: skip
    assert found["p1 left"]["report"] == found["p1 right"]["report"]
    shutil.copy(checkpoint.manifest.path(eyes["left"].image), data / "p2_left.png")
    kept = found["p2 right"]["report"]
    assert make(checkpoint, data / "m.jsonl", out, "--retry") == 0
    assert rows(out)["p2 left"]["report"] == rows(out)["p2 right"]["report"] != kept
    assert (out / f"{kept}.json").is_file()  # a person may have reviewed it
    capsys.readouterr()
    assert make(checkpoint, data / "m.jsonl", tmp_path / "out2", "--eye", "left") == 2
    assert "leave out --eye" in capsys.readouterr().err


def test_what_was_refused_is_tried_again_once_it_is_mended(checkpoint, folder, tmp_path, capsys):
    eyes = {side: next(r for r in checkpoint.manifest.records if r.eye == side) for side in ("right", "left")}
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for side, record in eyes.items():
        shutil.copy(checkpoint.manifest.path(record.image), data / f"{side}.png")
    shutil.copy(folder / "noise.png", data / "noise.png")

    def listed(wrong):
        """A photograph alone, given as the eye `wrong`, and a pair of which one is no retina."""
        alone = FundusRecord(id="alone", image="right.png", eye=wrong)
        pair = [FundusRecord(id=f"p {s}", image=i, patient="p", eye=s)
                for s, i in (("left", "left.png"), ("right", "noise.png"))]  # fmt: skip
        write_manifest(data / "m.jsonl", [alone, *pair], root=data, dataset="clinic")
        return data / "m.jsonl"

    assert make(checkpoint, listed("left"), out) == 0
    assert "--retry tries again" in capsys.readouterr().out
    found = rows(out)
    assert {name: row["status"] for name, row in found.items()} == {
        "alone": "refused", "p left": "done", "p right": "refused",
    }  # fmt: skip
    assert "its name says right" in found["alone"]["reason"]
    kept = out / f"{found['p left']['report']}.json"
    before = kept.read_bytes()
    assert make(checkpoint, listed("right"), out, "--retry") == 0
    found = rows(out)
    assert found["alone"]["status"] == "done" and found["p right"]["status"] == "refused"
    assert kept == out / f"{found['p left']['report']}.json" and kept.read_bytes() == before  # may be reviewed


def test_the_page_counts_what_the_lines_say(made):
    page = Page(made / "index.html")
    assert BANNER in page.text and "Draft reports of 7 photographs" in page.text
    assert "<b>colleague" not in page.source
    found = lines(made)
    links = [a["href"] for a in page.named("a") if "reports/" in (a["href"] or "")]
    assert sorted(links) == sorted(f"{line['report']}.json" for line in found.values() if "report" in line)
    assert all((made / link).is_file() for link in links)
    for said in ("4 of 4 photographs", "refused 1 photographs", "failed 2 photographs"):
        assert said in page.text, page.text[:900]


def test_the_page_can_be_made_again(made, capsys):
    before = (made / "index.html").read_bytes()
    (made / "index.html").unlink()
    assert run("report.py", "summary", made) == 0
    assert (made / "index.html").read_bytes() == before
    assert run("report.py", "summary", made / "reports") == 2
    assert "holds no batch of results" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "FOLDER", "eye.png"), "--data goes without photographs"),
        (("--data", "FOLDER", "--sign", "haemorrhage"), "--sign"),
        (("--data", "missing"), "missing"),
        (("--data", "FOLDER", "--shard", "3/2"), "--shard 3/2"),
        (("--data", "FOLDER", "--data-root", "."), "--data-root belongs to a manifest"),
        (("eye.png", "--retry"), "belong to --data"),
        (("FOLDER",), "name it with --data"),
    ],
)
def test_wrong_words_get_one_message_and_code_2(checkpoint, folder, tmp_path, capsys, words, said):
    given = [str(folder) if word == "FOLDER" else word for word in words]
    assert run("report.py", "--checkpoint", checkpoint.run / "best", "--out", tmp_path / "out", *given) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("error:") == 1 and not (tmp_path / "out").exists()
