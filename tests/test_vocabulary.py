"""One canonical name for each diagnosis and finding, whatever a data set calls it."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mdf.errors import UserError
from mdf.vocabulary import (
    ancestors,
    canonical,
    describe,
    display,
    entries,
    fold,
    from_grade,
    is_a,
    kind,
    known,
    lookup,
    map_all,
    names,
    nearest,
    parents,
    read_aliases,
    read_scales,
    read_tables,
    scales,
    spellings,
)

PUBLISHED = yaml.safe_load(Path(__file__).with_name("published_labels.yaml").read_text(encoding="utf-8"))
EVERYWHERE = (
    "normal",
    "diabetic_retinopathy",
    "mild_npdr",
    "moderate_npdr",
    "severe_npdr",
    "pdr",
    "amd",
    "dry_amd",
    "wet_amd",
    "glaucoma",
    "suspected_glaucoma",
    "cataract",
    "hypertensive_retinopathy",
    "pathologic_myopia",
    "other",
    "microaneurysm",
    "haemorrhage",
    "hard_exudate",
    "cotton_wool_spot",
    "drusen",
    "enlarged_cup",
)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_names_that_the_whole_package_uses_are_there(name: str):
    assert canonical(name) == name


def test_every_entry_can_be_said_described_and_found_again():
    for name, entry in entries().items():
        assert canonical(entry.display) == name and canonical(name.upper().replace("_", " - ")) == name
        assert describe(name).endswith(".") and len(describe(name)) > 20
        for parent in parents(name):
            assert parent in entries() and parent != name
    assert spellings()  # no spelling belongs to two entries


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Age-Related Macular Degeneration", "amd"),
        ("moderate non proliferative retinopathy", "moderate_npdr"),
        ("mild nonproliferative retinopathy", "mild_npdr"),
        ("Suspected  glaucoma", "suspected_glaucoma"),
        ("suspicious diabetic retinopathy", "suspected_diabetic_retinopathy"),
        ("hemorrhages", "haemorrhage"),
        ("normal fundus", "normal"),
        ("Stargardt's disease", "stargardt_disease"),
    ],
)
def test_case_hyphens_and_synonyms_do_not_matter(text: str, name: str):
    assert canonical(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Microaneurysms", "microaneurysm"),
        ("Optic Disk Oedema", "optic_disc_oedema"),
        ("preretinal hemorrhages", "preretinal_haemorrhage"),
        ("choroidal naevi", None),
        ("nonischaemic CRVO", "non_ischaemic_crvo"),
        ("Neovascularizations", "neovascularisation"),
        ("myelinated nerve fibre", "myelinated_nerve_fibres"),
        ("Nonproliferative Diabetic Retinopathy", "npdr"),
        ("cuticular DRUSENS", "cuticular_drusen"),
    ],
)
def test_british_american_and_plural_spellings_are_one(text: str, name: str | None):
    assert lookup(text) == name


def test_an_abbreviation_in_brackets_may_stand_beside_the_name_but_not_another_name():
    assert canonical("macular telangiectasia (mactel)") == "macular_telangiectasia"
    assert canonical("Vogt-Koyanagi-Harada (VKH) syndrome") == "vogt_koyanagi_harada"
    assert canonical("glaucoma (3rd visit)") == "glaucoma"
    assert lookup("macular hole (epiretinal membrane)") is None


@pytest.mark.parametrize(
    "text",
    [
        "DR-",
        "DR (-)",
        "DR（-）",
        "glaucoma?",
        "Glaucoma (?)",
        "AMD (ruled out)",
        "cataract (none)",
        "drusen (possible)",
    ],
)
def test_what_is_denied_or_doubted_is_no_name_unless_the_user_says_so(text: str, tmp_path: Path):
    assert lookup(text) is None and nearest(text) == []
    (tmp_path / "own.yaml").write_text(f'"{text}": normal', encoding="utf-8")
    aliases = read_aliases(tmp_path / "own.yaml")
    assert lookup(text, aliases) == "normal"
    assert lookup("DR+", aliases) == "diabetic_retinopathy" and lookup("Glaucoma", aliases) == "glaucoma"


@pytest.mark.parametrize("release", ["flair", "odir", "stare", "brset", "other_releases", "deepeyenet", "inherited"])
def test_every_published_string_of_a_release_is_known(release: str):
    assert PUBLISHED[release] and [s for s in PUBLISHED[release] if not known(s)] == []


def test_flair_has_at_least_its_101_conditions_under_names_of_their_own():
    assert len({fold(s) for s in PUBLISHED["flair"]}) >= 101 and len({canonical(s) for s in PUBLISHED["flair"]}) >= 90


def test_every_column_of_rfmid_means_what_its_written_name_means():
    assert len(PUBLISHED["rfmid"]) == 46 and len(PUBLISHED["rfmid_28"]) == 28
    assert {code: from_grade("rfmid", code) for code in PUBLISHED["rfmid"]} == {
        code: canonical(name) for code, name in PUBLISHED["rfmid"].items()
    }
    assert len({from_grade("rfmid", code) for code in PUBLISHED["rfmid_28"]}) == 28


def test_every_folder_of_jsiec_is_a_class_of_its_own():
    assert len({from_grade("jsiec", folder) for folder in PUBLISHED["jsiec"]}) == len(PUBLISHED["jsiec"]) == 39


def test_mh_is_media_haze_in_rfmid_and_macular_hole_in_jsiec_and_nothing_by_itself():
    assert (from_grade("rfmid", "MH"), from_grade("jsiec", "8.MH")) == ("media_opacity", "macular_hole")
    assert not known("MH")


@pytest.mark.parametrize(
    ("scale", "value", "name"),
    [
        ("icdr", 0, "no_diabetic_retinopathy"),
        ("icdr", 2, "moderate_npdr"),
        ("icdr", 2.0, "moderate_npdr"),
        ("icdr", "2", "moderate_npdr"),
        ("icdr", "2.0", "moderate_npdr"),
        ("icdr", "Grade 4", "pdr"),
        ("sdrg", "r3", "severe_npdr"),
        ("messidor", 3, "severe_or_proliferative_dr"),
        ("dme", 1, "non_significant_dme"),
        ("dme", 2, "significant_dme"),
        ("mmac", 1, "tessellated_fundus"),
        ("mmac", 4, "myopic_macular_atrophy"),
        ("cataract", 3, "severe_cataract"),
        ("papila", 2, "suspected_glaucoma"),
        ("keith_wagener_barker", 4, "malignant_hypertensive_retinopathy"),
        ("odir", "m", "pathologic_myopia"),
        ("stare", 6, "hemiretinal_vein_occlusion"),
    ],
)
def test_a_grade_becomes_a_name(scale: str, value: object, name: str):
    assert from_grade(scale, value) == name


@pytest.mark.parametrize(
    ("scale", "value", "says"),
    [
        ("icdr", 5, r"5 is no value of icdr .*it has 0, 1, 2, 3, 4"),
        ("icdr", None, "None is no value"),
        ("icdr", 1.5, "1.5 is no value"),
        ("icdr", True, "True is no value"),
        ("icrd", 1, "'icrd' is no grading scale; did you mean icdr"),
        ("xyz", 1, "known: icdr, sdrg"),
    ],
)
def test_an_unknown_grade_or_scale_says_what_there_is(scale: str, value: object, says: str):
    with pytest.raises(UserError, match=says):
        from_grade(scale, value)


def test_a_higher_grade_of_a_disease_is_a_kind_of_that_disease():
    diseases = {"icdr": "diabetic_retinopathy", "mmac": "myopic_maculopathy", "cataract": "cataract", "beckman": "amd"}
    for scale, disease in diseases.items():
        assert [is_a(n, disease) for n in scales()[scale].values.values()].count(True) >= 3
    assert not is_a(from_grade("icdr", 0), "diabetic_retinopathy")


def test_a_suspicion_is_not_the_disease_but_counts_with_it():
    assert canonical("suspected glaucoma") != "glaucoma"
    assert parents("suspected_glaucoma") == ("glaucoma",) and parents("pdr") == ("diabetic_retinopathy",)


def test_parents_reach_all_the_way_up():
    assert ancestors("moderate_npdr") == ("npdr", "diabetic_retinopathy", "abnormal")
    assert ancestors("normal") == () and ancestors("abnormal") == ()
    assert is_a("moderate npdr", "Diabetic retinopathy") and is_a("pdr", "pdr") and is_a("crvo", "vascular occlusion")
    assert not is_a("diabetic_retinopathy", "pdr") and not is_a("glaucoma", "other")
    assert set(ancestors("diabetic_macular_oedema")) == {"diabetic_retinopathy", "macular_oedema", "other", "abnormal"}


def test_every_diagnosis_but_normal_is_abnormal_and_nothing_is_normal():
    for name in names("diagnosis"):
        assert is_a(name, "abnormal") or name == "normal"
    assert [n for n in entries() if is_a(n, "normal")] == ["normal"]


@pytest.mark.parametrize("text", ["lens dust", "image offset", "low image quality", "anterior segment image", "noisy"])
def test_words_about_the_photograph_map_and_are_no_disease(text: str):
    assert kind(text) == "quality" and not is_a(text, "abnormal")


def test_an_absence_denies_an_entry_and_is_not_normal():
    for name in names("absence"):
        assert entries()[name].denies in entries() and not ancestors(name)
    assert canonical("no glaucoma") == "no_glaucoma" and entries()["no_glaucoma"].denies == "glaucoma"
    assert canonical("no diabetic retinopathy") != canonical("normal")


def test_names_and_words_that_models_were_trained_on_are_unchanged():
    assert {name: display(name) for name in PUBLISHED["shipped"]} == PUBLISHED["shipped"]


COMMON = ("normal", "abnormal", "other")  # ordinary words of a description


def test_a_description_shows_the_signs_and_names_no_diagnosis():
    """Else text that describes one disease would name another, or give the answer away."""
    told = []
    for entry in entries().values():
        words = fold(entry.describe).split()
        phrases = {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + 7, len(words)) + 1)}
        named = {p: spellings()[p] for p in phrases if p in spellings()}
        told += [(entry.name, p) for p, n in named.items() if kind(n) in ("diagnosis", "absence") and n not in COMMON]
    assert told == []


def test_no_two_entries_are_described_alike():
    assert [text for text, n in Counter(e.describe for e in entries().values()).items() if n > 1] == []


def test_findings_are_said_in_the_plural():
    assert display("microaneurysm") == "microaneurysms" and display("amd") == "age-related macular degeneration"
    assert set(names("finding")).isdisjoint(names("diagnosis"))


def test_an_unknown_name_lists_the_nearest():
    assert not known("glaucomma")
    with pytest.raises(UserError, match=r"'glaucomma'.*nearest: glaucoma"):
        canonical("glaucomma")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("retinitis pigmentossa", "retinitis_pigmentosa"),
        ("microanuerysms", "microaneurysm"),
        ("diabetic retinopaty", "diabetic_retinopathy"),
        ("catarct", "cataract"),
        ("branch retinal vien occlusion", "branch_retinal_vein_occlusion"),
        ("stargart disease", "stargardt_disease"),
        ("epiretinal menbrane", "epiretinal_membrane"),
        ("papiloedema", "optic_disc_oedema"),
        ("moderate non-proliferative diabetic retinopthy", "moderate_npdr"),
        ("asteroid hialosis", "asteroid_hyalosis"),
    ],
)
def test_the_nearest_name_of_a_misspelling_is_the_one_that_was_meant(text: str, name: str):
    assert not known(text) and nearest(text)[0] == name


def test_what_is_like_nothing_has_no_nearest_name():
    assert nearest("xqzv 17") == []


def test_all_unknown_strings_are_listed_at_once_with_the_way_out():
    with pytest.raises(UserError) as caught:
        map_all({"glaucomma": 3, "Grad 2": 1, "normal": 9}, "labels.csv")
    text = str(caught.value)
    assert "labels.csv: 2 diagnosis strings" in text and "'glaucomma' (3 photographs); nearest: glaucoma" in text
    assert "'Grad 2' (1 photographs)" in text and "data.vocabulary=FILE" in text and "normal'" not in text


def test_the_share_of_known_strings_is_said_also_where_reading_stops(capsys):
    map_all({"glaucoma": 3, "lens dust": 1}, "a.csv")
    assert capsys.readouterr().out == "a.csv: 2 of 2 strings known (100.0 %), on 4 of 4 labels\n"
    with pytest.raises(UserError):
        map_all({"glaucoma": 1999, "Grad 2": 1}, "b.csv")
    assert capsys.readouterr().out == "b.csv: 1 of 2 strings known (50.0 %), on 1,999 of 2,000 labels\n"


def test_the_user_maps_strings_of_their_own(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("Grad 2: moderate_npdr\n0: normal\n")
    aliases = read_aliases(file)
    assert map_all({"grad-2": 1, "0": 2}, "t.csv", aliases) == {"grad-2": "moderate_npdr", "0": "normal"}


@pytest.mark.parametrize("text", ["a: glaucomma", "a: 3", "- a", "a: ["])
def test_a_vocabulary_of_another_shape_is_refused_by_name(tmp_path: Path, text: str):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        read_aliases(tmp_path / "mine.yaml")


GOOD = "diagnoses:\n  glaucoma: {display: glaucoma, describe: A wide cup.}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("diagnoses: [", "cannot be read"),
        ("- glaucoma", "must hold"),
        (
            "diseases:\n  a: {display: a, describe: b}",
            "diseases: must be one of diagnoses, findings, absences, quality",
        ),
        ("diagnoses:\n  Glaucoma X: {display: a, describe: b}", "Glaucoma X: a name is lower case"),
        ("diagnoses:\n  a: glaucoma", "a: must be followed by display and describe"),
        ("diagnoses:\n  a: {display: a}", "a: describe is missing"),
        ("diagnoses:\n  a: {display: a, describe: b, synonym: [c]}", "a: unknown key synonym"),
        ("diagnoses:\n  a: {display: a, describe: b, synonyms: [no]}", "put quotes around no"),
        ("diagnoses:\n  a: {display: a, describe: b, parents: c}", "a: parents must be a list"),
        (GOOD + "  poag: {display: x, describe: b, synonyms: [Glaucomas]}", "poag: 'Glaucomas' already means glaucoma"),
        (
            GOOD + "  poag: {display: x, describe: b, parents: [glaucom]}",
            "poag: parents: no entry glaucom; did you mean",
        ),
        (GOOD + "  glaucoma: {display: x, describe: b}", "'glaucoma' stands twice"),
        (GOOD + "findings:\n  glaucoma: {display: x, describe: b}", "glaucoma: stands twice"),
        (GOOD + "absences:\n  none: {display: x, describe: b}", "none: denies is missing"),
        (GOOD + "absences:\n  none: {display: x, describe: b, denies: y}", "none: denies: no entry y"),
        (GOOD + "  x: {display: x, describe: b, denies: glaucoma}", "x: denies belongs to absences only"),
        (
            "diagnoses:\n  a: {display: a, describe: b, parents: [c]}\n  c: {display: c, describe: d, parents: [a]}",
            "above itself",
        ),
    ],
)
def test_a_wrong_table_gives_one_clear_error(tmp_path: Path, text: str, says: str):
    (tmp_path / "vocabulary.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)):
        read_tables([tmp_path / "vocabulary.yaml"])


def test_all_mistakes_of_a_table_are_listed_at_once(tmp_path: Path):
    (tmp_path / "t.yaml").write_text(
        GOOD + "  a: {display: a}\n  b: {describe: b}\n  c: {display: glaucoma, describe: d}\n"
    )
    with pytest.raises(UserError) as caught:
        read_tables([tmp_path / "t.yaml"])
    assert all(part in str(caught.value) for part in ("a: describe", "b: display", "c: 'glaucoma' already means"))
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s: 3", "s: must be followed by about and values"),
        ("s: {about: a, values: {0: glaucomma}}", "s: 0: no entry glaucomma"),
        ("s: {about: a, values: {a: normal, A: glaucoma}}", "s: A stands twice"),
        ("s: {about: a, values: {0: normal, 0: glaucoma}}", "'0' stands twice"),
    ],
)
def test_a_wrong_scale_gives_one_clear_error(tmp_path: Path, text: str, says: str):
    (tmp_path / "grades.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)):
        read_scales(tmp_path / "grades.yaml", entries())


def test_every_specialist_keyword_of_odir5k_is_known(shared_data: Path, capsys):
    with (shared_data / "odir5k" / "full_df.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    strings = Counter(
        part.strip()
        for row in rows
        for side in ("Left", "Right")
        for part in row[f"{side}-Diagnostic Keywords"].replace("，", ",").split(",")
    )
    assert len(map_all(strings, "full_df.csv")) == len(strings) == 89
    assert f"89 of 89 strings known (100.0 %), on {sum(strings.values()):,} of" in capsys.readouterr().out
