"""Settings: read in layers, checked as a whole, every mistake named with its key, and read back as written."""

from dataclasses import replace
from pathlib import Path

import pytest

from mdf.config import Config, DataConfig, PartConfig, check, load_config, save_config, to_yaml
from mdf.errors import ConfigError
from mdf.resources import bundled
from tests.conftest import REPO

OTHERS = {"accelerate", "grids"}  # no configurations of a run
CONFIGS = [f for f in sorted((REPO / "configs").rglob("*.yaml")) if not OTHERS & set(f.relative_to(REPO).parts)]
BASE = """
run: {name: base, stages: [segment]}
segment:
  losses: {mask: 1}
  parts: {unet: {mode: full, lr: 1e-3}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "base.yaml"
    file.write_text(BASE)
    return file


def refusal(path: Path, *overrides: str) -> str:
    """The message that these settings are refused with."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.relative_to(REPO / "configs").as_posix())
def test_every_configuration_that_comes_with_mdf_is_valid_and_reads_back_equal(file: Path, tmp_path: Path):
    # where real data lies, only the user knows
    missing = unread(file)
    given = [f"{key}=somewhere" for key in ("data.root", "data.table") if key in missing]
    cfg = load_config(file, given)
    save_config(cfg, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml") == cfg


def unread(file: Path) -> str:
    try:
        load_config(file)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.skipif(
    not (REPO / "configs" / "quickstart.yaml").is_file(), reason="configs/quickstart.yaml is not there yet"
)
def test_a_bundled_configuration_is_found_by_its_name_and_is_the_default():
    assert load_config(None) == load_config("quickstart") == load_config("configs/quickstart.yaml")
    assert (bundled("configs") / "quickstart.yaml").is_file()


def test_an_unknown_configuration_lists_those_that_there_are(tmp_path: Path):
    assert "is no file" in refusal(tmp_path / "quickstar")


def test_what_a_file_leaves_out_keeps_its_default(base: Path):
    cfg = load_config(base)
    assert cfg.run.name == "base" and cfg.run.seed == Config().run.seed
    assert cfg.segment.parts.unet == PartConfig("full", 1e-3)  # 1e-3 without a dot is a number, too
    assert cfg.segment.losses == {"mask": 1.0}


def test_words_on_the_command_line_go_before_the_file(base: Path):
    cfg = load_config(
        base, ["run.name=mine", "unet.masks=[vessel, disc]", "encoder.weights=null", "segment.warmup=1e-2"]
    )
    assert cfg.run.name == "mine" and cfg.unet.masks == ("vessel", "disc") and cfg.segment.warmup == 0.01


def test_a_stage_can_have_data_of_its_own(base: Path):
    cfg = load_config(base, ["segment.data.name=hrf", "segment.data.root=HRF"])
    assert cfg.segment.data == DataConfig(name="hrf", root="HRF") and cfg.data.name == "phantom"


def test_a_file_extends_another_and_null_removes_an_entry_of_a_table(base: Path, tmp_path: Path):
    (tmp_path / "sub").mkdir()
    child = tmp_path / "sub" / "child.yaml"
    child.write_text(
        "extends: ../base.yaml\n"
        "run: {stages: [align]}\n"
        "segment: {losses: {mask: null}}\n"
        "align: {losses: {contrastive: 1, label_aware: 0.5}, parts: {encoder: {mode: full}}}\n"
        "dialogue: {questions: {report: null, eye: 2}}\n"
    )
    cfg = load_config(child)
    assert (
        cfg.run.name == "base" and cfg.segment.losses == {} and set(cfg.align.losses) == {"contrastive", "label_aware"}
    )
    assert cfg.dialogue.questions == {"diagnosis": 1.0, "presence": 2.0, "quadrant": 1.0, "count": 1.0, "eye": 2.0}
    save_config(cfg, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml") == cfg


def test_files_that_extend_each_other_are_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    assert "circle: a.yaml -> b.yaml -> a.yaml" in refusal(tmp_path / "a.yaml")


def test_extending_a_missing_file_says_what_the_path_is_relative_to(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    assert "relative to the file that says it" in refusal(tmp_path / "a.yaml")


def test_everything_wrong_is_in_one_message_with_its_full_key(base: Path):
    text = refusal(
        base, "data.rot=x", "unet.size=100", "segment.batch_size=two", "augment.flip=1.5", "data.val=.7", "data.test=.5"
    )
    assert text.startswith("5 settings are wrong")
    for part in (
        "data.rot: no such setting; did you mean data.root?",
        "unet.size: 100 is not divisible by 16 * fusion.grid = 256",
        "segment.batch_size: must be a whole number, got two",
        "augment.flip: 1.5 is outside [0, 1]",
        "data.val + data.test: 1.2 leaves nothing to train on",
    ):
        assert part in text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("run.nam=x", "did you mean run.name?"),
        ("lr=1", "did you mean segment.parts.encoder.lr"),
        ("run.name=3", "must be text, got 3; put it in quotes"),
        ("run.seed=true", "must be a whole number, got true"),
        ("run.seed=1.5", "must be a whole number, got 1.5"),
        ("segment.augment=1", "must be true or false, got 1"),
        ("segment.augment=null", "must be true or false, got null"),
        ("segment.beta2=.nan", "segment.beta2: nan is outside (0, 1)"),
        ("segment.parts.unet.lr=0", "segment.parts.unet.lr: 0.0 is outside (0, 1]"),
        ("segment.parts.unet=full", "must be a section of settings"),
        ("segment.data=hrf", "must be a section of settings"),
        ("run.stages=segment", "must be a list such as [segment]"),
        ("run.stages=[]", "run.stages: empty"),
        ("run.stages=[segment, segment]", "listed twice"),
        ("run.stages=[segmet]", "'segmet' is no stage"),
        ("run.name=a/b", "must be one folder name"),
        ("run.precision=fp16", "must be one of auto, fp32, bf16"),
        ("fusion.depths=[0, 5]", "must be of 1, 2, 3, 4"),
        ("fusion.film.condition=text", "must be one of none, image, prompt, image+prompt"),
        ("unet.decoder_channels=[8]", "must be five positive widths"),
        ("unet.masks=[]", "unet.masks is empty"),
        ("segment.losses.dice=1", "no such loss"),
        ("segment.losses.mask=null", "segment.losses: empty, but run.stages lists segment"),
        ("segment.losses.text=1", "only the stage fuse has conversations"),
        ("segment.losses.mask=-1", "must be 0 or more"),
        ("segment.parts.unet.mode=frozen", "all are frozen"),
        ("segment.parts.unet.mode=lora", "lora is for the language part only"),
        ("segment.parts.unet.mode=ful", "must be one of frozen, lora, full"),
        ("segment.parts.encoder.mode=full", "none of the losses mask reaches it"),
        ("segment.chunk=2", "segment.chunk: 2, but only a stage with one of the losses contrastive, label_aware"),
        ("segment.chunk=-1", "segment.chunk: -1 must be a number at least 0"),
        ("segment.bucket=8", "segment.bucket: 8, but only a stage whose losses are text"),
        ("segment.features_gb=-2", "segment.features_gb: -2.0 must be a number at least -1"),
        ("segment.epochs=0", "one of them must be above 0"),
        ("data.name=hrf", "data.root: missing"),
        ("data.name=manifest", "data.manifest: missing"),
        ("data.manifest=m.jsonl", "write data.name=manifest or leave it out"),
        ("data.name=odir", "must be one of phantom"),
        ("data.count=0", "data.count: 0 must be a number at least 1"),
        ("dialogue.questions.colour=1", "no such question"),
        ("segment.data.name=folder", "segment.data.root: missing"),
        ("run.name", "written key.sub=value"),
        ("--run.name=x", "written key.sub=value"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong_and_what_would_be_right(base: Path, word: str, part: str):
    assert part in refusal(base, word)


def test_a_table_needs_its_file_as_well_as_the_folder_of_photographs(base: Path):
    assert "data.table: missing" in refusal(base, "data.name=table", "data.root=x")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["fusion.kind=concatenate"], "must be one of cross_attention, concat, tokens, film"),
        (["fusion.kind=concat", "fusion.depths=[]"], "fusion.kind: concat, but fusion.depths is empty"),
        (["fusion.kind=film"], "must be prompt or image+prompt"),
        (["fusion.kind=tokens", "language.image_size=560"], "a vision tower of its own"),
        (["fusion.kind=tokens", "fusion.token_side=7"], "unet.size: 256 is not divisible by 16 * fusion.token_side"),
        (["fusion.gate_init=0"], "set fusion.zero_output=false"),
        (["fusion.film.condition=prompt"], "dialogue.apart"),
        (
            ["fusion.kind=concat", "fuse.losses.grounding=1"],
            "fusion.kind is concat, so there are no adapters to ground",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_kind_of_fusion_that_cannot_be_is_refused_with_its_reason(words: list[str], part: str):
    assert part in refusal(None, *words)


def test_without_adapters_the_grid_does_not_bind_the_unet(base: Path):
    assert load_config(base, ["fusion.depths=[]", "unet.size=320"]).unet.size == 320


def test_the_unet_may_train_in_fuse():
    full = PartConfig("full", 1e-4)
    cfg = Config()
    fuse = replace(cfg.fuse, losses={"text": 1.0}, parts=replace(cfg.fuse.parts, unet=full, fusion=full))
    assert check(replace(cfg, run=replace(cfg.run, stages=("fuse",)), fuse=fuse)) is None


def test_a_key_written_twice_is_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("run: {name: a}\nrun: {name: b}\n")
    assert "'run' is written twice" in refusal(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["run: [", "- 1", "just words"])
def test_a_file_that_holds_no_settings_is_refused_by_name(tmp_path: Path, text: str):
    (tmp_path / "a.yaml").write_text(text)
    assert "a.yaml" in refusal(tmp_path / "a.yaml")


def test_written_settings_keep_text_that_looks_like_numbers(base: Path, tmp_path: Path):
    cfg = load_config(base)
    cfg = replace(
        cfg,
        run=replace(cfg.run, name="1e-3"),
        data=replace(cfg.data, name="table", root="r", table="007", columns={"image": "1"}),
    )
    (tmp_path / "b.yaml").write_text(to_yaml(cfg))
    assert load_config(tmp_path / "b.yaml") == cfg


def test_the_encoder_is_shown_what_the_preprocessing_knows():
    from mdf.checking import CHOICES
    from mdf.imaging.preprocess import RESIZES

    assert CHOICES["encoder.resize"] == RESIZES
    assert load_config(None, ["encoder.mean=[0,0,0]", "encoder.std=[1,1,1]"]).encoder.std == (1, 1, 1)
    with pytest.raises(ConfigError, match=r"align\.schedule: 'cosinus' must be one of cosine, constant"):
        load_config(None, ["align.schedule=cosinus"])
    with pytest.raises(ConfigError, match=r"encoder\.std: .* three numbers above 0"):
        load_config(None, ["encoder.std=[1,1,0]"])
