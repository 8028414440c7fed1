"""BLEU, ROUGE-L and CIDEr-D equal the libraries that others use, on random and on degenerate texts."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from mdf.evaluation.bootstrap import resample, with_interval
from mdf.evaluation.text import Bleu, Words, cider_d, is_chinese, overlap_metrics, references, repeats, rouge_l
from mdf.records import FundusRecord

VOCABULARY = ["the", "disc", "macula", "shows", "drusen", "few", "no", "haemorrhages", "and", "in", "quadrant", "."]
REPORT = "Right eye: 3 drusen in the macula, cup-disc ratio 0.4."


def random_texts(seed: int, n: int = 20) -> tuple[list[str], list[list[str]]]:
    """Generated texts and one to three references each."""
    rng = np.random.default_rng(seed)

    def text(low: int = 0) -> str:
        return " ".join(rng.choice(VOCABULARY, rng.integers(low, 25)))

    return [text() for _ in range(n)], [[text(1) for _ in range(rng.integers(1, 4))] for _ in range(n)]


def sacrebleu(generated: list[str], wanted: list[list[str]], order: int) -> float:
    most = max(map(len, wanted))
    streams = [[texts[i] if i < len(texts) else None for texts in wanted] for i in range(most)]
    return BLEU(lowercase=True, max_ngram_order=order).corpus_score(generated, streams).score / 100


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_bleu_of_every_resample_equals_sacrebleu_on_the_photographs_drawn(order, seed):
    generated, wanted = random_texts(seed)
    weights = resample([str(i // 2) for i in range(len(generated))], resamples=4, seed=seed)
    values = Bleu(generated, wanted).metric(order)(np.concatenate([np.ones((1, len(generated))), weights]))
    for row, value in zip([np.ones(len(generated)), *weights], values, strict=True):
        drawn = np.repeat(np.arange(len(generated)), row.astype(int))
        expected = sacrebleu([generated[i] for i in drawn], [wanted[i] for i in drawn], order)
        assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("generated", "reference"),
    [
        ("", REPORT),
        ("drusen", REPORT),
        ("zzz yyy", REPORT),
        (REPORT, REPORT),
        ("no", "no"),
        ("a b c d e f g h", "a x b"),
    ],
)
def test_bleu_of_degenerate_texts_equals_sacrebleu(generated, reference):
    for order in (1, 2, 3, 4):
        value = Bleu([generated], [[reference]]).metric(order)(np.ones((1, 1)))[0]
        assert value == pytest.approx(sacrebleu([generated], [[reference]], order), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_cider_d_equals_pycocoevalcap(seed):
    scorer = pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is not installed").Cider()
    generated, wanted = random_texts(seed)
    theirs = scorer.compute_score(dict(enumerate(wanted)), {i: [text] for i, text in enumerate(generated)})[1]
    ours = cider_d([t.split() for t in generated], [[t.split() for t in texts] for texts in wanted])
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_cider_d_gives_the_words_of_one_photograph_more_than_those_of_all():
    wanted = [[["the", "retina", "shows", kind, "here", "today"]] for kind in ("drusen", "haemorrhages", "scars")]
    rare, common = ["x", "x", "x", "drusen", "x", "x"], ["the", "retina", "shows", "x", "x", "x"]
    assert cider_d([rare, rare, rare], wanted)[0] > cider_d([common, common, common], wanted)[0] == 0
    assert cider_d([wanted[0][0], [], rare], wanted)[0] == pytest.approx(10)
    assert cider_d([rare], wanted[:1])[0] == 0, "with one photograph no word tells it from another"


def test_rouge_l_is_that_of_the_nearest_reference():
    from rouge_score.rouge_scorer import RougeScorer

    text, wanted = "There are drusen in the macula.", ["No drusen.", "Drusen lie in the macula.", "Glaucoma."]
    stock = RougeScorer(["rougeL"])
    expected = max(stock.score(reference, text)["rougeL"].fmeasure for reference in wanted)
    assert rouge_l([text, ""], [wanted, wanted]) == pytest.approx([expected, 0])


def test_chinese_is_cut_into_characters():
    assert is_chinese(["眼底呈橘红色, score 3"]) and not is_chinese([REPORT])
    assert Words(True).tokenize("提示mild白内障。") == ["提", "示", "mild", "白", "内", "障"]
    metrics = overlap_metrics(
        ["提示轻度白内障。"] * 2, [["提示轻度白内障。"], ["提示重度白内障。"]], ["1", "2"], resamples=20
    )
    assert metrics["bleu_1"] == pytest.approx(15 / 16) and "tok:zh" in metrics["signature"]
    assert metrics["rouge_l"] == pytest.approx(13 / 14)


def test_every_figure_has_an_interval_and_photographs_without_a_text_count_in_none():
    generated, wanted = random_texts(7, n=30)
    groups = [str(i // 3) for i in range(30)]
    metrics = overlap_metrics(generated, wanted, groups, resamples=200)
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"):
        low, high = metrics[f"{name}_ci"]
        assert low < metrics[name] < high
    assert metrics["n"] == 30 and "tok:13a" in metrics["signature"]
    more = overlap_metrics([*generated, "nonsense"], [*wanted, []], [*groups, "new"], resamples=20)
    assert more["n"] == 30
    assert all(more[name] == pytest.approx(metrics[name]) for name in ("bleu_4", "rouge_l", "cider_d"))


def test_without_references_nothing_is_made_up():
    assert overlap_metrics(["a", "b"], [[], []], ["1", "2"]) == {"n": 0}
    one = overlap_metrics([REPORT], [[REPORT]], ["1"], resamples=20)
    assert one["bleu_4"] == 1 and "cider_d" not in one
    unknown = with_interval(Bleu(["a"], [[]]).metric(4), np.ones((3, 1)))
    assert np.isnan(unknown[0]) and unknown[1] is None


def test_references_are_the_report_or_the_texts_asked_for():
    record = FundusRecord(id="1", image="1.png", texts={"en": "Haze.", "zh": "雾。", "caption": ""})
    assert references([record, FundusRecord(id="2", image="2.png")]) == [["Haze."], []]
    assert references([record], ["zh", "en", "caption"]) == [["雾。", "Haze."]]


def test_a_text_that_turns_in_circles_is_told():
    assert repeats(["disease", "of", "the", "eye"] * 3)
    assert not repeats(["the", "disc", "is", "clear", "and", "the", "vessels", "are", "clear"])
