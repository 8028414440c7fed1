"""The model card of an export, written from the run's own files; what they do not tell is "not measured".

No path of this machine and no patient or photograph id gets into it. Groups of fewer than SMALLEST photographs are
neither counted nor broken down, since a rare combination can name a person; the table of the splits says how many there
are of each.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mdf import __version__
from mdf.errors import UserError
from mdf.evaluation.bootstrap import patient_groups, put, resample, weighted_mean
from mdf.evaluation.compare import cell, flatten, read_metrics, shown
from mdf.files import read_json, read_lines
from mdf.inference.export import Check, Origin
from mdf.inference.gate import BANNER
from mdf.models.checkpoint import BASE
from mdf.models.fusion import PARTS
from mdf.models.unet_weights import encoder_name
from mdf.records import SPLITS, FundusRecord, read_line, read_meta
from mdf.vocabulary import display

SMALLEST = 10  # photographs of a group that is shown
AGES = (40, 60, 75)  # years at which a new band begins
GROUPS = ("eye", "sex", "age", "camera", "source")
NOT_MEASURED, NOT_RECORDED = "not measured", "not recorded"


@dataclass(frozen=True)
class Run:
    """What a run's folder and an evaluation's tell; whatever is not there is empty."""

    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, tuple[list[FundusRecord], dict[str, Any]]] = field(default_factory=dict)  # name -> records, meta
    trained: str = ""  # trainable.txt
    steps: dict[str, int] = field(default_factory=dict)  # stage -> steps done
    metrics: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, dict[str, Any]] = field(default_factory=dict)  # photograph's id -> its line


def read_run(run: Path | None, evaluation: Path | None, checkpoint: Path) -> Run:
    """Read what is there of a run's folder and of an evaluation.

    Raises UserError for a damaged file, and for an evaluation that is older than the checkpoint: it is of another one.
    """
    if run is None or not run.is_dir():
        config, environment, data, trained, steps = {}, {}, {}, "", {}
    else:
        config = read_yaml(run / "config.yaml")
        environment = read_json(run / "environment.json") if (run / "environment.json").is_file() else {}
        data = {f.stem: (read_records(f), read_meta(f)) for f in sorted(run.glob("data*.jsonl"))}
        table = run / "trainable.txt"
        trained = table.read_text(encoding="utf-8") if table.is_file() else ""
        steps = read_steps(run / "metrics.jsonl")
    metrics: dict[str, Any] = {}
    predictions = {}
    if evaluation is not None:
        metrics = read_metrics(evaluation)
        files = (evaluation, evaluation / "metrics.json", evaluation / "evaluation" / "metrics.json")
        file = next(f for f in files if f.is_file())
        if file.stat().st_mtime < (checkpoint / "model.safetensors").stat().st_mtime:
            raise UserError(
                f"{file} is older than the checkpoint, so it measured another one; evaluate again, or export with "
                "--no-evaluation"
            )
        lines = file.with_name("predictions.jsonl")
        if lines.is_file():
            try:
                predictions = {line["id"]: line for line in read_lines(lines)}
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{lines} is damaged ({error!r}); evaluate again") from None
    return Run(config, environment, data, trained, steps, metrics, predictions)


def read_yaml(path: Path) -> dict[str, Any]:
    """The object of a YAML file, empty where there is none."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())})") from None


def read_records(path: Path) -> list[FundusRecord]:
    """Records of a manifest, whose photographs need not be there any more."""
    return [read_line(line, None) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def read_steps(path: Path) -> dict[str, int]:
    """The last step of each stage in metrics.jsonl."""
    steps: dict[str, int] = {}
    for text in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:  # a crash left it half written
            break
        steps[line["stage"]] = line["step"]
    return steps


def card(model: Any, origin: Origin, check: Check, run: Run, notes: str = "") -> str:
    """The card as Markdown.

    Args:
        model: the export, loaded.
        origin, check: of its language model.
        run: what is known of the run.
        notes: the user's own words, put in as they are.
    """
    parts = [
        front(origin),
        "# " + (run.config.get("run", {}).get("name") or "mdf model"),
        f"> {BANNER}",
        "Research software. What it writes are drafts for a clinician's review.",
        architecture(model, origin, check),
        section("Data", data(run)),
        section("Preprocessing", preprocessing(model)),
        section("Training", training(run)),
        section("Metrics", metrics(run)),
        section("Subgroups", subgroups(run)),
        section("Intended use", INTENDED),
        section("Limits", limits(model, run)),
        section("How to load", loading(model)),
    ]
    if notes:
        parts.append(section("Notes", notes.strip()))
    return "\n\n".join(parts) + "\n"


def section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)


def front(origin: Origin) -> str:
    """The block that model hubs read. The licence is the user's to state: base, data and code each have their own."""
    values = {"library_name": "mdf", "tags": ["ophthalmology", "fundus-photography", "research-only"]}
    base = {"base_model": origin.name} if "/" in origin.name else {}
    return f"---\n{yaml.safe_dump({**values, **base}, sort_keys=False)}---"


def architecture(model: Any, origin: Origin, check: Check) -> str:
    """What the model is made of."""
    encoder, unet, fusion, _ = model.config.sections()
    count = {part: f"{sum(t.numel() for t in getattr(model, part).parameters()):,}" for part in PARTS}
    route = f"read by adapters before the language layers {', '.join(map(str, model.fusion.layers))}"
    if not fusion.adapts:
        route = {"tokens": "as image tokens of their own"}.get(fusion.kind, "beside the image tokens, on channels")
    adapters = (
        f"skips at strides {', '.join(str(2**d) for d in fusion.depths)} {route}"
        if fusion.depths
        else "no adapters (baseline): the photograph is a prefix alone"
    )
    kind = "gated cross-attention" if fusion.adapts else f"prefix ({fusion.kind})"
    what = f"FiLM and {kind}" if fusion.depths else "prefix"
    masks = f"masks {', '.join(unet.masks)}" + (
        "; STALE, its encoder trained on after them" if model.config.stale_masks else ""
    )
    base = f"{origin.name}" + (f", revision {origin.revision}" if origin.revision else "")
    base += f", fingerprint {origin.fingerprint}" if origin.fingerprint else ", its own weights trained"
    merged = f", LoRA of rank {origin.lora} merged" if origin.lora else ""
    side = model.processor.preprocessing.encoder_size
    rows = [
        ("encoder", encoder.image or encoder.model, count["encoder"], f"{side} px"),
        ("U-Net", encoder_name(unet), count["unet"], f"{unet.size} px, {masks}"),
        ("fusion", what, count["fusion"], adapters),
        ("language", base, count["language"], f"{origin.dtype}{merged}"),
    ]
    made = f"Exported by mdf {__version__}. Beside the checkpoint, on phantom photographs: {check}."
    return table(("part", "what", "parameters", "notes"), rows) + f"\n\n{made}"


def data(run: Run) -> str:
    """Counts by split, sets, licences; whether a patient is in two splits."""
    if not run.data:
        return f"Data of the training: {NOT_RECORDED}."
    texts = []
    for name, (records, meta) in run.data.items():
        rows = []
        for split in SPLITS:
            mine = [r for r in records if r.split == split]
            patients = {(r.source, r.patient) for r in mine if r.patient}
            rows.append((split, len(mine), len(patients), sum(not r.patient for r in mine)))
        of = f"`{name}`: {meta.get('dataset') or NOT_RECORDED}"
        of += f", release {meta['release']}" if meta.get("release") else ""
        lines = [
            f"{of}; SHA-256 of the manifest {meta.get('sha256') or NOT_RECORDED}.",
            table(("split", "photographs", "patients", "photographs without a patient's id"), rows),
            shared_patients(records),
            "Sources: " + counted(r.source for r in records) + ".",
            "Licences: " + counted(r.license for r in records) + ".",
            "Diagnoses: " + counted(display(d) for r in records for d in r.diagnosis or ()) + ".",
        ]
        texts.append("\n\n".join(lines))
    return "\n\n".join(texts)


def shared_patients(records: Sequence[FundusRecord]) -> str:
    """How the splits keep patients apart, counted."""
    splits: dict[tuple[str | None, str], set[str | None]] = {}
    for record in records:
        if record.patient:
            splits.setdefault((record.source, record.patient), set()).add(record.split)
    torn = sum(len(found) > 1 for found in splits.values())
    if not splits:
        return "No photograph has a patient's id: whether a patient is in two splits is not known."
    return f"WARNING: {torn} patients are in more than one split." if torn else "No patient is in more than one split."


def counted(values: Iterable[Any]) -> str:
    """Each value with how often it occurs, those of few photographs without their number and by name: even an order
    would tell which of them is rarest.
    """
    counts = Counter(NOT_RECORDED if v in (None, "") else str(v) for v in values)
    many = [f"{value} ({n:,})" for value, n in counts.most_common() if n >= SMALLEST]
    few = [f"{value} (fewer than {SMALLEST})" for value, n in sorted(counts.items()) if n < SMALLEST]
    return ", ".join([*many, *few]) or NOT_RECORDED


def preprocessing(model: Any) -> str:
    """How photographs have to look; the processor does it."""
    p = model.processor.preprocessing
    own = ""
    if p.recipe is not None:
        settings = ", ".join(f"{key} {value}" for key, value in p.recipe.to_dict().items())
        own = f"The encoder's pictures are made as its weights were trained: {settings}. "
    return (
        f"`preprocessing.json`, hash {p.hash()}: the encoder reads {p.encoder_size} px ({p.shown}), the U-Net "
        f"{p.unet_size} px. {own}Loading refuses a file that was changed."
    )


def training(run: Run) -> str:
    """Settings of each stage, what trained, versions."""
    if not run.config:
        return f"Settings: {NOT_RECORDED}."
    rows = []
    for name in run.config["run"]["stages"]:
        s = run.config[name]
        parts = ", ".join(f"{p} {v['mode']} {v['lr']:g}" for p, v in s["parts"].items() if v["mode"] != "frozen")
        losses = ", ".join(f"{k} {w:g}" for k, w in s["losses"].items() if w)
        batch = f"{s['batch_size']} x {s['accumulation']} x {run.environment.get('processes', NOT_RECORDED)}"
        rows.append((name, parts, losses, run.steps.get(name, NOT_RECORDED), batch, s.get("optimizer", "adamw")))
    head = (
        "stage",
        "part, mode, learning rate",
        "losses, weights",
        "steps done",
        "batch x accumulation x processes",
        "optimiser",
    )
    known = run.environment
    versions = ", ".join(f"{k} {v}" for k, v in known.get("packages", {}).items() if v) or NOT_RECORDED
    lines = [
        table(head, rows),
        f"Seed {run.config['run']['seed']}; precision {known.get('precision', NOT_RECORDED)}; "
        f"device {known.get('gpu') or known.get('device') or NOT_RECORDED}; "
        f"code {known.get('git_commit') or NOT_RECORDED}.",
        f"Versions: {versions}.",
    ]
    if run.trained:
        lines.append(f"```\n{run.trained.strip()}\n```")
    return "\n\n".join(lines)


def metrics(run: Run) -> str:
    """Every number of the evaluation with its interval."""
    if not run.metrics:
        return f"All metrics: {NOT_MEASURED}."
    flat = flatten(run.metrics)
    rows = [(name, cell(flat, name)) for name in shown(flat)]
    of = f"{run.metrics.get('dataset') or NOT_RECORDED}, split {', '.join(run.metrics.get('splits') or [NOT_RECORDED])}"
    text = f"On {of} ({run.metrics.get('n', NOT_RECORDED)} photographs); in brackets the 95 % interval."
    return f"{text}\n\n{table(('metric', 'value'), rows)}"


def band(age: float) -> str:
    """The band of years that an age is in."""
    low = max((a for a in AGES if age >= a), default=0)
    high = min((a for a in AGES if age < a), default=None)
    return f"{low} and older" if high is None else f"{low} to {high - 1}"


def subgroups(run: Run) -> str:
    """Share of right diagnoses in each group of the evaluated photographs that the records tell apart."""
    records = {r.id: r for found, _ in run.data.values() for r in found}
    judged = [(records[i], p) for i, p in run.predictions.items() if i in records and "predicted" in p]
    if not judged:
        return f"Accuracy in subgroups: {NOT_MEASURED}."
    rows: list[Sequence[Any]] = []
    for name in GROUPS:
        values = [getattr(r, name) for r, _ in judged]
        if name == "age":
            values = [None if v is None else band(v) for v in values]
        if all(v is None for v in values):
            rows.append((name, NOT_RECORDED, len(judged), NOT_MEASURED))
            continue
        for value in sorted({v for v in values if v is not None}) + [None] * (None in values):
            mine = [pair for pair, v in zip(judged, values, strict=True) if v == value]
            rows.append((name, NOT_RECORDED if value is None else value, *accuracy(mine)))
    note = f"Share of photographs whose likeliest diagnosis is a true one; groups below {SMALLEST} are not shown."
    return f"{note}\n\n{table(('by', 'group', 'photographs', 'accuracy'), rows)}"


def accuracy(judged: Sequence[tuple[FundusRecord, dict[str, Any]]]) -> tuple[str, str]:
    """Number of photographs and accuracy as text."""
    if len(judged) < SMALLEST:
        return f"fewer than {SMALLEST}", "not shown"
    right = np.array([float(p["predicted"] in p["truth"]) for _, p in judged])
    groups = patient_groups([r for r, _ in judged])
    found: dict[str, Any] = {}
    put(found, "accuracy", weighted_mean(right), resample(groups))
    return str(len(judged)), cell(found, "accuracy")


INTENDED = (
    "For research on colour fundus photographs by people who can judge the answers: comparing methods, preparing data, "
    "drafting reports that a clinician checks against the photograph and signs. Not for diagnosis, screening or "
    "treatment decisions, and not for other kinds of images."
)


def limits(model: Any, run: Run) -> str:
    """What is known to be wrong or unknown."""
    lines = [
        "It always answers, also where the photograph does not show what is asked; text can be fluent and wrong.",
        "It chooses among the diagnoses of its training alone: "
        + (", ".join(display(d) for d in model.processor.diagnoses) or NOT_RECORDED)
        + ".",
        "Cameras, countries, ages and diseases that the data above lack were not tested unless a table above says so.",
    ]
    if run.metrics and "controls" not in run.metrics:
        lines.append(
            f"Whether answers depend on the photograph (blank and other photographs as controls): {NOT_MEASURED}."
        )
    if model.config.stale_masks:
        lines.append("The masks are stale: the U-Net's encoder trained on after its decoder.")
    if drawn := model.trained_on.drawn():
        names = ", ".join(name.replace("_", " ") for name in drawn)
        lines.append(f"Masks learnt from drawn phantoms alone, unproven on a person's photograph: {names}.")
    if any(meta.get("dataset") == "phantom" for _, meta in run.data.values()):
        lines.append("It was trained on drawn phantoms, too, which are no patients' photographs.")
    return "\n".join(f"- {line}" for line in lines)


def loading(model: Any) -> str:
    """Code that loads it, and what plain transformers can do with it."""
    text = (
        "```python\nfrom mdf.models import MDFModel  # or transformers.AutoModel after `import mdf.models`\n\n"
        'model = MDFModel.from_pretrained("FOLDER")\n'
        'print(model.ask("photograph.jpg", "What is the diagnosis?"))\n```\n\n'
    )
    kind = model.config.language.get("model_type", "")
    if kind == "mllama" and not model.fusion.depths:
        return text + (
            f"`{BASE}/` is the whole reading part in transformers' own classes: "
            f'`AutoModelForImageTextToText.from_pretrained("FOLDER/{BASE}", trust_remote_code=False)`.'
        )
    lacking = "prefix of the photograph" + (" and the adapters" if model.fusion.layers else "")
    return text + (
        f'`AutoModelForCausalLM.from_pretrained("FOLDER/{BASE}", trust_remote_code=False)` loads the language model '
        f"alone. It lacks the {lacking}: it sees no photograph, and its answers are not this model's."
    )
