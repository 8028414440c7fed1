"""Learning rates and weight decay, and what is said about what trains."""

from functools import partial

import pytest
import torch

from mdf.config import PartConfig
from mdf.models.fusion import MDFModel
from mdf.training.optimizer import (
    groups,
    load_state,
    make_optimizer,
    moment_bytes,
    page_again,
    set_learning_rates,
    share_of_peak,
    trainable_table,
)
from mdf.training.saving import read_tensors, write_tensors


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


def test_a_part_has_its_own_rate_warm_up_and_decay_and_the_stages_where_it_says_none(tiny):
    cfg = tiny(**{
        "fuse.warmup": 0.5, "fuse.weight_decay": 0.05, "fuse.losses": {"text": 1.0, "mask": 0.5},
        "fuse.parts.unet": PartConfig("full", 2e-3, warmup=0.0),
        "fuse.parts.fusion": PartConfig("full", 1e-3, weight_decay=0.2),
        "fuse.parts.language": PartConfig("lora", 3e-4, warmup=0.25, weight_decay=0.0),
    })  # fmt: skip
    model = MDFModel.build(cfg, ("normal",))
    model.set_trainable(cfg.fuse.parts, ("text", "mask"))
    made = groups(model, cfg, "fuse")
    assert {(g["part"], g["peak"], g["warmup"], g["weight_decay"]) for g in made} == {
        ("unet", 2e-4, 0.0, 0.05), ("unet", 2e-4, 0.0, 0.0),  # its encoder, a tenth
        ("unet", 2e-3, 0.0, 0.05), ("unet", 2e-3, 0.0, 0.0),
        ("fusion", 1e-3, 0.5, 0.2), ("fusion", 1e-3, 0.5, 0.0), ("gates", 1e-2, 0.5, 0.0),
        ("language", 3e-4, 0.25, 0.0),
    }  # fmt: skip
    assert {"lr", "params"} < made[0].keys() and len(made) == 8
    optimizer = make_optimizer(model, cfg, "fuse")
    first = set_learning_rates(optimizer, partial(share_of_peak, 0, 8))
    assert first == {part: pytest.approx(r) for part, r in
                     {"unet": 2e-3, "fusion": 1e-3 / 5, "gates": 1e-2 / 5, "language": 1e-4}.items()}  # fmt: skip
    table = trainable_table(model, cfg, "fuse").splitlines()
    rows = {line.split()[0]: line.split() for line in table[2:7]}
    assert table[1].split()[-3:] == ["lr", "warm-up", "decay"] and "  optimiser: adamw" in table
    assert rows["unet"][-5:] == ["2.0e-04", "to", "2.0e-03", "0", "0.05"]
    assert rows["language"][-3:] == ["3.0e-04", "0.25", "0"] and rows["fusion"][-3:] == ["1.0e-03", "0.5", "0.2"]
    assert rows["encoder"][-1] == "-" and rows["gates"][-3:] == ["1.0e-02", "0.5", "0"]


def test_nothing_that_is_no_matrix_decays_in_a_language_model_trained_in_full(tiny):
    cfg = tiny(**{"fuse.parts.language": PartConfig("full", 1e-4, weight_decay=0.1), "fuse.weight_decay": 0.1})
    model = MDFModel.build(cfg, ("normal",))
    model.set_trainable(cfg.fuse.parts, ("text",))
    names = {p: n for n, p in model.named_parameters()}
    spared = {names[p] for g in groups(model, cfg, "fuse") for p in g["params"] if g["weight_decay"] == 0}
    norms = {n for n in names.values() if n.startswith("language.") and "norm" in n}
    assert {n for n in spared if n.startswith("language.")} == {*norms, "language.model.embed_tokens.weight"}


class TestEightBits:
    """bitsandbytes' AdamW on the CPU, where 0.50 has it but for paged memory."""

    @pytest.fixture(autouse=True)
    def _bitsandbytes(self):
        pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")

    def trained(self, tiny, optimizer, steps):
        """A model and its optimiser after some steps on gradients drawn by their number."""
        cfg = tiny(**{"fuse.optimizer": optimizer})
        model = MDFModel.build(cfg, ("normal",))
        model.set_trainable(cfg.fuse.parts, ("text",))
        made = make_optimizer(model, cfg, "fuse")
        for step in range(steps):
            self.step(made, step)
        return model, made

    @staticmethod
    def step(optimizer, number):
        draw = torch.Generator().manual_seed(number)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=draw)
        optimizer.step()

    def test_large_tensors_have_moments_of_8_bits_and_small_ones_of_32(self, tiny):
        _, optimizer = self.trained(tiny, "adamw_8bit", 1)
        sizes = {p.numel() >= 4096: set() for p in optimizer.state}
        for parameter, state in optimizer.state.items():
            sizes[parameter.numel() >= 4096] |= {state["state1"].dtype, state["state2"].dtype}
        assert sizes == {True: {torch.uint8}, False: {torch.float32}}
        told = sum(moment_bytes(p, "adamw_8bit") for p in optimizer.state)
        held = [s[k] for s in optimizer.state.values() for k in ("state1", "state2", "absmax1", "absmax2") if k in s]
        assert sum(t.numel() * t.element_size() for t in held) == pytest.approx(told, rel=0.01)

    def test_its_steps_are_those_of_adamw_within_what_8_bits_round(self, tiny):
        near, far = (self.trained(tiny, name, 5)[0].state_dict() for name in ("adamw", "adamw_8bit"))
        start = self.trained(tiny, "adamw", 0)[0].state_dict()
        moved = torch.cat([(near[n] - start[n]).flatten() for n in near if near[n].is_floating_point()])
        apart = torch.cat([(near[n] - far[n]).flatten() for n in near if near[n].is_floating_point()])
        assert 0 < apart.norm() < 0.1 * moved.norm()

    @pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
    def test_from_its_file_it_goes_on_to_the_last_bit(self, tiny, tmp_path, optimizer):
        model, made = self.trained(tiny, optimizer, 3)
        write_tensors(tmp_path / "optimizer.pt", made.state_dict())
        again, other = self.trained(tiny, optimizer, 0)
        again.load_state_dict(model.state_dict())
        load_state(other, read_tensors(tmp_path / "optimizer.pt"))
        for number in (3, 4):
            self.step(made, number)
            self.step(other, number)
        wanted, got = model.state_dict(), again.state_dict()
        assert all(torch.equal(wanted[n], got[n]) for n in wanted)

    def test_the_file_of_an_mdf_without_warm_up_of_parts_is_read(self, tiny, tmp_path):
        _, made = self.trained(tiny, "adamw", 1)
        state = made.state_dict()
        for group in state["param_groups"]:
            del group["warmup"]
        _, other = self.trained(tiny, "adamw", 0)
        load_state(other, state)
        assert {g["warmup"] for g in other.param_groups} == {0.25}

    @pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
    def test_paged_moments_are_laid_out_again_as_they_were(self, tiny):
        """On a CPU paged memory is plain; what is left to see is that every value arrives."""
        _, made = self.trained(tiny, "paged_adamw_8bit", 2)
        before = [s[k].clone() for s in made.state.values() for k in ("state1", "state2")]
        page_again(made)
        after = [s[k] for s in made.state.values() for k in ("state1", "state2")]
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(before, after, strict=True))
