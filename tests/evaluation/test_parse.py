import pytest

from mdf.evaluation.parse import parse_diagnoses, parse_eye

CANDIDATES = ("normal", "diabetic_retinopathy", "amd", "glaucoma", "cataract")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Diabetic retinopathy.", ("diabetic_retinopathy",)),
        ("Normal fundus.", ("normal",)),
        ("Age-related macular degeneration and glaucoma.", ("amd", "glaucoma")),
        ("Impression: moderate non-proliferative diabetic retinopathy (ICDR grade 2).", ("diabetic_retinopathy",)),
        ("There is no sign of glaucoma; wet AMD is likely.", ("amd",)),
        ("No glaucoma, cataract or diabetic retinopathy.", ()),
        ("The disc is normal. Suspected glaucoma.", ("glaucoma",)),
        ("Healthy retina without glaucoma.", ("normal",)),
        ("Not glaucoma but cataract.", ("cataract",)),
        ("There are other spots.", ()),
        ("", ()),
    ],
)
def test_diagnoses(text, expected):
    assert parse_diagnoses(text, CANDIDATES) == expected


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("Right eye: clear disc.", "right"),
        ("OS, clear disc", "left"),
        ("Left eye better than right eye", None),
        ("the left half", None),
    ],
)
def test_eye(text, side):
    assert parse_eye(text) == side
