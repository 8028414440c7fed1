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


def test_an_absence_is_an_answer_where_it_is_a_class():
    assert parse_diagnoses("No glaucoma.", ("glaucoma", "no_glaucoma")) == ("no_glaucoma",)
    assert parse_diagnoses("Suspected glaucoma.", ("glaucoma", "no_glaucoma")) == ("glaucoma",)


@pytest.mark.parametrize("text", ["In this pic the cause is unknown.", "Taken at 3 pm."])
def test_common_words_are_no_diagnosis(text):
    assert parse_diagnoses(text, (*CANDIDATES, "other", "pathologic_myopia")) == ()


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
