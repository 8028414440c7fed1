"""Photographs that show the same: the same file, a copy in another size or brightness, an eye in the same framing.

All photographs of a retina look alike, so this takes two steps. A perceptual hash of the field of view, its brightness
evened out, finds candidates: 123 of the 14.6 million pairs of photographs of ODIR-5K, HRF, CSDI, DRIVE, CHASE_DB1 and
LES-AV are as near as NEAR_BITS. Then the fine structure of the two has to agree patch by patch, as it does in 44, all
of them true by eye (docs/data.md). Copies that were mirrored, turned or cut out of the middle are not found.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import fft, ndimage

SIDE = 96  # pixels of the square that the field's box is scaled to
PATCHES = 8  # in a row; 12 pixels each
COEFFICIENTS = 16  # of the cosine transform, in a row: 255 bits without the constant
NEAR_BITS = 56  # different bits of 255, at most; copies differ in 27 (19 of 20 of them) to 53 (99 of 100)
ALIKE = 0.58  # median correlation of the patches, at least; strangers reach 0.55, the least alike true pair 0.61
ALIKE_PLAIN = 0.85  # for photographs with little detail, where dirt on the lens is most of what there is
PLAIN = 0.02  # detail below this is little: standard deviation of vessel-sized structure over mean brightness
EMPTY = 0.004  # with less detail than this nothing can be compared
BLOCK = 1024, 8192  # rows and columns of the table of distances that are computed at a time: 32 MB

_grid = np.arange(SIDE) - (SIDE - 1) / 2
_radius = np.hypot(_grid[:, None], _grid[None, :]) / SIDE
_DISC = (_radius < 0.47).astype(np.float32)
_INNER = (_radius < 0.46).reshape(PATCHES, SIDE // PATCHES, PATCHES, SIDE // PATCHES)
_step = np.arange(SIDE // PATCHES) - (SIDE // PATCHES - 1) / 2
_SLOPES = np.stack([np.repeat(_step, len(_step)), np.tile(_step, len(_step))], axis=1).astype(np.float32)
_SLOPES /= np.linalg.norm(_SLOPES, axis=0)  # two orthogonal unit vectors, [pixels of a patch, 2]
_USED = _INNER.mean(axis=(1, 3)).ravel() > 0.7  # patches that lie inside the disc, [PATCHES²]


def _cut(picture: np.ndarray) -> np.ndarray:
    """Patches of [SIDE, SIDE] as [n, pixels] without their mean; those at the rim of the disc are left out."""
    side = SIDE // PATCHES
    patches = picture.reshape(PATCHES, side, PATCHES, side).swapaxes(1, 2).reshape(PATCHES**2, side * side)[_USED]
    return patches - patches.mean(axis=1, keepdims=True)


def _level(patches: np.ndarray) -> np.ndarray:
    """Patches without their slope: a camera's bright rim slopes alike in all its photographs."""
    return patches - patches @ _SLOPES @ _SLOPES.T


@dataclass(frozen=True)
class Fingerprint:
    """`bits` uint8 [32], the packed hash; `picture` uint8 [SIDE, SIDE], the green channel of the field of view."""

    bits: np.ndarray
    picture: np.ndarray
    detail: float


def fingerprint(image: np.ndarray, box: tuple[int, int, int, int]) -> Fingerprint:
    """Of a photograph uint8 [H, W, 3] whose field of view has the `box` left, top, right, bottom."""
    left, top, right, bottom = box
    green = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right, 1]))
    resample = Image.Resampling.BOX if min(green.size) >= SIDE else Image.Resampling.BILINEAR
    picture = np.asarray(green.resize((SIDE, SIDE), resample))
    blur = SIDE / 11
    weight = ndimage.gaussian_filter(_DISC, blur) + 1e-3
    light = picture.astype(np.float32)
    flat = (light - ndimage.gaussian_filter(light * _DISC, blur) / weight) * _DISC
    flat /= np.sqrt(ndimage.gaussian_filter(flat * flat, blur) / weight) + 1
    coefficients = fft.dctn(flat, norm="ortho")[:COEFFICIENTS, :COEFFICIENTS].ravel()[1:]
    return Fingerprint(np.packbits(coefficients > 0), picture, _detail(_structure(picture)))


def _structure(picture: np.ndarray) -> np.ndarray:
    """Vessel-sized structure relative to the mean brightness, float32 [SIDE, SIDE]."""
    light = picture.astype(np.float32)
    return (ndimage.gaussian_filter(light, 0.8) - ndimage.gaussian_filter(light, 4.0)) / (light.mean() + 8)


def _detail(structure: np.ndarray) -> float:
    """How much structure the middle one of the patches has."""
    return float(np.median(_cut(structure).std(axis=1)))


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two pictures of fingerprints show the same, patch by patch, up to a shift of one pixel."""
    structure = _structure(b)
    detail = min(_detail(_structure(a)), _detail(structure))
    needed = ALIKE if detail >= PLAIN else ALIKE_PLAIN
    first = _level(_cut(_structure(a)))
    spread = first.std(axis=1)
    for rows in (0, -1, 1):
        for columns in (0, -1, 1):
            second = _level(_cut(np.roll(structure, (rows, columns), axis=(0, 1))))
            correlation = (first * second).mean(axis=1) / (spread * second.std(axis=1) + 1e-9)
            if np.median(correlation) > needed:
                return True
    return False


def near_pairs(bits: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows i < j of `bits` uint8 [N, 32] that differ in at most NEAR_BITS."""
    rows, columns = BLOCK
    count = COEFFICIENTS**2 - 1
    for top in range(0, len(bits), rows):
        first = _signs(bits[top : top + rows])
        for left in range(top, len(bits), columns):
            # of two rows of +1 and -1 the product is the bits that are the same less those that are different
            product = first @ _signs(bits[left : left + columns]).T
            for i, j in zip(*np.nonzero(product >= count - 2 * NEAR_BITS), strict=True):
                if top + i < left + j:
                    yield int(top + i), int(left + j)


def _signs(bits: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, axis=1, count=COEFFICIENTS**2 - 1).astype(np.float32) * 2 - 1


class Pictures:
    """The pictures of fingerprints, in memory up to 256 MB and in a temporary file above: 9 kB a photograph."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(max_size=256 << 20)  # noqa: SIM115 (closed with the object)
        self.count = 0

    def add(self, picture: np.ndarray | None) -> None:
        """The next one; None leaves its place empty."""
        if picture is not None:
            self.file.seek(self.count * SIDE * SIDE)
            self.file.write(picture.tobytes())
        self.count += 1

    def __getitem__(self, index: int) -> np.ndarray:
        self.file.seek(index * SIDE * SIDE)
        return np.frombuffer(self.file.read(SIDE * SIDE), dtype=np.uint8).reshape(SIDE, SIDE)


def group_alike(
    digests: Sequence[str | None], bits: np.ndarray, details: np.ndarray, pictures: Callable[[int], np.ndarray]
) -> list[list[int]]:
    """Groups of two or more photographs that show the same, each sorted.

    digests: SHA-256 of each file, None where it cannot be read; bits uint8 [N, 32]; details float [N];
    pictures(i) is the picture of photograph i.
    """
    head = list(range(len(digests)))

    def find(i: int) -> int:
        while head[i] != i:
            head[i] = head[head[i]]
            i = head[i]
        return i

    first: dict[str, int] = {}
    for i, digest in enumerate(digests):
        if digest is not None:
            head[i] = first.setdefault(digest, i)
    # one of each file takes part, if it shows enough
    rows = np.array([i for i in first.values() if details[i] >= EMPTY], dtype=int)
    for a, b in near_pairs(bits[rows]):
        i, j = find(int(rows[a])), find(int(rows[b]))
        # whatever the order of the photographs, the same one is shifted against the other
        one, other = sorted((int(rows[a]), int(rows[b])), key=lambda row: digests[row] or "")
        if i != j and alike(pictures(one), pictures(other)):
            head[max(i, j)] = min(i, j)
    groups = defaultdict(list)
    for i, digest in enumerate(digests):
        if digest is not None:
            groups[find(i)].append(i)
    return [group for group in groups.values() if len(group) > 1]
