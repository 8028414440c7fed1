"""Learning rates and weight decay, and what is said about what trains."""

import pytest

from mdf.models.fusion import MDFModel
from mdf.training.optimizer import groups, share_of_peak, trainable_table


def test_the_rate_rises_then_falls_and_is_never_zero():
    shares = [share_of_peak(step, 100, 0.1) for step in range(100)]
    assert shares[:11] == sorted(shares[:11]) and shares[10] == max(shares) == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert 0 < shares[-1] < 0.001 and shares[0] == pytest.approx(1 / 11)
    assert [share_of_peak(step, 1, 0.0) for step in range(1)] == [1.0]
    assert [share_of_peak(step, 10, 0.2, "constant") for step in range(4)] == [1 / 3, 2 / 3, 1.0, 1.0]


def test_every_trainable_tensor_is_in_one_group_with_the_right_rate_and_decay(tiny):
    cfg = tiny()
    model = MDFModel.build(cfg, ("normal",))
    model.set_trainable(cfg.fuse.parts, ("text",))
    names = {p: n for n, p in model.named_parameters() if p.requires_grad}
    made = groups(model, cfg, "fuse")
    assert sorted(names[p] for g in made for p in g["params"]) == sorted(names.values())
    for group in made:
        for parameter in group["params"]:
            name = names[parameter]
            if name.endswith("gate"):
                assert (group["peak"], group["weight_decay"]) == (cfg.fusion.gate_lr, 0.0)
            elif parameter.ndim < 2 or "norm" in name or "position" in name:
                assert group["weight_decay"] == 0.0, name
            else:
                assert (group["peak"], group["weight_decay"]) == (1e-3, cfg.fuse.weight_decay), name
    table = trainable_table(model, cfg, "fuse")
    assert "language  lora" in table and "encoder   frozen         0" in table and "gates" in table


def test_the_rate_falls_with_the_depth_of_a_layer_in_both_towers(tiny):
    cfg = tiny(**{"encoder.layer_decay": 0.5, "encoder.image_lr_scale": 0.1})
    model = MDFModel.build(cfg, ("normal",))
    model.set_trainable(cfg.align.parts, ("contrastive",))
    names = {p: n.removeprefix("encoder.clip.") for n, p in model.named_parameters()}
    rate = {names[p]: g["peak"] for g in groups(model, cfg, "align") for p in g["params"]}
    assert len(rate) == sum(n.startswith("encoder.") for n, _ in model.named_parameters())
    for name, above in {
        "visual.conv1.weight": 3, "visual.transformer.resblocks.0.mlp.c_fc.weight": 2,
        "visual.transformer.resblocks.1.attn.in_proj_weight": 1, "visual.ln_post.weight": 0, "visual.proj": 0,
    }.items():  # fmt: skip
        assert rate[name] == pytest.approx(1e-3 * 0.1 * 0.5**above), name
    for name, above in {
        "token_embedding.weight": 2, "transformer.resblocks.0.ln_1.bias": 1, "text_projection": 0, "logit_scale": 0,
    }.items():  # fmt: skip
        assert rate[name] == pytest.approx(1e-3 * 0.5**above), name
    table = trainable_table(model, cfg, "align")
    assert "1.3e-05 to 1.0e-03" in table and "image tower VisionTransformer: GELU, 32 px" in table
