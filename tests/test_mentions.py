"""What a text says is there and what it denies."""

import pytest

from mdf.mentions import named


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("No drusen.", ""),
        ("Drusen are not seen.", ""),
        ("Haemorrhages: none", ""),
        ("Haemorrhages: none; drusen: many", "drusen"),
        ("Free of drusen", ""),
        ("Negative for glaucoma", ""),
        ("Glaucoma is unlikely", ""),
        ("Glaucoma is unlikely, drusen in the macula", "drusen"),
        ("Drusen cannot be seen", ""),
        ("Drusen, haemorrhages and exudates are absent", ""),
        ("Exudates are present and haemorrhages are absent", "hard_exudate"),
        ("There are drusen and haemorrhages are absent", "drusen"),
        ("Drusen, none in the macula", "drusen"),
        ("Diabetic retinopathy is not severe", "diabetic_retinopathy"),
        ("Drusen are seen, glaucoma is not", "drusen"),
    ],
)
def test_a_denial_counts_behind_the_name_too(text, there):
    assert [name for name, denied in named(text) if not denied] == there.split()


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("No haemorrhages, but drusen", "drusen"),
        ("No haemorrhages, drusen present", "drusen"),
        ("No haemorrhages or exudates, drusen are seen", "drusen"),
        ("No haemorrhages, exudates, drusen are present", ""),
        ("No haemorrhages, exudates or drusen seen", ""),
        ("No change in the drusen", "drusen"),
        ("No increase in haemorrhages, exudates unchanged", "haemorrhage hard_exudate"),
        ("No changes of diabetic retinopathy", ""),
        ("Glaucoma cannot be excluded, drusen in the macula", "glaucoma drusen"),
        ("This does not exclude glaucoma", "glaucoma"),
        ("Not only drusen, also exudates", "drusen hard_exudate"),
    ],
)
def test_a_denial_reaches_as_far_as_it_is_meant(text, there):
    assert [name for name, denied in named(text) if not denied] == there.split()
