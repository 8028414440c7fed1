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
