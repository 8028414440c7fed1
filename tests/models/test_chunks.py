"""GradCache: a batch in chunks has the gradient of the batch at once. On two processes: tests/training/test_loop.py."""

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from mdf.config import EncoderConfig
from mdf.losses.contrastive import contrastive_loss
from mdf.models.chunks import in_chunks
from mdf.models.fundus_encoder import FundusEncoder

ROWS, CONTEXT = 7, 77


class Aligned(nn.Module):
    """The encoder's two towers as the model calls them in the stage `align`."""

    def __init__(self, encoder: FundusEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor, captions: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        images = in_chunks(lambda x: self.encoder(x)[0], pixels, chunk)
        return images, in_chunks(self.encoder.encode_text, captions, chunk), self.encoder.logit_scale


def tiny_encoder(**settings) -> FundusEncoder:
    torch.manual_seed(0)
    encoder = FundusEncoder(EncoderConfig(model="fundus-vit-tiny", **settings))
    with torch.no_grad():  # what starts at one value would hide where a gradient comes from
        encoder.clip.logit_scale.fill_(1.0)
    return encoder


def batch(size: int = 32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    captions = torch.randint(1, 400, (ROWS, CONTEXT), generator=draw)
    captions[:, -1] = 49407  # the end of the text, at which it is read
    return torch.randn(ROWS, 3, size, size, generator=draw), captions


def gradients(model: nn.Module, pixels: Tensor, captions: Tensor, chunk: int) -> tuple[float, Tensor]:
    """The loss and all gradients as one vector."""
    model.zero_grad()
    loss = contrastive_loss(*model(pixels, captions, chunk), local=True)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_same(got: tuple[float, Tensor], wanted: tuple[float, Tensor]) -> None:
    """To 1e-6 of the gradient's length: float32 adds chunks up in another order, and no more."""
    assert got[0] == pytest.approx(wanted[0], rel=1e-6)
    assert (got[1] - wanted[1]).norm() < 1e-6 * wanted[1].norm()


@pytest.mark.parametrize("chunk", [1, 3, ROWS])
def test_the_gradient_is_that_of_the_whole_batch(chunk):
    model = Aligned(tiny_encoder()).train()
    wanted = gradients(model, *batch(), 0)
    assert wanted[1].norm() > 0.1
    assert_same(gradients(model, *batch(), chunk), wanted)


def test_it_is_the_same_under_autocast():
    """bf16 has 8 bits, so that a sum over 7 rows in another order may differ by 1 %."""
    model = Aligned(tiny_encoder()).train()
    with torch.autocast("cpu", torch.bfloat16):
        (_, wanted), (_, got) = (gradients(model, *batch(), chunk) for chunk in (0, 2))
    assert (got - wanted).norm() < 0.01 * wanted.norm()


def test_the_statistics_of_a_pretrained_batch_norm_are_neither_used_nor_moved():
    torch.manual_seed(0)
    encoder = FundusEncoder(EncoderConfig("fundus-lite0", "efficientnet-lite0-imagenet", size=64), load=False)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    model = Aligned(encoder.double()).train()  # through 50 layers float32's rounding grows to more than 1e-6
    before = {name: x.clone() for name, x in encoder.named_buffers()}
    pixels, captions = batch(64)
    assert_same(*(gradients(model, pixels.double(), captions, chunk) for chunk in (3, 0)))
    assert all(torch.equal(x, before[name]) for name, x in encoder.named_buffers())


def test_dropout_is_replayed():
    """Against the same chunks kept whole, whose draws are the same; what is drawn afterwards is too."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 4))
    x = torch.randn(ROWS, 8)
    found = []
    for kept in (True, False):
        torch.manual_seed(3)
        net.zero_grad()
        out = torch.cat([net(part) for part in x.split(2)]) if kept else in_chunks(net, x, 2)
        out.pow(2).sum().backward()
        found.append([out.detach(), torch.rand(1), *(p.grad.clone() for p in net.parameters())])
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert (found[0][0] - net.eval()(x)).norm() > 0.1  # something was dropped


def peak_memory(chunk: int) -> int:
    """Bytes that forward and backward of 1024 rows of 64 numbers through eight layers hold at most, beside the rows."""
    net = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(8)), nn.Linear(64, 1))
    x = torch.zeros(1024, 64)
    with profile(profile_memory=True) as profiler:
        in_chunks(net, x, chunk).sum().backward()
    steps = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for event in sorted(steps, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def test_memory_is_that_of_a_chunk():
    """A sixteenth of the rows a chunk; a quarter of the memory leaves room for the gradients of the weights."""
    assert peak_memory(64) < peak_memory(0) / 4
