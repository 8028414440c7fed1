"""How released CLIPs are asked: their texts, and files of the user's own."""

import pytest

from mdf.errors import UserError
from mdf.released_prompts import protocols, read_definitions, read_protocol
from mdf.vocabulary import canonical


def test_every_class_that_a_release_names_is_one_of_ours():
    for protocol in protocols().values():
        assert all(canonical(name) == name for name in protocol.names)


def test_flair_asks_with_definitions_and_the_name_and_mm_fundus_clip_with_the_bare_name():
    texts = protocols()["flair"].texts(["amd", "glaucoma"], {"glaucoma": ["a large cup", "a thin rim"]})
    assert texts["glaucoma"] == [f"A fundus photograph of {t}" for t in ("a large cup", "a thin rim", "glaucoma")]
    assert texts["amd"] == ["A fundus photograph of age related macular degeneration"]
    own = protocols()["flair"].texts(["pdr"])["pdr"]  # of the vocabulary
    assert len(own) > 2 and own[-1] == "A fundus photograph of proliferative diabetic retinopathy"
    bare = protocols()["mmfundusclip"].texts(["normal", "macular_hole"])
    assert bare == {"normal": ["normal"], "macular_hole": ["macular hole"]}
    assert "青光眼" in protocols()["ret-clip"].texts(["glaucoma"])["glaucoma"]


def test_flairs_dictionary_is_read_as_it_is_and_never_run(tmp_path):
    path = tmp_path / "dictionary.py"
    path.write_text('raise SystemExit\ndefinitions = {"glaucoma": ["cup", "two "\n  "parts"], "normal": ["healthy"]}\n')
    assert read_definitions(path) == {"glaucoma": ["cup", "two parts"], "normal": ["healthy"]}
    (tmp_path / "own.yaml").write_text("normal: [healthy]\n")
    assert read_definitions(tmp_path / "own.yaml") == {"normal": ["healthy"]}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.py", "definitions = open('x')", "cannot be read"),
        ("a.py", "other = {}", "nothing is assigned to 'definitions'"),
        ("a.py", "definitions = {", "cannot be read"),
        ("a.yaml", "normal: healthy", "a list of texts"),
        ("a.yaml", "[1", "cannot be read"),
        ("absent.yaml", None, "cannot be read"),
    ],
)
def test_what_are_no_definitions_is_refused(tmp_path, name, text, why):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=why):
        read_definitions(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("templates: [no field]", "each hold {label}"),
        ("templates: ['{label}']\nbest: 1", "unknown setting best"),
        ("templates: ['{label}']\nscores: relu", "scores must be one of softmax, sigmoid"),
        ("- a", "no settings"),
        ("a: [", "no YAML"),
    ],
)
def test_a_protocol_of_another_shape_is_refused(tmp_path, text, why):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=why):
        read_protocol(str(tmp_path / "own.yaml"))


def test_a_protocol_is_a_name_or_a_file(tmp_path):
    (tmp_path / "own.yaml").write_text("templates: ['see {label}']\nnames: {amd: AMD}\n")
    assert read_protocol(str(tmp_path / "own.yaml")).texts(["amd"]) == {"amd": ["see AMD"]}
    with pytest.raises(UserError, match="neither a file nor one of flair, mmfundusclip, ret-clip"):
        read_protocol("flare")
