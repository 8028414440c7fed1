"""Every configuration of a large language model, cut down to tiny random parts: a step, a stop, a resume, an answer, an
export. What the files say of parts, losses, optimisers and schedules is what runs here; sizes and weights are not.
"""

from pathlib import Path

import pytest

from mdf.config import load_config
from mdf.errors import UserError
from mdf.inference.export import export
from mdf.inference.predictor import Predictor
from mdf.records import read_manifest
from mdf.training.run import train
from tests.tiny import tiny_language
from tests.tiny_mllama import TILE, tiny_llama3, tiny_mllama
from tests.training.conftest import losses
from tests.training.test_loop import crash, folder, stop_at

ROOT = Path(__file__).parents[2] / "configs"
VISION = ("llama32_11b_qlora", "llama32_11b_lora", "llama32_11b_full", "llama32_11b_joint")
SMALL = (
    "data.name=phantom", "data.manifest=null", "data.count=24", "data.size=96", "data.val=0.25", "data.test=0.25",
    "encoder.model=fundus-vit-tiny", "encoder.weights=null", "encoder.size=0", "unet.encoder=mobilenet_v2",
    "unet.weights=null", "unet.size=64", "unet.decoder_channels=[16,16,8,8,8]", "fusion.grid=4", "fusion.width=64",
    "fusion.film.hidden=32", "language.prefix_side=2", "language.lora_rank=4", "dialogue.turns=2",
    "run.precision=fp32", "run.threads=1", "run.log_every=1", "run.keep_last_every=1",
)  # fmt: skip
STEPS = ("steps=2", "batch_size=4", "accumulation=1", "eval_every=2", "eval_photographs=2", "samples=0")


def cut_down(name: str, world: Path, runs: Path):
    """The configuration `name` with tiny parts, two steps a stage."""
    if name in VISION:
        language = [f"language.model={tiny_mllama(world / 'mllama')}", f"language.image_size={TILE}"]
        language.append("fusion.layers=[2,4,6,8]")
    else:
        made = tiny_llama3(world / "llama3") if name == "llama32_1b" else tiny_language(world / "language")
        language = [f"language.model={made}", "language.image_size=0", "fusion.layers=[]", "fusion.adapters=4"]
    stages = [f"{stage}.{step}" for stage in ("segment", "align", "fuse") for step in STEPS]
    if name == "llama32_11b_qlora":
        stages.append("fuse.optimizer=adamw_8bit")  # paged memory is a GPU's
    places = [f"data.root={world / 'phantoms'}", f"run.dir={runs}"]
    return load_config(ROOT / f"{name}.yaml", [*SMALL, *language, *stages, "align.chunk=2", *places])


@pytest.mark.parametrize("name", [*VISION, "llama32_1b", "smollm2"])
def test_it_trains_resumes_answers_and_is_exported(name, world, tmp_path, monkeypatch):
    if name == "llama32_11b_qlora":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")
    cfg = cut_down(name, world, tmp_path)
    stop_at(monkeypatch, "fuse", 1, crash)
    with pytest.raises(RuntimeError, match="the power went"):
        train(cfg)
    assert train(cfg, resume=True) == 0
    assert len(losses(cfg)) == 2 * len(cfg.run.stages)
    modes = {stage: getattr(cfg, stage).parts for stage in cfg.run.stages}
    table = (folder(cfg) / "trainable.txt").read_text()
    for stage, parts in modes.items():
        assert f"stage {stage}" in table
        assert all(f"{part:<10}{getattr(parts, part).mode}" in table for part in ("encoder", "unet", "language"))
    best = folder(cfg) / "best"
    manifest = read_manifest(next(Path(cfg.data.root).rglob("*.jsonl")))
    photograph = manifest.path(manifest.split("test")[0].image)
    predictor = Predictor(best, "cpu")
    answer = predictor.ask(predictor.read(photograph, force=True), "What is the diagnosis?", limit=4)
    assert isinstance(answer, str)
    if cfg.language.quantize != "none":
        with pytest.raises(UserError, match="nf4"):
            export(best, tmp_path / "exported", say=lambda text: None)
        return
    export(best, tmp_path / "exported", say=lambda text: None)
    assert (tmp_path / "exported" / "language" / "config.json").is_file()
    alone = Predictor(tmp_path / "exported", "cpu")
    assert isinstance(alone.ask(alone.read(photograph, force=True), "What is the diagnosis?", limit=4), str)
