"""The plain loop: any Dataset, the same weights for the same seed, and the fields of view it is given."""

import pytest
import torch
from torch.utils.data import Dataset

from lclsc import LCLSC, build_encoder, fit


class Stripes(Dataset):
    """Two classes of another pitch; with ``inside`` each image comes with a field of view."""

    def __init__(self, count: int, *, inside: torch.Tensor | None = None) -> None:
        self.count, self.inside = count, inside

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple:
        wave = torch.sin(torch.arange(32.0) * (0.4 + 0.8 * (index % 2)) + index)
        image = (0.5 + 0.3 * wave).expand(1, 32, 32)
        return (image, index % 2) if self.inside is None else (image, index % 2, self.inside)


def trained(dataset: Dataset, **options: object) -> tuple[LCLSC, list[dict[str, float]]]:
    torch.manual_seed(0)
    model = LCLSC(build_encoder("compact"), classes=2, embedding_dim=16, momentum=0.9)
    return model, list(fit(model, dataset, **({"batch_images": 16} | options)))


def weights(model: LCLSC) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_it_learns_and_reports_every_epoch():
    model, losses = trained(Stripes(40), epochs=6)
    assert len(losses) == 6
    assert losses[-1]["lcl"] < losses[0]["lcl"]
    assert model.global_embeddings.seen.all()


def test_the_seed_decides_the_weights():
    one, two, other = (trained(Stripes(40), epochs=1, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


def test_a_field_of_view_counts():
    half = torch.ones(1, 32, 32)
    half[..., :16] = 0
    plain, masked = trained(Stripes(40), epochs=1), trained(Stripes(40, inside=half), epochs=1)
    assert not torch.equal(weights(plain[0]), weights(masked[0]))


def test_too_few_images_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="fewer images than a batch"):
        trained(Stripes(15))


def test_what_is_frozen_on_the_way_stays_as_it_is():
    torch.manual_seed(0)
    model = LCLSC(build_encoder("compact"), classes=2, embedding_dim=16, momentum=0.9)
    epochs = fit(model, Stripes(40), epochs=2, batch_images=16)
    next(epochs)
    model.encoder.requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    next(epochs)
    frozen = [
        torch.equal(was, now) for was, now in zip(before, model.parameters(), strict=True) if not now.requires_grad
    ]
    moved = [
        not torch.equal(was, now) for was, now in zip(before, model.parameters(), strict=True) if now.requires_grad
    ]
    assert all(frozen)
    assert all(moved)


def test_a_single_batch_an_epoch_trains():
    for epochs in (1, 2, 10):
        assert len(trained(Stripes(20), epochs=epochs)[1]) == epochs


def test_a_second_call_goes_on_from_what_was_learnt():
    model, _ = trained(Stripes(40), epochs=6)
    images = torch.stack([Stripes(40)[index][0] for index in range(40)])

    def scores():
        return model.eval()(images, torch.ones_like(images)).similarity_BK

    before = scores()
    list(fit(model, Stripes(40), batch_images=16, epochs=1, learning_rate=1e-12))
    torch.testing.assert_close(scores(), before, atol=0.05, rtol=0)


class Given(Dataset):
    """One image, label and field of view, over and over."""

    def __init__(self, image: torch.Tensor, label: object, inside: torch.Tensor | None = None) -> None:
        self.one = (image, label) if inside is None else (image, label, inside)

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple:
        return self.one


GREY = torch.full((1, 32, 32), 0.5)


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        (Given(255 * GREY, 0), "scale images to"),
        (Given(GREY.where(torch.rand(32, 32) > 0.01, torch.nan), 0), "scale images to"),
        (Given((255 * GREY).byte(), 0), "floats in"),
        (Given(GREY.expand(3, 32, 32), 0), "grey square"),
        (Given(GREY[:, :, :24], 0), "grey square"),
        (Given(GREY, 0, torch.ones(1, 16, 16)), "fields of view"),
        (Given(GREY, 2), "label 2 is none of the classes 0..1"),
        (Given(GREY, -1), "label -1"),
        (Given(GREY, 0.5), "class numbers"),
        (Given(GREY, torch.tensor([0])), "class numbers"),
    ],
)
def test_what_cannot_be_trained_on_is_told(dataset: Given, why: str):
    with pytest.raises(ValueError, match=why):
        trained(dataset, epochs=1)


def test_any_whole_number_is_a_label_and_any_mark_a_field_of_view():
    half = torch.zeros(1, 32, 32)
    half[:, :, :20] = 1
    plain, _ = trained(Stripes(40, inside=half), epochs=1)
    marked, _ = trained(Stripes(40, inside=(255 * half).byte()), epochs=1)
    assert torch.equal(weights(plain), weights(marked))
    trained(Given(GREY, torch.tensor(1, dtype=torch.int32)), epochs=1)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"epochs": -1}, {"batch_images": 0}])
def test_nothing_waits_for_the_first_epoch_to_be_refused(options: dict):
    with pytest.raises(ValueError, match="at least 1"):
        fit(LCLSC(build_encoder("compact"), classes=2, embedding_dim=16), Stripes(40), **options)


def test_a_frozen_model_is_refused():
    model = LCLSC(build_encoder("compact"), classes=2, embedding_dim=16).requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        fit(model, Stripes(40))
