"""What the quirks of released text towers change: the figures of docs/zoo.md, "Text towers and zero-shot".

    python -m tests.models.text_quirks

Random weights and a trained MiniLM stand in for released weights, which are not at hand. One minute on one core.
"""

import open_clip
import torch
import torch.nn.functional as F
import yaml
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from mdf.caption_tokenizer import CaptionTokenizer
from mdf.models.sides import SideHeads
from mdf.models.text_tower import LAYERS, LAYERS_PADDED, TextTower, read_config
from mdf.models.towers import TEXT_MODELS
from mdf.models.weights import text_path
from mdf.released_prompts import protocols

CLASSES = ("normal", "amd", "diabetic_retinopathy", "glaucoma", "pathologic_myopia", "cataract")
BERT = "emilyalsentzer/Bio_ClinicalBERT"
MINILM = "minilm-l6-v2"


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def padding_of_a_random_bert() -> None:
    """FLAIR's pooling of one prompt of 12 tokens, alone and padded."""
    tower = TextTower(yaml.safe_load(TEXT_MODELS.read_text())[BERT], 512, LAYERS_PADDED, "linear").eval()
    ids = torch.randint(5, 20000, (1, 12))
    for pad in (2, 65):
        padded = F.pad(ids, (0, pad))
        own = F.cosine_similarity(tower(ids), tower(padded))
        ours = F.cosine_similarity(tower.pooled(ids, LAYERS), tower.pooled(padded, LAYERS))
        print(
            f"FLAIR, random BERT, 12 tokens and {pad} of padding: cosine {own.item():.3f}, over real {ours.item():.3f}"
        )


def padding_of_a_trained_bert() -> None:
    """The same of MiniLM in a batch, and whether prototypes answer otherwise."""
    folder = text_path(MINILM)
    tower = TextTower(read_config(folder), 384, LAYERS_PADDED, "none").eval()
    tower.load(folder)
    captions = CaptionTokenizer(77, folder, trim=True, clean="none")
    texts = protocols()["flair"].texts(CLASSES)
    prompt, longest = texts["glaucoma"][-1], max((t for lines in texts.values() for t in lines), key=len)
    alone, both = captions([prompt]), captions([prompt, longest])
    for pool in (LAYERS_PADDED, LAYERS):
        cosine = F.cosine_similarity(tower.pooled(alone, pool), tower.pooled(both, pool)[:1]).item()
        print(f"MiniLM, {alone.shape[1]} tokens in a batch of {both.shape[1]}, {pool}: cosine {cosine:.3f}")
    phrases = [t.removeprefix("A fundus photograph of ") for lines in texts.values() for t in lines]
    queries = torch.cat([unit(tower.pooled(captions([t]), LAYERS)) for t in phrases])
    answers = []
    for pool in (LAYERS_PADDED, LAYERS):
        prototypes = torch.stack([unit(tower.pooled(captions(list(lines)), pool)).mean(0) for lines in texts.values()])
        answers.append((queries @ prototypes.T).argmax(1))
    other = (answers[0] != answers[1]).float().mean().item()
    print(f"MiniLM, {len(phrases)} phrases against six prototypes: {other:.0%} other answers")


def ties_of_a_sigmoid() -> None:
    """MM-Fundus-CLIP's scoring at scale 100: how often several classes share the top."""
    x = torch.linspace(10, 20, 100_001)
    print(f"sigmoid is exactly 1 from cosine {x[torch.sigmoid(x) == 1][0].item() / 100:.4f}")
    for mean in (0.15, 0.20, 0.25):
        scores = torch.sigmoid(100 * (mean + 0.03 * torch.randn(20_000, 5))).softmax(1)
        tied = (scores == scores.amax(1, keepdim=True)).sum(1) > 1
        print(f"cosines about {mean:.2f}: ties at the top {tied.float().mean().item():.1%}")


def heads_of_ret_clip() -> None:
    """A photograph with and without its eye's head."""
    x, classes = unit(torch.randn(200, 512)), unit(torch.randn(5, 512))
    mapped = SideHeads(512, 768).eye(x, "left")
    same = ((x @ classes.T).argmax(1) == (mapped @ classes.T).argmax(1)).float().mean().item()
    cosine = F.cosine_similarity(x, mapped).abs().mean().item()
    print(f"RET-CLIP, random heads: cosine {cosine:.3f}, same answer {same:.0%}")


def quick(model: nn.Module) -> None:
    """Every GELU becomes a QuickGELU, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GELU) or type(child).__name__ == "GELUActivation":
                setattr(module, name, QuickGELU())


def activation() -> None:
    """Weights of one activation read with the other."""
    from transformers import AutoModel, AutoTokenizer

    clip, x = open_clip.create_model("ViT-B-16").eval(), torch.randn(4, 3, 224, 224)
    before = clip.encode_image(x)
    quick(clip)
    cosine = F.cosine_similarity(before, clip.encode_image(x)).min().item()
    print(f"GELU as QuickGELU, random ViT-B-16: cosine {cosine:.5f}")
    folder = text_path(MINILM)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = [t for lines in protocols()["flair"].texts(CLASSES).values() for t in lines]
    given = tokenizer(texts, padding=True, return_tensors="pt")
    real = given.attention_mask[..., None]

    def embed() -> Tensor:
        return unit((model(**given).last_hidden_state * real).sum(1) / real.sum(1))

    first = embed()
    quick(model)
    second = embed()
    nearest = [(e @ e.T - 2 * torch.eye(len(e))).argmax(1) for e in (first, second)]
    cosine, other = F.cosine_similarity(first, second).median().item(), (nearest[0] != nearest[1]).float().mean().item()
    print(f"the same, trained MiniLM: cosine {cosine:.4f}, another nearest text for {other:.0%}")


if __name__ == "__main__":
    with torch.no_grad():
        for measure in (
            padding_of_a_random_bert, padding_of_a_trained_bert, ties_of_a_sigmoid, heads_of_ret_clip, activation
        ):  # fmt: skip
            torch.manual_seed(0)
            measure()
