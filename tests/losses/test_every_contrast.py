"""What holds for every loss that compares photographs with texts, among others that processes may share the batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mdf.losses.contrastive import contrastive_loss
from mdf.losses.label_aware import label_aware_contrastive_loss
from mdf.losses.patient import patient_contrastive_loss
from mdf.losses.sigmoid import sigmoid_loss

ROWS, WIDTH = 6, 4
GROUP = torch.tensor([4, 7, 4, 1, 7, 3])
SETS = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
EYES = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, 1]]).bool()
MASKED = torch.tensor([4, -1, 4, 1, -1, 3])  # equal or not, a negative id takes no part
BIAS = torch.tensor(-1.0, dtype=torch.float64)
# loss(images [B,2,WIDTH], texts, scale, rows of the whole batch, local); the first of two vectors is a photograph's
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]


def of_one(loss: Callable[..., Tensor], **labels: Tensor) -> Loss:
    """A loss of single photographs; `labels` are those of the whole batch."""
    return lambda v, t, s, rows, local: loss(
        v[:, 0], t[:, 0], s, **{name: x if x is BIAS else x[rows] for name, x in labels.items()}, local=local
    )


LOSSES: dict[str, Loss] = {
    "contrastive": of_one(contrastive_loss),
    "positives": of_one(contrastive_loss, positives=GROUP),
    "masked": of_one(contrastive_loss, positives=MASKED),
    "label_ids": of_one(label_aware_contrastive_loss, label_ids=GROUP),
    "label_ids_masked": of_one(label_aware_contrastive_loss, label_ids=MASKED),
    "label_sets": of_one(label_aware_contrastive_loss, label_sets=SETS),
    "sigmoid": of_one(sigmoid_loss, logit_bias=BIAS),
    "sigmoid_masked": of_one(sigmoid_loss, logit_bias=BIAS, positives=MASKED),
    "patient": lambda v, t, s, rows, local: patient_contrastive_loss(v, t, s, EYES[rows], local=local),
    "patient_positives": lambda v, t, s, rows, local: patient_contrastive_loss(
        v, t, s, EYES[rows], v[:, 1], t[:, 0], GROUP[rows, None].expand(-1, 3), local=local
    ),
}


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors [ROWS,2,WIDTH] of photographs and texts, and a multiplier, in float64."""
    draw = torch.Generator().manual_seed(0)
    v, t = (F.normalize(torch.randn(ROWS, 2, WIDTH, generator=draw).double(), dim=-1) for _ in range(2))
    return v, t, torch.tensor(3.0, dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
def test_the_gradient_is_that_of_finite_differences(name, local):
    inputs = [x.requires_grad_() for x in batch()]
    assert torch.autograd.gradcheck(lambda v, t, s: LOSSES[name](v, t, s, torch.arange(ROWS), local), inputs)


def test_the_sigmoid_bias_has_the_gradient_of_finite_differences():
    v, t, scale = batch()
    bias = BIAS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda b: sigmoid_loss(v[:, 0], t[:, 0], scale, b, GROUP), bias)


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_rows_does_not_matter(name):
    v, t, scale = batch()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        LOSSES[name](v[order], t[order], scale, order, False), LOSSES[name](v, t, scale, torch.arange(ROWS), False)
    )


BY_IDS = {
    "contrastive": lambda v, t, s, ids: contrastive_loss(v, t, s, ids),
    "label_aware": lambda v, t, s, ids: label_aware_contrastive_loss(v, t, s, label_ids=ids),
    "sigmoid": lambda v, t, s, ids: sigmoid_loss(v, t, s, BIAS, ids),
    "patient": lambda v, t, s, ids: patient_contrastive_loss(
        torch.stack([v, v], 1), torch.stack([t, t], 1), s, (ids >= 0)[:, None].expand(-1, 2)
    ),
}


@pytest.mark.parametrize("name", BY_IDS)
def test_a_row_that_takes_no_part_changes_nothing_and_gets_no_gradient(name):
    v, t, scale = (x[:, 0].clone() if x.ndim else x for x in batch())
    ids = torch.arange(ROWS)
    ids[2] = -1
    rest = ids >= 0
    without = BY_IDS[name](v[rest], t[rest], scale, ids[rest])
    v[2], t[2] = torch.nan, torch.inf  # whatever stands there
    v.requires_grad_()
    loss = BY_IDS[name](v, t, scale, ids)
    loss.backward()
    torch.testing.assert_close(loss.detach(), without)
    assert (v.grad[2] == 0).all() and (v.grad[rest] != 0).any(1).all()


@pytest.mark.parametrize("name", BY_IDS)
def test_without_any_row_it_is_0_with_a_gradient_of_0(name):
    v, t, scale = (x[:, 0].clone().requires_grad_() if x.ndim else x.requires_grad_() for x in batch())
    loss = BY_IDS[name](v, t, scale, torch.full((ROWS,), -1))
    loss.backward()
    assert loss == 0 and all((x.grad == 0).all() for x in (v, t, scale))


def one_class(v: Tensor, t: Tensor, s: Tensor, rows: Tensor, local: bool) -> Tensor:
    """All softmax losses on a batch in which everything is the same."""
    same = torch.full((len(rows),), 5)
    single = v[:, 0], t[:, 0], s
    return (
        contrastive_loss(*single, same, local=local)
        + label_aware_contrastive_loss(*single, label_ids=same, local=local)
        + label_aware_contrastive_loss(*single, label_sets=SETS[:1].expand(len(rows), -1), local=local)
        + patient_contrastive_loss(v, t, s, EYES[rows], positives=same[:, None].expand(-1, 3), local=local)
    )


@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
def test_a_batch_of_one_class_has_its_value_and_no_gradient(local):
    """Equal embeddings would be its optimum: six losses of six, six, six, four, four and five rows at their entropy."""
    v, t, scale = (x.requires_grad_() for x in batch())
    loss = one_class(v, t, scale, torch.arange(ROWS), local)
    entropy = torch.tensor([6.0, 6.0, 6.0, 4.0, 4.0, 5.0]).double().log().sum()
    assert loss > entropy
    assert not any(g.any() for g in torch.autograd.grad(loss, (v, t, scale)))
    same = v[:1, :1].expand(ROWS, 2, -1)
    assert one_class(same, same, scale, torch.arange(ROWS), local) > entropy - 1e-9


def test_one_class_is_no_reason_to_skip_the_sigmoid_loss_whose_pairs_are_questions_of_their_own():
    """Its gradient draws every photograph to the texts, which no other row of the batch is needed for."""
    v, t, scale = (x[:, 0].clone() if x.ndim else x for x in batch())
    v.requires_grad_()
    (together,) = torch.autograd.grad(sigmoid_loss(v, t, scale, BIAS, torch.full((ROWS,), 5)), v)
    alone = [torch.autograd.grad(sigmoid_loss(v[:1], t[j : j + 1], scale, BIAS), v)[0][0] for j in range(ROWS)]
    torch.testing.assert_close(together[0], torch.stack(alone).sum(0) / ROWS)
    assert (together * t.mean(0)).sum(1).max() < 0


@pytest.mark.parametrize("name", ["contrastive", "label_aware", "sigmoid"])
def test_identical_captions_are_positives_and_no_negatives(name):
    """A caption is drawn to the photograph of its twin, which without equal ids it is pushed from."""
    images = torch.eye(3).double()
    captions = torch.ones(3, 3).double().requires_grad_()  # as near to one photograph as to the next
    small = torch.tensor(0.1).double()
    toward_twin = []
    for ids in (torch.tensor([8, 8, 9]), torch.arange(3)):
        (gradient,) = torch.autograd.grad(BY_IDS[name](images, captions, small, ids), captions)
        toward_twin.append(float(-gradient[1] @ images[0]))
    assert toward_twin[0] > 0 > toward_twin[1]


# -- two processes ----------------------------------------------------------------------------------------------------

SPLITS = {"equal": (3, 3), "unequal": (4, 2), "one_has_none": (6, 0)}


def gradients(loss: Loss, rows: Tensor, local: bool) -> list[Tensor]:
    """Gradients of two projections and of the scale, and the loss itself, from `rows` of one batch."""
    draw = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(ROWS, 2, 8, generator=draw).double() for _ in range(2))
    weights = [torch.randn(8, WIDTH, generator=draw).double().requires_grad_() for _ in range(2)]
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    v, t = (F.normalize(x[rows] @ w, dim=-1) for x, w in zip((images, texts), weights, strict=True))
    value = loss(v, t, scale, rows, local)
    value.backward()
    return [*(w.grad for w in weights), scale.grad, value.detach()]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for split, sizes in SPLITS.items():
        rows = torch.arange(ROWS).split(sizes)[rank]
        for name, loss in (LOSSES | {"one_class": one_class}).items():
            for local in (False, True):
                tensors = gradients(loss, rows, local)
                value = tensors[-1].clone()
                for tensor in tensors:
                    dist.all_reduce(tensor)
                    tensor /= 2  # as DDP averages
                assert torch.equal(value, tensors[-1]), "the loss is the same on both"
                found[split, name, local] = tensors
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
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
def test_the_gradient_averaged_over_two_processes_is_that_of_one_on_the_whole_batch(averaged, split, name, local):
    """In float64, where only the formula can make a difference."""
    alone = gradients(LOSSES[name], torch.arange(ROWS), local)
    for got, wanted in zip(averaged[split, name, local], alone, strict=True):
        assert wanted.abs().max() > 1e-3
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("local", [False, True], ids=["global", "local"])
def test_a_batch_of_one_class_has_no_gradient_on_two_processes_either(averaged, split, local):
    *found, value = averaged[split, "one_class", local]
    assert not any(x.any() for x in found)
    torch.testing.assert_close(value, gradients(one_class, torch.arange(ROWS), local)[-1])
