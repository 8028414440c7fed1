import numpy as np
import pytest

from mdf.captions import own_sentences
from mdf.config import AugmentConfig
from mdf.imaging.augment import Transform, flip_record, flip_text, recolour, sample
from mdf.records import Finding, FundusRecord


@pytest.mark.parametrize(
    ("text", "flipped"),
    [
        ("Left eye, the right disc", "Right eye, the left disc"),
        ("LEFT and right.", "RIGHT and left."),
        ("OD normal, OS cataract", "OS normal, OD cataract"),
        ("O.D.: normal, O.S cataract", "O.S.: normal, O.D cataract"),
        ("o.d. normal; os: cataract", "o.s. normal; od: cataract"),
        ("os vasos", "os vasos"),
        ("左眼正常", "右眼正常"),
        ("superotemporal, bright cleft", "superotemporal, bright cleft"),
    ],
)
def test_flip_text(text, flipped):
    assert flip_text(text) == flipped
    assert flip_text(flipped) == text


def test_flip_record_swaps_eye_and_words_but_no_quadrant():
    finding = Finding("haemorrhage", location="superotemporal", count=2)
    record = FundusRecord("1", "1.png", eye="left", findings=(finding,), texts={"report": "Left eye: fine."})
    flipped = flip_record(record)
    assert flipped.eye == "right" and flipped.texts == {"report": "Right eye: fine."} and flipped.findings == (finding,)
    assert flip_record(flipped) == record
    assert flip_record(FundusRecord("2", "2.png")).eye is None


def test_a_mirrored_photograph_keeps_the_sentences_of_its_own_eye():
    record = FundusRecord("1", "1.png", eye="right", texts={"report": "O.D.: drusen at the macula. O.S.: normal."})
    assert own_sentences(flip_record(record)) == ["O.S.: drusen at the macula."]


def test_sample_is_seeded_and_within_its_ranges():
    cfg = AugmentConfig(flip=0.5)
    first = [sample(cfg, np.random.default_rng([1, n])) for n in range(200)]
    assert first == [sample(cfg, np.random.default_rng([1, n])) for n in range(200)]
    assert max(abs(t.angle) for t in first) <= cfg.rotate and len({t.angle for t in first}) == 200
    assert all(abs(t.scale - 1) <= cfg.scale and max(map(abs, t.shift)) <= cfg.shift for t in first)
    assert 60 < sum(t.flip for t in first) < 140
    still = sample(AugmentConfig(0, 0, 0, 0, 0, 0, 0, 0), np.random.default_rng(0))
    assert still == Transform()


def test_colours_only_change_colours():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    field = np.ones((20, 20), dtype=bool)

    def coloured(transform: Transform, field=field) -> np.ndarray:
        return recolour(image, transform.lookup(image, field))

    assert np.array_equal(coloured(Transform()), image)
    assert coloured(Transform(brightness=1.2)).mean() > image.mean()
    assert coloured(Transform(contrast=0.5)).std() < image.std()
    red = coloured(Transform(gains=(1.2, 1.0, 1.0)), ~field)
    assert red[..., 0].mean() > image[..., 0].mean() and np.array_equal(red[..., 1:], image[..., 1:])
