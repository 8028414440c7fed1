import json

import numpy as np
import pytest

from mdf.evaluation.cases import choose, read_answers
from mdf.evaluation.compare import flatten
from mdf.evaluation.page import headline, write_page
from mdf.evaluation.page_file import NOTICE
from mdf.evaluation.page_tables import bracketed, interval_of, number, said, written
from mdf.records import Finding, FundusRecord, Manifest
from tests.page_reader import Page, assert_self_contained

CLASSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")
HOSTILE = '</style></title><script>alert(1)</script><img src=x onerror="alert(2)">'


def judged(value, width=0.05):
    return {
        "accuracy": value,
        "accuracy_ci": [value - width, value + width],
        "balanced_accuracy": value - 0.01,
        "balanced_accuracy_ci": [value - 0.06, value + 0.04],
    }


@pytest.fixture
def evaluation(tmp_path, photograph):
    """Metrics, predictions, records and manifest of 24 photographs, as evaluate.py hands them over."""
    rng = np.random.default_rng(0)
    records, lines = [], []
    for i in range(24):
        name = f"photo_{i:02}"
        photograph(tmp_path / "data" / f"{name}.png", seed=i)
        true = CLASSES[i % 4]
        records.append(
            FundusRecord(
                id=name,
                image=f"{name}.png",
                patient=f"secret_patient_{i}",
                eye="left",
                diagnosis=(true,),
                findings=(Finding("microaneurysm", "macula", count=3),) if i % 4 == 1 else (),
                texts={"report": "A reference report."},
                source=("odir5k", "hrf")[i % 2],
            )
        )
        weights = rng.exponential(size=4)
        weights[i % 4] += rng.exponential(1.5)
        table = dict(zip(CLASSES, (weights / weights.sum()).round(6).tolist(), strict=True))
        lines.append({"id": name, "patient": f"secret_patient_{i}", "truth": [true], "probabilities": table})
        lines[-1] |= {"predicted": max(table, key=table.get), "generated": "Glaucoma.", "parsed": ["glaucoma"]}
        lines[-1] |= {"labels": [true], "probe": table}
    metrics = {
        "n": 24,
        "checkpoint": str(tmp_path / "runs" / "try" / "best"),
        "dataset": "phantom",
        "splits": ["test"],
        "data_sha256": "ab" * 32,
        "date": "2026-11-28",
        "classification": {
            **judged(0.75),
            "macro_auroc": 0.9,
            "macro_auroc_ci": None,
            "recall": dict.fromkeys(CLASSES, 0.5),
            "n": 24,
            "confusion": {"classes": list(CLASSES), "counts": np.diag([6, 6, 6, 6]).tolist()},
        },
        "calibration": {
            "ece": 0.1,
            "ece_ci": [0.05, 0.2],
            "reliability": [{"confidence": 0.6, "n": 24, "accuracy": 0.512, "accuracy_ci": [0.4, 0.6]}],
        },
        "selective": {"risk": 0.5, "curve": [[0.5, 0.2], [1.0, 0.512]]},
        "controls": {
            **{name: judged(0.3) for name in ("blank", "shuffled", "majority")},
            "real": judged(0.75),
            "gain": -0.012345,
            "gain_ci": [-0.2, 0.3],
        },
        "few_shot": {
            "n": 24,
            **{f"shots_{k}": {"support": k, "clap": judged(0.4 + k / 50), "tip": judged(0.5)} for k in (1, 4, 16)},
        },
        "subgroups": {
            "eye": {"left": judged(0.7), "right": judged(0.6), "gap": 0.1, "gap_ci": [0.0, 0.2]},
            "source": {"groups": {"hrf": judged(0.7)}},
        },
        "zero_shot": {
            "names": {**judged(0.5), "recall": dict.fromkeys(CLASSES, 0.25)},
            "described": {**judged(0.6), "recall": dict.fromkeys(CLASSES, 0.35)},
            "texts": {c: ["a fundus photograph showing a long description of this class " * 2] for c in CLASSES},
        },
        "probe": {**judged(0.66), "features": "embedding", "strengths": [0.1, 1.0]},
        "damaged": {"value": float("inf"), "other": 0.5, "other_ci": [None, float("nan")]},
        "text": {"bleu": 24.3, "bleu_ci": [20.1, 28.0], "cider": 1.2, "tiny": 0.00002, "side": None, "stale": True},
        "a_task_of_tomorrow": {
            "outer": {"inner": {"new_measure": 0.123, "new_measure_ci": [0.1, 0.2]}},
            "words": "yes",
        },
    }
    return metrics, lines, records, Manifest(tuple(records), tmp_path / "data")


@pytest.fixture
def page(evaluation, tmp_path):
    def write(*changed, **options):
        metrics, lines, records, manifest = (*changed, *evaluation[len(changed) :])
        return Page(write_page(tmp_path / "out", metrics, lines, records, manifest, **options))

    return write


def test_the_page_is_whole_asks_no_server_and_says_what_it_is(page):
    written_page = page()
    assert_self_contained(written_page)
    assert written_page.source.startswith("<!DOCTYPE html>")
    assert NOTICE in written_page.text
    assert len(written_page.named("img")) == len(written_page.named("article")) > 6
    assert all(i["alt"] for i in written_page.named("img"))


def test_every_number_of_metrics_json_stands_on_the_page(page, evaluation):
    cells = page().cells
    for name, value in flatten(evaluation[0]).items():
        if name.endswith("_ci"):  # in a column of its own, or behind its number
            shown = bracketed(interval_of({"x_ci": value}, "x")) or number(None)  # a dash where it is not known
            assert shown in cells.get(name, cells[name.removesuffix("_ci")]), name
        elif isinstance(value, int | float | None) and not isinstance(value, bool):
            assert cells[name].split()[0] == number(value), name
        else:
            if name.endswith((".reliability", ".curve", ".counts")):
                assert name in cells  # a table
            elif not name.endswith("confusion.classes"):  # its heads
                assert written(value) in cells[name], name


def test_the_same_input_gives_the_same_bytes(evaluation, tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(24, 8))
    first, second = (
        write_page(tmp_path / name, *evaluation, embeddings=embeddings).read_bytes() for name in ("one", "two")
    )
    assert first == second


def test_words_of_a_model_and_of_data_cannot_become_code(page, evaluation):
    metrics, lines, records, manifest = evaluation
    metrics["checkpoint"] = metrics["a_task_of_tomorrow"]["words"] = metrics[HOSTILE] = HOSTILE
    metrics["controls"][HOSTILE] = judged(0.2)
    lines[0] |= {"generated": HOSTILE, "report": HOSTILE, "parsed": []}
    lines[1] |= {
        "generated": HOSTILE,
        "parsed": [],
        "spatial": [dict.fromkeys(("question", "truth", "answer"), HOSTILE)],
    }
    for line in lines:
        line["probabilities"][HOSTILE] = 0.0
    first = records[0]
    hostile = FundusRecord(id=HOSTILE, image=first.image, texts={HOSTILE: HOSTILE}, source=HOSTILE, diagnosis=("amd",))
    lines[0]["id"] = HOSTILE
    records[0] = hostile
    found = page(
        metrics, lines, records, manifest, stamps=[HOSTILE, 'a"; } body { display: none'], embeddings=np.eye(24)
    )
    assert_self_contained(found)
    assert HOSTILE in found.text  # it is shown, as words
    harmless = page(stamps=["a", "b"])
    assert structure(found) == structure(harmless)


def structure(page):
    """What of a style sheet could end a string or a rule."""
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    return [c for c in style if c in '{};"<>']


def test_no_place_on_this_machine_and_no_patient_is_told(page, evaluation, tmp_path):
    _, lines, records, manifest = evaluation
    manifest.path(records[0].image).unlink()
    lines[0]["probabilities"] = dict(zip(CLASSES, (0.0, 1.0, 0.0, 0.0), strict=True))  # the surest wrong one: shown
    found = page()
    assert "cannot be read any more" in found.text
    assert str(tmp_path) not in found.source and "secret_patient" not in found.source
    assert "…/try/best" in found.text


@pytest.mark.parametrize(
    "metrics",
    [
        {"segmentation": {"vessel": {"n": 3, "dice": 0.7, "dice_ci": [0.6, 0.8]}}},
        {"retrieval": {"n": 3, "image_to_text_r1": 0.5, "image_to_text_r1_ci": [0.4, 0.6]}},
        {"spatial": {"presence": {"n": 3, "chance": 0.5, "balanced_accuracy": 0.6, "balanced_accuracy_ci": None}}},
        {"classification": {"n": 3, "accuracy": 0.6, "accuracy_ci": None, "recall": {}}},
        {"controls": {"real": judged(0.5)}},
        {},
    ],
)
def test_one_task_is_enough(page, metrics):
    lines = [{"id": f"photo_0{i}", "patient": None, "truth": []} for i in range(3)]
    found = page({"n": 3, **metrics}, lines)
    assert_self_contained(found)
    assert not found.named("img")
    assert {name for name in flatten(metrics) if not name.endswith("_ci")} <= found.cells.keys()


def test_answers_of_one_task_have_their_curves_in_its_section(page, evaluation):
    metrics, lines, *_ = evaluation
    for line in lines:
        del line["probabilities"], line["generated"], line["parsed"]
    found = page({"n": 24, "probe": metrics["probe"]}, lines)
    assert "Curves and confusion matrix" in found.text and "ROC curves" in found.text
    assert "Sure and wrong" in found.text


def test_points_that_the_evaluation_gives_are_drawn_where_they_stand(page):
    text = page().text
    assert text.count("Reliability diagram") == text.count("Risk-coverage curve") == 2  # theirs and the probe's own
    assert "0.512 [0.400, 0.600]" in text


def test_photographs_can_be_left_out(page, evaluation):
    maps = {r.id: np.zeros((8, 8, 3), np.uint8) for r in evaluation[2]}
    found = page(photographs=False, maps=maps)
    assert not found.named("img") and "data:image" not in found.source
    assert "left out, since there are patients behind them" in found.text
    assert "Sure and wrong" in found.text


def test_a_map_stands_beside_its_photograph(page, evaluation):
    maps = {r.id: np.full((8, 8, 3), 200, np.uint8) for r in evaluation[2]}
    assert len(page(maps=maps).named("img")) == 2 * len(page().named("img"))


def test_a_stamp_is_on_top_and_on_every_printed_page(page):
    found = page(stamps=["EVALUATION DATA OVERLAPS TRAINING DATA"])
    assert found.text.index("OVERLAPS") < found.text.index("Evaluation of")
    printed = found.source[found.source.index("@top-left") :]
    assert printed[: printed.index("}")].count("EVALUATION DATA OVERLAPS TRAINING DATA") == 1


def test_small_photographs_stay_small_and_large_ones_are_scaled_down(page, evaluation, photograph):
    _, _, records, manifest = evaluation
    before = len(page().source)
    for record in records:
        photograph(manifest.path(record.image), size=(600, 500))
    assert len(page().source) < before + 24 * 120_000  # noise compresses badly; a retina takes a tenth of that


def test_cases_are_the_surest_wrong_ones_the_typical_and_the_undecided():
    def line(i, true, **table):
        return {"id": str(i), "truth": [true], "probabilities": {"normal": 0.0, "amd": 0.0, "glaucoma": 0.0} | table}

    lines = [
        line(0, "normal", normal=0.99, amd=0.01),
        line(1, "normal", normal=0.8, amd=0.2),
        line(2, "normal", normal=0.6, amd=0.4),
        line(3, "amd", normal=0.9, amd=0.1),
        line(4, "amd", normal=0.95, amd=0.05),
        line(5, "amd", amd=0.51, normal=0.49),
        {"id": "6", "truth": ["amd"], "generated": "A nice picture.", "parsed": []},
        {"id": "7", "truth": []},
    ]
    chosen = choose(lines, read_answers(lines)["probabilities"], shown=3)
    assert chosen["worst"] == [4, 3]
    assert chosen["typical"] == [1, 5, 2]  # the middle one of normal, that of amd, the next of normal
    assert chosen["borderline"][0] == 5
    assert chosen["unread"] == [6]


def test_without_probabilities_a_named_wrong_diagnosis_is_the_worst():
    lines = [
        {"id": "0", "truth": ["amd"], "generated": "Glaucoma.", "parsed": ["glaucoma"]},
        {"id": "1", "truth": ["amd"], "generated": "AMD.", "parsed": ["amd"]},
        {"id": "2", "truth": ["amd"], "generated": "A retina.", "parsed": []},
    ]
    assert choose(lines, None) == {"worst": [0], "typical": [], "borderline": [], "unread": [2]}


def test_photographs_with_several_diagnoses_are_right_by_any_of_them():
    lines = [{"id": "0", "truth": ["amd", "glaucoma"], "probabilities": {"normal": 0.1, "amd": 0.2, "glaucoma": 0.7}}]
    assert read_answers(lines)["probabilities"].right.tolist() == [True]


def test_scores_that_are_no_probabilities_are_not_drawn():
    lines = [
        {"id": "0", "truth": ["amd"], "probabilities": {"normal": float("nan"), "amd": 0.2}},
        {"id": "1", "truth": ["amd"], "probabilities": {"normal": None, "amd": 0.2}},
        {"id": "2", "truth": ["other"], "probabilities": {"normal": 0.5, "amd": 0.5}},
    ]
    assert read_answers(lines) == {}


def test_embeddings_are_drawn_by_label_and_by_source(page, evaluation):
    found = page(embeddings=np.random.default_rng(0).normal(size=(24, 8)))
    assert "Embeddings by label" in found.text and "Embeddings by source" in found.text
    assert "odir5k" in found.text and "of the variance" in found.text
    with pytest.raises(ValueError, match="embeddings for 24 records"):
        page(embeddings=np.ones((3, 8)))


def test_numbers_and_names_are_written_for_people():
    assert number(0.98765) == "0.988" and number(-0.5) == "\N{MINUS SIGN}0.500" and number(1400) == "1,400"
    assert number(None) == number(float("nan")) == "–" and number(0.00002) == "2.0e\N{MINUS SIGN}05"
    assert number(0.25, signed=True) == "+0.250"
    assert headline("segmentation.vessel.dice") == ("Masks", "vessel · Dice")
    assert headline("spatial.small_lesions.balanced_accuracy") == ("Small lesions", "balanced accuracy")
    assert said("coverage_at_risk_05") == "answered at 5 % wrong"
    assert said("macro_auroc") == "macro AUROC" and said("image_to_text_r1") == "image to text R@1"
    assert written("C:\\Users\\someone\\runs\\a\\best") == "…/a/best" and written("runs/a/best") == "runs/a/best"
    assert written([]) == "none" and written([1, 2.5]) == "1, 2.500"


def test_a_page_can_be_written_from_what_lies_on_disk(page, evaluation):
    metrics, lines, *_ = evaluation
    assert page(json.loads(json.dumps(metrics)), json.loads(json.dumps(lines))).source == page().source
