"""A whole configuration that trains in seconds: a random LLaMA with its own tokenizer, a tiny CLIP, a small U-Net.

Photographs are phantoms. Nothing is downloaded. All of it lies below the folder that is given.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mdf.config import (
    Config,
    DataConfig,
    DialogueConfig,
    EncoderConfig,
    FilmConfig,
    FusionConfig,
    LanguageConfig,
    PartConfig,
    PartsConfig,
    RunConfig,
    StageConfig,
    UNetConfig,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<filename>")  # ids 0..3, as in SmolLM2: pad is not eos
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "You read colour fundus photographs. Every answer is a draft for a clinician's review.",
    "system user assistant What is the diagnosis? Which disease does this photograph show?",
    "Diabetic retinopathy. Normal. Glaucoma. Age-related macular degeneration. Yes. No.",
    "Are there microaneurysms? Do you see haemorrhages? hard exudates cotton wool spots drusen",
    "In which quadrant are the drusen? Superotemporal. Inferotemporal. Superonasal. Inferonasal.",
    "How many microaneurysms are there? One to five. Six to twenty. More than twenty.",
    "Describe this photograph. Write a short draft report. The optic disc and the macula are unremarkable.",
]


def tiny_language(folder: Path, *, layers: int = 4, hidden: int = 64) -> Path:
    """Write a random LlamaForCausalLM and a tokenizer with a ChatML template to `folder` (kept where it exists)."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=512, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def put(node: Any, key: str, value: Any) -> Any:
    """The frozen dataclass `node` with `key` ("section.name") set to `value`."""
    head, _, rest = key.partition(".")
    return replace(node, **{head: put(getattr(node, head), rest, value) if rest else value})


def tiny_config(tmp_path: Path, **overrides: Any) -> Config:
    """A run of all three stages in a few seconds. `tiny_config(tmp_path, **{"fuse.steps": 2})` changes single settings.

    The language model lies in TMP/language, the phantoms in TMP/phantoms, the runs in TMP/runs.
    """
    tmp_path = Path(tmp_path)
    full = PartConfig("full", 1e-3)
    stage = {"steps": 4, "batch_size": 4, "warmup": 0.25, "eval_photographs": 4, "samples": 1}
    config = Config(
        run=RunConfig(
            name="tiny", dir=str(tmp_path / "runs"), precision="fp32", threads=1, log_every=1, keep_last_every=2
        ),
        data=DataConfig(root=str(tmp_path / "phantoms"), val=0.25, test=0.25, count=24, size=96),
        encoder=EncoderConfig(model="fundus-vit-tiny"),
        unet=UNetConfig(encoder="mobilenet_v2", size=64, decoder_channels=(16, 16, 8, 8, 8), masks=("vessel", "disc")),
        fusion=FusionConfig(adapters=4, grid=4, width=64, film=FilmConfig(hidden=32)),
        language=LanguageConfig(
            model=str(tiny_language(tmp_path / "language")), prefix_side=2, lora_rank=4, lora_alpha=8.0
        ),
        dialogue=DialogueConfig(turns=2, max_length=400),
        segment=StageConfig(parts=PartsConfig(unet=full), losses={"mask": 1.0}, **stage),
        align=StageConfig(parts=PartsConfig(encoder=full), losses={"contrastive": 1.0}, **stage),
        fuse=StageConfig(
            parts=PartsConfig(fusion=full, language=PartConfig("lora", 1e-3)), losses={"text": 1.0}, **stage
        ),
    )
    for key, value in overrides.items():
        config = put(config, key, value)
    return config
