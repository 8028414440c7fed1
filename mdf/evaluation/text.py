"""How like the references a generated text is: BLEU, ROUGE-L and CIDEr-D, each with a patient-clustered interval.

These count shared words, not facts: read them beside `mdf.evaluation.consistency`. All are 0 to 1 but CIDEr-D, which is
0 to 10. Words: BLEU's are those of sacrebleu's tokeniser 13a in lower case, those of ROUGE-L and CIDEr-D letters and
digits in lower case, unstemmed; texts in Chinese are cut by sacrebleu's tokeniser zh for all three. Other programs cut
words otherwise, so compare only figures of one program (`signature` says sacrebleu's).

Shapes: N photographs, R resamples. A photograph without a reference is NaN everywhere.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mdf.dialogue import report_text
from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean
from mdf.records import FundusRecord

ORDERS = 4  # n-grams up to this length, in BLEU and CIDEr
SIGMA = 6.0  # of CIDEr-D's penalty for another length (Vedantam et al. 2015, section 4.2)
HAN = re.compile(r"[㐀-䶿一-鿿豈-﫿]")
WORD = re.compile(r"[^\W_]+")
REPEATED = 3  # a text in which four words in a row come this often repeats itself


def references(records: Sequence[FundusRecord], kinds: Sequence[str] = ()) -> list[list[str]]:
    """The reference texts of each record, [] where it has none: those of `kinds` (report, en, zh, …), else the one that
    serves as its report.
    """
    found = []
    for record in records:
        texts = [record.texts.get(kind) for kind in kinds] if kinds else [report_text(record)]
        found.append([text for text in texts if text and text.strip()])
    return found


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether more than a quarter of the signs are Chinese characters."""
    return 4 * sum(len(HAN.findall(t)) for t in texts) > sum(len(t) for t in texts)


class Words:
    """A tokeniser as rouge-score takes it."""

    def __init__(self, chinese: bool):
        self.chinese = chinese
        if chinese:
            from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

            self.cut: Callable[[str], str] = TokenizerZh()

    def tokenize(self, text: str) -> list[str]:
        """The words of `text`, in lower case, without punctuation."""
        return WORD.findall((self.cut(text) if self.chinese else text).lower())


class Bleu:
    """BLEU-1 to -4 of a corpus (Papineni et al. 2002), from counts a photograph that sacrebleu makes.

    Equal to `sacrebleu.BLEU(lowercase=True, max_ngram_order=n)` of the photographs drawn (smoothing exp), over 100.
    """

    def __init__(self, generated: Sequence[str], references: Sequence[Sequence[str]], chinese: bool = False):
        from sacrebleu import BLEU, __version__

        logging.getLogger("sacrebleu").setLevel(logging.ERROR)  # it advises against scores of single sentences
        scorer = BLEU(lowercase=True, tokenize="zh" if chinese else "13a", effective_order=True)
        self.known = np.array([bool(r) for r in references])
        counts = np.zeros((len(generated), 2 + 2 * ORDERS))  # length, length of the reference, matches, n-grams
        for row, texts in enumerate(references):
            if not texts:
                continue
            score = scorer.sentence_score(generated[row], list(texts))
            counts[row] = [score.sys_len, score.ref_len, *score.counts, *score.totals]
        self.counts = counts
        self.signature = f"case:lc|eff:no|tok:{'zh' if chinese else '13a'}|smooth:exp|version:{__version__}"

    def metric(self, order: int) -> Callable[[np.ndarray], np.ndarray]:
        """BLEU-`order` as a function of weights [R,N]; NaN where no photograph with a reference is drawn."""
        return lambda weights: self.from_sums(weights @ self.counts, weights @ self.known, order)

    @staticmethod
    def from_sums(sums: np.ndarray, drawn: np.ndarray, order: int) -> np.ndarray:
        """float [R] of summed counts [R, 2 + 2 * ORDERS]."""
        length, wanted = sums[:, 0], sums[:, 1]
        matches, totals = sums[:, 2 : 2 + order], sums[:, 2 + ORDERS : 2 + ORDERS + order]
        none: np.ndarray = matches == 0
        # an order without a match counts as 1/2, 1/4, … match: the k-th such order as 1 / 2^k
        halves = 0.5 ** np.cumsum(none, axis=1)
        precisions = np.where(matches > 0, matches, halves) / np.maximum(totals, 1)
        some = ~none.all(axis=1) & (totals > 0).all(axis=1)
        mean = np.exp(np.log(np.where(some.reshape(-1, 1), precisions, 1)).mean(axis=1))
        brevity = np.exp(np.minimum(0, 1 - wanted / np.maximum(length, 1)))
        return np.where(drawn > 0, np.where(some, mean * brevity, 0.0), np.nan)


def rouge_l(generated: Sequence[str], references: Sequence[Sequence[str]], chinese: bool = False) -> np.ndarray:
    """float [N]: F1 of the longest common subsequence of words (Lin 2004), of the nearest reference."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=Words(chinese))
    return np.array(
        [
            scorer.score_multi(list(texts), text)["rougeL"].fmeasure if texts else np.nan
            for text, texts in zip(generated, references, strict=True)
        ]
    )


def cider_d(generated: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> np.ndarray:
    """float [N], 0 to 10: CIDEr-D (Vedantam et al. 2015) of texts given as words.

    n-grams count the more the fewer photographs have them in a reference. With one photograph none counts at all, so
    that the result is 0, as in pycocoevalcap.
    """
    known = [row for row, texts in enumerate(references) if texts]
    grams = {row: [ngrams(words) for words in references[row]] for row in known}
    frequency = Counter(gram for row in known for gram in set().union(*grams[row]))
    ceiling = math.log(max(1, len(known)))
    scores = np.full(len(generated), np.nan)
    for row in known:
        mine = Vector(ngrams(generated[row]), frequency, ceiling)
        others = [Vector(counts, frequency, ceiling) for counts in grams[row]]
        scores[row] = 10 * np.mean([mine.similarity(other) for other in others])
    return scores


def ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """How often each run of 1 to ORDERS words stands in a text."""
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


class Vector:
    """Weights of a text's n-grams, term frequency times inverse document frequency."""

    def __init__(self, counts: Counter[tuple[str, ...]], frequency: Counter[tuple[str, ...]], ceiling: float):
        self.weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
        for gram, count in counts.items():
            self.weights[len(gram) - 1][gram] = count * (ceiling - math.log(max(1, frequency[gram])))
        self.norms = [math.sqrt(sum(w * w for w in part.values())) for part in self.weights]
        self.length = sum(count for gram, count in counts.items() if len(gram) == 2)  # as in its authors' program

    def similarity(self, reference: "Vector") -> float:
        """Mean over n of the clipped cosine, less for another length."""
        cosines = []
        for mine, theirs, a, b in zip(self.weights, reference.weights, self.norms, reference.norms, strict=True):
            product = sum(min(w, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, w in mine.items())
            cosines.append(product / (a * b) if a and b else product)
        return sum(cosines) / ORDERS * math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2))


def repeats(words: Sequence[str]) -> bool:
    """Whether some four words in a row stand there REPEATED times."""
    return any(n >= REPEATED for gram, n in ngrams(words).items() if len(gram) == ORDERS)


def overlap_metrics(
    generated: Sequence[str],
    references: Sequence[Sequence[str]],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """`bleu_1` to `bleu_4` (of the corpus), `rouge_l` and `cider_d` (means over photographs), each with `NAME_ci`; `n`
    photographs with a reference, `signature` of BLEU; {"n": 0} where there is no reference at all.

    CIDEr-D's document frequencies are those of all references, in every resample; it is left out where fewer than two
    photographs have a reference.
    """
    metrics: dict[str, Any] = {"n": sum(map(bool, references))}
    if not metrics["n"]:
        return metrics
    chinese = is_chinese([text for texts in references for text in texts])
    weights = resample(groups, resamples=resamples, seed=seed)
    bleu, words = Bleu(generated, references, chinese), Words(chinese)
    metrics["signature"] = bleu.signature
    for order in range(1, ORDERS + 1):
        put(metrics, f"bleu_{order}", bleu.metric(order), weights)
    put(metrics, "rouge_l", weighted_mean(rouge_l(generated, references, chinese)), weights)
    if metrics["n"] > 1:
        cut = [[words.tokenize(text) for text in texts] for texts in references]
        scores = cider_d([words.tokenize(text) for text in generated], cut)
        put(metrics, "cider_d", weighted_mean(scores), weights)
    return metrics
