"""A text made ready to be read for facts: eyes, doubts, numbers and ranges in words that folding keeps. Beside it the
patterns of ratios and grades, which folding would destroy.
"""

import re

NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
NUMBERS |= {"ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "fifty": 50}
EYES = {"OD": "right", "RE": "right", "OS": "left", "LE": "left"}
EYE_CODE = re.compile(r"\b(O\.?D|O\.?S|O\.?U|R\.?/?E|L\.?/?E)\b(?!\s*\d)")
UNIT = r"(?:%|um|µm|μm|microns?|mm|dd|da|px|dis[ck] (?:diameters?|areas?)|o.?clock|years?|months?|weeks?|days?)(?!\w)"
MORE, LESS = r"(?:>|more than|over|greater than|above)", r"(?:<|fewer than|less than|below|under)"
WHOLE = r"(?<![\d.,])(\d+)(?!\d|[.,]\d)"  # a whole number, no part of 0.7
RANGES = (  # what stands for a number of lesions -> fewest and most
    (rf"(?:≥|>=|at least|\bnot? {LESS})\s*{WHOLE}", lambda m: (int(m[1]), None)),  # before "less than" without "no"
    (rf"(?:≤|<=|at most|up to|\bnot? {MORE})\s*{WHOLE}", lambda m: (0, int(m[1]))),
    (rf"{MORE}\s*{WHOLE}", lambda m: (int(m[1]) + 1, None)),
    (rf"{LESS}\s*{WHOLE}", lambda m: (0, int(m[1]) - 1)),
    (rf"between {WHOLE} and {WHOLE}", lambda m: (int(m[1]), int(m[2]))),
    (rf"{WHOLE}\s*(?:-|–|to)\s*{WHOLE}", lambda m: (int(m[1]), int(m[2]))),
    (rf"(?:about|approximately|approx\.?|around|roughly|some|~|≈)\s*{WHOLE}", lambda m: around(int(m[1]))),
)
RATIO_NAME = (
    r"(?:vertical |horizontal )?(?:cup[\s/-]*(?:to[\s-]*)?dis[ck](?:[\s-]*ratio)?|c\s*[/:]\s*d(?:[\s-]*ratio)?|v?cdr)"
)
RATIO_VALUE = r"(0?[.,]\d+|1[.,]0)(?:\s*(?:-|–|to)\s*(0?[.,]\d+|1[.,]0))?"
CUP_DISC = re.compile(
    rf"\b{RATIO_NAME}\b(?:\s+\w+){{0,3}}?\s*[=:~≈]?\s*{RATIO_VALUE}|{RATIO_VALUE}\s+{RATIO_NAME}\b", re.IGNORECASE
)
UK_CODE = re.compile(r"\bR([0-3](?:[LHAS])?)\s*M([01])\b(?:\s*P[01]\b)?")
GRADED = r"(?:scale|score|grade|stage|category|level|class)"
GRADE_VALUE = r"(R?[0-6](?![\d.,]\d)[LHAS]?|I{1,3}|IV|V)\b"
GRADE = re.compile(rf"\b(?:grade|stage|category|level|class)\s*(?:is|of|:|=)?\s*{GRADE_VALUE}", re.IGNORECASE)


def around(number: int) -> tuple[int, int]:
    """What "about 10" may mean: a quarter more or less."""
    return number - number // 4, number + number // 4


def prepared(text: str) -> str:
    """The text with eyes, question marks, numbers and ranges in words that folding keeps."""
    text = re.sub(r"\bDr\.?\s+(?=[A-Z][a-z])", " ", text)
    text = EYE_CODE.sub(lambda m: eye_in_words(m[1]), text)
    text = re.sub(r"(?:^|(?<=[\s(]))\?\s*(?=[A-Za-z])", "possible ", text)
    text = re.sub(r"(\w)\s*\?", r"\1 questionable. ", text)
    text = re.sub(r"\bcan't\b|\bcannot\b", "can not", text, flags=re.IGNORECASE)
    text = re.sub(r"n't\b", " not", text)
    text = re.sub(r"\b(" + "|".join(NUMBERS) + r")\b", lambda m: str(NUMBERS[m[1].lower()]), text, flags=re.IGNORECASE)
    text = re.sub(
        r"\b(?:within\s+)?(?:[<>≥≤~≈]\s*)?\d+(?:[.,]\d+)?(?:\s*(?:-|–|to)\s*\d+(?:[.,]\d+)?)?\s*" + UNIT + r"(?!\w)",
        " ",
        text,
        flags=re.IGNORECASE,
    )
    text = re.sub(r"\bdis[ck] (?:diameters?|areas?)\b", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"\b\d+(?:\.\d+)?\s*(?:/|out of|of)\s*(?:10|100|100 000)\b", " ", text)
    text = re.sub(r"\((?:n\s*=\s*)?(\d+)\)", r" numbering \1 ", text)
    for pattern, ends in RANGES:
        text = re.sub(pattern, lambda m, ends=ends: in_words(*ends(m)), text, flags=re.IGNORECASE)  # type: ignore[misc]
    return text


def in_words(low: int, high: int | None) -> str:
    """A range as one word: in_words(3, 7) is "count3to7"."""
    return f" count{low}up " if high is None else f" count{low}to{high} "


def eye_in_words(code: str) -> str:
    code = code.replace(".", "").replace("/", "").upper()
    return f"{EYES[code]} eye" if code in EYES else "both eyes"
