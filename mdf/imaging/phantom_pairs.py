"""Pairs of phantom photographs that differ in one thing, so that it is known which answers have to change.

Both are drawn from the same random numbers: outside of the region that changed they are equal to the last bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from mdf.errors import UserError
from mdf.imaging.phantom import LARGE_CUP, Phantom, Sketch, finish, sketch
from mdf.imaging.phantom_anatomy import Anatomy
from mdf.imaging.phantom_lesions import CLUSTERED, QUADRANTS, Canvas, Lesion
from mdf.imaging.phantom_paint import blur_reach, disc_area
from mdf.records import FundusRecord

CHANGES = ("lesion", "quadrant", "count", "cup")
TRIES = 200  # sketches at the most until one can be changed in the way that is asked for
Edit = tuple[str, Sketch, Sketch]  # finding that changes, sketch before and after


@dataclass(frozen=True)
class Pair:
    """A photograph, and the same after `change`; S its side in pixels."""

    change: str  # of CHANGES
    finding: str  # the lesion that went, moved or grew fewer, or enlarged_cup
    photographs: tuple[Phantom, Phantom]
    records: tuple[FundusRecord, FundusRecord]  # of photographs that are not on disk
    region: np.ndarray  # bool [S, S], outside of which all pixels are equal


def draw_pair(seed: int, change: str, size: int = 256, bands: Sequence[int] = (5, 20)) -> Pair:
    """The pair of `seed`; the same arguments give the same bytes.

    lesion: all lesions of one kind are gone, and what is concluded from them. quadrant: all lesions of a kind that lie
    in one quadrant lie in another, as many. count: so many of a kind are gone that another band holds their number;
    `bands` are the upper ends, in rising order. cup: a normal eye has an enlarged cup.

    Raises UserError for another change and for a size below 96.
    """
    if change not in CHANGES:
        raise UserError(f"{change!r} is no change of a phantom; must be one of {', '.join(CHANGES)}")
    rng = np.random.default_rng([seed, CHANGES.index(change)])
    for _ in range(TRIES):
        diagnosis = str(rng.choice(BASES[change]))
        edit = EDITS[change](rng, sketch(int(rng.integers(2**53)), size, diagnosis=diagnosis), bands)
        if edit is not None:
            break
    else:
        raise UserError(f"no phantom of {TRIES} can be changed in its {change} with bands that end at {list(bands)}")
    finding, *sketches = edit
    before, after = (finish(s) for s in sketches)
    records = [
        photograph.record(f"{change}_{seed}_{name}", f"{change}_{seed}_{name}.png", patient=f"{change}_{seed}")
        for photograph, name in ((before, "before"), (after, "after"))
    ]
    return Pair(change, finding, (before, after), (records[0], records[1]), changed(*sketches))


def changed(before: Sketch, after: Sketch) -> np.ndarray:
    """bool [S, S]: what is painted otherwise, and as far as the blur carries it."""
    region = np.zeros_like(before.field)
    for one, other in ((before.lesions, after.lesions), (after.lesions, before.lesions)):
        for lesion in one:
            if not any(lesion is same for same in other):
                region[lesion.area] = True
    if before.anatomy != after.anatomy:
        region[disc_area(before.anatomy)] = True
    return ndimage.binary_dilation(region, np.ones((3, 3)), iterations=blur_reach(before.anatomy.size))


def judged(base: Sketch, lesions: Sequence[Lesion], anatomy: Anatomy | None = None) -> Sketch:
    """`base` with other lesions or anatomy, and the diagnosis and grade that follow from them."""
    anatomy = anatomy or base.anatomy
    kinds = {lesion.kind for lesion in lesions}
    if anatomy.cup_ratio > LARGE_CUP:
        diagnosis = "glaucoma"
    elif not kinds:
        diagnosis = "normal"
    else:
        diagnosis = "amd" if kinds == {"drusen"} else "diabetic_retinopathy"
    places = [lesion.where for lesion in lesions if lesion.kind == "haemorrhage"]
    severe = len(places) > 20 and set(places) == set(QUADRANTS)
    grade = {"icdr": 3 if severe else 1 if kinds == {"microaneurysm"} else 2}
    return replace(
        base,
        lesions=tuple(lesions),
        anatomy=anatomy,
        diagnosis=diagnosis,
        grade=grade if diagnosis == "diabetic_retinopathy" else {},
    )


# What changes is painted last, in both: how another lesion blends with the retina must not depend on it.


def apart(base: Sketch, kind: str) -> tuple[list[Lesion], list[Lesion]]:
    """The other lesions, and those of `kind`."""
    return [o for o in base.lesions if o.kind != kind], [o for o in base.lesions if o.kind == kind]


def kinds_of(base: Sketch) -> list[str]:
    """Kinds of lesions that there are, in the order they were placed."""
    return list(dict.fromkeys(lesion.kind for lesion in base.lesions))


def take_away(rng: np.random.Generator, base: Sketch, bands: Sequence[int]) -> Edit | None:
    if not base.lesions:
        return None
    kind = str(rng.choice(kinds_of(base)))
    others, gone = apart(base, kind)
    return kind, judged(base, [*others, *gone]), judged(base, others)


def move(rng: np.random.Generator, base: Sketch, bands: Sequence[int]) -> Edit | None:
    for kind in map(str, rng.permutation(kinds_of(base))):
        others, moved = apart(base, kind)
        places = {lesion.where for lesion in moved}
        if len(places) > 1 or not places <= set(QUADRANTS):
            continue
        for quadrant in map(str, rng.permutation([q for q in QUADRANTS if q not in places])):
            canvas = Canvas(rng, base.anatomy, base.field, base.vessels.mask, others)
            if canvas.place(kind, quadrant, len(moved), clustered=kind in CLUSTERED) == len(moved):
                return kind, judged(base, [*others, *moved]), judged(base, canvas.lesions)
    return None


def thin_out(rng: np.random.Generator, base: Sketch, bands: Sequence[int]) -> Edit | None:
    for kind in map(str, rng.permutation(kinds_of(base))):
        others, there = apart(base, kind)
        places = {lesion.where for lesion in there}
        ends = [0, *(end for end in bands if end < len(there))]
        least = [max(low + 1, len(places)) for low in ends[:-1]]  # every place keeps one
        choices = [(low, high) for low, high in zip(least, ends[1:], strict=True) if low <= high]
        if not choices:
            continue
        low, high = choices[int(rng.integers(len(choices)))]
        order = [there[i] for i in rng.permutation(len(there))]
        firsts = [next(lesion for lesion in order if lesion.where == place) for place in sorted(places)]
        rest = [lesion for lesion in order if not any(lesion is first for first in firsts)]
        number = int(rng.integers(low, high + 1))
        kept, gone = (firsts + rest)[:number], (firsts + rest)[number:]
        return kind, judged(base, [*others, *kept, *gone]), judged(base, [*others, *kept])
    return None


def enlarge_cup(rng: np.random.Generator, base: Sketch, bands: Sequence[int]) -> Edit | None:
    eye = base.anatomy
    ratio = float(rng.choice((0.7, 0.8)) + rng.uniform(-0.03, 0.03))
    shrink = (1 - ratio) / (1 - eye.cup_ratio)  # of the way from the disc's centre, so that the cup stays inside
    centre = [d + (c - d) * shrink for c, d in zip(eye.cup_centre, eye.disc, strict=False)]
    large = replace(eye, cup_ratio=ratio, cup_centre=(centre[0], centre[1]))
    return "enlarged_cup", base, judged(base, base.lesions, large)


EDITS: dict[str, Callable[[np.random.Generator, Sketch, Sequence[int]], Edit | None]] = {
    "lesion": take_away,
    "quadrant": move,
    "count": thin_out,
    "cup": enlarge_cup,
}
BASES = {  # diagnoses that a change starts from; all four lesions of diabetic eyes beside drusen
    "lesion": ("diabetic_retinopathy",) * 3 + ("amd",),
    "quadrant": ("diabetic_retinopathy",),
    "count": ("diabetic_retinopathy",) * 3 + ("amd",),
    "cup": ("normal",),
}
