"""What reports say, sentence by sentence. `said` writes a fact as + affirmed, - denied, ? uncertain, o told aside."""

import numpy as np
import pytest

from mdf.errors import UserError
from mdf.evaluation.facts import AFFIRMED, CupDisc, Fact, Grade, read_facts
from mdf.evaluation.wording import FACTS, read_wording, wording
from mdf.imaging.phantom import draw
from mdf.vocabulary import entries, is_a

SIGNS = {"affirmed": "+", "denied": "-", "uncertain": "?", "aside": "o"}


def said(text: str) -> set[str]:
    return {SIGNS[f.status] + f.name for f in read_facts(text).facts}


def fact(text: str) -> Fact:
    (only,) = read_facts(text).facts
    return only


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No haemorrhages or exudates, but drusen.", "-haemorrhage -hard_exudate +drusen"),
        ("No haemorrhages, exudates or drusen are seen.", "-haemorrhage -hard_exudate -drusen"),
        ("No haemorrhages, exudates, or drusen are seen.", "-haemorrhage -hard_exudate -drusen"),
        ("There are no retinal haemorrhages, and drusen are seen.", "-haemorrhage +drusen"),
        ("No microaneurysms, a few drusen in the macula.", "-microaneurysm +drusen"),
        ("No diabetic retinopathy, with scattered drusen.", "-diabetic_retinopathy +drusen"),
        ("2 microaneurysms, no haemorrhages.", "+microaneurysm -haemorrhage"),
        ("Neither drusen nor pigment changes are present.", "-drusen -pigment_change"),
        ("Haemorrhages and exudates are absent, drusen are present.", "-haemorrhage -hard_exudate +drusen"),
        ("Haemorrhages are not seen.", "-haemorrhage"),
        ("Haemorrhages: none; drusen: few.", "-haemorrhage +drusen"),
        ("Haemorrhages: about 10 in the macula, drusen: absent.", "+haemorrhage -drusen"),
        ("Microaneurysms: 0. Drusen - nil. Exudates: no.", "-microaneurysm -drusen -hard_exudate"),
        ("0 haemorrhages.", "-haemorrhage"),
        ("The macula is free of drusen.", "-drusen"),
        ("Not glaucoma but cataract.", "-glaucoma +cataract"),
        ("This does not show any signs of glaucoma.", "-glaucoma"),
        ("Moderate NPDR without macular oedema.", "+moderate_npdr -macular_oedema"),
        ("Laser scars in the periphery; no active new vessels.", "+laser_scar -neovascularisation"),
        ("The disc is pink and no haemorrhages are seen.", "-haemorrhage"),
        ("Glaucoma is ruled out.", "-glaucoma"),
        ("No retinopathy. No glaucoma, cataract or AMD.", "-diabetic_retinopathy -glaucoma -cataract -amd"),
        ("Optic disc pallor is not seen.", "-optic_disc_pallor"),
        ("No foveal reflex.", "+absent_foveal_reflex"),
        ("DR: R0M0.", "-diabetic_retinopathy"),
    ],
)
def test_denials(text, expected):
    assert said(text) == set(expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No change in the drusen since 2019.", "+drusen"),
        ("No lesion except drusen.", "-lesion +drusen"),
        ("There is no view of the macula because of a dense vitreous haemorrhage.", "+vitreous_haemorrhage"),
        ("The macula is not well seen through the cataract.", "+cataract"),
        ("Not only drusen but also haemorrhages.", "+drusen +haemorrhage"),
        ("No doubt this is glaucoma.", "+glaucoma"),
    ],
)
def test_what_sounds_like_a_denial_and_is_none(text, expected):
    assert said(text) == set(expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("We cannot exclude glaucoma.", "?glaucoma"),
        ("Glaucoma cannot be ruled out.", "?glaucoma"),
        ("Glaucoma not excluded.", "?glaucoma"),
        ("To rule out glaucoma, fields are advised.", "?glaucoma"),
        ("Glaucoma?", "?glaucoma"),
        ("? early glaucoma", "?early_glaucoma"),
        ("Possible drusen, no haemorrhages.", "?drusen -haemorrhage"),
        ("Drusen and possible haemorrhages.", "+drusen ?haemorrhage"),
        ("Moderate cataracts are suspected.", "?moderate_cataract"),
        ("Suspected glaucoma.", "?suspected_glaucoma"),
        ("The haze may hide exudates.", "?hard_exudate"),
        ("No significant haemorrhages.", "?haemorrhage"),  # leaves room for a few
        ("Wet AMD is likely.", "+wet_amd"),
        ("The findings are consistent with glaucoma.", "+glaucoma"),
    ],
)
def test_doubt(text, expected):
    assert said(text) == set(expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("History of retinal detachment, now flat.", "oretinal_detachment"),
        ("Family history of glaucoma; drusen are seen.", "oglaucoma +drusen"),
        ("Diabetic retinopathy screening photograph.", "odiabetic_retinopathy"),
        ("Check for signs of macular oedema (OCT to confirm).", "omacular_oedema"),
        ("Besides glaucoma, think of optic atrophy.", "oglaucoma ooptic_atrophy"),
        ("Typical of glaucoma: Rim notch and disc haemorrhage.", "orim_thinning odisc_haemorrhage"),
        ("Less clear than in a healthy eye.", "onormal"),
        ("Otherwise normal.", "onormal"),
        ("No other haemorrhages.", "ohaemorrhage"),
    ],
)
def test_what_is_not_said_of_this_photograph(text, expected):
    assert said(text) == set(expected.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Normal fundus.", "+normal"),
        ("Impression: no sign of disease.", "+normal"),
        ("No abnormality detected.", "+normal"),
        ("Fundus within normal limits.", "+normal"),
        ("The macula is normal.", "-abnormal_macula"),
        ("Disc: normal; macula: scattered drusen.", "-abnormal_optic_disc +drusen"),
        ("The disc, macula and vessels are unremarkable.", "-abnormal_optic_disc -abnormal_macula -abnormal_vessels"),
        ("The vessels are of normal calibre and course.", "-abnormal_vessels"),
        ("Normal background colour.", ""),
        ("Normal retinal pigmentation.", "-pigment_change"),
        ("Not normal.", ""),
        ("Clear lens.", "-cataract"),
        ("There are no retinal lesions.", "-lesion"),
        ("Red dots and other things, taken at 3 pm.", ""),  # named by nothing that the vocabulary knows
    ],
)
def test_what_is_normal_denies_what_it_speaks_of(text, expected):
    assert said(text) == set(expected.split())


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("3 microaneurysms in the inferotemporal quadrant.", "inferotemporal"),
        (
            "Hard exudates in the superotemporal, inferonasal and superonasal quadrants.",
            "superotemporal inferonasal superonasal",
        ),
        ("At the macula there are 12 drusen.", "macula"),
        ("The macula shows one druse.", "macula"),
        ("Macula: scattered drusen.", "macula"),
        ("Perifoveal hard exudates.", "macula"),
        ("Haemorrhages in all four quadrants.", "all_quadrants"),
        ("Exudates temporal to the fovea.", "temporal"),
        ("Haemorrhages along the superior temporal arcade, sparing the macula.", "superotemporal"),
        ("A choroidal nevus inferonasal to the disc.", "inferonasal"),
        ("Rim notch inferiorly.", "inferior"),
        ("Drusen within 1 disc diameter of the fovea.", "macula"),
        ("Drusen.", ""),
        ("Optic disc drusen.", ""),  # the words of a name are no place
    ],
)
def test_places(text, places):
    assert fact(text).places == tuple(places.split())


def test_each_finding_has_its_own_place():
    text = "Macular drusen, 2 haemorrhages in the superonasal quadrant and exudates nasally."
    places = {f.name: f.places for f in read_facts(text).facts}
    assert places == {"drusen": ("macula",), "haemorrhage": ("superonasal",), "hard_exudate": ("nasal",)}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("12 drusen.", (12, 12)),
        ("Three small haemorrhages.", (3, 3)),
        ("A single haemorrhage.", (1, 1)),
        ("A few scattered drusen.", (2, 5)),
        ("Numerous microaneurysms.", (6, None)),
        ("More than twenty haemorrhages.", (21, None)),
        (">20 haemorrhages", (21, None)),
        ("At least 3 drusen.", (3, None)),
        ("Fewer than 5 drusen.", (0, 4)),
        ("No more than 3 microaneurysms.", (0, 3)),
        ("There are not more than 3 drusen.", (0, 3)),
        ("There aren't over 5 haemorrhages.", (0, 5)),
        ("No fewer than 3 haemorrhages.", (3, None)),
        ("There are not less than 5 haemorrhages.", (5, None)),
        ("3-5 drusen.", (3, 5)),
        ("Between 6 and 10 drusen.", (6, 10)),
        ("About 12 drusen.", (9, 15)),
        ("Drusen (3).", (3, 3)),
        ("Drusen: 7.", (7, 7)),
        ("Drusen of 63 µm.", None),
        ("Drusen, 2 DD from the disc, since 3 years.", None),
        ("Haemorrhages in 2 quadrants.", None),
        ("Drusen.", None),
    ],
)
def test_counts(text, count):
    assert fact(text).count == count and fact(text).status == AFFIRMED


def test_numbers_belong_to_what_they_count():
    text = "There are 3 microaneurysms, 12 haemorrhages and hard exudates."
    assert [f.count for f in read_facts(text).facts] == [(3, 3), (12, 12), None]


@pytest.mark.parametrize(
    ("text", "eyes"),
    [
        ("OD: drusen. OS: haemorrhages.", {"drusen": "right", "haemorrhage": "left"}),
        ("Right eye: clear disc. The macula shows drusen.", {"drusen": "right"}),
        ("Drusen in the right eye and haemorrhages in the left eye.", {"drusen": "right", "haemorrhage": "left"}),
        ("Both eyes show drusen.", {"drusen": "both"}),
        ("Bilateral drusen.", {"drusen": "both"}),
        ("No drusen OU.", {"drusen": "both"}),
        ("Drusen in the left half.", {"drusen": None}),
        ("Left optic disc haemorrhage.", {"disc_haemorrhage": "left"}),
    ],
)
def test_eyes(text, eyes):
    assert {f.name: f.eye for f in read_facts(text).facts} == eyes


def test_sides_spoken_of():
    assert read_facts("OS, clear disc.").eyes == {"left"}
    assert read_facts("Both eyes.").eyes == {"left", "right"}
    assert read_facts("The left half.").eyes == set()


@pytest.mark.parametrize(
    ("text", "grades"),
    [
        ("Mild NPDR (ICDR grade 1).", [Grade("1", "icdr")]),
        ("ICDR 2.", [Grade("2", "icdr")]),
        ("Grade 2 on the ICDR scale.", [Grade("2", "icdr")]),
        ("Diabetic retinopathy grade 3.", [Grade("3")]),
        ("Keith-Wagener-Barker grade II.", [Grade("2", "keith_wagener_barker")]),
        ("META-PM category 3.", [Grade("3", "mmac")]),
        ("R1M0 OD, R2M1 OS.", [Grade("R1", "uk", "right"), Grade("R2", "uk", "left")]),
        ("Vessels are seen up to branches of level 2.", []),
    ],
)
def test_grades(text, grades):
    assert list(read_facts(text).grades) == grades


@pytest.mark.parametrize(
    ("text", "ratios"),
    [
        ("The disc is clear with a cup-disc ratio of 0.4.", [CupDisc(0.4)]),
        ("Cup to disk ratio is about 0,7.", [CupDisc(0.7)]),
        ("C/D 0.3 in the right eye.", [CupDisc(0.3, "right")]),
        ("Vertical CDR: 0.6-0.8.", [CupDisc(pytest.approx(0.7))]),
        ("A 0.5 cup-to-disc ratio.", [CupDisc(0.5)]),
        ("Cupping.", []),
    ],
)
def test_cup_disc_ratios(text, ratios):
    assert list(read_facts(text).cup_disc) == ratios


@pytest.mark.parametrize("text", ["", "   ", "\n.;:,", "提示轻度白内障。", "???", "0.4", "a" * 5000])
def test_texts_that_say_nothing(text):
    assert read_facts(text).facts == ()


def test_nonsense_is_read_without_an_error_and_names_only_what_there_is():
    """A model may say anything: words of reports in any order, with any signs between them."""
    rng = np.random.default_rng(0)
    words = [
        "no",
        "not",
        "drusen",
        "haemorrhages",
        "grade",
        "2",
        "ICDR",
        "C/D",
        "0.7",
        "OD",
        "left eye",
        "both",
        "normal",
        "disc",
    ]
    words += [
        "and",
        "or",
        "with",
        ",",
        ";",
        ":",
        "(",
        ")",
        "?",
        "-",
        ".",
        "\n",
        "R1M0",
        "3-5",
        ">20",
        "macula",
        "absent",
        "possible",
        "\0",
    ]
    for _ in range(300):
        text = " ".join(rng.choice(words, rng.integers(1, 30)))
        read = read_facts(text)
        assert all(f.name in entries() or f.name == "lesion" for f in read.facts)
        assert {f.status for f in read.facts} <= set(SIGNS) and read.eyes <= {"left", "right"}
        assert read == read_facts.__wrapped__(text), "the same text is read the same way"


def test_every_name_of_the_vocabulary_is_read_as_it_is_displayed():
    """But for those that are common words, or read as a denial or a doubt by their own words."""
    missed = []
    for entry in entries().values():
        if entry.kind in ("diagnosis", "finding") and entry.name not in ("normal", "abnormal", "other"):
            found = read_facts(f"{entry.display}.").facts
            missed += [entry.name] if entry.name not in [f.name for f in found] else []
    assert not missed


@pytest.mark.parametrize("seed", range(24))
def test_the_report_of_a_phantom_says_what_was_drawn(seed):
    """Every lesion with its number and place, the eye, the grade, the cup-disc ratio; nothing else is affirmed."""
    phantom = draw(seed, size=96)
    read = read_facts(phantom.texts["report"])
    affirmed = {f.name: f for f in read.facts if f.status == "affirmed"}
    for finding in phantom.findings:
        said_of = affirmed.pop(finding.name)
        assert said_of.eye == phantom.eye
        if finding.count is not None:
            assert said_of.count == (finding.count, finding.count)
            places = set(said_of.places)
            assert places == set(finding.location.split(", ")) or places == {"all_quadrants"}
    assert all(is_a(name, phantom.diagnosis[0]) for name in affirmed) and len(affirmed) == 1
    assert not {f.name for f in phantom.findings} & read.names("denied")
    assert [g.value for g in read.grades] == [str(v) for v in phantom.grade.values()]
    assert len(read.cup_disc) == 1 and read.eyes == {phantom.eye}


def test_a_wrong_word_list_is_refused_with_every_mistake(tmp_path):
    assert wording().lesions
    bad = tmp_path / "facts.yaml"
    bad.write_text(
        FACTS.read_text().replace("  few: [2, 5]", "  few: 2").replace("  areds: [areds]", "  arreds: [areds]")
    )
    with pytest.raises(UserError, match=r"(?s)counts\.few.*scales\.arreds"):
        read_wording(bad)
    bad.write_text("denied: {before: [no]}\n")
    with pytest.raises(UserError, match="the section `uncertain:` is missing"):
        read_wording(bad)
