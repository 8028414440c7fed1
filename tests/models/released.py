"""Released encoders as their own code has them, written here from plain torch, torchvision, timm and transformers.

`published(name, true)` gives the file of a release, with random weights, and its own forward pass; with `true` in its
true size (for the meta device), else as a small stand-in, with what of mdf/data/zoo.yaml has to be changed for it.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from transformers import BertConfig, BertModel, SiglipConfig, SiglipModel

State = dict[str, Tensor]


@dataclass
class Published:
    """One release."""

    content: dict[str, Any]  # of its file
    forward: Callable[[Tensor], Tensor]  # pixels -> image embedding, not normalised
    changes: dict[str, Any] = field(default_factory=dict)  # of its entry in the table, for a small stand-in
    channels: int = 3


class Block(nn.Module):
    """Of a ViT as in MAE, DINO and DINOv2."""

    def __init__(self, width: int, heads: int, scaled: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.scaled = heads, scaled
        if scaled:
            self.ls1, self.ls2 = nn.Module(), nn.Module()
            self.ls1.gamma, self.ls2.gamma = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def attention(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        y = self.attn.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return self.ls1.gamma * y if self.scaled else y

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        y = self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))
        return x + (self.ls2.gamma * y if self.scaled else y)


class ViT(nn.Module):
    """As in MAE, DINO and DINOv2, with register tokens where there are some."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, side: int, scaled: bool, registers: int = 0):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (side // patch) ** 2 + (not registers), width))
        if registers:
            self.reg_token = nn.Parameter(torch.randn(1, registers, width))
        self.blocks = nn.ModuleList(Block(width, heads, scaled) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.prefix = 1 + registers

    def each(self, pixels: Tensor) -> list[Tensor]:
        """The tokens after each block."""
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(x), -1, -1)
        if self.prefix > 1:
            x = torch.cat((first, self.reg_token.expand(len(x), -1, -1), x + self.pos_embed), 1)
        else:
            x = torch.cat((first, x), 1) + self.pos_embed
        out = []
        for block in self.blocks:
            x = block(x)
            out.append(x)
        return out


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Residual(nn.Module):
    """A block of OpenAI's CLIP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.c_fc, self.mlp.gelu = nn.Linear(width, 4 * width), QuickGELU()
        self.mlp.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp.c_proj(self.mlp.gelu(self.mlp.c_fc(self.ln_2(x))))


class Clip(nn.Module):
    """OpenAI's CLIP: its image tower, and the tensors of its text tower."""

    def __init__(
        self, width: int, depth: int, heads: int, patch: int, side: int, embed: int, text: tuple | None = None
    ):
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.randn(width))
        self.visual.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.visual.ln_pre, self.visual.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.visual.transformer = nn.Module()
        self.visual.transformer.resblocks = nn.ModuleList(Residual(width, heads) for _ in range(depth))
        self.visual.proj = nn.Parameter(torch.randn(width, embed))
        if text:
            wide, layers, many, words, length = text
            self.transformer = nn.Module()
            self.transformer.resblocks = nn.ModuleList(Residual(wide, many) for _ in range(layers))
            self.token_embedding, self.ln_final = nn.Embedding(words, wide), nn.LayerNorm(wide)
            self.positional_embedding = nn.Parameter(torch.randn(length, wide))
            self.text_projection = nn.Parameter(torch.randn(wide, embed))
            self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, pixels: Tensor) -> Tensor:
        v = self.visual
        x = v.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat((v.class_embedding.expand(len(x), 1, -1), x), 1) + v.positional_embedding
        x = v.ln_pre(x).transpose(0, 1)
        for block in v.transformer.resblocks:
            x = block(x)
        return v.ln_post(x[0]) @ v.proj


def under(prefix: str, module: nn.Module) -> State:
    """The tensors of a module under longer names."""
    return {prefix + name: tensor.clone() for name, tensor in module.state_dict().items()}


def linear(prefix: str, out: int, inside: int) -> State:
    return {f"{prefix}.weight": torch.randn(out, inside), f"{prefix}.bias": torch.randn(out)}


def training(**more: Any) -> dict[str, Any]:
    """What training scripts save beside the weights."""
    state = {0: {"exp_avg": torch.zeros(1), "step": 1}}
    return {"optimizer": {"state": state, "param_groups": [{"lr": 1e-3}]}, "epoch": 7, **more}


def stirred(module: nn.Module) -> nn.Module:
    """In eval mode, with statistics, norms and biases that are not those of the start."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta and tensor.ndim < 2:
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.normal_(std=0.1)
    return module.eval()


def sized(name: str, true: bool, **small: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments for ViT, and those that make timm's model small."""
    kinds = {  # width, depth, heads, patch, side, LayerScale
        "vit_large_patch16_224": (1024, 24, 16, 16, 224, False),
        "vit_base_patch16_224": (768, 12, 12, 16, 224, False),
        "vit_large_patch14_dinov2": (1024, 24, 16, 14, 224, True),
        "vit_base_patch14_dinov2": (768, 12, 12, 14, 224, True),
        "vit_small_patch14_reg4_dinov2": (384, 12, 6, 14, 392, True),
    }
    names = ("width", "depth", "heads", "patch", "side", "scaled")
    values = dict(zip(names, kinds[name], strict=True)) | ({"registers": 4} if "reg4" in name else {})
    if not true:
        values |= {"width": 32, "depth": 4, "heads": 2, "patch": 8, "side": 32}
    values |= small
    made = {"embed_dim": values["width"], "depth": values["depth"], "num_heads": values["heads"]}
    return values, made | {"patch_size": values["patch"]}


def of_vit(
    name: str, true: bool, made: Callable[[ViT], tuple[dict[str, Any], Callable[[Tensor], Tensor]]],
    image: dict[str, Any], **more: Any,
) -> Published:  # fmt: skip
    """A release with a ViT; `made` gives its file and its forward pass."""
    values, args = sized(name, true, **more.pop("size", {}))
    content, forward = made(stirred(ViT(**values)))  # type: ignore[arg-type]
    small = {**image, "timm": name, "patch": values["patch"], "args": {**image.get("args", {}), **args}}
    changes = {} if true else {"image": small, "recipe": recipe(values["side"]), **more}
    return Published(content, forward, changes)


def recipe(side: int, **more: Any) -> dict[str, Any]:
    return {"side": side, "rule": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], **more}


def mae(name: str, extra: Callable[[], State]) -> Callable[[bool], Published]:
    def published(true: bool) -> Published:
        def made(vit: ViT) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
            wide = vit.norm.weight.shape[0]
            decoder = {"mask_token": torch.randn(1, 1, 16), "decoder_pos_embed": torch.randn(1, 17, 16)}
            decoder |= {**linear("decoder_embed", 16, wide), **linear("decoder_blocks.0.attn.qkv", 48, 16)}
            decoder |= {**linear("decoder_norm", 16, 16), **linear("decoder_pred", 768, 16)}
            args = argparse.Namespace(model="mae_vit", epochs=800)
            content = {
                "model": {**vit.state_dict(), **decoder, **extra()},
                **training(args=args, scaler={"scale": 1.0}),
            }
            return content, lambda x: F.layer_norm(vit.each(x)[-1][:, 1:].mean(1), (wide,), eps=1e-6)

        return of_vit(name, true, made, {"args": {"global_pool": "avg"}}, width=32)

    return published


def finetuned(true: bool) -> Published:
    def made(vit: ViT) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
        wide = vit.norm.weight.shape[0]
        norm = stirred(nn.LayerNorm(wide, eps=1e-6))
        state = {n: t for n, t in vit.state_dict().items() if not n.startswith("norm.")}
        state |= {**under("fc_norm.", norm), **linear("head", 5, wide)}
        return {"model": state, **training()}, lambda x: norm(vit.each(x)[-1][:, 1:].mean(1))

    return of_vit("vit_large_patch16_224", true, made, {"args": {"global_pool": "avg"}}, width=32)


def retfound_dinov2(true: bool) -> Published:
    def made(vit: ViT) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
        wide = vit.norm.weight.shape[0]
        heads = {**linear("dino_head.mlp.0", 8, wide), "dino_head.last_layer.weight_g": torch.ones(8, 1)}
        state = {**under("backbone.", vit), "backbone.mask_token": torch.zeros(1, wide), **heads}
        return {"teacher": state}, lambda x: vit.norm(vit.each(x)[-1])[:, 0]

    return of_vit("vit_large_patch14_dinov2", true, made, {}, width=32)


def octcube(true: bool) -> Published:
    """Its blocks hand on what they add and the stream beside it; the pooling reads the first alone."""

    def made(vit: ViT) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
        wide = vit.norm.weight.shape[0]
        norm, head = stirred(nn.LayerNorm(wide, eps=1e-6)), nn.Linear(wide, 512 if true else 16)
        state = {n: t for n, t in vit.state_dict().items() if not n.startswith("norm.")}
        state = {
            n.replace("attn.qkv", "mixer.Wqkv").replace("attn.proj", "mixer.out_proj"): t for n, t in state.items()
        }
        state |= {**under("fc_norm.", norm), **under("head.", head)}
        state = {f"text.{n}": t for n, t in state.items()}
        state |= {"visual.cls_token": torch.zeros(1, 1, 8), "logit_scale": torch.zeros(())}

        def forward(pixels: Tensor) -> Tensor:
            before, last = vit.each(pixels)[-2], vit.blocks[-1]
            after = last(before)
            middle = before + last.attention(before)
            return head(norm((after - middle)[:, 1:].mean(1)))

        return {"epoch": 50, "state_dict": {f"module.{n}": t for n, t in state.items()}}, forward

    proj = 512 if true else 16
    image = {"args": {"global_pool": "avg"}, "pool": "branch", "proj": proj, "bias": True}
    return of_vit("vit_large_patch16_224", true, made, image, width=proj)


def green(true: bool) -> Published:
    def made(vit: ViT) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
        return dict(vit.state_dict()), lambda x: vit.norm(vit.each(x)[-1])[:, 5:].mean(1)

    image = {"args": {"global_pool": "avg", "fc_norm": False}}
    return of_vit("vit_small_patch14_reg4_dinov2", true, made, image, width=32)


def dinoret(pool: str, depth: int = 0) -> Callable[[bool], Published]:
    pools: dict[str, Callable[[Tensor], Tensor]] = {
        "token": lambda x: x[:, 0],
        "mean": lambda x: x[:, 1:].mean(1),
        "mean+token": lambda x: torch.cat((x[:, 1:].mean(1), x[:, 0]), -1),
    }

    def published(true: bool) -> Published:
        def made(vit: ViT) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
            state = {**vit.state_dict(), "mask_token": torch.zeros(1, vit.norm.weight.shape[0])}
            return state, lambda x: pools[pool](vit.norm(vit.each(x)[-1]))

        size = {"depth": (15 if true else 5)} if depth else {}
        wide = 64 if pool == "mean+token" else 32
        return of_vit("vit_base_patch14_dinov2", true, made, {"pool": pool}, width=wide, size=size)

    return published


def dinoret_lora(true: bool) -> Published:
    def made(vit: ViT) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
        state = {**vit.state_dict(), "mask_token": torch.zeros(1, vit.norm.weight.shape[0])}
        for number, block in enumerate(vit.blocks):
            for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
                layer, full = block.get_submodule(name), f"blocks.{number}.{name}"
                down, up = torch.randn(8, layer.in_features) * 0.1, torch.randn(layer.out_features, 8) * 0.1
                state[f"{full}.original_linear.weight"] = state.pop(f"{full}.weight")
                state[f"{full}.original_linear.bias"] = state.pop(f"{full}.bias")
                state |= {f"{full}.lora_adapter.lora_A.weight": down, f"{full}.lora_adapter.lora_B.weight": up}
                layer.register_forward_hook(lambda _, x, y, a=down, b=up: y + 16 / 8 * F.linear(F.linear(x[0], a), b))
        return {n: t.clone() for n, t in state.items()}, lambda x: vit.norm(vit.each(x)[-1])[:, 0]

    return of_vit("vit_base_patch14_dinov2", true, made, {"pool": "token"}, width=32)


def visionfm(true: bool) -> Published:
    def made(vit: ViT) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
        wide = vit.norm.weight.shape[0]
        state = {f"module.backbone.{n}": t for n, t in vit.state_dict().items()}
        state |= {"module.backbone.masked_embed": torch.zeros(1, wide), **linear("module.head.mlp.0", 8, wide)}
        content = {"teacher": state, "student": {"module.backbone.cls_token": torch.zeros(1, 1, wide)}, **training()}
        return content, lambda x: torch.cat([vit.norm(y)[:, 0] for y in vit.each(x)[-4:]], -1)

    return of_vit("vit_base_patch16_224", true, made, {"pool": "tokens4"}, width=128)


def resnet(channels: int) -> nn.Module:
    net = torchvision.models.resnet50()
    if channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    net.fc = nn.Identity()
    return stirred(net)


def flair(true: bool) -> Published:
    net, proj = resnet(3), nn.Linear(2048, 512, bias=False)
    wide = 768 if true else 32
    sizes = {"vocab_size": 28996, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    small = {"vocab_size": 300, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = {"hidden_size": wide, **(sizes if true else small)}
    text = under("text_model.model.", BertModel(BertConfig(**bert)))
    content = {
        **under("vision_model.model.", net),
        "vision_model.projection_head_vision.projection.weight": proj.weight.detach().clone(),
        **text,
        "text_model.projection_head_text.projection.weight": torch.randn(512, wide),
        "logit_scale": torch.tensor(2.6593),
    }
    config = {"model_type": "bert", "pad_token_id": 0, "max_position_embeddings": 512, "type_vocab_size": 2, **bert}
    tower = {"hf_config": config, "hf_tokenizer_name": "none", "context_length": 77, "hf_proj_type": "linear"}
    changes = {
        "text": {**tower, "hf_pooler_type": "layers_padded_mean_pooler"},
        "recipe": {**recipe(64), "rule": "pad"},
    }
    return Published(content, lambda x: proj(F.normalize(net(x), dim=-1)), {} if true else changes)


def retinavlm(true: bool) -> Published:
    net = resnet(1)
    state = {
        **under("online_encoder.encoder.", net),
        **linear("online_encoder.tail.0", 8, 4),
        **linear("predictor", 4, 4),
    }
    changes = {"recipe": {"side": 64, "colour": "grey"}}
    return Published({"state_dict": state, **training()}, net, {} if true else changes, channels=1)


def clip(kind: str) -> Callable[[bool], Published]:
    def published(true: bool) -> Published:
        sizes = {
            "mmfundusclip": (1280, 32, 16, 14, 378, 1024, (1024, 24, 16, 49408, 77)),
            "ret-clip": (768, 12, 12, 16, 224, 512, None),
            "eyeclip": (768, 12, 12, 32, 224, 512, (512, 12, 8, 49408, 77)),
        }[kind]
        text = sizes[-1] and (24, 2, 2, 50, 16)
        net = stirred(Clip(*(sizes if true else (32, 2, 2, 8, 32, 16, text))))  # type: ignore[arg-type]
        state, embed = dict(net.state_dict()), sizes[5] if true else 16
        base = {
            "mmfundusclip": "ViT-H-14-378-quickgelu",
            "ret-clip": "ViT-B-16-quickgelu",
            "eyeclip": "ViT-B-32-quickgelu",
        }
        image = {"open_clip": base[kind], "width": 32, "layers": 2, "head_width": 16, "patch_size": 8, "embed_dim": 16}
        changes: dict[str, Any] = {"image": image, "width": 16, "recipe": recipe(32)}
        content: dict[str, Any]
        if kind == "mmfundusclip":
            tower = {"width": 24, "layers": 2, "heads": 2, "vocab_size": 50, "context_length": 16}
            changes["text"] = {"open_clip": base[kind], **tower}
            content = {"name": "run", "state_dict": {f"module.{n}": t for n, t in state.items()}, **training()}
        elif kind == "eyeclip":
            decoder = {
                "visual.decoder.mask_token": torch.zeros(1, 1, 8),
                **linear("visual.decoder.decoder_embed", 8, 32),
            }
            training_ = training(loss=0.1)
            training_["optimizer_state_dict"] = training_.pop("optimizer")
            content = {"model_state_dict": state | decoder, **training_}
        else:
            content, changes["text"] = chinese(state, embed, true)
        return Published(content, net, {} if true else changes)

    return published


def chinese(state: State, embed: int, true: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """RET-CLIP's file and its text tower."""
    wide = 768 if true else 32
    sizes = {"vocab_size": 21128, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    small = {"vocab_size": 300, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = {"hidden_size": wide, **(sizes if true else small)}
    out = {**state, **under("bert.", BertModel(BertConfig(**bert), add_pooling_layer=False))}
    for head in ("text_projection", "text_projection_left", "text_projection_right"):
        out |= {**linear(f"{head}.0", wide, wide), **linear(f"{head}.2", embed, wide)}
    for side, inside in (("left", embed), ("right", embed), ("global", 2 * embed)):
        out[f"{side}_feature_mapping.weight"] = torch.randn(embed, inside)
    for name in ("logit_scale", "logit_scale_left", "logit_scale_right"):
        out[name] = torch.tensor(4.4998)
    config = {"model_type": "bert", "pad_token_id": 0, "max_position_embeddings": 512, "type_vocab_size": 2, **bert}
    text = {"hf_config": config, "hf_tokenizer_name": "none", "context_length": 100, "hf_proj_type": "relu"}
    text |= {"hf_pooler_type": "cls_last_hidden_state_pooler", "sides": True, "fixed_length": True}
    return {f"module.{n}": t for n, t in out.items()}, text


def visionunite(both: bool) -> Callable[[bool], Published]:
    def published(true: bool) -> Published:
        args = {} if true else {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 56}
        eva = stirred(timm.create_model("eva02_base_patch14_448", num_classes=0, **args))
        openai = Clip(1024, 24, 16, 14, 224, 768, (768, 12, 12, 49408, 77)) if true else Clip(32, 2, 2, 7, 28, 64)
        openai = stirred(openai)  # type: ignore[assignment]
        state = {**under("eva02.model.", eva), **under("clip.", openai), **linear("adapter", 8, 4)}
        state |= {**linear("abnormal1", 2, 8), "prefix_query.weight": torch.zeros(2, 4), "logit_scale": torch.zeros(())}
        state |= {"llama.layers.0.attention.wq.weight": torch.zeros(4, 4), **linear("adapter_text", 8, 4)}
        small: dict[str, Any] = {"timm": "eva02_base_patch14_448", "patch": 14}
        small["args"] = {k: v for k, v in args.items() if k != "img_size"}
        if both:
            beside = {"open_clip": "ViT-L-14-quickgelu", "width": 32, "layers": 2, "head_width": 16, "patch_size": 7}
            small["beside"] = {**beside, "image_size": 28, "embed_dim": 64}

        def forward(pixels: Tensor) -> Tensor:
            if not both:
                return eva(pixels)
            half = pixels.unflatten(3, (-1, 2)).mean(4).unflatten(2, (-1, 2)).mean(3)
            return eva(pixels) + F.normalize(openai(half), dim=-1)

        changes = {"image": small, "width": 64, "recipe": recipe(56)}
        return Published({"model": state, **training(scaler={})}, forward, {} if true else changes)

    return published


def medsiglip(true: bool) -> Published:
    wide, depth, heads, inner = (1152, 27, 16, 4304) if true else (32, 2, 2, 119)
    layers = {"hidden_size": wide, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": inner}
    side, patch = (448, 14) if true else (32, 8)
    words, length = (32000, 64) if true else (50, 16)
    config = SiglipConfig(
        vision_config={**layers, "image_size": side, "patch_size": patch},
        text_config={**layers, "vocab_size": words, "max_position_embeddings": length, "projection_size": wide},
    )
    net = stirred(SiglipModel(config))
    image = {"timm": "vit_so400m_patch14_siglip_384", "patch": patch}
    args = {"act_layer": "gelu_tanh", "embed_dim": wide, "depth": depth, "num_heads": heads, "patch_size": patch}
    tower = {"width": wide, "heads": heads, "layers": depth, "vocab_size": words, "context_length": length}
    changes = {
        "image": {**image, "args": args},
        "width": wide,
        "recipe": recipe(side),
        "text": {"open_clip": "ViT-SO400M-14-SigLIP-384", "act_kwargs": {"approximate": "tanh"}, **tower},
    }
    state = {n: t.clone() for n, t in net.state_dict().items()}
    return Published(state, lambda x: net.vision_model(x).pooler_output, {} if true else changes)


def urfound_extra() -> State:
    return {**linear("bert_mlp", 8, 4), "bert_encoder.bert.embeddings.word_embeddings.weight": torch.zeros(8, 4)}


LARGE = mae("vit_large_patch16_224", dict)
MAKERS: dict[str, Callable[[bool], Published]] = {
    "flair": flair,
    "mmfundusclip": clip("mmfundusclip"),
    "ret-clip": clip("ret-clip"),
    "eyeclip": clip("eyeclip"),
    "visionunite": visionunite(True),
    "visionunite-eva02": visionunite(False),
    "retfound-mae": LARGE,
    "deretfound": LARGE,
    "retfound-finetuned": finetuned,
    "retfound-dinov2": retfound_dinov2,
    "retfound-green": green,
    "urfound": mae("vit_base_patch16_224", urfound_extra),
    "dinoret": dinoret("token"),
    "dinoret-patches": dinoret("mean"),
    "dinoret-both": dinoret("mean+token"),
    "dinoret-be": dinoret("token", depth=3),
    "dinoret-lora": dinoret_lora,
    "retinavlm": retinavlm,
    "octcube-ir": octcube,
    "medsiglip": medsiglip,
}
# those that a file cannot tell apart
SAME = [
    {"retfound-mae", "deretfound"},
    {"visionunite", "visionunite-eva02"},
    {"dinoret", "dinoret-patches", "dinoret-both"},
]


def published(name: str, true: bool = False) -> Published:
    """The release `name`, with random weights."""
    torch.manual_seed(0)
    return (visionfm if name.startswith("visionfm-") else MAKERS[name])(true)


def alike(name: str) -> set[str]:
    """The releases that share their layout with one, itself among them."""
    return next((same for same in SAME if name in same), {name})
