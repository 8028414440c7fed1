"""How deep in its tower a parameter lies: what locking, layer-wise learning rates and LoRA count by.

Layer 0 is the stem of an image tower or the embeddings of a text tower, then a layer for each block (a stage of a
CNN), and the last for what follows them: final norm, pooling, projection. Names are those below FundusEncoder.
"""

import re

from torch import nn

from mdf.errors import UserError

IMAGE = "clip.visual."
LOGITS = ("clip.logit_scale", "clip.logit_bias")
# open_clip's transformers, its ModifiedResNet, timm's trunks, and the encoders of transformers
BLOCK = re.compile(
    r"clip\.(?:visual\.)?(?:text\.)?(?:trunk\.)?(?:transformer\.)?(?:encoder\.|transformer\.)?"
    r"(?:resblocks|blocks|stages|layers|layer|block|h)\.?(\d+)\."
)
# those that are registered elsewhere than where they act
FIRST = re.compile(r"clip\.(?:text\.)?(?:token_embedding|positional_embedding|cls_emb)")
LAST = re.compile(r"clip\.(?:visual\.)?(?:text\.)?(?:proj|text_projection)")


def layers(encoder: nn.Module) -> dict[str, dict[str, int]]:
    """{image, text} -> {name of a parameter: its layer}; a tower without numbered blocks is all last layer, 0."""
    names = [name for name, _ in encoder.named_parameters() if name not in LOGITS]
    image = [name for name in names if name.startswith(IMAGE)]
    text = [name for name in names if name.startswith("clip.") and not name.startswith(IMAGE)]
    return {"image": of_tower(image), "text": of_tower(text)}


def of_tower(names: list[str]) -> dict[str, int]:
    """The layer of each parameter of one tower; `names` in the order in which modules hold them."""
    block = {name: int(found[1]) for name in names if (found := BLOCK.match(name))}
    number = {index: place for place, index in enumerate(sorted(set(block.values())), 1)}
    out, layer, last = {}, 0, len(number) + 1 if number else 0
    for name in names:
        if name in block:
            out[name], layer = number[block[name]], last
        elif FIRST.match(name):
            out[name] = 0
        else:
            out[name] = last if LAST.match(name) else layer
    return out


def check(layer: dict[str, int], tower: str, locked: int, rank: int, decay: float) -> None:
    """Raises UserError where a setting counts layers that a tower (image or text) does not have."""
    last = max(layer.values())
    wanted = {f"{tower}_locked": locked > 0, f"{tower}_lora": rank > 0, "layer_decay": decay < 1}
    if not last and any(wanted.values()):
        setting = next(name for name, used in wanted.items() if used)
        raise UserError(f"encoder.{setting}: the {tower} tower has no numbered blocks to count")
    if locked > last:
        raise UserError(
            f"encoder.{tower}_locked: {locked}, but the {tower} tower has a stem and {last - 1} blocks; "
            f"at most {last}, or -1 for the whole tower"
        )
