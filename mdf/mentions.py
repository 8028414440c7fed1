"""What a text says: the names of the vocabulary in it, with what it denies."""

import re

from mdf.vocabulary import fold, spellings

LONGEST = 9  # words of the longest name looked for
REACH = 6  # words back, within the clause, in which a denial counts
DENIALS = {
    fold(word)
    for word in (
        "no",
        "not",
        "without",
        "absence",
        "absent",
        "exclude",
        "excluded",
        "excludes",
        "denies",
        "nor",
        "neither",
        "never",
    )
}
AMBIGUOUS = {"other", "ex", "unknown", "miscellaneou", "pic", "pm"}  # folded; names in a table, common words in a text
CLAUSE_END = re.compile(r"[.;:!?\n]|\b(?:but|however|although|though)\b", re.IGNORECASE)


def named(text: str) -> list[tuple[str, bool]]:
    """Every vocabulary name in the text, in order, with whether it is denied ("no drusen")."""
    table, found = spellings(), []
    for clause in CLAUSE_END.split(text):
        words = fold(clause).split()
        i = 0
        while i < len(words):
            for length in range(min(LONGEST, len(words) - i), 0, -1):
                phrase = " ".join(words[i : i + length])
                if phrase in table and phrase not in AMBIGUOUS:
                    found.append((table[phrase], any(w in DENIALS for w in words[max(0, i - REACH) : i])))
                    break
            else:
                length = 1
            i += length
    return found
