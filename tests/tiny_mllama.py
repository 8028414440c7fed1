"""Random models in the form of Llama 3: a vision model (Mllama) and a text model, as `save_pretrained` writes them.

Small, but nothing that matters is simplified: special tokens behind the vocabulary, the image token beyond the output
head, templates that open with one BOS and write today's date, sampling settings, gates that are open.
"""

from pathlib import Path
from typing import Any

from mdf.config import Config
from tests.tiny import CORPUS, tiny_config

SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
IMAGE = "<|image|>"
WORDS = (  # where Llama 3 splits text before its byte pairs
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TILE = 28  # side of a tile in pixels: 2 x 2 patches and a class token
DATE = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}'
    '{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system_message = '' %}{%- endif %}"
)
SYSTEM = (
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' + system_message + '<|eot_id|>' }}"
)
OPENING = "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
TEXT_TEMPLATE = (
    f"{DATE}{SYSTEM}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    f"{OPENING}"
)
VISION_TEMPLATE = (
    f"{DATE}"
    "{%- set image_ns = namespace(has_images=false) %}"
    "{%- for message in messages %}{%- for content in message['content'] %}{%- if content['type'] == 'image' %}"
    "{%- set image_ns.has_images = true %}{%- endif %}{%- endfor %}{%- endfor %}"
    "{%- if image_ns.has_images and not system_message == '' %}"
    "{{- raise_exception('Prompting with images is incompatible with system messages.') }}{%- endif %}"
    "{%- if not image_ns.has_images %}" + SYSTEM + "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
    "{%- for content in message['content'] %}{%- if content['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif content['type'] == 'text' %}{{- content['text'] }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|eot_id|>' }}{%- endfor %}"
    f"{OPENING}"
)
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}  # as the real ones come


def llama3_tokenizer(*, vision: bool) -> Any:
    """Byte-level BPE with Llama 3's way of splitting and its special tokens behind the words; pad is not set."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    lines = ["\n\n".join(CORPUS)] * 3  # two line ends are one token
    bpe.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    bpe.add_special_tokens([*SPECIAL, *([IMAGE] if vision else [])])
    start = SPECIAL[0]
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, bpe.token_to_id(start))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=start, eos_token="<|eot_id|>")
    tokenizer.chat_template = VISION_TEMPLATE if vision else TEXT_TEMPLATE
    return tokenizer


def tiny_mllama(
    folder: Path | str,
    *,
    seed: int = 0,
    cross: tuple[int, ...] = (1, 3, 5, 7),
    layers: int = 9,
    text: dict | None = None,
    vision: dict | None = None,
) -> Path:
    """Write a random MllamaForConditionalGeneration with its processor to `folder` (kept where it exists).

    `text` and `vision` are other values of their configurations, with which it need not be tiny (docs/results.md).

    Its cross-attention gates are open: at 0, as they are initialised, no photograph would matter.
    """
    import torch
    from transformers import GenerationConfig, MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_mllama import MllamaImageProcessor

    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    tokenizer = llama3_tokenizer(vision=True)
    ids = dict(zip(("bos", "eos", "pad"), tokens_of(tokenizer), strict=True))
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    words = {
        "vocab_size": image,  # the image token is the first id beyond the output head
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,  # at 0.02 every answer is one token over and over
        "cross_attention_layers": list(cross),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **{f"{name}_token_id": value for name, value in ids.items()},
        **(text or {}),
    }
    sight = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_global_layers": 1,
        "attention_heads": 2,
        "intermediate_size": 64,
        "image_size": TILE,
        "patch_size": 14,
        "max_num_tiles": 4,
        "intermediate_layers_indices": [0, 2],
        "vision_output_dim": 3 * 32,
        **(vision or {}),
    }
    config = MllamaConfig(vision_config=sight, text_config=words, image_token_index=image)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MllamaForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if name.endswith(("gate", "gate_attn", "gate_ffn")):
                torch.nn.init.constant_(parameter, 0.5)
    model.generation_config = GenerationConfig(
        bos_token_id=ids["bos"],
        eos_token_id=[tokenizer.convert_tokens_to_ids(t) for t in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")],
        pad_token_id=ids["pad"],
        **SAMPLING,
    )
    model.save_pretrained(folder)
    side = sight["image_size"]
    images = MllamaImageProcessor(size={"height": side, "width": side}, max_image_tiles=4)
    MllamaProcessor(images, tokenizer, chat_template=VISION_TEMPLATE).save_pretrained(folder)
    return folder


def tiny_llama3(folder: Path, *, seed: int = 0, layers: int = 4) -> Path:
    """Write a random LlamaForCausalLM with the tokenizer of a Llama 3 text model to `folder` (kept where it exists)."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    tokenizer = llama3_tokenizer(vision=False)
    ids = {f"{n}_token_id": i for n, i in zip(("bos", "eos", "pad"), tokens_of(tokenizer), strict=True)}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        tie_word_embeddings=True,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids, **SAMPLING)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tokens_of(tokenizer: Any) -> list[int]:
    """Ids of BOS, end of turn and padding."""
    return tokenizer.convert_tokens_to_ids(["<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"])


def tiny_mllama_config(tmp_path: Path, **overrides: Any) -> Config:
    """`tiny_config` on `tiny_mllama` in TMP/mllama: one tile a photograph, with language.image_size=2 * TILE four."""
    model = {"language.model": str(tiny_mllama(Path(tmp_path) / "mllama")), "language.image_size": TILE}
    return tiny_config(tmp_path, **{**model, **overrides})
