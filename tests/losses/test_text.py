import math

import pytest
import torch

from mdf.benchmarks import allocated
from mdf.losses.text import ROWS, shift, text_loss, text_loss_by_rows
from mdf.training.planner import Kept


def test_the_logit_before_a_label_predicts_it():
    labels = torch.tensor([[-100, -100, 7, 2], [-100, 5, -100, -100]])
    keep, targets = shift(labels)
    assert keep.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert targets.tolist() == [7, 2, 5]


def test_a_label_on_the_first_token_has_no_logit_before_it():
    keep, targets = shift(torch.tensor([[4, -100, 6]]))
    assert keep.tolist() == [[False, True, False]]
    assert targets.tolist() == [6]


def test_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    assert float(text_loss(logits, torch.tensor([1, 0]))) == pytest.approx(math.log(4 / 3) + math.log(2))


def test_it_is_computed_in_float32_whatever_the_logits_are():
    logits = torch.randn(5, 11).bfloat16()
    loss = text_loss(logits, torch.arange(5))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, text_loss(logits.float(), torch.arange(5)))


def test_micro_batches_add_up_to_the_whole_batch():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 13), torch.randint(0, 13, (4, 6))
    labels[0, :5] = labels[1, 3:] = -100  # rows of unequal many supervised tokens

    def loss(rows):
        keep, targets = shift(labels[rows])
        return text_loss(logits[rows][keep], targets)

    torch.testing.assert_close(sum(loss([i]) for i in range(4)), loss([0, 1, 2, 3]))


def gradients(loss, *tensors):
    return [loss.detach(), *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("supervised", [0, 1, 6, 7, 600])  # chunks of 3: none, short, whole, with a rest, many
def test_by_rows_the_loss_and_its_gradients_are_those_of_all_logits_at_once(supervised):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 33, bias=False)
    hidden, targets = torch.randn(supervised, 16, requires_grad=True), torch.randint(33, (supervised,))
    whole = gradients(text_loss(head(hidden), targets), hidden, head.weight)
    parts = gradients(text_loss_by_rows(hidden, head, targets, rows=3), hidden, head.weight)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_by_rows_the_loss_of_bf16_logits_is_summed_in_float32():
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 500, bias=False).bfloat16().requires_grad_(False)
    hidden, targets = torch.randn(1000, 32).bfloat16().requires_grad_(), torch.randint(500, (1000,))
    whole = gradients(text_loss(head(hidden), targets), hidden)
    parts = gradients(text_loss_by_rows(hidden, head, targets), hidden)
    assert parts[0].dtype == torch.float32
    assert float(parts[0]) == pytest.approx(float(whole[0]), rel=1e-6)
    assert torch.equal(parts[1], whole[1])


def test_by_rows_a_head_that_trains_under_autocast_is_as_near_to_float32_as_all_logits_at_once():
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 300, bias=False)
    hidden, targets = torch.randn(1000, 64, requires_grad=True), torch.randint(300, (1000,))
    _, exact = gradients(text_loss(head(hidden), targets), head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        whole, parts = text_loss(head(hidden), targets), text_loss_by_rows(hidden, head, targets, rows=100)
    errors = [float((gradients(loss, head.weight)[1] - exact).norm() / exact.norm()) for loss in (whole, parts)]
    assert errors[1] < 1.5 * errors[0] < 0.02


def test_nothing_of_the_vocabularys_size_is_kept_for_backward():
    """Tensors without content, so that Llama 3's vocabulary costs neither memory nor time."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        hidden, targets = torch.empty(2048, 512, requires_grad=True), torch.zeros(2048, dtype=torch.long)
        head = torch.nn.Linear(512, 128_256, bias=False)
        kept = []
        for loss in (lambda: text_loss(head(hidden), targets), lambda: text_loss_by_rows(hidden, head, targets)):
            with Kept([hidden, head.weight]) as noted:
                loss()
            kept.append(noted.bytes)
    assert kept[0] >= 2048 * 128_256 * 4
    assert kept[1] < kept[0] / 1000


def test_at_its_peak_the_loss_takes_as_many_times_less_memory_as_there_are_chunks():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 8192, bias=False).requires_grad_(False)
    hidden, targets = torch.randn(2048, 8, requires_grad=True), torch.randint(8192, (2048,))
    whole, _ = allocated(lambda: text_loss(head(hidden), targets).backward(), hidden.device)
    parts, _ = allocated(lambda: text_loss_by_rows(hidden, head, targets).backward(), hidden.device)
    assert whole >= 2048 * 8192 * 4
    assert parts <= whole / 4
    assert parts == pytest.approx(whole * ROWS / 2048, rel=0.05)
