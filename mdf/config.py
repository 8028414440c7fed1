"""Every setting of a run, as frozen dataclasses: a section of the YAML file each, a comment with its unit a field.

`mdf.config` reads files and `key.sub=value` into these, checks them and writes them back.
"""

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any


@dataclass(frozen=True)
class RunConfig:
    name: str = "quickstart"  # the run is written to DIR/NAME
    dir: str = "runs"  # folder of all runs
    stages: tuple[str, ...] = ("segment", "align", "fuse")  # in this order; each starts from the best of the one before
    seed: int = 0  # of weights, order of samples, augmentation and split
    overwrite: bool = False  # true: an existing run of this name is replaced
    start_from: str | None = None  # checkpoint directory whose weights the first stage starts from
    start_parts: tuple[str, ...] = ()  # of encoder, unet, fusion: what is taken from there; () = the whole model
    precision: str = "auto"  # auto | fp32 | bf16; auto takes bf16 where the processor or GPU has units for it
    threads: int = 0  # CPU threads a process; 0 = cores divided by local processes
    log_every: int = 5  # optimiser steps between two lines of metrics.jsonl
    keep_last_every: int = 50  # optimiser steps between two writes of last/
    keep: int = 0  # writes of last/ that are also kept, the newest, whole, in kept/; 0 = none
    # of tensorboard, wandb, mlflow, trackio: who gets the numbers of metrics.jsonl, too. Nothing leaves the machine
    # unless their own environment variable says so (WANDB_MODE=online, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID)
    trackers: tuple[str, ...] = ()
    peak_tflops: float = 0.0  # dense bf16 TFLOP/s of a device, which MFU is a share of; 0 = by the name of the GPU
    # the run stops (exit code 1) at a loss more than this many robust standard deviations above the median of the last
    # 64 steps, and above that of the first 16; 0 = never
    spike: float = 20.0
    gpu_gb: float = 0.0  # memory of one GPU that --dry-run plans for, GiB; 0 = the one at hand, else 24, 40 and 80


@dataclass(frozen=True)
class DataConfig:
    # phantom | folder | table | manifest | shards | huggingface | flair | a set of `prepare.py list`
    name: str = "phantom"
    root: str | None = None  # folder of the release (photographs); phantom: where they are drawn, default is the cache
    manifest: str | None = None  # name: manifest; path of M.jsonl
    table: str | None = (
        None  # name: table; CSV/TSV/JSONL/Parquet with a photograph a row; flair: a table or their folder
    )
    columns: dict[str, str] = field(default_factory=dict)  # name: table, huggingface; our field -> the table's column
    encoding: str = "utf-8"  # name: table; of a text file, such as gb18030 or cp1252
    vocabulary: str | None = None  # the user's own YAML of {string: canonical name} for strings that mdf does not know
    val: float = 0.1  # share of patients kept for validation where the release has no split
    test: float = 0.2  # share of patients kept for the test where the release has no split
    limit: int = 0  # photographs a split at the most, drawn by the seed; 0 = all
    count: int = 1400  # name: phantom; photographs drawn
    size: int = 256  # name: phantom; side in pixels
    weights: dict[str, float] = field(default_factory=dict)  # share of the draws that each `source` of the records gets
    missing: str = "stop"  # stop | skip: what a photograph does that is not there (any more); skip counts them aloud
    cache_gb: float = 0.0  # GB on disk at the most for photographs that are decoded, cropped and scaled; 0 = no cache


@dataclass(frozen=True)
class AugmentConfig:
    rotate: float = 10.0  # degrees, +- uniform
    scale: float = 0.08  # relative size, +- uniform
    shift: float = 0.03  # share of the side, +- uniform
    brightness: float = 0.15  # relative, +- uniform
    contrast: float = 0.15  # relative, +- uniform
    gamma: float = 0.15  # log-uniform exponent, +-
    colour: float = 0.05  # relative gain of each channel, +- uniform
    flip: float = 0.0  # probability of a left-right flip; the eye side and every left/right word change with it


@dataclass(frozen=True)
class EncoderConfig:
    model: str = "fundus-lite0"  # open_clip architecture, or one of mdf/data/open_clip/*.json
    # open_clip tag, file, bundled name (efficientnet-lite0-imagenet, efficientnet-lite2-imagenet), or timm for those of
    # `image`; null = random. Or NAME:FILE, a released encoder (`prepare.py weights`) with its architecture and its way
    # to prepare photographs: then model, image, size, resize, mean and std do not apply; nor, where the release has a
    # text tower, does text, but to say where the files of its tokenizer are
    weights: str | None = None
    interpolate: bool = False  # of a release: position embeddings are interpolated to `size`, or to its own side
    size: int = 0  # input side in pixels; 0 = the architecture's own
    # field | squash | pad: what it is shown. The field of view, centred in a square; or, as other trainers do it, the
    # whole photograph, squashed to a square, or its longer side scaled to `size` and padded on the right or below
    resize: str = "field"
    mean: tuple[float, ...] = ()  # of red, green and blue in 0..1, subtracted; () = as the weights were trained
    std: tuple[float, ...] = ()  # likewise, divided by
    image_lr_scale: float = 1.0  # the image tower's learning rate / the encoder's; below 1 where only it is pretrained
    init_logit_scale: float | None = None  # multiplier of cosine similarities at the start; null = the weights' own
    init_logit_bias: float | None = None  # added to them, for losses.sigmoid (-10); null = the architecture's, or none
    image: str | None = None  # timm model in place of `model`'s image tower
    # BERT-family model with its weights in place of `model`'s text tower: folder, hub id or bundled name (minilm-l6-v2)
    text: str | None = None
    # of a BERT text tower: mean_pooler, cls_pooler, cls_last_hidden_state_pooler, layers_mean_pooler (FLAIR's, of real
    # tokens), layers_padded_mean_pooler (FLAIR's own, padding and all); null = the release's, else mean_pooler
    text_pooling: str | None = None
    context_length: int = 0  # tokens of a caption, start and end among them; 0 = the text tower's own
    # layers that stay as they are, counted from the stem of the image tower or the embeddings of the text tower, then a
    # layer a block (of a CNN: a stage); 0 = none, -1 = the whole tower but a timm or BERT tower's projection
    image_locked: int = 0
    text_locked: int = 0
    image_lora: int = 0  # rank of LoRA in the blocks of the image tower, whose own weights then stay; 0 = none
    text_lora: int = 0  # likewise in the text tower
    lora_alpha: float = 0.0  # LoRA scale is alpha / rank; 0 = alpha is twice the rank
    layer_decay: float = 1.0  # the learning rate of a layer / that of the layer above it, in both towers
    gradient_checkpointing: bool = False  # true: less memory, about 30 % more time


@dataclass(frozen=True)
class UNetConfig:
    encoder: str = "mobilenet_v2"  # segmentation-models-pytorch encoder name, or tu-NAME of timm
    # local file of an encoder or a whole U-Net, bundled name (mobilenetv2-imagenet, resnet50-imgsim), or a release with
    # its file (fundus-lesions:FILE), whose own encoder takes the place of `encoder`; null = random
    weights: str | None = None
    size: int = 256  # input side in pixels, divisible by 16 * fusion.grid
    mean: tuple[float, ...] = ()  # of red, green and blue in 0..1, subtracted; () = as the weights were trained
    std: tuple[float, ...] = ()  # likewise, divided by
    decoder_channels: tuple[int, ...] = (128, 64, 32, 16, 16)  # from stride 16 up to stride 1
    encoder_lr_scale: float = 0.1  # the learning rate of its encoder / the U-Net's; 1 where it starts random
    masks: tuple[str, ...] = ("vessel",)  # one output map each, in this order


@dataclass(frozen=True)
class FilmConfig:
    condition: str = "image"  # none | image | prompt | image+prompt: what scales and shifts the skip maps
    hidden: int = 256  # width of the MLP that makes gamma and beta


@dataclass(frozen=True)
class FusionConfig:
    # cross_attention | concat | tokens | film: how skips reach the language model. By gated adapters in its layers; on
    # channels beside the encoder's image tokens, no token more; as image tokens of their own; or as concat does, with a
    # prompt that scales them (film.condition). All but the first need a text model (language.image_size: 0)
    kind: str = "cross_attention"
    # skips read, 1..4 = strides 2, 4, 8, 16, in the order of the adapters that read them: [4, 3, 2, 1] is deepest
    # first; () = baseline MLLM, no adapters
    depths: tuple[int, ...] = (1, 2, 3, 4)
    layers: tuple[int, ...] = ()  # language layers with an adapter; () = spread evenly, `adapters` many
    adapters: int = 4  # number of adapters when `layers` is not given; depth l(k) goes round the list of depths
    grid: int = 16  # G: each skip map is cut into G x G patches; kind: cross_attention
    token_side: int = 4  # each skip map becomes side x side image tokens; kind: tokens
    masks: bool = True  # each patch also carries what the U-Net's own masks show in it, and its place in the eye
    # with masks: and how many separate regions the mask of each lesion has; 0 = untold, 1 = all, 2 = also of large ones
    counts: int = 2
    # with masks: and how far the regions of each lesion reach and how near the fovea they come; needs a disc mask
    extents: bool = True
    width: int = 0  # m, width of memory and adapters; 0 = min(language width, 1024)
    gate_lr: float = 1e-2  # learning rate of the tanh gates, no weight decay
    gate_init: float = 0.5  # what the gates start at, before tanh; 0 with zero_output: false is Flamingo's start
    zero_output: bool = True  # the adapters' last layers start at 0, so that step 0 is the pretrained language model
    film: FilmConfig = field(default_factory=FilmConfig)

    @property
    def adapts(self) -> bool:
        """Whether there are adapters."""
        return bool(self.depths) and self.kind == "cross_attention"

    @property
    def depth_tokens(self) -> int:
        """Image tokens that the skips take, beside the encoder's."""
        return len(self.depths) * self.token_side**2 if self.kind == "tokens" else 0

    @property
    def unet_step(self) -> int:
        """What the U-Net's side has to be divisible by: 16 times the patches a side, or its own halvings."""
        side = {"cross_attention": self.grid, "tokens": self.token_side}.get(self.kind, 2)
        return 16 * side if self.depths else 32


@dataclass(frozen=True)
class LanguageConfig:
    model: str = "smollm2-135m"  # local directory, hub id or bundled name
    revision: str | None = None  # of a hub id
    prefix_side: int = 4  # the encoder's patch grid is pooled to at most side x side prefix tokens
    # pixels, side of the photograph for a vision tower of the language model's own; one tile up to the tile's side (560
    # in Llama 3.2 Vision), else four. 0 = a text model, which has none
    image_size: int = 0
    lora_rank: int = 16  # higher fits more and costs memory
    lora_alpha: float = 32.0  # LoRA scale is alpha / rank
    lora_dropout: float = 0.0  # probability
    # projections of the decoder layers, in every block (q_proj) or in one (self_attn.q_proj, cross_attn.q_proj)
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    # auto | sdpa | eager: the language model's own attention; auto is eager on a processor in bf16, else sdpa
    attention: str = "auto"
    gradient_checkpointing: bool = False  # true: less memory, about 30 % more time
    # none | nf4 | int8: bits of its frozen weights while LoRA trains (bitsandbytes); nf4 is QLoRA's 4-bit NormalFloat
    # with double quantisation. Embeddings, output head, projectors and vision towers keep the run's precision
    quantize: str = "none"


@dataclass(frozen=True)
class DialogueConfig:
    # folder of prompt files; null = those of run.start_from where all of it is taken, else the ones that come with mdf
    prompts: str | None = None
    # weight of each kind of question when a conversation is put together; beside these there are eye, size, distance,
    # find, grade, severity, explain, differential, refer, follow_up, unknown and unrecorded (docs/data.md)
    questions: dict[str, float] = field(
        default_factory=lambda: {"diagnosis": 1.0, "presence": 2.0, "quadrant": 1.0, "count": 1.0, "report": 0.5}
    )
    phrasings: str = "few"  # first | few | all: how questions are worded, from the lists in questions.yaml
    turns: int = 6  # question-answer turns a conversation in training, at most
    apart: float = 0.5  # share of photographs whose questions do not see each other, as if each were the first
    diagnosis_first: float = 0.5  # probability that the diagnosis is asked before anything else
    max_length: int = 512  # tokens; a longer conversation loses whole turns, never image tokens

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of questions that are asked, each with a weight above 0."""
        return tuple(kind for kind, weight in self.questions.items() if weight > 0)


@dataclass(frozen=True)
class CaptionsConfig:
    # weight of each kind of caption that a photograph draws from in the contrastive losses: labels, descriptions, text,
    # sentences (docs/data.md); a kind that its record cannot serve is left out of the draw. {} = {labels: 1}
    sources: dict[str, float] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, float]:
        """The kinds that are drawn, each with a weight above 0."""
        return {kind: weight for kind, weight in (self.sources or {"labels": 1.0}).items() if weight > 0}


@dataclass(frozen=True)
class PartConfig:
    mode: str = "frozen"  # frozen | lora (language only) | full
    lr: float = 1e-4  # peak learning rate
    warmup: float | None = None  # share of the steps with rising learning rate; null = the stage's
    weight_decay: float | None = None  # AdamW; none on norms, gates, biases, embeddings; null = the stage's


@dataclass(frozen=True)
class PartsConfig:
    encoder: PartConfig = field(default_factory=PartConfig)
    unet: PartConfig = field(default_factory=PartConfig)
    fusion: PartConfig = field(default_factory=PartConfig)
    language: PartConfig = field(default_factory=PartConfig)


@dataclass(frozen=True)
class StageConfig:
    parts: PartsConfig = field(default_factory=PartsConfig)
    # weights of mask, text, grounding, and of what compares photographs with captions: contrastive (CLIP), label_aware
    # (FLAIR, equal diagnoses), label_overlap (shared ones), sigmoid (SigLIP), patient (RET-CLIP: left, right, both)
    losses: dict[str, float] = field(default_factory=dict)
    epochs: float = 1.0  # passes over the training photographs; ignored where steps > 0
    steps: int = 0  # optimiser steps; 0 = from epochs
    batch_size: int = 8  # photographs a process and micro-batch
    accumulation: int = 1  # micro-batches an optimiser step
    # photographs, one after the other in the order of the stage, that are sorted by the length of their conversations,
    # which saves padding where losses: {text: …}; 0 = not sorted, 64 for long and unequal ones
    bucket: int = 0
    # of a micro-batch, photographs whose activations the encoder holds at once for a contrastive loss, which compares
    # the whole of it (GradCache: the same gradient, less memory, each forward computed twice); 0 = all
    chunk: int = 0
    # adamw | adamw_8bit | paged_adamw_8bit: the two moments of large tensors in 8 bits (bitsandbytes), a quarter of the
    # memory; paged ones move to the host's memory where the GPU's is short
    optimizer: str = "adamw"
    warmup: float = 0.05  # share of the steps with rising learning rate
    schedule: str = "cosine"  # cosine | constant: of the learning rate after that, to zero or as it is
    weight_decay: float = 0.01  # AdamW; none on norms, gates, biases, embeddings
    beta2: float = 0.99  # AdamW's second moment decay
    max_grad_norm: float = 1.0  # L2 norm that gradients are clipped to; 0 = no clipping
    augment: bool = True  # the settings of `augment` on training photographs
    # GB of memory a process at the most for what a frozen encoder and U-Net make of photographs, computed once a stage
    # where losses: {text: …} and augment: false; 0 = computed anew in every epoch, -1 = 2 on a processor, 0 on a GPU
    features_gb: float = -1.0
    balance: bool = (
        False  # true: every diagnosis is drawn equally often; with losses.patient that of both eyes together
    )
    eval_every: int = 0  # optimiser steps between validations; 0 = four a stage
    eval_photographs: int = 64  # validation photographs used while training
    # auto | loss | dice | zero_shot: what best/ is chosen by on them, a tie keeps the earlier. auto is dice where only
    # masks train; zero_shot (balanced accuracy of the nearest class texts) where only photographs with diagnoses are
    # aligned with captions, since on few photographs the loss turns long before that does; else the loss
    best: str = "auto"
    patience: int = 0  # validations in a row that are no better than the best, after which the stage ends; 0 = never
    stop_on_collapse: bool = False  # true: when embeddings fall together the run stops (exit code 1); false: it says so
    ema: float = 0.0  # decay a step of averaged weights, which are validated and saved; 0 = none, 0.999 for long stages
    samples: int = 2  # validation photographs whose generated answers are written to samples/
    data: DataConfig | None = None  # null = the run's data


@dataclass(frozen=True)
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    dialogue: DialogueConfig = field(default_factory=DialogueConfig)
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    segment: StageConfig = field(default_factory=StageConfig)
    align: StageConfig = field(default_factory=StageConfig)
    fuse: StageConfig = field(default_factory=StageConfig)


if TYPE_CHECKING:
    from mdf.checking import check  # noqa: F401
    from mdf.loading import load_config, save_config, to_yaml  # noqa: F401


def __getattr__(name: str) -> Any:
    """`load_config`, `save_config`, `to_yaml` and `check`, which themselves need the classes above."""
    if name in ("load_config", "save_config", "to_yaml"):
        return getattr(import_module("mdf.loading"), name)
    if name == "check":
        return import_module("mdf.checking").check
    raise AttributeError(f"module 'mdf.config' has no attribute {name!r}")
