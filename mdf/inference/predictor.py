"""One checkpoint, loaded once, that answers everything about a photograph that chat, reports and pages show.

Shapes: K masks, U the U-Net's input side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from mdf.dialogue import QUADRANTS, SMALL_LESIONS, Turn, diagnosis_answer, sentence
from mdf.errors import UserError
from mdf.evaluation.classification import softmax
from mdf.evaluation.diagnosis import candidate_probabilities, presence
from mdf.evaluation.operating_point import OperatingPoint, read_operating_point
from mdf.imaging.quality import Quality
from mdf.inference.gate import gate, resolve_checkpoint
from mdf.memory import keep_freed_memory
from mdf.models.readings import DISC
from mdf.processor import Inputs
from mdf.vocabulary import display, scales


def usable(device: str | None) -> str:
    """`device`, or the GPU where there is one. Raises UserError for a device that is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def load_embedder(
    checkpoint: Path | None,
    encoder: str | None = None,
    weights: str | None = None,
    size: int = 0,
    device: str | None = None,
) -> Any:
    """The encoder of a checkpoint, or where that is None the architecture `encoder` with `weights`, as an Embedder."""
    from mdf.config import EncoderConfig
    from mdf.models.embedder import Embedder

    device = usable(device)
    keep_freed_memory()
    if checkpoint is not None:
        return Embedder.from_pretrained(checkpoint, device)
    assert encoder is not None
    return Embedder.build(EncoderConfig(model=encoder, weights=weights, size=size), device)


def load_model(checkpoint: Path, device: str | None = None) -> Any:
    """The model in eval mode, on `device` or on the GPU where there is one, the language model's weights in bf16 where
    the device has units for it. Raises UserError for a device that is not there.
    """
    from mdf.models.fusion import MDFModel
    from mdf.training.devices import choose_precision

    device = usable(device)
    precision, _ = choose_precision("auto", cuda=device.startswith("cuda"))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    keep_freed_memory()
    model = MDFModel.from_pretrained(checkpoint, device=device, dtype=dtype).eval()
    model.fusion.lighten(dtype)
    return model


@dataclass(frozen=True)
class Photograph:
    """One photograph that passed the gate, or was forced through it: then `warning` says why it should not have."""

    path: Path
    image: np.ndarray  # uint8 [H,W,3]
    inputs: Inputs  # one row
    quality: Quality
    warning: str | None


class Predictor:
    """`Predictor(folder)` loads; `read` takes a photograph through the quality gate; the rest answers about it."""

    def __init__(self, checkpoint: str | Path, device: str | None = None):
        self.checkpoint = resolve_checkpoint(checkpoint)
        self.model: Any = load_model(self.checkpoint, device)
        self.processor = self.model.processor
        self.prompts = self.processor.prompts

    def read(self, path: str | Path, *, force: bool = False) -> Photograph:
        """A photograph through `gate`, as the model sees it."""
        return self.look(self.prepare(path, force=force))

    def prepare(self, path: str | Path, *, force: bool = False) -> Photograph:
        """A photograph through `gate`, prepared for `look`. Does not need the model, which may be at work elsewhere."""
        image, quality, warning = gate(path, force=force)
        return Photograph(Path(path), image, self.processor(image), quality, warning)

    def look(self, photograph: Photograph) -> Photograph:
        """A prepared photograph, as the model sees it."""
        return replace(photograph, inputs=self.model.look(photograph.inputs.to(self.model.device)))

    @property
    def name(self) -> str:
        """Of the run that the checkpoint belongs to, else of its folder."""
        folder = self.checkpoint.resolve()
        return folder.parent.name if folder.name in ("best", "last") else folder.name

    @property
    def operating_point(self) -> OperatingPoint | None:
        """What is stored with the checkpoint, None where nothing was fitted."""
        return read_operating_point(self.checkpoint, self.processor.diagnoses)

    @property
    def form(self) -> Path | None:
        """The checkpoint's own form of a report in Markdown, which a clinician may have edited."""
        path = self.prompts.folder / "report_form.md"
        return path if path.is_file() else None

    def diagnose(self, photograph: Photograph) -> dict[str, float]:
        """Probability of every candidate diagnosis, the highest first."""
        candidates = [diagnosis_answer(self.prompts, (name,)) for name in self.processor.diagnoses]
        question = self.prompts.questions["diagnosis"]["ask"][0]
        probabilities = candidate_probabilities(self.model, photograph.inputs, question, candidates)[0]
        pairs = zip(self.processor.diagnoses, map(float, probabilities), strict=True)
        return dict(sorted(pairs, key=lambda pair: -pair[1]))

    def masks(self, photograph: Photograph) -> dict[str, np.ndarray]:
        """Probabilities float [U,U] by mask name, 0 outside the field of view."""
        maps = (self.model.segment(photograph.inputs)[0] * photograph.inputs["field"][0]).float().cpu().numpy()
        return dict(zip(self.model.config.masks, maps, strict=True))

    def presence(self, photograph: Photograph) -> dict[str, float]:
        """The language model's probability of "yes" for every kind of small lesion."""
        return dict(zip(SMALL_LESIONS, map(float, presence(self.model, photograph.inputs)[0]), strict=True))

    def places(
        self, photograph: Photograph, lesions: Sequence[str]
    ) -> tuple[dict[str, tuple[str, float]], dict[str, tuple[str, float]]]:
        """The language model's likeliest quadrant and band of the number of each lesion, with their probabilities."""
        spec = self.prompts.questions
        places = [sentence(spec["quadrant"]["answer"].format(location=q)) for q in QUADRANTS]
        bands = [band[1] for band in spec["count"]["bands"]]
        where = dict(zip(lesions, self._choose(photograph, "quadrant", lesions, places), strict=True))
        many = dict(zip(lesions, self._choose(photograph, "count", lesions, bands), strict=True))
        return (
            {name: (QUADRANTS[p.argmax()], float(p.max())) for name, p in where.items()},
            {name: (bands[p.argmax()].rstrip("."), float(p.max())) for name, p in many.items()},
        )

    def grade(self, photograph: Photograph, scale: str) -> tuple[str, float] | None:
        """The language model's likeliest value on a scale of grades.yaml, with its probability; None where it was not
        trained on that question.
        """
        spec = self.prompts.questions.get("grade", {})
        if "grade" not in self.processor.questions or scale not in spec.get("scales", {}):
            return None
        values = scales()[scale].values
        answers = [sentence(spec["answer"].format(value=v, name=display(name))) for v, name in values.items()]
        question = spec["ask"][0].format(scale=spec["scales"][scale])
        p = candidate_probabilities(self.model, photograph.inputs, question, answers)[0]
        return list(values)[int(p.argmax())], float(p.max())

    def ask(
        self,
        photograph: Photograph,
        question: str,
        history: list[Turn] | None = None,
        *,
        streamer: Any = None,
        limit: int = 160,
    ) -> str:
        """The model's own words, at most `limit` tokens."""
        return self.model.ask(photograph.inputs, question, history=history, max_new_tokens=limit, streamer=streamer)

    def _choose(self, photograph: Photograph, kind: str, lesions: Sequence[str], candidates: list[str]) -> np.ndarray:
        """float [lesions, candidates]: probabilities of the answers to one kind of question about each lesion."""
        if not lesions:
            return np.zeros((0, len(candidates)))
        text = self.prompts.questions[kind]["ask"][0]
        conversations = [
            [self.model.system_turn(), Turn("user", text.format(finding=display(name)))] for name in lesions
        ]
        rows = [0] * len(lesions)
        scores = self.model.score(photograph.inputs, conversations, [candidates] * len(lesions), rows=rows)
        return softmax(np.asarray(scores, dtype=float))


def nasal_side(masks: dict[str, np.ndarray], field: np.ndarray, eye: str | None = None) -> int | None:
    """+1 where the nasal half is on the right of the picture, -1 on the left, None where it is not known.

    The eye decides where it is given (the disc of a right eye is on the right of its photograph), else the disc's mask.
    """
    if eye is not None:
        return 1 if eye == "right" else -1
    if DISC not in masks:
        return None
    labels, count = ndimage.label(masks[DISC] >= 0.5)
    if not count:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    if sizes.max() < 0.002 * field.sum():  # a disc takes 1 to 5 % of the field; a speck is none
        return None
    offset = np.nonzero(labels == sizes.argmax() + 1)[1].mean() - np.nonzero(field)[1].mean()
    radius = np.sqrt(field.sum() / np.pi)
    return None if abs(offset) < 0.1 * radius else int(np.sign(offset))  # centred on the disc: both halves look alike
