"""What a text says: the names of the vocabulary in it, with what it denies, before the name or behind it."""

import re
from dataclasses import dataclass

from mdf.vocabulary import fold, spellings

LONGEST = 9  # words of the longest name looked for
REACH = 6  # words back, within the clause, in which a denial counts
AMBIGUOUS = {"other", "ex", "unknown", "miscellaneou", "pic", "pm"}  # folded; names in a table, common words in a text
# the colon of "Haemorrhages: none" ends no clause
CLAUSE_END = re.compile(
    r"[.;!?\n]|:(?!\s*(?:no|none|nil|absent|negative|unlikely|excluded|not (?:seen|present))\s*(?:[.;,!?\n]|$))"
    r"|\b(?:but|however|although|though)\b",
    re.IGNORECASE,
)
# The patterns below are for folded words, separated by blanks.
IS = r"is|are|was|were|be|been|appear|seem|can|could"
SEEN = (
    r"seen|present|noted|visible|found|detected|evident|identified|observed|apparent|appreciated|demonstrated|"
    r"suspected|likely"
)
DENIED_BEFORE = re.compile(
    r"\b(?:no|not|without|excluded?|absence|absent|denie|nor|neither|never|none of|unlikely|free (?:of|from)|"
    r"negative for)\b"
)
DENIES_NOTHING = re.compile(r"\bnot (?:only|(?:be )?(?:excluded?|ruled? out))\b")
UNCHANGED = re.compile(  # "no change in the drusen": they are there
    r"\b(?:no|without)(?: \w+){0,2} (?:change|increase|decrease|progression|worsening|improvement) (?:in|from|since|to)"
    r"(?: (?:the|a|of|number|size|known|old|existing|previous))*$"
)
DENIED_BEHIND = re.compile(
    rf"(?:(?:{IS}) )*(?:(?:not|never)(?: (?:{IS}|clearly|definitely))*(?: (?:{SEEN})\b|$)"
    r"|(?:absent|none|nil|unlikely|excluded|ruled out|negative)\b|no$)"
)
AFFIRMED_BEHIND = re.compile(rf"(?:(?:{IS}) )+(?:{SEEN})\b|present\b")
JOINS = {"and", "or", "nor"}
ARTICLES = {"the", "any"}


@dataclass
class Mention:
    """A name, where its words begin and end in the clause, and whether it is denied."""

    name: str
    start: int
    end: int
    denied: bool = False


def named(text: str) -> list[tuple[str, bool]]:
    """Every vocabulary name in the text, in order, with whether it is denied ("no drusen", "drusen are not seen")."""
    return [(m.name, m.denied) for clause in CLAUSE_END.split(text) for m in mentions(clause)]


def mentions(clause: str) -> list[Mention]:
    parts = [fold(part).replace("cannot", "can not").split() for part in clause.split(",")]
    words = [word for part in parts for word in part]
    commas = [sum(map(len, parts[:n])) for n in range(len(parts) + 1)]  # where parts begin, and the end
    found, told = find(words), 0  # what stands before `told` is not said of the names behind it
    for i, mention in enumerate(found):
        behind = " ".join(words[mention.end : min(c for c in commas if c >= mention.end)])
        if denial := DENIED_BEHIND.match(behind):
            for one in (mention, *subject(found[: i + 1], words, commas)):
                one.denied = True
            told = mention.end + len(denial.group().split())
            continue
        reach = max(told, mention.start - REACH)
        if AFFIRMED_BEHIND.match(behind):
            reach = max(reach, own_part(mention, words, commas))
        before = " ".join(words[reach : mention.start])
        if UNCHANGED.search(before):
            told = mention.end
        else:
            mention.denied = bool(DENIED_BEFORE.search(DENIES_NOTHING.sub("", before)))
    return found


def find(words: list[str]) -> list[Mention]:
    """The names among the words, the longest at each place."""
    table, found, i = spellings(), list[Mention](), 0
    while i < len(words):
        for length in range(min(LONGEST, len(words) - i), 0, -1):
            phrase = " ".join(words[i : i + length])
            if phrase in table and phrase not in AMBIGUOUS:
                found.append(Mention(table[phrase], i, i + length))
                break
        else:
            length = 1
        i += length
    return found


def subject(found: list[Mention], words: list[str], commas: list[int]) -> list[Mention]:
    """The names that are denied with the last: "drusen, exudates and haemorrhages are absent" denies three."""
    joined, members = False, list[Mention]()
    for before, after in zip(found[-2::-1], found[:0:-1], strict=True):
        gap = set(words[before.end : after.start])
        joined = joined or bool(gap & JOINS)
        if gap - JOINS - ARTICLES or not joined:
            break
        members.append(before)
    first = (members or found)[-1].start
    lead = words[max(c for c in commas if c <= first) : first]
    return [] if set(lead) - ARTICLES else members  # not "there are drusen and exudates are absent"


def own_part(mention: Mention, words: list[str], commas: list[int]) -> int:
    """Where the words about a name begin that is said to be there: "no haemorrhages, drusen are present".

    0 where it may be the last of a list that is denied: "no haemorrhages, exudates, drusen are present".
    """
    *before, start = [0, *(c for c in commas if c <= mention.start)]
    previous = words[before[-1] : start]
    closed = DENIED_BEFORE.search(" ".join(previous)) or JOINS & set(previous)
    return start if closed and not JOINS & set(words[start : mention.start]) else 0
