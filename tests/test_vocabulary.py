"""One canonical name for each diagnosis and finding, whatever a data set calls it."""

import csv
from pathlib import Path

import pytest

from mdf.errors import UserError
from mdf.vocabulary import (
    canonical,
    describe,
    display,
    entries,
    known,
    map_all,
    names,
    nearest,
    parents,
    read_aliases,
    spellings,
)

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


def test_a_suspicion_is_not_the_disease_but_counts_with_it():
    assert canonical("suspected glaucoma") != "glaucoma"
    assert parents("suspected_glaucoma") == ("glaucoma",) and parents("pdr") == ("diabetic_retinopathy",)


def test_findings_are_said_in_the_plural():
    assert display("microaneurysm") == "microaneurysms" and display("amd") == "age-related macular degeneration"
    assert set(names("finding")).isdisjoint(names("diagnosis"))


def test_an_unknown_name_lists_the_nearest():
    assert not known("glaucomma")
    with pytest.raises(UserError, match=r"'glaucomma'.*nearest: glaucoma"):
        canonical("glaucomma")
    assert nearest("retinitis pigmentossa")[0] == "retinitis_pigmentosa"


def test_all_unknown_strings_are_listed_at_once_with_the_way_out():
    with pytest.raises(UserError) as caught:
        map_all({"glaucomma": 3, "Grad 2": 1, "normal": 9}, "labels.csv")
    text = str(caught.value)
    assert "labels.csv: 2 diagnosis strings" in text and "'glaucomma' (3 photographs); nearest: glaucoma" in text
    assert "'Grad 2' (1 photographs)" in text and "data.vocabulary=FILE" in text and "normal'" not in text


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


def test_every_specialist_keyword_of_odir5k_is_known(shared_data: Path):
    with (shared_data / "odir5k" / "full_df.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    strings = {
        part.strip()
        for row in rows
        for side in ("Left", "Right")
        for part in row[f"{side}-Diagnostic Keywords"].replace("，", ",").split(",")
    }
    assert len(strings) > 57 and [s for s in strings if not known(s)] == []
