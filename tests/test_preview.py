"""`prepare.py show` prints what a model will see of a record, and what it is scored on."""

from dataclasses import replace

import pytest

from mdf.batches import FundusDataset
from mdf.dialogue import Prompts
from mdf.preview import as_read, preview, tokens_of
from mdf.records import FundusRecord, Manifest, write_manifest
from mdf.resources import bundled
from tests.scripts import run
from tests.tiny import put, tiny_config


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("run"), **{"dialogue.turns": 5, "augment.flip": 0.5})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    from mdf.datasets.phantom import draw_manifest

    return draw_manifest(tmp_path_factory.mktemp("phantoms") / "set", count=6, size=96, seed=1, val=0.2, test=0.2)


def test_it_is_what_the_first_epoch_trains_on(cfg, manifest):
    shown = preview(cfg, manifest, manifest.records)
    processor = tokens_of(cfg, Prompts(bundled("prompts")))
    assert processor.image_tokens == 4  # prefix_side 2
    for stage, wanted in (("fuse", {"want_text": True}), ("align", {"want_text": False, "want_caption": True})):
        assert getattr(cfg, stage).augment
        samples = FundusDataset(manifest.records, manifest, processor, cfg.dialogue, augment=cfg.augment, **wanted)
        for i in range(len(manifest.records)):
            sample = samples[0, i]
            if stage == "align":
                assert f"caption: {sample.caption}" in shown
                continue
            text = as_read(sample.conversation.input_ids, sample.conversation.labels, processor)
            assert "\n".join(f"  | {line}" for line in text.splitlines()) in shown
            assert f"({len(sample.conversation.input_ids)} tokens)" in shown
    assert "×4\n" in shown and "<|im_end|>]]" in shown and "NOT CHECKED" not in shown


def test_without_the_tokenizer_the_same_conversations_are_shown_and_it_is_said(cfg, manifest, tmp_path):
    full = preview(cfg, manifest, manifest.records[:3])
    bare = preview(put(cfg, "language.model", str(tmp_path / "nowhere")), manifest, manifest.records[:3])
    assert bare.startswith("NOT CHECKED: the tokenizer of language.model=")
    said = [line.removeprefix("  | assistant: ") for line in bare.splitlines() if line.startswith("  | assistant: ")]
    assert said and all(f"[[{answer}<|im_end|>]]" in full for answer in said)
    assert full.count("[[") - full.count("[[ and ]]") == len(said)


def test_questions_that_find_no_room_are_counted(cfg, manifest):
    shown = preview(put(cfg, "dialogue.max_length", 110), manifest, manifest.records)
    assert "questions left out for dialogue.max_length" in shown


def test_a_record_that_nothing_is_known_of_has_neither_conversation_nor_caption(cfg, manifest):
    bare = FundusRecord("bare", manifest.records[0].image)
    shown = preview(cfg, manifest, [bare])
    assert "bare (no split)" in shown and "conversation: none, record bare: no question of" in shown
    assert "caption: none, record bare: neither diagnosis" in shown
    gone = preview(cfg, Manifest([], manifest.root), [replace(manifest.records[0], image="gone.png")])
    assert "conversation: none" in gone and "gone.png" in gone


def test_a_caption_is_of_the_kinds_that_the_run_draws_and_what_is_cut_is_marked(cfg, manifest):
    long = replace(manifest.records[0], eye=None, texts={"report": "Drusen in the macula. " + "Pale spots " * 60})
    shown = preview(put(cfg, "captions.sources", {"text": 1.0}), manifest, [long, replace(long, texts={})])
    assert "caption: Drusen in the macula. [[cut: Pale spots" in shown
    assert f"caption: none, record {long.id}: no text" in shown


def test_show_takes_a_configuration_and_fetches_nothing(tmp_path, manifest, monkeypatch, capsys):
    write_manifest(tmp_path / "m.jsonl", manifest.records, root=manifest.root, dataset="phantom")
    quickstart = bundled("configs") / "quickstart.yaml"
    table = (
        "data: {name: table, root: null, columns: {image: photo}, encoding: cp1252}"  # given when the run is started
    )
    dialogue = "dialogue: {questions: {explain: 50}, turns: 1}"
    (tmp_path / "c.yaml").write_text(f"extends: {quickstart}\n{table}\n{dialogue}\n")
    monkeypatch.setenv("MDF_CACHE", str(tmp_path / "cache"))  # where no language model is
    words = (
        "show",
        tmp_path / "m.jsonl",
        "-n",
        2,
        "--out",
        tmp_path / "s.png",
        "--set",
        "dialogue.turns=3",
        "--config",
    )
    assert run("prepare.py", *words, tmp_path / "c.yaml") == 0
    out = capsys.readouterr().out
    assert "NOT CHECKED: the tokenizer of language.model=smollm2-135m is not at hand" in out
    assert out.count("assistant: ") >= 2 and "Typical of " in out and "caption: " in out
    assert (tmp_path / "s.png").is_file() and not (tmp_path / "cache").exists()
    assert run("prepare.py", *words, "nowhere.yaml") == 2
    assert "nowhere.yaml is no file" in capsys.readouterr().err
