"""Zero-shot screening as the authors of a released CLIP run it, and beside it without what is a defect of theirs.

Three things are put right where a release has them: the padding that FLAIR's pooling counts, so that a class's vector
depends on the texts beside it; MM-Fundus-CLIP's sigmoid before the softmax, which makes ties of high similarities; and
RET-CLIP's photographs that go through no head while their texts go through the one for left eyes.

Shapes: N photographs, C classes, E embedding width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.errors import UserError
from mdf.evaluation.classification import ROBUST, classification_metrics
from mdf.models.sides import SIDES
from mdf.models.text_tower import LAYERS, LAYERS_PADDED
from mdf.released_prompts import Protocol


class Released:
    """A model, the protocol of its release and the texts of the classes; their embeddings are made at once.

    Raises UserError where the protocol needs heads that the model does not have.
    """

    def __init__(self, model: Any, protocol: Protocol, texts: Mapping[str, Sequence[str]]):
        self.protocol, self.texts, encoder = protocol, texts, model.encoder
        self.scale = protocol.scale or float(encoder.logit_scale)
        self.sides = getattr(encoder.clip, "sides", None)
        if protocol.side and self.sides is None:
            raise UserError(
                f"--prompts-of {protocol.name}: its texts go through a head for {protocol.side} eyes, and this encoder "
                "has none; name another release's prompts"
            )
        padded = getattr(getattr(encoder.clip, "text", None), "pool", "") == LAYERS_PADDED
        wrongs = {
            "padding": padded,  # of the batch counts
            "sigmoid": protocol.scores == "sigmoid",  # before the softmax
            "heads": bool(protocol.side),  # for texts only
        }
        self.wrongs = [name for name, there in wrongs.items() if there]
        self.prototypes = self._prototypes(model, side=protocol.side)
        self.corrected: dict[str, Tensor] = {}  # of each side; "" = of any
        if protocol.side:
            self.corrected = {side: self._prototypes(model, side=side) for side in SIDES}
        elif self.wrongs:
            self.corrected = {"": self._prototypes(model, pooling=LAYERS) if padded else self.prototypes}

    @torch.inference_mode()
    def _prototypes(self, model: Any, *, side: str = "", pooling: str | None = None) -> Tensor:
        """float32 [C,E]; the texts of a class are one batch, as in the releases, for the sake of its padding."""
        made = []
        for lines in self.texts.values():
            ids = model.processor.tokenize_captions(list(lines)).to(model.device)
            mean = model.encoder.encode_prompts(ids, side=side, pooling=pooling).float().cpu().mean(0)
            made.append(F.normalize(mean, dim=0) if self.protocol.average == "unit" else mean)
        return torch.stack(made)

    @torch.inference_mode()
    def probabilities(self, image_embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors float32 [N,E] -> as released, float [N,C], and whose highest score is a tie, bool [N]."""
        logits = self.scale * (torch.from_numpy(image_embeds).float() @ self.prototypes.T)
        scores = torch.sigmoid(logits) if self.protocol.scores == "sigmoid" else logits
        ties = (scores == scores.amax(1, keepdim=True)).sum(1) > 1
        return scores.double().softmax(1).numpy(), ties.numpy()

    @torch.inference_mode()
    def corrected_probabilities(self, image_embeds: np.ndarray, eyes: Sequence[str | None]) -> np.ndarray:
        """The same without its defects; a photograph of which nobody knows the eye is taken for both, half and half."""
        images = torch.from_numpy(image_embeds).float()
        if not self.protocol.side:
            return (self.scale * (images @ self.corrected[""].T)).double().softmax(1).numpy()
        assert self.sides is not None
        device = self.sides.left.weight.device
        logits = {s: self.sides.eye(images.to(device), s).cpu() @ self.corrected[s].T for s in SIDES}
        own = torch.stack([(logits[e] if e in SIDES else sum(logits.values()) / 2)[i] for i, e in enumerate(eyes)])
        return (self.scale * own).double().softmax(1).numpy()

    def metrics(
        self,
        image_embeds: np.ndarray,
        eyes: Sequence[str | None],
        truth: Sequence[Sequence[str]],
        groups: Sequence[str],
        options: Mapping[str, Any],
    ) -> dict:
        """As released; `corrected`, and `difference` between both: share of other answers and of ties, the largest
        difference of a probability, the lowest cosine of a class's two vectors.
        """
        classes = list(self.texts)

        def judged(table: np.ndarray) -> dict:
            return classification_metrics(truth, table, classes, groups, only=ROBUST, **options)

        table, ties = self.probabilities(image_embeds)
        out: dict = {"protocol": self.protocol.name, "texts": dict(self.texts), **judged(table)}
        if not self.wrongs:
            return out
        right = self.corrected_probabilities(image_embeds, eyes)
        cosine = [F.cosine_similarity(self.prototypes, found).min().item() for found in self.corrected.values()]
        return out | {
            "corrected": {"of": self.wrongs, **judged(right)},
            "difference": {
                "other_answers": float((table.argmax(1) != right.argmax(1)).mean()),
                "ties": float(ties.mean()),
                "probability": float(np.abs(table - right).max()),
                "prototype_cosine": min(cosine),
            },
        }
