"""What the U-Net's masks tell of a patch: what is in it, how many of it there are, and where it lies in the eye."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from mdf.errors import UserError
from mdf.imaging.phantom import draw
from mdf.imaging.phantom_lesions import LESIONS
from mdf.models.fusion import MDFModel
from mdf.models.patches import PatchProjection
from mdf.models.readings import FAR, STEPS, cores, cup_disc_ratio, lengths, readings, regions, ruler, scale, width
from mdf.training.start import first_model
from tests.tiny import tiny_config

MASKS = ("vessel", "haemorrhage", "disc")
TEMPORAL, DOWN = 2 * len(MASKS), 2 * len(MASKS) + 1  # their places among the readings


def eye(disc_column: int) -> torch.Tensor:
    """Probabilities [1,3,32,32] with a small haemorrhage above and to the left, and a disc in the given column."""
    p = torch.zeros(1, 3, 32, 32)
    p[0, 1, 5, 6] = 0.9
    p[0, 2, 14:18, disc_column : disc_column + 4] = 1.0
    return p


def test_a_lesion_is_read_in_its_own_patch_only():
    found = readings(eye(24), MASKS, 4)[0]
    assert found.shape == (16, width(MASKS)) == (16, 12)
    assert found[:, 1].nonzero().flatten().tolist() == [0] == found[:, len(MASKS) + 1].nonzero().flatten().tolist()
    assert found[0, len(MASKS) + 1] == pytest.approx(0.9), "the highest probability"
    assert found[0, 1] == pytest.approx((0.9 / 64) ** 0.5), "the root of the share"


def test_temporal_is_the_side_away_from_the_disc_in_either_eye():
    right, left = (readings(eye(column), MASKS, 4)[0].view(4, 4, -1) for column in (24, 4))
    assert (right[:, :2, TEMPORAL] > 0).all() and (right[:, 2:, TEMPORAL] < 0).all()
    assert (left[:, 2:, TEMPORAL] > 0).all() and (left[:, :2, TEMPORAL] < 0).all()
    assert (right[2:, :, DOWN] > 0).all() and torch.equal(right[..., DOWN], left[..., DOWN])


def test_a_mirrored_photograph_reads_the_same_mirrored():
    p = eye(24)
    here, there = (readings(x, MASKS, 4)[0].view(4, 4, -1) for x in (p, p.flip(-1)))
    torch.testing.assert_close(there, here.flip(1))


def test_no_disc_leaves_the_side_open():
    p = eye(24)
    p[:, 2] = 0
    found = readings(p, MASKS, 4)
    assert found.isfinite().all() and (found[..., TEMPORAL] == 0).all()
    assert width(("vessel",)) == readings(p[:, :1], ("vessel",), 4).shape[-1] == 2


def test_every_patch_knows_the_cup_disc_ratio():
    masks = ("disc", "cup")
    p = torch.zeros(2, 2, 32, 32)
    p[:, 0, 4:24, 4:24], p[0, 1, 8:18, 8:18] = 1.0, 1.0
    assert cup_disc_ratio(p[:, 1], p[:, 0]).tolist() == pytest.approx([0.5, 0.0])
    assert readings(p, masks, 4)[0, :, -1].tolist() == pytest.approx([0.5] * 16)
    assert readings(p, masks, 4).shape[-1] == width(masks) == 11
    p[:, 0] = 0
    assert cup_disc_ratio(p[:, 1], p[:, 0]).tolist() == [0.0, 0.0], "without a disc there is none"


def test_readings_change_the_memory_and_teach_the_unet_nothing():
    projection = PatchProjection(3, 16, 4, 64, width(MASKS))
    p = eye(24).requires_grad_()
    map_ = torch.randn(1, 3, 16, 16)
    memory = projection(map_, readings(p, MASKS, 4))
    other = projection(map_, readings(eye(4), MASKS, 4))
    assert not torch.allclose(memory, other)
    memory.sum().backward()
    assert p.grad is None and projection.reading.weight.grad.abs().sum() > 0


EIGHT = np.ones((3, 3))


def labelled(mask: np.ndarray) -> int:
    """Regions of a mask bool [U,U] less their holes, by scipy's labels."""
    holes = ndimage.label(np.pad(~mask, 1, constant_values=True))[1] - 1
    return ndimage.label(mask, EIGHT)[1] - holes


def test_regions_are_counted_as_labels_count_them():
    noise = torch.rand(6, 2, 48, 48, generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0.02, 0.7, 6)[:, None, None, None]
    masks = noise < share
    wanted = [[max(0, labelled(mask.numpy())) for mask in row] for row in masks]
    assert regions(masks.float()).tolist() == wanted and max(map(max, wanted)) > 100
    full = torch.zeros(3, 9, 9)
    full[1], full[2, 2:7, 2:7], full[2, 4, 4] = 1.0, 1.0, 0.0
    assert regions(full).tolist() == [0, 1, 0], "none, one over the whole picture, a ring"
    assert regions(full.bfloat16()).tolist() == [0, 1, 0]


def test_lesions_of_phantoms_are_counted_exactly():
    seen = set()
    for seed in range(24):
        phantom = draw(seed, 128)
        masks = torch.from_numpy(np.stack([phantom.masks[kind] for kind in LESIONS])).float()
        counts = {f.name: f.count for f in phantom.findings}
        assert regions(masks).tolist() == [counts.get(kind, 0) for kind in LESIONS], seed
        seen |= set(counts)
    assert seen >= set(LESIONS)


def test_the_scale_fills_by_half_octaves():
    filled = scale(torch.tensor([0.0, 1.0, 3.0, 5.0, 6.0, 44.0, 1000.0]))
    assert filled.shape == (7, STEPS) and (filled[:, 1:] <= filled[:, :-1]).all()
    assert filled.sum(1).tolist() == pytest.approx([0, 2, 4, 2 * np.log2(6), 2 * np.log2(7), 10, 10], abs=0.02)


def test_every_patch_knows_how_many_lesions_there_are_and_how_many_of_the_kind_that_it_holds():
    masks = ("vessel", "haemorrhage", "drusen", "disc")
    p = torch.zeros(1, 4, 32, 32)
    p[0, 0, 16] = p[0, 3, 14:18, 24:28] = 1.0
    p[0, 1, 4, 2:31:4] = 1.0  # eight haemorrhages in the row of patches at the top
    p[0, 2, 30, 1] = 0.8  # one faint druse at the bottom
    plain, found = readings(p, masks, 4)[0], readings(p, masks, 4, counts=1)[0]
    assert found.shape[-1] == width(masks, 1) == width(masks) + 2 + STEPS
    assert torch.equal(found[:, : width(masks)], plain)
    haemorrhages, drusen, own = found[:, width(masks)], found[:, width(masks) + 1], found[:, -STEPS:]
    assert haemorrhages.tolist() == pytest.approx([np.log(9) / 3] * 16)
    assert drusen.tolist() == pytest.approx([np.log(2) / 3] * 16), "vessels and disc are not counted"
    assert own.any(1).nonzero().flatten().tolist() == [0, 1, 2, 3, 12]
    torch.testing.assert_close(own[2], scale(torch.tensor(8.0)))
    torch.testing.assert_close(own[12], scale(torch.tensor(1.0)) * 0.8)
    assert width(("vessel", "disc"), 2) == width(("vessel", "disc")), "without lesions there is nothing to count"


def test_large_regions_are_told_apart_from_small_ones():
    masks = ("haemorrhage",)
    p = torch.zeros(1, 1, 64, 64)
    p[0, 0, 2:62:6, 4] = 1.0  # ten specks
    p[0, 0, 20:26, 20:26] = p[0, 0, 40:44, 40:46] = 0.9  # two that are wider than the square of 3 pixels
    assert regions(p).item() == 12 and regions(cores(p)).item() == 2
    one, both = readings(p, masks, 4, counts=1)[0], readings(p, masks, 4, counts=2)[0]
    assert both.shape[-1] == width(masks, 2) == width(masks, 1) + 1 + STEPS
    assert torch.equal(both[:, : width(masks, 1)], one)
    assert both[:, width(masks, 1)].tolist() == pytest.approx([np.log(3) / 3] * 16)
    for seed in range(12):  # no microaneurysm of a phantom is large, every cotton wool spot is
        phantom = draw(seed, 256)
        drawn = torch.from_numpy(np.stack([phantom.masks[kind] for kind in LESIONS])).float()
        large = dict(zip(LESIONS, regions(cores(drawn[None]))[0].tolist(), strict=True))
        assert large["microaneurysm"] == 0
        assert large["cotton_wool_spot"] == {f.name: f.count for f in phantom.findings}.get("cotton_wool_spot", 0)


def test_lengths_are_those_of_the_record():
    """Measured on true masks; the fovea is guessed from the disc, which a tilted head moves by a few tenths."""
    from mdf.measures import from_fovea, reach

    off = []
    for seed in range(24):
        phantom = draw(seed, 256)
        record = phantom.record(str(seed), "a.png")
        drawn = torch.from_numpy(np.stack([phantom.masks[kind] for kind in LESIONS])).float()[None]
        found = lengths(drawn, torch.from_numpy(phantom.masks["disc"]).float()[None])
        for k, kind in enumerate(LESIONS):
            span, near = (length[0, k].item() for length in found)
            if not phantom.masks[kind].any():
                assert (span, near) == (0, FAR)
                continue
            assert span == pytest.approx(min(FAR, reach(record, kind)), abs=0.15)
            off.append(abs(near - min(FAR, from_fovea(record, kind))))
    assert len(off) > 20 and np.mean(off) < 0.15 and max(off) < 0.8


def test_lengths_without_a_disc_or_a_lesion_are_the_least_and_the_most():
    none = torch.zeros(2, 1, 32, 32)
    some = none.clone()
    some[:, 0, 3:6, 3:6] = 1.0
    for lesions in (none, some):
        span, near = lengths(lesions, none[:, 0])
        assert span.tolist() == [[0.0]] * 2 and near.tolist() == [[FAR]] * 2
    speck = none.clone()
    speck[:, 0, 3, 3] = 1.0
    assert lengths(speck, some[:, 0])[0].tolist() == [[0.0]] * 2, "fewer than three pixels are noise"


def test_a_mirrored_photograph_has_the_same_lengths():
    p = torch.zeros(1, 2, 64, 64)
    p[0, 0, 20:25, 18:22], p[0, 1, 28:36, 46:54] = 1.0, 1.0
    for here, there in zip(lengths(p[:, :1], p[:, 1]), lengths(p[:, :1].flip(-1), p[:, 1].flip(-1)), strict=True):
        torch.testing.assert_close(here, there)


def test_every_patch_of_a_lesion_knows_how_far_it_reaches_and_how_near_the_fovea_it_comes():
    masks = ("vessel", "haemorrhage", "disc")
    p = torch.zeros(1, 3, 64, 64)
    p[0, 1, 20:25, 18:22], p[0, 2, 28:36, 46:54] = 1.0, 1.0
    plain, found = readings(p, masks, 4, 1)[0], readings(p, masks, 4, 1, extents=True)[0]
    assert found.shape[-1] == width(masks, 1, True) == width(masks, 1) + 2 * (1 + STEPS)
    assert torch.equal(found[:, : width(masks, 1)], plain)
    span, near = (length[0, 0].item() for length in lengths(p[:, 1:2], p[:, 2]))
    assert 0 < span < FAR and 0 < near < FAR
    added = found[:, width(masks, 1) :]
    assert added[:, 0].tolist() == pytest.approx([span / FAR] * 16)
    assert added[:, 1 + STEPS].tolist() == pytest.approx([near / FAR] * 16)
    own = added[:, 1 : 1 + STEPS]
    assert own.any(1).nonzero().flatten().tolist() == [5], "the patch that holds it"
    torch.testing.assert_close(own[5], ruler(torch.tensor(span)))
    assert width(("haemorrhage",), 1, True) == width(("haemorrhage",), 1), "without a disc there is no measure"


@pytest.mark.parametrize(("written", "counts"), [(None, 0), (True, 1)], ids=["before-counts", "first-counts"])
def test_a_checkpoint_from_before_regions_were_counted_as_now_still_answers_as_it_did(tmp_path, written, counts):
    masks, old = ("vessel", "haemorrhage", "disc"), tmp_path / "old"
    settings = {"unet.masks": masks, "run.start_from": str(old)}
    cfg = tiny_config(tmp_path, **settings, **{"fusion.counts": counts, "fusion.extents": False})
    model = MDFModel.build(cfg, ("normal", "amd")).eval()
    model.save_pretrained(old)
    config = json.loads((old / "config.json").read_text())
    config["mdf"]["fusion"].pop("counts")
    config["mdf"]["fusion"].pop("extents")
    config["mdf"]["fusion"] |= {} if written is None else {"counts": written}
    (old / "config.json").write_text(json.dumps(config))
    read = MDFModel.from_pretrained(old)
    assert read.fusion.patches[0].reading.weight.shape[1] == width(masks, counts)
    pixels = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(read.see(*pixels)[2], model.see(*pixels)[2])
    assert first_model(cfg, ("normal",), torch.float32).fusion.counts == counts
    with pytest.raises(UserError, match=r"fusion\.counts: \w+ there, 2 here\s+fusion\.extents: \w+ there, True here"):
        first_model(tiny_config(tmp_path, **settings), ("normal",), torch.float32)
