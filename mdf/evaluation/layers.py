"""Where is the information about the diagnosis lost? A linear probe on what each part makes of a photograph.

From the two image towers over the connector and the language model's hidden states, at the last token of the question
for the diagnosis, to the answer. Every probe is fitted on the same photographs and judged on the same ones, so that two
rows of the table differ in what they read alone. What a later row lacks of an earlier one was lost between them, or
lies there in a form that no straight line separates.

Shapes: B photographs of a batch, N of a split, C candidate diagnoses, D width of a layer, d language width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.datasets.splits import group_photographs, take_out
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, patient_groups
from mdf.evaluation.classification import ROBUST, classification_metrics, softmax
from mdf.evaluation.diagnosis import diagnosis_question
from mdf.evaluation.photographs import Progress, batches, load_inputs
from mdf.evaluation.probe import VALIDATION, fit_probe, paired_difference
from mdf.evaluation.transfer import refuse_torn_patients
from mdf.files import write_json
from mdf.models.answers import prompts
from mdf.models.language import bare, decoder
from mdf.models.mllama import see_tiles
from mdf.models.unet import DEPTHS
from mdf.processor import Inputs
from mdf.prototypes import truths
from mdf.records import FundusRecord, Manifest
from mdf.tiles import cross_attention_mask

SCORES, ANSWER = "answer.scores", "answer"  # a probe on the candidates' likelihoods, and their likelihoods themselves
Features = Mapping[str, np.ndarray]  # name of a layer -> [N,D]


def unit(x: Tensor) -> np.ndarray:
    """float32 unit vectors, as all probes read them."""
    return F.normalize(x.detach().float(), dim=-1).cpu().numpy()


def pooled(x: Tensor) -> np.ndarray:
    """Maps [B,C,h,w] or vectors [B,G,C] -> unit vectors [B,C] of their mean."""
    return unit(x.float().mean(dim=(2, 3)) if x.ndim == 4 else x.float().mean(dim=1))


def diagnosis_prompt(model: Any) -> tuple[list[Turn], list[str]]:
    """The question for the diagnosis as the task diagnosis asks it, and its candidate answers."""
    question, answers = diagnosis_question(model.processor)
    return [model.system_turn(), Turn("user", question)], answers


def looked_into(model: Any) -> tuple[int, ...]:
    """Decoder layers whose input is read: those with an adapter, or of a model without one each quarter's last."""
    count = len(decoder(model.language).layers)
    return model.fusion.layers or tuple(sorted({max(1, count * quarter // 4) for quarter in (1, 2, 3)}))


@contextmanager
def hidden_states(model: Any) -> Iterator[dict[str, np.ndarray]]:
    """A dictionary that fills while the language model runs: unit vectors [B,d] of the last token at `looked_into`.

    The hooks live as long as the context, and nothing stays on a module.
    """
    found: dict[str, np.ndarray] = {}

    def before(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple) -> None:
            found[name] = unit(args[0][:, -1])

        return hook

    def around(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple, out: tuple) -> None:
            found[name], found[f"{name}.fused"] = unit(args[0][:, -1]), unit(out[0][:, -1])

        return hook

    hooks = []
    for i, k in enumerate(looked_into(model)):
        name = f"language.layer{k:02d}"
        if model.fusion.layers:
            hooks.append(model.fusion.adapters[i].register_forward_hook(around(name)))
        else:
            hooks.append(decoder(model.language).layers[k].register_forward_pre_hook(before(name)))
    try:
        yield found
    finally:
        for one in hooks:
            one.remove()


@torch.inference_mode()
def layer_features(model: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """{layer: float32 [B,D]} of photographs, in the order in which they are computed, from one pass; unit vectors.

    `encoder.pooled` and `encoder.embedding`; `unet.depthL` for every skip and `unet.readings`; `connector.prefix` and
    `connector.memory.depthL`; of the last token of the question `language.layerK`, what decoder layer K is given,
    `language.layerK.fused`, the same after its adapter, and `language.last`; and, not of unit length, `answer.scores`
    [B,C], the log-likelihood of each candidate. What a model does not have is left out.
    """
    was, _ = model.training, model.eval()
    inputs = inputs.to(model.device)
    turns, candidates = diagnosis_prompt(model)
    rows = len(inputs["pixel_values"])
    text, _ = prompts(model, [turns] * rows)
    with model.precision():
        seen = model.features(inputs["pixel_values"], inputs["unet_pixels"])
        prompt = model.prompt_of(text["input_ids"], text["prompt_mask"])
        embeds, prefix, memory, _ = model.see(inputs["pixel_values"], None, prompt, look=lambda *_: seen)
        kv = None if memory is None else model.fusion.memory_kv(memory)
        states = see_tiles(bare(model.language), inputs).get("cross_attention_states")
    found = {"encoder.pooled": pooled(seen.tokens), "encoder.embedding": unit(embeds)}
    found |= {f"unet.depth{d}": pooled(seen.maps[d]) for d in range(1, DEPTHS + 1) if seen.maps}
    if seen.read is not None:
        found["unet.readings"] = pooled(seen.read)
    if prefix is not None:
        found["connector.prefix"] = pooled(prefix)
    if memory is not None:
        found |= {f"connector.memory.depth{d}": pooled(memory[:, i]) for i, d in enumerate(model.fusion.depths)}
    tiles = inputs.get("aspect_ratio_mask")
    mask = None if tiles is None else cross_attention_mask(text["input_ids"], model.processor.image_token_id, tiles)
    with hidden_states(model) as hidden:
        out = model(
            input_ids=text["input_ids"], attention_mask=text["attention_mask"], prefix=prefix, memory_kv=kv,
            cross_attention_states=states, cross_attention_mask=mask, logits_to_keep=1,
            reduce=lambda last, _: last[:, -1],
        )  # fmt: skip
    found |= {**hidden, "language.last": unit(out.reduced)}
    if not model.fusion.uses_prompt:  # else `score` makes a memory of its own
        known = {"prefix": prefix, "memory_kv": kv, "cross_attention_states": states}
        inputs = Inputs({**inputs, **{name: tensor for name, tensor in known.items() if tensor is not None}})
    found[SCORES] = np.asarray(model.score(inputs, [turns] * rows, [candidates] * rows), dtype=float)
    model.train(was)
    return found


def collect(
    model: Any, records: Sequence[FundusRecord], manifest: Manifest, *, batch_size: int, name: str
) -> dict[str, np.ndarray]:
    """`layer_features` of all records, [N,D]."""
    parts, progress = [], Progress(name, len(records))
    for rows in batches(len(records), batch_size):
        parts.append(layer_features(model, load_inputs(model, [records[i] for i in rows], manifest)[0]))
        progress.step(len(rows))
    return {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}


def layer_report(
    learnt: Mapping[str, tuple[Features, Sequence[Sequence[str]]]],
    judged: Features,
    truth: Sequence[Sequence[str]],
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """{layer: metrics} of a probe on each layer of `judged`, and of the answer itself under `answer`.

    `learnt` has (features, truth) of the splits train and val, `truth` and `groups` are of the photographs judged. The
    metrics are balanced accuracy and macro AUROC with `NAME_ci`, the layer's width, the strength of regularisation
    chosen, and `against`: both minus those of the first layer, on the same resamples of patients.
    """
    (train, train_truth), (val, val_truth) = learnt["train"], learnt["val"]
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    tables: dict[str, np.ndarray] = {}
    report: dict[str, dict] = {}
    for layer, features in judged.items():
        probe = fit_probe(train[layer], train_truth, val[layer], val_truth, classes)
        tables[layer] = probe.probabilities(features)
        report[layer] = {"width": features.shape[1], "strength": probe.strength}
    if SCORES in judged:
        tables[ANSWER] = softmax(judged[SCORES])
        report[ANSWER] = {"width": len(classes)}
    first = next(iter(tables))
    for layer, table in tables.items():
        part = classification_metrics(truth, table, classes, groups, only=ROBUST, **options)
        report[layer] |= {name: value for name, value in part.items() if name not in ("recall", "n")}
        if layer != first:
            report[layer]["against"] = paired_difference(truth, tables[first], table, classes, groups, **options)
    return report


def table_of(report: Mapping[str, Mapping[str, Any]]) -> str:
    """The report as text, a line a layer."""
    first = next(iter(report))
    lines = [f"{'layer':<28} {'width':>6}  {'balanced accuracy':<22} {'macro AUROC':<22} minus {first}"]
    for layer, part in report.items():
        cells = [shown(part, name) for name in ROBUST]
        other = shown(part["against"], ROBUST[0], sign="+") if "against" in part else ""
        lines.append(f"{layer:<28} {part['width']:>6}  {cells[0]:<22} {cells[1]:<22} {other}".rstrip())
    return "\n".join(lines)


def shown(part: Mapping[str, Any], name: str, sign: str = "") -> str:
    """One number with its interval."""
    interval = part.get(f"{name}_ci")
    return f"{part[name]:{sign}.3f}" + (f" [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]" if interval else "")


def verdict(report: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence: the best probe of each part of the model, in the order in which a photograph goes through them."""
    best: dict[str, str] = {}
    for layer, part in report.items():
        group = layer if layer in (SCORES, ANSWER) else layer.partition(".")[0]
        if group not in best or part["balanced_accuracy"] > report[best[group]]["balanced_accuracy"]:
            best[group] = layer
    return "best of each part, balanced accuracy: " + ", ".join(
        f"{group} {report[layer]['balanced_accuracy']:.3f}" + (f" ({layer})" if layer != group else "")
        for group, layer in best.items()
    )


def parts_of(manifest: Manifest, split: str, seed: int = 0) -> dict[str, list[FundusRecord]]:
    """What probes learn from (`train`), choose their regularisation on (`val`), and are `judged` on: those of `split`.

    Nothing is chosen on what is judged: where that is val, the share VALIDATION of the training patients takes its
    place, drawn by `seed`. Raises UserError for other splits than test and val, and where a patient is learnt from and
    judged.
    """
    if split not in ("test", "val"):
        raise UserError(f"probes learn from the train split and cannot be judged on {split}; judge test or val")
    train, val = manifest.split("train"), manifest.split("val")
    if split == "val":
        drawn = take_out(train, set(), VALIDATION, seed, group_photographs(train))
        train, val = ([r for r in drawn if r.split == name] for name in ("train", "val"))
    judged = manifest.split(split)
    refuse_torn_patients(judged, train + val)
    return {"train": train, "val": val, "judged": judged}


def layers(
    model: Any,
    manifest: Manifest,
    out: str | Path,
    *,
    split: str = "test",
    learn: int = 0,
    batch_size: int = 16,
    checkpoint: str = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """The layer-wise report of a checkpoint; writes OUT/layers.json and returns what it holds.

    Probes learn from the train split (at most `learn` photographs drawn by `seed`; 0 = all) and choose their
    regularisation on val, see `parts_of`. Judged are the photographs of `split` with a diagnosis among the checkpoint's
    candidates, so that `answer` is what the task diagnosis measures on them. Raises UserError where a split has no
    such photograph.
    """
    classes = list(model.processor.diagnoses)
    if len(classes) < 2:
        raise UserError(f"the checkpoint tells {len(classes)} diagnosis apart; a probe needs two or more")
    found: dict[str, tuple[dict[str, np.ndarray], list[tuple[str, ...]]]] = {}
    kept: dict[str, list[FundusRecord]] = {}
    for name, own in parts_of(manifest, split, seed).items():
        known = [(r, names) for r, names in zip(own, truths(own, classes), strict=True) if names]
        if name == "train" and learn and learn < len(known):
            order = np.random.default_rng(seed).permutation(len(known))[:learn]
            known = [known[i] for i in sorted(order.tolist())]
        if not known:
            raise UserError(
                f"no photograph of the {split if name == 'judged' else name} split has a diagnosis that the checkpoint "
                f"knows ({', '.join(classes)}); probes learn from train and val and are judged on --split"
            )
        kept[name] = [r for r, _ in known]
        found[name] = {}, [t for _, t in known]
    for name, records in kept.items():  # what could be missing has been looked for
        features = collect(model, records, manifest, batch_size=batch_size, name=f"layers, {name}")
        found[name] = features, found[name][1]
    judged, (features, truth) = kept["judged"], found["judged"]
    groups = patient_groups(judged)
    report = {
        "n": len(judged),
        "checkpoint": checkpoint,
        "dataset": manifest.meta.get("dataset"),
        "data_sha256": manifest.sha256,
        "classes": classes,
        "chance": 1 / len(classes),
        "train": len(kept["train"]),
        "val": len(kept["val"]),
        "layers": layer_report(found, features, truth, classes, groups, resamples=resamples, seed=seed),
    }
    write_json(Path(out) / "layers.json", report)
    return report
