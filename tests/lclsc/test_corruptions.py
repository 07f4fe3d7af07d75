"""Corruptions: worse with severity, inside the field of view, and chance that knows no batch."""

import pytest
import torch

from lclsc.corruptions import CORRUPTIONS, SEVERITIES, corrupt

SIDE = 48


def scene(batch: int = 6):
    """Blobs of tissue in a disc, a rectangle and the whole frame, grey levels of eight bits."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(batch, 1, 9, 9, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=SIDE, mode="bilinear") * 0.8 + 0.1
    axis = torch.linspace(-1, 1, SIDE)
    disc = axis[:, None] ** 2 + axis[None] ** 2 < 0.9
    box = (axis[:, None].abs() < 0.6) & (axis[None] < 0.8)
    fov = torch.stack([(disc, box, torch.ones_like(disc))[n % 3] for n in range(batch)])[:, None]
    return (image * 255).round() / 255 * fov, fov, torch.arange(40, 40 + batch)


def at_every_severity(kind: str, seed: int = 5):
    image, fov, index = scene()
    return image, fov, [corrupt(image, fov, index, kind=kind, severity=s, seed=seed) for s in SEVERITIES]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_higher_severity_is_further_from_the_clean_image(kind):
    image, _, found = at_every_severity(kind)
    distances = torch.stack([(worse - image).square().mean((1, 2, 3)) for worse, _ in found])
    assert (distances[0] > 0).all()
    assert (distances[1:] > distances[:-1]).all()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_nothing_outside_the_field_of_view_lights_up(kind):
    image, fov, found = at_every_severity(kind)
    for worse, mask in found:
        assert mask.dtype == torch.bool
        assert not (mask & ~fov).any()
        assert (worse[~mask] == 0).all()
        assert worse.min() >= 0
        assert worse.max() <= 1
        assert worse.dtype == image.dtype
        assert kind == "fov_crop" or torch.equal(mask, fov)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_sample_does_not_know_its_batch(kind):
    image, fov, index = scene(7)
    whole, masks = corrupt(image, fov, index, kind=kind, severity=4, seed=1)
    for rows in (torch.tensor([3]), torch.tensor([6, 0]), torch.tensor([5, 4, 3, 2, 1])):
        part, mask = corrupt(image[rows], fov[rows], index[rows], kind=kind, severity=4, seed=1)
        assert torch.equal(part, whole[rows])
        assert torch.equal(mask, masks[rows])


@pytest.mark.parametrize("kind", [kind for kind in CORRUPTIONS if kind not in ("gain", "defocus")])
def test_another_sample_or_seed_meets_another_chance(kind):
    image, fov, _ = scene(3)
    same = image[2:].expand(3, 1, SIDE, SIDE), fov[2:].expand(3, 1, SIDE, SIDE)
    first, mask = corrupt(*same, torch.arange(3), kind=kind, severity=5, seed=0)
    other, _ = corrupt(*same, torch.arange(3), kind=kind, severity=5, seed=1)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    again, _ = corrupt(*same, torch.arange(3), kind=kind, severity=5, seed=0)
    assert torch.equal(first, again)
    assert mask.any()


def test_poisson_noise_has_the_mean_and_variance_of_photon_counts():
    for level, severity in ((51, 1), (153, 3), (204, 5)):
        photons = CORRUPTIONS["poisson_noise"].levels[severity - 1]
        image = torch.full((40, 1, 64, 64), level / 255)
        whole = torch.ones_like(image, dtype=torch.bool)
        found, _ = corrupt(image, whole, torch.arange(40), kind="poisson_noise", severity=severity, seed=0)
        counts = (found.double() * photons).round()
        rate = photons * level / 255
        below = torch.arange(int(photons))  # counts that the clamp at white leaves alone
        expected = torch.distributions.Poisson(torch.tensor(rate, dtype=torch.float64)).log_prob(below.double()).exp()
        shares = torch.stack([(counts == k).double().mean() for k in below])
        torch.testing.assert_close(shares, expected, rtol=0, atol=4e-3)


def test_gaussian_noise_has_its_deviation():
    grey = torch.full((20, 1, 64, 64), 0.5)
    whole = torch.ones_like(grey, dtype=torch.bool)
    found, _ = corrupt(grey, whole, torch.arange(20), kind="gaussian_noise", severity=2, seed=0)
    assert float((found - 0.5).std()) == pytest.approx(CORRUPTIONS["gaussian_noise"].levels[1], rel=0.01)
    assert float((found - 0.5).mean()) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["motion_smear", "defocus"])
def test_blur_keeps_an_even_picture_even_up_to_the_rim(kind):
    _, fov, index = scene()
    found, _ = corrupt(0.6 * fov.float(), fov, index, kind=kind, severity=5, seed=0)
    torch.testing.assert_close(found, 0.6 * fov.float(), rtol=0, atol=1e-5)


def test_defocus_turns_a_point_into_a_disc():
    point = torch.zeros(1, 1, 95, 95)
    point[0, 0, 47, 47] = 1.0
    whole = torch.ones_like(point, dtype=torch.bool)
    found, _ = corrupt(point, whole, torch.arange(1), kind="defocus", severity=5, seed=0)
    radius_px = CORRUPTIONS["defocus"].levels[4] * 95
    down, right = found[0, 0].nonzero().unbind(1)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(torch.hypot(down - 47.0, right - 47.0).max()) <= radius_px + 0.5
    torch.testing.assert_close(found, found.transpose(2, 3))


def test_motion_smears_along_a_line_of_its_length():
    point = torch.zeros(1, 1, 96, 96)
    point[0, 0, 46:50, 46:50] = 1.0
    whole = torch.ones_like(point, dtype=torch.bool)
    found, _ = corrupt(point, whole, torch.arange(1), kind="motion_smear", severity=5, seed=3)
    places = found[0, 0].nonzero().double()
    weights = found[0, 0][found[0, 0] > 0].double()
    centred = places - (places * weights[:, None]).sum(0) / weights.sum()
    spread = (centred.T * weights) @ centred / weights.sum()
    small, large = torch.linalg.eigvalsh(spread)
    length_px = CORRUPTIONS["motion_smear"].levels[4] * 96
    assert float(small.sqrt()) < 2
    assert float((large - small).sqrt()) == pytest.approx(length_px / 12**0.5, rel=0.1)  # of a uniform line


def test_honeycomb_takes_its_share_between_the_cores_and_nothing_on_them():
    even = torch.full((4, 1, 96, 96), 0.8)
    whole = torch.ones_like(even, dtype=torch.bool)
    found, _ = corrupt(even, whole, torch.arange(4), kind="honeycomb", severity=3, seed=0)
    assert float(found.amax()) == pytest.approx(0.8, abs=0.01)
    assert float(found.amin()) == pytest.approx(0.8 * (1 - CORRUPTIONS["honeycomb"].levels[2]), abs=0.01)


def test_the_crop_leaves_its_share_of_the_field_of_view_and_is_nested():
    _, fov, found = at_every_severity("fov_crop")
    before = fov
    for (_, mask), share in zip(found, CORRUPTIONS["fov_crop"].levels, strict=True):
        left = mask.sum((1, 2, 3)) / fov.sum((1, 2, 3))
        torch.testing.assert_close(left, torch.full_like(left, share), rtol=0, atol=0.02)  # ties stay in
        assert not (mask & ~before).any()
        before = mask


def test_what_the_crop_leaves_has_no_gap_in_any_row_or_column():
    for _, mask in at_every_severity("fov_crop")[2]:
        for lines in (mask[:, 0], mask[:, 0].transpose(1, 2)):
            starts = torch.nn.functional.pad(lines.int(), (1, 0)).diff(dim=2) == 1
            assert int(starts.sum(2).max()) == 1


def test_an_empty_field_of_view_stays_empty():
    image, fov, index = scene(1)
    for kind in CORRUPTIONS:
        found, mask = corrupt(image, torch.zeros_like(fov), index, kind=kind, severity=5, seed=0)
        assert not found.any()
        assert not mask.any()


@pytest.mark.parametrize("wrong", [{"kind": "rain"}, {"severity": 0}, {"severity": 6}])
def test_unknown_kinds_and_severities_are_named(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        corrupt(*scene(1), **({"kind": "gain", "severity": 1, "seed": 0} | wrong))
