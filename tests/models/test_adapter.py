"""The adapter reads a set of patches: all of them, in no order."""

import torch

from mdf.models.adapter import GatedCrossAttention
from mdf.models.film import Film
from mdf.models.patches import MAX_PATCH, PatchProjection


def adapter():
    torch.manual_seed(0)
    module = GatedCrossAttention(32, 64)
    torch.nn.init.constant_(module.attn_gate, 1.0)
    torch.nn.init.normal_(module.o.weight, std=0.1)  # starts at 0
    return module


def test_an_adapter_starts_by_returning_the_hidden_states_themselves_and_learns_from_the_first_step():
    module = GatedCrossAttention(32, 64)
    hidden = torch.randn(2, 5, 32)
    out, _ = module(hidden, module.keys_values(torch.randn(2, 16, 64)))
    assert torch.equal(out, hidden)
    out.square().sum().backward()
    assert module.o.weight.grad.abs().min() > 0 and module.ffn[2].weight.grad.abs().min() > 0


def test_the_order_of_the_patches_changes_nothing():
    module, hidden, memory = adapter(), torch.randn(2, 5, 32), torch.randn(2, 16, 64)
    shuffled = memory[:, torch.randperm(16)]
    out, _ = module(hidden, module.keys_values(memory))
    torch.testing.assert_close(out, module(hidden, module.keys_values(shuffled))[0])


def test_every_query_reads_every_patch():
    module, memory = adapter(), torch.randn(1, 16, 64, requires_grad=True)
    out, _ = module(torch.randn(1, 5, 32), module.keys_values(memory))
    for t in range(5):
        (grad,) = torch.autograd.grad(out[0, t].sum(), memory, retain_graph=True)
        assert (grad.abs().sum(-1) > 0).all()


def test_a_float32_gate_does_not_turn_a_bfloat16_stream_into_float32():
    module = adapter()
    out, _ = module(torch.randn(1, 3, 32).bfloat16(), module.keys_values(torch.randn(1, 16, 64)))
    assert out.dtype == torch.bfloat16


def test_the_attention_returned_is_that_of_the_positions_asked_for_and_counts_what_read_nothing():
    module, hidden, memory = adapter(), torch.randn(2, 5, 32), torch.randn(2, 16, 64)
    grounded = torch.zeros(2, 5, dtype=torch.bool)
    grounded[0, 3] = grounded[1, 0] = grounded[1, 4] = True
    kv = module.keys_values(memory)
    out, attention = module(hidden, kv, grounded)
    assert torch.equal(out, module(hidden, kv)[0])
    assert attention.shape == (3, 17)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3))
    q = module.q(module.attn_norm(hidden))[1, 4].view(module.heads, 64)
    logits = torch.cat([(q[:, None] * kv[1, 0, :, :16]).sum(-1) / 8, torch.zeros(module.heads, 1)], 1)
    torch.testing.assert_close(attention[2], logits.softmax(-1).mean(0))


def test_rows_side_by_side_may_share_the_keys_and_values_of_one_photograph():
    module, hidden = adapter(), torch.randn(6, 5, 32)
    kv = module.keys_values(torch.randn(2, 16, 64))
    torch.testing.assert_close(module(hidden, kv)[0], module(hidden, kv.repeat_interleave(3, 0))[0])


def test_a_head_that_finds_nothing_reads_nothing():
    module, hidden = adapter(), torch.randn(1, 2, 32)
    kv = module.keys_values(torch.randn(1, 16, 64))
    kv[:, 0] = -1e4 * module.q(module.attn_norm(hidden))[0, 0].view(1, module.heads, 1, 64).sign()  # repels the query
    kv[:, 0, :, -1] = 0.0
    out, _ = module(hidden, kv)
    assert torch.equal(out[0, 0], hidden[0, 0])


def test_film_starts_as_the_norm_and_its_condition_acts_once_trained():
    film, skip, c = Film(6, 8), torch.randn(2, 6, 4, 4), torch.randn(2, 8)
    assert torch.equal(film(skip, c), film.norm(skip))
    torch.nn.init.normal_(film.mlp[-1].weight)
    assert not torch.allclose(film(skip, c), film.norm(skip))


def test_a_patch_comes_from_its_own_place():
    projection = PatchProjection(3, 16, 4, 64)
    image = torch.zeros(1, 3, 16, 16)
    image[0, :, 4:8, 12:16] = 1.0  # row 1, column 3
    changed = (projection(image) - projection(torch.zeros_like(image))).abs().sum(-1)[0] > 0
    assert changed.nonzero().flatten().tolist() == [1 * 4 + 3]


def test_wide_patches_are_reduced_and_said():
    projection = PatchProjection(64, 256, 4, 32)  # 64 x 64 pixels of 64 channels a patch
    assert projection.channels * projection.patch**2 <= MAX_PATCH
    assert "1x1 conv" in projection.describe() and "average pool" in projection.describe()
    assert projection(torch.randn(1, 64, 256, 256)).shape == (1, 16, 32)
