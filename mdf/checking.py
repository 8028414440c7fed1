"""What a configuration has to satisfy: ranges of single settings, and settings that contradict each other."""

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from mdf.config import Config, DataConfig, EncoderConfig, StageConfig
from mdf.errors import ConfigError

STAGES = ("segment", "align", "fuse")
PARTS = ("encoder", "unet", "fusion", "language")
QUESTIONS = (
    "diagnosis", "presence", "quadrant", "count", "report", "eye", "size", "distance",
    "find", "grade", "severity", "explain", "differential", "refer", "follow_up", "unknown", "unrecorded",
)  # fmt: skip
CAPTIONS = ("labels", "descriptions", "text", "sentences")
DRAWN = {"descriptions", "sentences"}  # of these: a photograph has several
# parts that the gradient of each loss reaches
LOSSES = {
    "mask": ("unet",),
    "contrastive": ("encoder",),
    "label_aware": ("encoder",),
    "label_overlap": ("encoder",),
    "sigmoid": ("encoder",),
    "patient": ("encoder",),
    "text": ("fusion", "language", "unet", "encoder"),
    "grounding": ("fusion", "language", "unet", "encoder"),
}
BEST = ("auto", "loss", "dice", "zero_shot")
CONTRASTS = ("contrastive", "label_aware", "label_overlap", "sigmoid", "patient")  # compare photographs with texts
EXAMPLES = {"segment": "mask", "align": "contrastive", "fuse": "text"}  # the loss that a message proposes

CHOICES = {
    "run.precision": ("auto", "fp32", "bf16"),
    "fusion.kind": ("cross_attention", "concat", "tokens", "film"),
    "fusion.film.condition": ("none", "image", "prompt", "image+prompt"),
    "encoder.resize": ("field", "squash", "pad"),
    "language.attention": ("auto", "sdpa", "eager"),
    "language.quantize": ("none", "nf4", "int8"),
    "dialogue.phrasings": ("first", "few", "all"),
}
SCHEDULES = ("cosine", "constant")
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
DATASETS = (  # published ones: mdf/datasets/NAME.py has read(root) and GUIDE
    "acrima", "aptos2019", "brset", "chase_db1", "csdi", "deepdrid", "deepeyenet", "dicom", "drive", "eyepacs", "fives",
    "hei_med", "hrf", "idrid", "jsiec", "les_av", "mbrset", "messidor2", "mm_retinal", "mmac", "odir5k", "papila",
    "refuge", "rfmid", "stare", "stonerounds",
)  # fmt: skip
OWN_WORDS = ("stonerounds",)  # of these: the diagnoses are the user's strings, read(root, aliases)
DATA_NAMES = ("phantom", *DATASETS, "flair", "folder", "huggingface", "table", "manifest", "shards")
TABLES = ("table", "flair")  # read a table, or a folder of them, beside the photographs

# intervals in the usual notation: [ and ] belong to it, ( and ) do not
RANGES = {
    "run.seed": "[0, 4294967295]",
    "run.threads": "[0, inf)",
    "run.log_every": "[1, inf)",
    "run.keep_last_every": "[1, inf)",
    "run.keep": "[0, inf)",
    "run.peak_tflops": "[0, inf)",
    "run.spike": "[0, inf)",
    "run.gpu_gb": "[0, inf)",
    "augment.rotate": "[0, 180]",
    "augment.scale": "[0, 1)",
    "augment.shift": "[0, 1)",
    "augment.brightness": "[0, 1)",
    "augment.contrast": "[0, 1)",
    "augment.gamma": "[0, 3]",
    "augment.colour": "[0, 1)",
    "augment.flip": "[0, 1]",
    "encoder.size": "[0, inf)",
    "encoder.image_lr_scale": "(0, 1]",
    "encoder.context_length": "[0, inf)",
    "encoder.image_locked": "[-1, inf)",
    "encoder.text_locked": "[-1, inf)",
    "encoder.image_lora": "[0, inf)",
    "encoder.text_lora": "[0, inf)",
    "encoder.lora_alpha": "[0, inf)",
    "encoder.layer_decay": "(0, 1]",
    "unet.size": "[32, inf)",
    "unet.encoder_lr_scale": "(0, 1]",
    "fusion.adapters": "[1, inf)",
    "fusion.grid": "[1, inf)",
    "fusion.token_side": "[1, inf)",
    "fusion.counts": "[0, 2]",
    "fusion.width": "[0, inf)",
    "fusion.gate_init": "[0, inf)",
    "fusion.gate_lr": "(0, 1]",
    "fusion.film.hidden": "[1, inf)",
    "language.prefix_side": "[1, inf)",
    "language.image_size": "[0, inf)",
    "language.lora_rank": "[1, inf)",
    "language.lora_alpha": "(0, inf)",
    "language.lora_dropout": "[0, 1)",
    "dialogue.turns": "[1, inf)",
    "dialogue.diagnosis_first": "[0, 1]",
    "dialogue.apart": "[0, 1]",
    "dialogue.max_length": "[1, inf)",
}
DATA_RANGES = {
    "val": "[0, 1)",
    "test": "[0, 1)",
    "limit": "[0, inf)",
    "count": "[1, inf)",
    "size": "[96, inf)",
    "cache_gb": "[0, inf)",
}
STAGE_RANGES = {
    "epochs": "[0, inf)",
    "steps": "[0, inf)",
    "batch_size": "[1, inf)",
    "accumulation": "[1, inf)",
    "chunk": "[0, inf)",
    "bucket": "[0, inf)",
    "features_gb": "[-1, inf)",
    "warmup": "[0, 1)",
    "weight_decay": "[0, inf)",
    "beta2": "(0, 1)",
    "max_grad_norm": "[0, inf)",
    "eval_every": "[0, inf)",
    "eval_photographs": "[1, inf)",
    "patience": "[0, inf)",
    "ema": "[0, 1)",
    "samples": "[0, inf)",
}
PART_RANGES = {"lr": "(0, 1]", "warmup": "[0, 1)", "weight_decay": "[0, inf)"}
STAGE_RANGES |= {f"parts.{part}.{key}": interval for part in PARTS for key, interval in PART_RANGES.items()}


def check(cfg: Config) -> None:
    """Raises ConfigError with everything that is out of range or contradicts itself, a line each with the full key."""
    if found := problems(cfg):
        raise ConfigError("settings are wrong:\n" + "\n".join(f"  {p}" for p in found))


def problems(cfg: Config) -> list[str]:
    """One line for each thing that is wrong."""
    found = [*outside(cfg, RANGES, ""), *check_run(cfg), *check_data(cfg.data, "data")]
    found += [*check_encoder(cfg.encoder), *check_model(cfg), *check_questions(cfg), *check_captions(cfg)]
    for name in STAGES:
        stage: StageConfig = getattr(cfg, name)
        found += outside(stage, STAGE_RANGES, f"{name}.")
        if stage.data is not None:
            found += check_data(stage.data, f"{name}.data")
        found += check_modes(stage, name)
        if name in cfg.run.stages:
            found += check_stage(cfg, stage, name)
    return found


def outside(section: Any, ranges: dict[str, str], prefix: str) -> Iterator[str]:
    """A line for each number outside its interval."""
    for path, interval in ranges.items():
        value = attrgetter(path)(section)
        if value is None:
            continue
        low, high = (float(end) for end in interval[1:-1].split(", "))
        above = value > low or (interval[0] == "[" and value == low)
        below = value < high or (interval[-1] == "]" and value == high)
        if above and below:  # not so for nan
            continue
        if not interval.endswith("inf)"):
            yield f"{prefix}{path}: {value} is outside {interval}"
        else:
            bound = "at least" if interval[0] == "[" else "above"
            yield f"{prefix}{path}: {value} must be a number {bound} {low:g}"


def check_run(cfg: Config) -> Iterator[str]:
    name = cfg.run.name
    if not name.strip() or name in (".", "..") or "/" in name or "\\" in name:
        yield f"run.name: {name!r} must be one folder name, without / or \\; run.dir holds the folder above"
    if not cfg.run.stages:
        yield f"run.stages: empty; list one or more of {', '.join(STAGES)}"
    for stage in cfg.run.stages:
        if stage not in STAGES:
            yield f"run.stages: {stage!r} is no stage; must be of {', '.join(STAGES)}"
    if len(set(cfg.run.stages)) < len(cfg.run.stages):
        yield "run.stages: a stage is listed twice"
    if cfg.run.start_parts and not cfg.run.start_from:
        yield "run.start_parts: given, but run.start_from names no checkpoint to take them from"
    for part in cfg.run.start_parts:
        if part not in PARTS[:3]:
            yield f"run.start_parts: {part!r} must be of {', '.join(PARTS[:3])}; a language model comes with the whole"
    for tracker in cfg.run.trackers:
        if tracker not in TRACKERS:
            yield f"run.trackers: {tracker!r} must be of {', '.join(TRACKERS)}"
    if len(set(cfg.run.trackers)) < len(cfg.run.trackers):
        yield "run.trackers: a tracker is listed twice"
    for path, choices in CHOICES.items():
        if attrgetter(path)(cfg) not in choices:
            yield f"{path}: {attrgetter(path)(cfg)!r} must be one of {', '.join(choices)}"


def check_data(data: DataConfig, path: str) -> Iterator[str]:
    yield from outside(data, DATA_RANGES, f"{path}.")
    if data.name not in DATA_NAMES:
        yield f"{path}.name: {data.name!r} must be one of {', '.join(DATA_NAMES)}"
    if data.name in ("flair", "folder", "huggingface", "table", *DATASETS) and not data.root:
        yield f"{path}.root: missing; name: {data.name} needs the folder of the photographs, {path}.root=DIR"
    for kind, names, what in (
        ("table", TABLES, "a CSV, TSV, JSONL or Parquet file"),
        ("manifest", ("manifest",), "a JSONL file"),
    ):
        value = getattr(data, kind)
        if data.name in names and not value:
            yield f"{path}.{kind}: missing; name: {data.name} needs {what}, {path}.{kind}=FILE"
        if data.name not in names and value:
            yield f"{path}.{kind}: given, but {path}.name is {data.name}; write {path}.name={kind} or leave it out"
    if data.columns and data.name not in ("table", "huggingface"):
        yield f"{path}.columns: given, but {path}.name is {data.name}; only table and huggingface read columns"
    if data.encoding != "utf-8" and data.name != "table":
        yield f"{path}.encoding: given, but {path}.name is {data.name}; only name: table reads it"
    if not known_encoding(data.encoding):
        yield f"{path}.encoding: {data.encoding!r} is none that Python knows; take utf-8, cp1252, gb18030, utf-16, …"
    if data.name == "shards":
        for key, why in (("weights", "their order is fixed"), ("cache_gb", "see --preprocess of prepare.py shards")):
            if getattr(data, key):
                yield f"{path}.{key}: given, but {path}.name is shards, which have no use for it: {why}"
        if data.missing == "skip":
            yield f"{path}.missing: skip, but {path}.name is shards, in which no single photograph can vanish"
    if data.missing not in ("stop", "skip"):
        yield f"{path}.missing: {data.missing!r} must be one of stop, skip"
    for source, weight in data.weights.items():
        if not 0 <= weight < float("inf"):
            yield f"{path}.weights.{source}: weight {weight} must be 0 or more"
    if data.weights and not any(weight > 0 for weight in data.weights.values()):
        yield f"{path}.weights: no source has a weight above 0"
    if data.val + data.test >= 1:
        yield f"{path}.val + {path}.test: {data.val + data.test:g} leaves nothing to train on; must be below 1"


def known_encoding(name: str) -> bool:
    try:
        return isinstance("".encode(name), bytes)  # hex, zip and the like are known, but are no text encodings
    except (LookupError, UnicodeError):
        return False


def check_encoder(encoder: EncoderConfig) -> Iterator[str]:
    if encoder.init_logit_scale is not None and not 0 < encoder.init_logit_scale <= 100:
        yield f"encoder.init_logit_scale: {encoder.init_logit_scale} is outside (0, 100]"
    if encoder.init_logit_bias is not None and not -100 <= encoder.init_logit_bias <= 100:
        yield f"encoder.init_logit_bias: {encoder.init_logit_bias} is outside [-100, 100]"
    if encoder.weights == "timm" and not encoder.image:
        yield "encoder.weights: timm's own weights are for encoder.image; name a timm model there"
    if encoder.lora_alpha and not (encoder.image_lora or encoder.text_lora):
        yield "encoder.lora_alpha: given, but encoder.image_lora and encoder.text_lora are 0"
    for tower in ("image", "text"):
        if getattr(encoder, f"{tower}_locked") < 0 and getattr(encoder, f"{tower}_lora"):
            yield f"encoder.{tower}_lora: its tower is locked whole; set encoder.{tower}_locked=0"


def check_model(cfg: Config) -> Iterator[str]:
    fusion, unet = cfg.fusion, cfg.unet
    for part, name in (("encoder", "mean"), ("encoder", "std"), ("unet", "mean"), ("unet", "std")):
        values = getattr(getattr(cfg, part), name)
        if values and (len(values) != 3 or (name == "std" and min(values) <= 0)):
            positive = " above 0" if name == "std" else ""
            yield f"{part}.{name}: {list(values)} must be three numbers{positive}, for RGB in 0..1"
    if any(d not in (1, 2, 3, 4) for d in fusion.depths):
        yield f"fusion.depths: {list(fusion.depths)} must be of 1, 2, 3, 4 (strides 2, 4, 8, 16)"
    if len(set(fusion.depths)) < len(fusion.depths):
        yield "fusion.depths: a depth is listed twice"
    if any(k < 0 for k in fusion.layers) or len(set(fusion.layers)) < len(fusion.layers):
        yield f"fusion.layers: {list(fusion.layers)} must be different language layers, counted from 0"
    yield from check_kind(cfg)
    step = fusion.unet_step
    if step > 0 and unet.size % step:
        sides = {"cross_attention": "grid", "tokens": "token_side"}
        why = f"16 * fusion.{sides[fusion.kind]} = {step}" if fusion.depths and fusion.kind in sides else "32"
        near = max(1, round(unet.size / step)) * step
        yield f"unet.size: {unet.size} is not divisible by {why}; the nearest that is: {near}"
    if len(unet.decoder_channels) != 5 or any(c < 1 for c in unet.decoder_channels):
        yield f"unet.decoder_channels: {list(unet.decoder_channels)} must be five positive widths"
    if len(set(unet.masks)) < len(unet.masks):
        yield "unet.masks: a mask is listed twice"
    if not cfg.language.lora_targets and any(getattr(cfg, s).parts.language.mode == "lora" for s in STAGES):
        yield "language.lora_targets: empty, but the language part trains with mode: lora"


def check_kind(cfg: Config) -> Iterator[str]:
    """What a kind of fusion and the start of its adapters need."""
    fusion = cfg.fusion
    if fusion.kind != "cross_attention" and not fusion.depths:
        yield f"fusion.kind: {fusion.kind}, but fusion.depths is empty, so there are no skips; the baseline has no kind"
    if fusion.kind != "cross_attention" and cfg.language.image_size:
        yield (
            f"fusion.kind: {fusion.kind} goes into the encoder's image tokens, and a language model that has a vision "
            "tower of its own (language.image_size above 0) reads none of them; set fusion.kind=cross_attention"
        )
    if fusion.kind == "film" and "prompt" not in fusion.film.condition:
        yield (
            f"fusion.film.condition: {fusion.film.condition!r}, but fusion.kind is film, by which the prompt scales "
            "the skips; must be prompt or image+prompt"
        )
    if fusion.gate_init == 0 and fusion.zero_output:
        yield (
            "fusion.gate_init: 0 in front of weights that are 0, too, has no gradient; "
            "set fusion.zero_output=false, or a gate above 0"
        )


def check_questions(cfg: Config) -> Iterator[str]:
    questions = cfg.dialogue.questions
    for kind, weight in questions.items():
        if kind not in QUESTIONS:
            yield f"dialogue.questions.{kind}: no such question; must be of {', '.join(QUESTIONS)}"
        if not 0 <= weight < float("inf"):
            yield f"dialogue.questions.{kind}: weight {weight} must be 0 or more"
    if not any(weight > 0 for weight in questions.values()):
        yield "dialogue.questions: no question has a weight above 0"
    if cfg.dialogue.apart > 0 and cfg.fusion.depths and "prompt" in cfg.fusion.film.condition:
        yield (
            "dialogue.apart: questions that do not see each other cannot share a FiLM condition that reads the prompt; "
            "set dialogue.apart=0 or fusion.film.condition=image"
        )


def check_captions(cfg: Config) -> Iterator[str]:
    sources = cfg.captions.sources
    for kind, weight in sources.items():
        if kind not in CAPTIONS:
            yield f"captions.sources.{kind}: no such caption; must be of {', '.join(CAPTIONS)}"
        if not 0 <= weight < float("inf"):
            yield f"captions.sources.{kind}: weight {weight} must be 0 or more"
    if not cfg.captions.weights:
        yield "captions.sources: no caption has a weight above 0"


def check_modes(stage: StageConfig, name: str) -> Iterator[str]:
    for part in PARTS:
        mode = getattr(stage.parts, part).mode
        if mode not in ("frozen", "lora", "full"):
            yield f"{name}.parts.{part}.mode: {mode!r} must be one of frozen, lora, full"
        elif mode == "lora" and part != "language":
            yield f"{name}.parts.{part}.mode: lora is for the language part only; must be frozen or full"
    for loss, weight in stage.losses.items():
        if loss not in LOSSES:
            yield f"{name}.losses.{loss}: no such loss; must be of {', '.join(LOSSES)}"
        if not 0 <= weight < float("inf"):
            yield f"{name}.losses.{loss}: weight {weight} must be 0 or more"
        if loss == "text" and name != "fuse":
            yield f"{name}.losses.text: only the stage fuse has conversations; remove it with {name}.losses.text=null"


def check_grounding(cfg: Config, losses: list[str], name: str) -> Iterator[str]:
    """What the attention needs to be supervised."""
    remove = f"remove it with {name}.losses.grounding=null"
    if not cfg.fusion.adapts:
        why = f"fusion.kind is {cfg.fusion.kind}" if cfg.fusion.depths else "fusion.depths is empty"
        yield f"{name}.losses.grounding: {why}, so there are no adapters to ground; {remove}"
    if "text" not in losses:
        yield f"{name}.losses.grounding: needs the loss text beside it, whose answers it grounds; {remove}"
    if not cfg.unet.masks:
        yield f"{name}.losses.grounding: unet.masks is empty, so no lesion has a place; {remove}"


def check_best(stage: StageConfig, losses: list[str], name: str) -> Iterator[str]:
    """What can be told of a stage while it trains."""
    aligns = set(CONTRASTS) & set(losses)
    if stage.best not in BEST:
        yield f"{name}.best: {stage.best!r} must be one of {', '.join(BEST)}"
    if stage.best == "dice" and "mask" not in losses:
        yield f"{name}.best: dice, but {name} has no loss mask; must be loss, or auto"
    if stage.best == "zero_shot" and not aligns:
        yield f"{name}.best: zero_shot, but {name} has no loss that aligns photographs with captions; must be auto"
    if stage.stop_on_collapse and not aligns:
        yield f"{name}.stop_on_collapse: true, but {name} has no loss that aligns photographs with captions; set false"


def check_contrasts(cfg: Config, stage: StageConfig, losses: list[str], name: str) -> Iterator[str]:
    """What sigmoid and patient need beside them."""
    encoder = cfg.encoder
    # an architecture may bring a bias along
    own = "siglip" in f"{encoder.model} {encoder.weights}".lower() or encoder.model.endswith(".json")
    if "sigmoid" in losses and encoder.init_logit_bias is None and not own:
        yield (
            f"{name}.losses.sigmoid: {encoder.model} has no logit bias to learn; set encoder.init_logit_bias=-10 and "
            "encoder.init_logit_scale=10, where SigLIP starts"
        )
    if "patient" not in losses:
        return
    if stage.batch_size % 2:
        yield (
            f"{name}.batch_size: {stage.batch_size} is odd, but the loss patient has both eyes of a patient in one "
            f"micro-batch, side by side; {name}.batch_size={stage.batch_size + 1}"
        )
    if stage.augment and cfg.augment.flip > 0:
        yield (
            f"augment.flip: {cfg.augment.flip} would flip one eye of a patient and not the other, so that the loss "
            f"patient had two eyes of one side; set augment.flip=0 or {name}.augment=false"
        )
    if (stage.data or cfg.data).name == "shards":
        yield (
            f"{name}.losses.patient: given, but its data.name is shards, whose order is fixed; to lay the eyes of a "
            "patient side by side needs single files"
        )


def check_stage(cfg: Config, stage: StageConfig, name: str) -> Iterator[str]:
    """Contradictions of a stage that is run."""
    if stage.schedule not in SCHEDULES:
        yield f"{name}.schedule: {stage.schedule!r} must be one of {', '.join(SCHEDULES)}"
    if stage.optimizer not in OPTIMIZERS:
        yield f"{name}.optimizer: {stage.optimizer!r} must be one of {', '.join(OPTIMIZERS)}"
    if stage.steps == 0 and stage.epochs == 0:
        yield f"{name}.steps: 0, and {name}.epochs is 0 too; one of them must be above 0"
    if stage.balance and (stage.data or cfg.data).name == "shards":
        yield f"{name}.balance: true, but its data.name is shards, whose order is fixed; balance needs single files"
    if stage.parts.language.mode == "full" and cfg.language.quantize != "none":
        yield (
            f"{name}.parts.language.mode: full, but language.quantize is {cfg.language.quantize}, and weights of "
            "so few bits cannot train; set it to lora, which trains over them, or language.quantize=none"
        )
    losses = [loss for loss, weight in stage.losses.items() if weight > 0]
    if not losses:
        yield f"{name}.losses: empty, but run.stages lists {name}; for example {name}.losses.{EXAMPLES[name]}=1"
    if "mask" in losses and not cfg.unet.masks:
        yield f"{name}.losses.mask: unet.masks is empty, so there is no mask to learn; for example unet.masks=[vessel]"
    if "grounding" in losses:
        yield from check_grounding(cfg, losses, name)
    if stage.chunk and (not set(CONTRASTS) & set(losses) or "text" in losses):
        yield (
            f"{name}.chunk: {stage.chunk}, but only a stage with one of the losses {', '.join(CONTRASTS)} and "
            f"without text can compute a batch in chunks; set {name}.chunk=0, and more {name}.accumulation where "
            "memory is short"
        )
    if stage.bucket and not {"text"} <= set(losses) <= {"text", "grounding"}:
        yield (
            f"{name}.bucket: {stage.bucket}, but only a stage whose losses are text, or text and grounding, sorts its "
            f"photographs by the length of what is said of them; set {name}.bucket=0"
        )
    if stage.bucket and (stage.data or cfg.data).name == "shards":
        yield f"{name}.bucket: {stage.bucket}, but its data.name is shards, whose order is fixed; set {name}.bucket=0"
    drawn = set(cfg.captions.weights)
    if not stage.augment and set(CONTRASTS) & set(losses) and (len(drawn) > 1 or drawn & DRAWN):
        yield (
            f"{name}.augment: false gives a photograph one caption for all epochs, but captions.sources draws among "
            f"{', '.join(cfg.captions.weights)}; set {name}.augment=true, or captions.sources to labels or text alone"
        )
    yield from check_contrasts(cfg, stage, losses, name)
    yield from check_best(stage, losses, name)
    trained = [part for part in PARTS if getattr(stage.parts, part).mode != "frozen"]
    if not trained:
        part = LOSSES[EXAMPLES[name]][0]
        yield f"{name}.parts: all are frozen, but run.stages lists {name}; for example {name}.parts.{part}.mode=full"
    reached = {part for loss in losses for part in LOSSES.get(loss, ())}
    for part in trained if losses else ():
        if part not in reached:
            yield f"{name}.parts.{part}: trains, but none of the losses {', '.join(losses)} reaches it; must be frozen"
