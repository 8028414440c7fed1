"""Texts against labels: does a text name the diagnosis that is to be told, or another one?"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from mdf.datasets.validation.contradictions import diseases, say
from mdf.datasets.validation.report import Case
from mdf.mentions import named
from mdf.records import FundusRecord
from mdf.vocabulary import NORMAL, OTHER, display, is_a

SHOWN = 5  # names and photographs in a line
VAGUE = (OTHER, "abnormal")  # labels that no text has to name and none contradicts


def texts(records: Sequence[FundusRecord]) -> dict[str, list[Case]]:
    """`text-names-label`: one case a kind of text, with its share; `text-against-label`: one a pair of label and text.

    Judged by the vocabulary's spellings, without what a text denies; records labelled with one of VAGUE are not judged.
    """
    judged: Counter[str] = Counter()
    telling: dict[str, list[str]] = defaultdict(list)
    words: dict[str, Counter[str]] = defaultdict(Counter)
    against: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for r in records:
        labels = tuple(d for d in r.diagnosis or () if d not in VAGUE)
        if not labels or len(labels) < len(r.diagnosis or ()):
            continue
        for kind, text in r.texts.items():
            judged[kind] += 1
            said = {name for name, no in named(text) if not no}
            if hits := sorted(name for name in said if any(is_a(name, label) for label in labels)):
                telling[kind].append(r.id)
                words[kind].update(hits)
            if other := says_otherwise(labels, said):
                against[kind, say(labels), say(sorted(other))].append(r.id)
    names = []
    for kind, ids in telling.items():
        often = ", ".join(f"{display(w)} {n}" for w, n in words[kind].most_common(SHOWN))
        share = f"{len(ids)} of {judged[kind]} photographs ({len(ids) / judged[kind]:.1%})"
        names.append(Case(f"texts.{kind} names it in {share}; most often {often}", tuple(ids)))
    differ = [
        Case(f"texts.{kind}: the label is {label}, the text says {other}: {some(ids)}", tuple(ids))
        for (kind, label, other), ids in sorted(against.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return {"text-names-label": names, "text-against-label": differ}


def says_otherwise(labels: tuple[str, ...], said: set[str]) -> set[str]:
    """Diseases of the text that no label covers; `normal` where a text says only that and the label is a disease."""
    ill = {n for n in diseases(said) if n not in VAGUE}
    if not ill:
        return said & {NORMAL} if diseases(labels) else set()
    return {n for n in ill if not any(is_a(n, label) or is_a(label, n) for label in labels)}


def some(ids: Sequence[str]) -> str:
    return f"{len(ids)} photographs, such as {', '.join(ids[:SHOWN])}" if len(ids) > 1 else ids[0]
