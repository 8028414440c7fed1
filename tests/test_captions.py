"""What a caption is made of, where a sentence ends, and how a long caption is cut."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mdf.batches import FundusDataset, collate, text_id
from mdf.caption_tokenizer import CaptionTokenizer
from mdf.captions import (
    FILE,
    can_be_aligned,
    caption,
    cut,
    own_sentences,
    served,
    split_sentences,
    tell_cut,
    templates,
)
from mdf.checking import CAPTIONS
from mdf.config import AugmentConfig, CaptionsConfig, DialogueConfig, StageConfig, check, load_config, to_yaml
from mdf.datasets import csdi
from mdf.datasets.phantom import draw_manifest
from mdf.dialogue import Prompts, sentence
from mdf.errors import ConfigError, UserError
from mdf.records import Finding, FundusRecord
from mdf.resources import bundled
from mdf.vocabulary import describe, display, entries, phrases
from tests.tiny_processor import tiny_processor
from tests.tiny_text import tiny_bert

REPORT = "The disc is pink. C/D ratio 0.6. Drusen approx. 2 DD from the fovea of the left eye."
AMD = FundusRecord("a", "a.png", eye="left", diagnosis=("amd",), findings=(Finding("drusen"),), texts={"en": REPORT})
UNNAMED = replace(AMD, diagnosis=None, findings=None)
TEXTLESS = replace(AMD, texts={})


def drawing(**weights: float) -> CaptionsConfig:
    return CaptionsConfig(dict(weights))


def draws(record: FundusRecord, prompts: Prompts, cfg: CaptionsConfig, count: int = 60) -> list[str]:
    return [caption(record, prompts, cfg, np.random.default_rng(i)) for i in range(count)]


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(bundled("prompts"))


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return tiny_processor(tmp_path_factory.mktemp("language"))


# -- what a caption is made of ----------------------------------------------------------------------------------------


def test_names_stand_in_a_template(prompts):
    record = replace(AMD, findings=(Finding("drusen"), Finding("haemorrhage")))
    text = caption(record, prompts)
    assert text == "a fundus photograph showing age-related macular degeneration, drusen, haemorrhages"
    assert set(draws(record, prompts, CaptionsConfig())) > {text}
    with pytest.raises(UserError, match="record b: neither diagnosis, finding nor text to align with"):
        caption(FundusRecord("b", "b.png", diagnosis=()), prompts)


def test_without_names_the_text_stands_in_the_template_unless_another_kind_can_be_served(prompts):
    assert caption(UNNAMED, prompts) == f"a fundus photograph showing {REPORT}"
    assert set(draws(UNNAMED, prompts, drawing(labels=1, text=1))) == {REPORT}
    assert caption(UNNAMED, prompts, drawing(labels=1, descriptions=1)) == f"a fundus photograph showing {REPORT}"


def test_text_is_taken_as_it_is(prompts):
    assert set(draws(AMD, prompts, drawing(text=1))) == {REPORT}
    chinese = replace(AMD, texts={"report": "视盘清楚。"})
    assert caption(chinese, prompts, drawing(text=1)) == "视盘清楚。"


def test_sentences_come_one_at_a_time(prompts):
    whole = ["The disc is pink.", "C/D ratio 0.6.", "Drusen approx. 2 DD from the fovea of the left eye."]
    assert set(draws(AMD, prompts, drawing(sentences=1))) == set(whole)
    assert caption(AMD, prompts, drawing(sentences=1)) == whole[0]


def test_a_description_is_all_that_an_expert_looks_for_or_one_fact_of_it(prompts):
    found = Counter(draws(AMD, prompts, drawing(descriptions=1), 400))
    facts = {name: [sentence(fact) for fact in (describe(name), *phrases(name))] for name in ("amd", "drusen")}
    lines = prompts.captions["descriptions"]
    wanted = {t.format(label=display(n), description=f) for t in lines for n in facts for f in facts[n]}
    assert len(wanted) > 15 and found.keys() == wanted
    first = caption(AMD, prompts, drawing(descriptions=1))
    assert first == f"age-related macular degeneration: {describe('amd')}"


def test_kinds_are_drawn_by_their_weights_among_those_that_the_record_can_serve(prompts):
    cfg = drawing(labels=1, text=3, sentences=0)
    texts = sum(text == REPORT for text in draws(AMD, prompts, cfg, 400))
    assert 0.68 < texts / 400 < 0.82  # 0.75, four standard deviations of 0.022 are 0.087
    everything = drawing(**dict.fromkeys(reversed(CAPTIONS), 1))
    assert list(served(AMD, everything)) == list(CAPTIONS)  # in whatever order they are written
    assert set(served(UNNAMED, everything)) == {"text", "sentences"}
    assert set(served(TEXTLESS, everything)) == {"labels", "descriptions"}


def test_validation_has_one_caption_of_the_kind_of_the_greatest_weight(prompts):
    assert caption(AMD, prompts, drawing(labels=1, text=3)) == REPORT
    assert caption(AMD, prompts, drawing(text=1, labels=1)) == caption(AMD, prompts)
    assert caption(TEXTLESS, prompts, drawing(labels=1, text=3)) == caption(AMD, prompts)


def test_a_record_that_can_serve_no_kind_has_no_caption_and_the_reason_is_said(prompts):
    for record, cfg, reason in (
        (TEXTLESS, drawing(text=1, sentences=1), "no text to align with"),
        (UNNAMED, drawing(descriptions=1), "neither diagnosis nor finding to align with"),
        (
            replace(AMD, eye="right", texts={"en": "OS: drusen."}),
            drawing(sentences=1),
            "none that speaks of the photogr",
        ),
    ):
        assert not can_be_aligned(record, cfg)
        with pytest.raises(UserError, match=f"record a: .*{reason}"):
            caption(record, prompts, cfg)


@pytest.mark.parametrize("blank", [" ", "\n\t", "\u200b\ufeff", "—", "-."])
def test_an_empty_text_is_an_error_with_the_records_name_where_it_would_be_the_caption(prompts, processor, blank):
    record = replace(AMD, texts={"en": blank})
    assert caption(record, prompts)  # names: the text is not looked at
    for cfg in (drawing(text=1), drawing(labels=1, sentences=1)):
        with pytest.raises(UserError, match="record a: its text is empty"):
            can_be_aligned(record, cfg)
    with pytest.raises(UserError, match="record a: its text is empty"):
        caption(replace(record, diagnosis=None, findings=None), prompts)
    with pytest.raises(UserError, match="text 2 of 2 is empty"):
        processor.tokenize_captions(["drusen", blank])


# -- expert descriptions ----------------------------------------------------------------------------------------------


def test_common_diagnoses_and_lesions_have_several_facts():
    odir = ("normal", "diabetic_retinopathy", "glaucoma", "cataract", "amd", "hypertensive_retinopathy")
    more = ("pathologic_myopia", "epiretinal_membrane", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr", "wet_amd")
    lesions = ("drusen", "haemorrhage", "microaneurysm", "hard_exudate", "cotton_wool_spot")
    for name in (*odir, *more, *lesions):
        assert len(phrases(name)) >= 2, name


def test_a_fact_is_a_phrase_that_does_not_give_the_name_away():
    for entry in entries().values():
        for phrase in entry.phrases:
            assert len(phrase.split()) >= 2 and phrase[0].islower() and not set(phrase) & set(",.;"), phrase
            assert entry.display.lower() not in phrase, phrase
        assert len(set(entry.phrases)) == len(entry.phrases)


# -- templates --------------------------------------------------------------------------------------------------------


def with_file(tmp_path: Path, text: str) -> Prompts:
    folder = shutil.copytree(bundled("prompts"), tmp_path / "prompts")
    (folder / FILE).write_text(text)
    return Prompts(folder)


def test_prompts_from_before_there_were_descriptions_have_those_that_come_with_mdf(prompts, tmp_path):
    older = with_file(tmp_path, "templates: ['photo of {labels}']\njoin: ' and '\n")
    assert caption(AMD, older) == "photo of age-related macular degeneration and drusen"
    assert caption(AMD, older, drawing(descriptions=1)) == caption(AMD, prompts, drawing(descriptions=1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- one", "must hold lists"),
        ("templates: [a fundus]", "templates must be a list of texts that each hold {labels}"),
        ("templates: ['{labels} of {eye}']", "in braces only {labels} is known"),
        ("templates: ['{labels}']\njoin: 3", "join must be the text"),
        ("templates: ['{labels}']\ndescriptions: ['{label}']", "descriptions must be a list of texts that each hold"),
        (
            "templates: ['{labels}']\ndescriptions: ['{description} {labels}']",
            "only {label} and {description} is known",
        ),
    ],
)
def test_wrong_templates_are_refused_with_their_file(tmp_path, text, said):
    with pytest.raises(UserError) as error:
        templates(with_file(tmp_path, text))
    assert said in str(error.value) and FILE in str(error.value)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_without_sources_captions_are_of_labels_and_written_settings_read_back(tmp_path):
    assert load_config().captions.weights == {"labels": 1.0}
    cfg = load_config(None, ["captions.sources={text: 1}"])
    assert cfg.captions.weights == {"text": 1.0}
    (tmp_path / "c.yaml").write_text(to_yaml(cfg))
    assert load_config(tmp_path / "c.yaml") == cfg


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["captions.sources.txet=1"], "captions.sources.txet: no such caption; must be of labels, descriptions, text"),
        (["captions.sources.text=-1"], "captions.sources.text: weight -1.0 must be 0 or more"),
        (["captions.sources.labels=0"], "captions.sources: no caption has a weight above 0"),
        (["caption.sources.labels=1"], "did you mean captions"),
        (
            ["captions.sources.sentences=1", "align.augment=false"],
            "align.augment: false gives a photograph one caption",
        ),
        (["captions.sources={text: 1, labels: 1}", "align.augment=false"], "draws among text, labels"),
    ],
)
def test_wrong_settings_are_named(overrides, said):
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    assert said in str(error.value)


def test_one_caption_a_photograph_needs_no_augmentation():
    check(load_config(None, ["captions.sources.text=1", "align.augment=false"]))
    assert StageConfig().augment


# -- sentences --------------------------------------------------------------------------------------------------------

SPLIT = {
    "plain": ["Disc pink. ", "No drusen! ", "Glaucoma? ", "Yes."],
    "decimals and abbreviations": ["C/D ratio 0.6. ", "Drusen approx. 2 DD, e.g. at the sup. temp. arcade. ", "Flat."],
    "numbers": ["See photo No. 3 of 4. ", "No. ", "Macula flat."],
    "names": ["Seen by Dr. A. Smith et al. in March. ", "Stable."],
    "eyes at the end": ["Drusen OD. ", "Normal OS."],
    "eyes at the start": ["OD. Drusen. ", "OS. Normal. ", "O.D. seen again."],
    "headings and lists": ["Right eye:\nDrusen\n", "1. Cup 0.3\n", "2) Flat.\n\n", "Left eye. Normal."],
    "lines": ["disc pink\n", "macula flat\r\n", "vessels normal"],
    "lower case": ["disc pink. ", "drusen vs. exudates."],
    "quotes": ['He said "blurred." ', "(Cataract.) ", "Next."],
    "Chinese": ["视盘清楚。", "黄斑区见玻璃膜疣；", "杯盘比0.6！", "左眼：正常。”"],
    "one": ["no full stop"],
    "a mark alone": ["Drusen. ..."],
}


@pytest.mark.parametrize("pieces", SPLIT.values(), ids=SPLIT)
def test_sentences_end_where_they_end_in_medical_text(pieces):
    assert split_sentences("".join(pieces)) == pieces


def test_sentences_joined_are_the_text_again(shared_data):
    rng = np.random.default_rng(0)
    signs = [*"aB1 .\n。:(OD)", "No. ", "OS. ", "approx. ", "? ", "\u200b"]
    texts = ["".join(rng.choice(signs, 30)) for _ in range(300)] + ["", " ", "\n"]
    texts += [text for record in csdi.read(shared_data / "csdi") for text in record.texts.values()]  # English, Chinese
    assert all("".join(split_sentences(text)) == text for text in texts)


def test_sentences_about_the_other_eye_are_left_out():
    text = "OD: drusen. Cup 0.4. OS: normal. Both eyes were dilated. Cup 0.3."
    right = ["OD: drusen.", "Cup 0.4.", "Both eyes were dilated.", "Cup 0.3."]
    record = FundusRecord("a", "a.png", eye="right", texts={"en": text})
    assert own_sentences(record) == right
    assert own_sentences(replace(record, eye="left")) == ["OS: normal.", *right[2:]]
    assert len(own_sentences(replace(record, eye=None))) == 5
    assert own_sentences(replace(record, texts={"report": "右眼：玻璃膜疣。左眼：正常。"})) == ["右眼：玻璃膜疣。"]


# -- the cut ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size", "kept"),
    [
        ("Disc pink. Macula flat. Drusen.", 24, "Disc pink. Macula flat."),
        ("Disc pink. Macula flat. Drusen.", 23, "Disc pink. Macula flat."),
        ("Disc pink. Macula flat. Drusen.", 22, "Disc pink."),
        ("Disc pink. Macula flat. Drusen.", 9, "Disc"),
        ("C/D ratio 0.6 in OD. Flat.", 14, "C/D ratio 0.6"),
        ("视盘清楚边界清晰。", 4, "视盘清楚"),
        ("OD 视盘清楚。", 5, "OD 视盘"),
        ("Elevatedtumour", 4, "Elev"),
    ],
)
def test_a_long_text_ends_with_its_last_sentence_that_fits_else_with_a_word(text, size, kept):
    assert cut(text, lambda part: len(part.strip()) <= size) == kept


def test_what_fits_the_tower_is_not_touched_and_what_does_not_is_cut_to_it(processor, shared_data):
    texts = [r.texts["en"] for r in csdi.read(shared_data / "csdi")]
    long = [text for text in texts if processor.caption_length(text) > 77]
    assert 10 < len(long) < len(texts)
    for text in texts:
        fitted = processor.fit_caption(text)
        assert processor.caption_length(fitted) <= 77 and text.startswith(fitted)
        assert (fitted == text) == (text not in long) and fitted.endswith(".")
    chinese = "视盘边界清晰" * 40
    assert 70 < processor.caption_length(processor.fit_caption(chinese)) <= 77
    assert processor.caption_length(processor.fit_caption("drusen" * 200)) <= 77


def test_the_cut_is_said_once_and_without_the_patients_words(processor, capsys):
    tell_cut.cache_clear()
    for _ in range(2):
        ids = processor.tokenize_captions(["drusen " * 80, "glaucoma"])
    assert ids.shape == (2, 77)
    said = capsys.readouterr().err
    assert said.count("is longer than what the text tower reads") == 1 and "drusen" not in said
    processor.tokenize_captions(["drusen"])
    assert not capsys.readouterr().err


@pytest.fixture(scope="module")
def samples(tmp_path_factory, processor):
    """samples(texts, cfg, **settings): a sample of each text, of the photographs of a drawn set."""
    manifest = draw_manifest(tmp_path_factory.mktemp("phantoms") / "set", count=4, size=96, seed=1, val=0, test=0)

    def make(texts: list[str], cfg: CaptionsConfig, epoch: int = 0, **settings):
        rows = zip(manifest.records, texts, strict=False)
        records = [replace(r, eye="right", texts={"en": text} if text else {}) for r, text in rows]
        settings = {"augment": AugmentConfig(), "want_text": False, "want_caption": True} | settings
        data = FundusDataset(records, manifest, processor, DialogueConfig(), cfg, **settings)
        return [data[epoch, i] for i in range(len(records))]

    return make


def test_a_batch_counts_what_was_cut_and_equal_texts_of_the_tower_are_one(samples, processor):
    start = "The optic disc is pink and the macula is flat. "
    long = [start + "Drusen " * 80, start + "Exudates " * 80]
    batch = collate(samples([*long, start.upper(), ""], drawing(text=1)), processor)
    assert batch.cut == 2 and batch.caption_ids.shape == (4, 77)
    assert batch.caption_group[0] == batch.caption_group[1] == batch.caption_group[2] != batch.caption_group[3]
    assert batch.caption_group[3] == batch.label_ids[3] == -1  # nothing to align with
    assert collate(samples(["Drusen."] * 2, drawing(text=1)), processor).cut == 0


def test_the_number_of_a_text_does_not_depend_on_how_far_its_batch_is_padded():
    assert text_id([7, 3, 9, 0, 0], 0) == text_id([7, 3, 9], 0) != text_id([7, 0, 3, 9], 0)
    assert text_id([7, 3, 1, 1], 1) == text_id([7, 3, 1], 1)  # a tokenizer that pads with its end token


def test_a_text_model_with_its_own_tokenizer_cuts_and_numbers_captions_alike(samples, processor, tmp_path, monkeypatch):
    """It pads a batch to the longest of its captions, not to all that it could read."""
    monkeypatch.setattr(processor, "caption_tokenizer", CaptionTokenizer(16, str(tiny_bert(tmp_path)), trim=True))
    monkeypatch.setattr(processor, "context_length", 16)
    alone = collate(samples(["Drusen."], drawing(text=1)), processor)
    beside = collate(samples(["Drusen.", "haemorrhages and " * 9], drawing(text=1)), processor)
    assert alone.caption_ids.shape[1] < beside.caption_ids.shape[1] <= 16 and (alone.cut, beside.cut) == (0, 1)
    assert alone.caption_group[0] == beside.caption_group[0] != beside.caption_group[1]


def test_left_and_right_in_a_text_are_those_of_the_flipped_photograph(samples):
    flipped = samples(["OD: haemorrhage LEFT of the disc. OS: scar."], drawing(text=1), augment=AugmentConfig(flip=1.0))
    assert flipped[0].caption == "OS: haemorrhage RIGHT of the disc. OD: scar." and flipped[0].record.eye == "left"
    one = samples(["OD: drusen. OS: scar."], drawing(sentences=1), augment=AugmentConfig(flip=1.0))
    assert one[0].caption == "OS: drusen."


def test_each_epoch_draws_anew_and_validation_does_not(samples):
    def seen(**settings):
        return {
            samples(["One two. Three four. Five six."], drawing(sentences=1), e, **settings)[0].caption
            for e in range(9)
        }

    assert seen() == {"One two.", "Three four.", "Five six."}
    assert seen(augment=None) == {"One two."}


def test_wrong_templates_are_told_before_a_photograph_is_read(samples, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "prompts", with_file(tmp_path, "templates: ['{label}']"))
    with pytest.raises(UserError, match="templates must be a list"):
        samples(["Drusen."], drawing(text=1))
