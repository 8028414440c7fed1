"""CLIP's loss: values by hand, and the same gradient on two processes as on one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mdf.losses.contrastive import contrastive_loss
from mdf.losses.label_aware import label_aware_contrastive_loss


def pairs(count: int = 6, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(F.normalize(torch.randn(count, width, generator=generator), dim=-1) for _ in range(2))


ONE = torch.tensor(1.0)


def test_by_hand():
    eye = torch.eye(2)
    assert float(contrastive_loss(eye, eye, ONE)) == pytest.approx(math.log(1 + math.exp(-1)))


def test_both_directions_count_alike():
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both texts are like the first photograph
    # photograph 0 sees logits (1, 1), photograph 1 (0, 0): ln 2 each. Both texts see (1, 0): right once, wrong once
    by_text = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert float(contrastive_loss(images, texts, ONE)) == pytest.approx((math.log(2) + by_text) / 2)
    assert float(contrastive_loss(texts, images, ONE)) == pytest.approx((math.log(2) + by_text) / 2)


def test_the_scale_is_the_multiplier_and_no_logarithm():
    eye = torch.eye(2)
    assert float(contrastive_loss(eye, eye, torch.tensor(math.log(3)))) == pytest.approx(math.log(4 / 3))
    scale = torch.tensor(5.0, requires_grad=True)
    contrastive_loss(*pairs(), scale).backward()
    assert scale.grad.abs() > 0


def test_equal_captions_are_mutual_positives():
    eye = torch.eye(2)
    same = contrastive_loss(eye, eye, ONE, torch.tensor([9, 9]))
    assert float(same) == pytest.approx(math.log(1 + math.e) - 0.5)  # targets one half each
    images, texts = pairs()
    assert torch.equal(contrastive_loss(images, texts, ONE, torch.arange(6)), contrastive_loss(images, texts, ONE))
    # at the optimum of equal captions, equal embeddings cost only the entropy of a target of one half each
    group = torch.tensor([0, 0, 1, 1])
    ideal = torch.eye(2)[group]
    assert float(contrastive_loss(ideal, ideal, torch.tensor(100.0), group)) == pytest.approx(math.log(2), abs=1e-4)
    ideal.requires_grad_()
    contrastive_loss(ideal, ideal, torch.tensor(100.0), group).backward()
    assert ideal.grad.abs().max() < 1e-4


def test_the_order_of_the_rows_does_not_matter():
    images, texts = pairs()
    group, order = torch.tensor([4, 7, 4, 1, 7, 3]), torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = contrastive_loss(images[order], texts[order], torch.tensor(7.0), group[order])
    torch.testing.assert_close(shuffled, contrastive_loss(images, texts, torch.tensor(7.0), group))


def test_it_is_computed_in_float32():
    images, texts = pairs()
    assert contrastive_loss(images.bfloat16(), texts.bfloat16(), ONE.bfloat16()).dtype == torch.float32


# -- two processes ----------------------------------------------------------------------------------------------------

ROWS = 6
GROUP = torch.tensor([4, 7, 4, 1, 7, 3])  # equal ids on both processes
SETS = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, slice], Tensor]] = {
    "plain": lambda v, t, s, part: contrastive_loss(v, t, s),
    "positives": lambda v, t, s, part: contrastive_loss(v, t, s, GROUP[part]),
    "label_ids": lambda v, t, s, part: label_aware_contrastive_loss(v, t, s, label_ids=GROUP[part]),
    "label_sets": lambda v, t, s, part: label_aware_contrastive_loss(v, t, s, label_sets=SETS[part]),
}


def gradients(part: slice) -> dict[str, list[Tensor]]:
    """Gradients of two projections and the scale, and the loss itself, from the rows `part` of one batch."""
    found = {}
    for name, loss_of in LOSSES.items():
        generator = torch.Generator().manual_seed(1)
        images, texts = (torch.randn(ROWS, 8, generator=generator) for _ in range(2))
        weights = [torch.randn(8, 4, generator=generator).requires_grad_() for _ in range(2)]
        scale = torch.tensor(3.0, requires_grad=True)
        v, t = (F.normalize(x[part] @ w, dim=-1) for x, w in zip((images, texts), weights, strict=True))
        loss = loss_of(v, t, scale, part)
        loss.backward()
        found[name] = [*(w.grad for w in weights), scale.grad, loss.detach()]
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    half = ROWS // 2
    found = gradients(slice(rank * half, (rank + 1) * half))
    for tensors in found.values():
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= 2  # as DDP averages
    if rank == 0:
        torch.save(found, Path(folder) / "averaged.pt")
    dist.barrier()  # gloo aborts where one process is gone before the other has let go
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return torch.load(folder / "averaged.pt", weights_only=True)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_averaged_over_two_processes_is_that_of_one_on_the_whole_batch(averaged, name):
    alone = gradients(slice(0, ROWS))[name]
    for got, wanted in zip(averaged[name], alone, strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
