"""How much memory a stage needs on 1 to 64 GPUs, counted without weights, data or a GPU.

The model is built of tensors without content (torch's FakeTensorMode), and the stage's own forward and losses run on
the longest batch that its settings allow: what autograd would keep is added up by the part that computes it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mdf.batches import Batch
from mdf.config import Config
from mdf.losses.text import IGNORED
from mdf.models.architectures import empty_language
from mdf.models.configuration import MDFConfig
from mdf.models.fusion import PARTS, MDFModel
from mdf.models.language import bare, checkpoint_layers, weights_dtype
from mdf.models.photographs import refuse_sizes
from mdf.models.recompute import recompute_layers
from mdf.models.shapes import nothing
from mdf.tiles import cross_attention_mask
from mdf.training.optimizer import moment_bytes
from mdf.training.stages import Task, stage_of

GIB = 2**30
GPUS = (1, 2, 4, 8, 16, 32, 64)
SPARE, CONTEXT = 0.05, 1.0  # share that fragmentation costs, GiB that the driver takes
# bytes a value of NormalFloat with double quantisation (Dettmers et al. 2023, QLoRA, section 3): 4 bits, 8 bits a block
# of 64, 32 bits a 256 of those; int8 keeps a float32 a row beside
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
CHUNK = 256  # rows of logits that exist at a time where the loss is computed in chunks


class Kept:
    """A context that notes which memory autograd keeps between forward and backward, beside that of `own`, and which
    part of the model computed it.
    """

    def __init__(self, own: Iterable[Tensor]):
        self.own = {tensor.untyped_storage()._cdata for tensor in own}
        self.sizes: dict[int, tuple[str, int]] = {}
        self.alive: list[Tensor] = []  # so that no address is used twice
        self.inside: list[str] = ["loss"]
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own and storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = (self.inside[-1], storage.nbytes())
            self.alive.append(tensor)
        return tensor

    @contextmanager
    def by_part(self, model: Any) -> Iterator[None]:
        """Note what is computed inside of a part's modules under that part's name."""
        hooks = []
        for part in PARTS:
            for module in getattr(model, part).modules():
                hooks += [
                    module.register_forward_pre_hook(lambda *_, part=part: self.inside.append(part), prepend=True),
                    module.register_forward_hook(lambda *_: self.inside.pop() and None),
                ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __enter__(self) -> "Kept":
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.sizes.values())

    @property
    def parts(self) -> dict[str, float]:
        """Bytes of each part, and of the losses."""
        found = dict.fromkeys((*PARTS, "loss"), 0.0)
        for part, size in self.sizes.values():
            found[part] += size
        return found


class Unweighed(Task):
    """A task whose model has no content: its forward and those of its losses that need none."""

    def inputs(self, batch: Batch) -> dict[str, Any]:
        given = super().inputs(batch)
        given.pop("grounded", None)  # a few numbers a token and patch
        if given.get("keep") is not None:
            given["keep"] = given["keep"].nonzero(as_tuple=True)  # as many as there are is known without looking
        return given

    def counts(self, batch: Batch) -> dict[str, float]:
        return {loss: number for loss, number in super().counts(batch).items() if loss in ("text", "mask")}


def empty_model(cfg: Config, dtype: torch.dtype) -> MDFModel:
    """The model of a configuration with tensors that have shapes and no content; `dtype` is of frozen language weights.

    Raises UserError where the shapes of the language model are not known.
    """
    language = empty_base(cfg, dtype)
    refuse_sizes(cfg, language)
    sections = {part: asdict(getattr(cfg, part)) for part in PARTS}
    lora = any(stage_of(cfg, stage).parts.language.mode == "lora" for stage in cfg.run.stages)
    model = MDFModel(MDFConfig(mdf=sections, lora=lora), language=language, load_bases=False)
    image = int(getattr(language.config, "image_token_index", 0))
    model.processor = SimpleNamespace(image_token_id=image, image_tokens=model.fusion.image_tokens, diagnoses=())  # type: ignore[assignment]
    return emptied(model)


def empty_base(cfg: Config, dtype: torch.dtype) -> Any:
    """The language model of a configuration without content, in the type that it would have in training."""
    with nothing():
        return empty_language(cfg.language, weights_dtype(cfg, dtype))


def emptied(model: MDFModel) -> MDFModel:
    """The model with every tensor replaced, in place, by one of the same shape without content."""
    from torch._subclasses.fake_tensor import FakeTensor

    mode = nothing()
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or isinstance(tensor, FakeTensor):
                    continue
                if id(tensor) not in made:
                    empty = mode.from_tensor(tensor.detach())
                    trains = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if trains else empty
                tensors[name] = made[id(tensor)]  # type: ignore[assignment]
    return model


def longest_batch(cfg: Config, model: MDFModel, task: Task) -> Batch:
    """A batch of the stage in which every conversation is dialogue.max_length tokens long, half of them supervised."""
    b, side, unet, masks = task.stage.batch_size, model.encoder.size, cfg.unet.size, len(cfg.unet.masks)
    mode = next(model.parameters()).fake_mode  # type: ignore[attr-defined]
    with mode:
        pixels, unet_pixels = torch.empty(b, model.encoder.channels, side, side), torch.empty(b, 3, unet, unet)
        drawn = torch.empty(b, masks, unet, unet)
        seen = torch.empty(b, 1, unet, unet, dtype=torch.bool)
    text: dict[str, Any] = {}
    if "text" in task.want:
        length, image = cfg.dialogue.max_length, model.processor.image_token_id
        ids = torch.full((b, length), image + 1 if image == 0 else 0)
        ids[:, 1 : 1 + model.processor.image_tokens] = image
        labels = torch.full((b, length), IGNORED)
        labels[:, length - length // 2 :] = 0
        text = {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": torch.ones_like(ids),
            "prompt_mask": labels == IGNORED,
            "branch": torch.zeros_like(ids) if cfg.dialogue.apart > 0 else None,
            "focus": torch.full_like(ids, -1),
            "backbone": tiles(model, ids, mode),
        }
    return Batch(
        [""] * b, [None] * b, [None] * b, pixels, unet_pixels, seen, torch.arange(b), drawn,
        torch.ones(b, masks, dtype=torch.bool), caption_group=torch.arange(b),
        caption_ids=torch.zeros(b, model.encoder.context_length, dtype=torch.long), label_ids=torch.arange(b),
        patients=torch.arange(b // 2 * 2).view(-1, 2), **text,
    )  # fmt: skip


def tiles(model: MDFModel, ids: Tensor, mode: Any) -> dict[str, Tensor]:
    """What a language model with a vision tower of its own is shown: all the tiles that it has room for."""
    vision = getattr(bare(model.language).config, "vision_config", None)
    if vision is None:
        return {}
    b, k, side = len(ids), vision.max_num_tiles, vision.image_size
    real = torch.ones(b, 1, k, dtype=torch.long)
    with mode:
        pictures = torch.empty(b, 1, k, 3, side, side)
    return {
        "tiles": pictures,
        "aspect_ratio_ids": torch.ones(b, 1, dtype=torch.long),
        "aspect_ratio_mask": real,
        "cross_attention_mask": cross_attention_mask(ids, model.processor.image_token_id, real),
    }


def kept(model: MDFModel, task: Task, batch: Batch, precision: str) -> Kept:
    """What autograd keeps of a forward and its losses; of an emptied model nothing is computed."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        Kept([*model.parameters(), *model.buffers()]) as found,
        found.by_part(model),
    ):
        task(model.train(), batch)
    return found


@dataclass(frozen=True)
class Plan:
    """Bytes that one process needs in a stage, by part of the model where there is one."""

    rows: int
    tokens: int  # of a conversation; 0 = the stage has none
    weights: dict[str, float]
    gradients: dict[str, float]
    optimizer: dict[str, float]
    activations: dict[str, float]
    transient: float  # of backward, at most: the loss's logits, or one checkpointed layer again
    unit: float  # weights and gradients of the largest layer that FSDP2 gathers
    rest: float  # weights and gradients of all that is no such layer
    quantized: bool
    cache: dict[str, int] = field(default_factory=dict)  # keys and values while one conversation is generated

    def total(self, gpus: int, sharded: bool) -> float | None:
        """Bytes on each of so many GPUs; None where it is not possible.

        DDP keeps everything on each and a second copy of the gradients. FSDP2 cuts weights, gradients and moments into
        equal parts; while it computes, two layers and all that is no layer are whole.
        """
        state = sum(sum(part.values()) for part in (self.weights, self.gradients, self.optimizer))
        own = sum(self.activations.values()) + self.transient
        if sharded:
            if self.quantized:
                return None
            return own + (state if gpus == 1 else state / gpus + 2 * self.unit + self.rest)
        return own + state + (sum(self.gradients.values()) if gpus > 1 else 0)

    def fits(self, gib: float, gpus: int = 1, sharded: bool = False) -> bool:
        """Whether that goes into GPUs of so many GiB."""
        total = self.total(gpus, sharded)
        return total is not None and total / GIB * (1 + SPARE) + CONTEXT <= gib


def plan(cfg: Config, model: MDFModel, name: str, precision: str) -> Plan:
    """The memory of the stage `name` of an emptied model, whose tensors already train as the stage says."""
    task = Unweighed(cfg, name)
    language = bare(model.language)
    checkpointing = cfg.language.gradient_checkpointing and "text" in task.want
    set_checkpointing(language, checkpointing)
    batch = longest_batch(cfg, model, task)
    found = kept(model, task, batch, precision).parts
    again = 0.0
    if checkpointing:
        set_checkpointing(language, False)
        whole = kept(model, task, batch, precision).parts["language"]
        again = (whole - found["language"]) / language.config.get_text_config().num_hidden_layers
    again = max(again, encoder_again(cfg, model, task, precision))
    tokens = cfg.dialogue.max_length if "text" in task.want else 0
    return Plan(
        rows=task.stage.batch_size,
        tokens=tokens,
        activations=dict(found),
        transient=max(again, logits(language, int(found["loss"]), batch) if tokens else 0),
        cache=cache(cfg, model, tokens) if tokens else {},
        **state(cfg, model, name),
    )


def encoder_again(cfg: Config, model: MDFModel, task: Task, precision: str) -> float:
    """Bytes that backward needs to compute anew what the encoder did not keep: of a chunk of a contrastive batch all
    that it would keep, and of a checkpointed tower one block.
    """
    stage, blocks = task.stage, cfg.encoder.gradient_checkpointing
    chunk = stage.chunk if task.wants_captions and "text" not in task.want else 0
    if not chunk and not (blocks and any(p.requires_grad for p in model.encoder.parameters())):
        return 0.0
    part: Any = {task.name: replace(stage, batch_size=chunk or stage.batch_size, chunk=0)}
    smaller = Unweighed(replace(cfg, **part), task.name)
    batch = longest_batch(cfg, model, smaller)
    held = kept(model, smaller, batch, precision).parts["encoder"] if chunk else 0.0
    if blocks:
        model.encoder.settle(replace(cfg.encoder, gradient_checkpointing=False))
        count = max(1, *(last for _, last in model.encoder.layers().values()))
        held += kept(model, smaller, batch, precision).parts["encoder"] / count
        model.encoder.settle(cfg.encoder)
    return held


def state(cfg: Config, model: MDFModel, name: str) -> dict[str, Any]:
    """The fields of a plan that the tensors of the model alone lead to."""
    stage = stage_of(cfg, name)
    weights, gradients, moments = (dict.fromkeys(PARTS, 0.0) for _ in range(3))
    units = layer_names(model)
    of_unit: dict[str, float] = {}
    for tensor_name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        part = tensor_name.split(".")[0]
        size = tensor.numel() * bytes_of(tensor_name, tensor, cfg.language.quantize)
        weights[part] += size
        grown = 0.0
        if tensor.requires_grad:
            grown = tensor.numel() * tensor.element_size()
            gradients[part] += grown
            moments[part] += moment_bytes(tensor, stage.optimizer)
        unit = next((u for u in units if tensor_name.startswith(u)), "")
        of_unit[unit] = of_unit.get(unit, 0.0) + size + grown
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": moments,
        "unit": max((size for unit, size in of_unit.items() if unit), default=0.0),
        "rest": of_unit.get("", 0.0),
        "quantized": cfg.language.quantize != "none",
    }


def set_checkpointing(language: Any, yes: bool) -> None:
    if yes:
        checkpoint_layers(language)
    else:
        recompute_layers(language, False)  # the layers of a vision tower stay as they are


def layer_names(model: MDFModel) -> tuple[str, ...]:
    """Prefixes of the names of the parameters of each layer that FSDP2 shards on its own."""
    kinds = set(bare(model.language)._no_split_modules or ())
    return tuple(f"language.{n}." for n, m in model.language.named_modules() if type(m).__name__ in kinds)


def bytes_of(name: str, tensor: Tensor, quantize: str) -> float:
    """Bytes a value of a tensor; quantised are the matrices of the language model's decoder layers alone."""
    inside = name.startswith("language.") and ".layers." in name and "vision_model" not in name
    if quantize == "none" or not inside or "lora_" in name or tensor.ndim != 2:
        return tensor.element_size()
    return NF4 if quantize == "nf4" else 1 + 4 / tensor.shape[1]


def logits(language: Any, kept: int, batch: Batch) -> int:
    """Bytes that the backward of the cross-entropy needs at once beside what is kept: gradients of logits in float32
    and in the head's dtype, and where the loss is in chunks the chunk's logits once more.
    """
    vocabulary, rows = language.config.get_text_config().vocab_size, batch.supervised
    if kept >= rows * vocabulary * 4:  # all logits at once
        return rows * vocabulary * 6
    return min(rows, CHUNK) * vocabulary * 16


def cache(cfg: Config, model: MDFModel, tokens: int) -> dict[str, int]:
    """Bytes of keys and values while one conversation of so many tokens is answered, in bf16."""
    text = bare(model.language).config.get_text_config()
    heads, width = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
    own = tokens * text.num_hidden_layers * 2 * heads * width * 2
    return {"language": own, "fusion": len(model.fusion.layers) * 2 * model.fusion.width * (cfg.fusion.grid**2 + 1) * 4}
