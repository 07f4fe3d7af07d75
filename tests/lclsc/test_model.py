"""The model: pooled where tissue is, complete maps, indifferent to what it should ignore."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from lclsc import LCLSC, build_encoder
from lclsc.centred_conv import CentredConv2d
from lclsc.encoders.encoder import Encoder
from lclsc.model import cells_inside, standardise


@pytest.fixture(scope="module")
def model() -> LCLSC:
    torch.manual_seed(0)
    model = LCLSC(build_encoder("compact"), classes=3, embedding_dim=16).eval()
    model.global_embeddings.update_(torch.randn(8, 16), torch.arange(8) % 2)  # class 2 stays unseen
    return model


def images(batch: int = 4, side: int = 48):
    axis = torch.linspace(-1, 1, side)
    fov = (axis[:, None] ** 2 + axis[None] ** 2 < 0.8).expand(batch, 1, side, side)
    return torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0)), fov


@torch.no_grad()
def test_the_class_map_is_complete_through_the_whole_model(model):
    scores = model(*images())
    inside = scores.fov_Bhw.unsqueeze(1)
    mean = (scores.class_map_BKhw * inside).sum((2, 3)) / inside.sum((2, 3))
    torch.testing.assert_close(mean[:, :2], scores.similarity_BK[:, :2], rtol=0, atol=1e-5)
    assert (scores.similarity_BK[:, 2] == -torch.inf).all()
    for image, seen in enumerate([1, 0, 1, 2]):
        one = scores.class_map_of(torch.tensor([1, 0, 1, 2]))[image]
        assert torch.equal(one, scores.class_map_BKhw[image, seen])


def test_centred_filters_have_the_gradient_of_their_formula():
    layer, image = CentredConv2d(2, 3, 3).double(), torch.rand(1, 2, 5, 5).double()
    ours = torch.autograd.grad(layer(image).square().sum(), layer.weight)
    plain = layer.weight - layer.weight.mean((1, 2, 3), keepdim=True)
    theirs = torch.autograd.grad(conv2d(image, plain, layer.bias).square().sum(), layer.weight)
    torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_embeddings_are_unit_and_of_the_documented_shapes(model):
    embedded = model.embed(*images())
    assert embedded.dense_BDhw.shape == (4, 16, 6, 6)
    assert embedded.fov_Bhw.shape == (4, 6, 6)
    assert embedded.fov_Bhw.dtype == torch.bool
    torch.testing.assert_close(embedded.z_BD.norm(dim=1), torch.ones(4))
    assert "float32[4, 16, 6, 6]" in repr(embedded)


@torch.no_grad()
def test_what_lies_outside_the_field_of_view_and_the_gain_do_not_matter(model):
    image, fov = images()
    one = model.embed(image, fov).z_BD
    torch.testing.assert_close(model.embed(torch.where(fov, image, 0.7), fov).z_BD, one)
    torch.testing.assert_close(model.embed(0.5 * image + 0.1, fov).z_BD, one, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(model):
    image, fov = images()
    torch.testing.assert_close(model.embed(image[:1], fov[:1]).z_BD, model.embed(image, fov).z_BD[:1])


def test_a_cell_belongs_when_half_of_it_is_inside():
    fov = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    fov[..., :6] = True  # second column of 4-pixel cells: half
    assert cells_inside(fov, torch.Size((2, 2))).tolist() == [[[True, True], [True, True]]]
    fov[..., 5] = False
    assert cells_inside(fov, torch.Size((2, 2))).tolist() == [[[True, False], [True, False]]]


def test_the_map_mask_is_never_empty():
    fov = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    fov[0, 0, 5, 6] = True
    cells = cells_inside(fov, torch.Size((2, 2)))
    assert cells[0].tolist() == [[False, False], [False, True]]
    assert int(cells[1].sum()) == 1


def test_a_black_or_empty_image_is_no_nan():
    black = torch.zeros(1, 1, 16, 16, requires_grad=True)
    for fov in (torch.ones(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)):
        assert torch.equal(standardise(black, fov), torch.zeros(1, 1, 16, 16))


def test_the_encoder_alone_runs_in_bfloat16():
    torch.manual_seed(0)
    model = LCLSC(build_encoder("compact"), classes=2, embedding_dim=16, encoder_bfloat16=True)
    embedded = model.embed(*images())
    assert {embedded.dense_BDhw.dtype, embedded.z_BD.dtype} == {torch.float32}
    model.encoder_bfloat16 = False
    exact = model.embed(*images())
    assert (torch.cosine_similarity(embedded.z_BD, exact.z_BD) > 0.99).all()
    assert not torch.equal(embedded.z_BD, exact.z_BD)


@torch.no_grad()
def test_a_centred_start_has_its_mean_embedding_at_zero_and_stays_a_decomposition():
    torch.manual_seed(1)
    model = LCLSC(build_encoder("compact"), classes=3, embedding_dim=16).eval()
    image, fov = images(batch=8)
    before = model.embed(image, fov).pooled_BD
    model.centre_(image, fov)
    after = model.embed(image, fov).pooled_BD
    assert before.mean(0).norm() > 0.3 * before.norm(dim=1).mean()
    assert after.mean(0).norm() < 1e-3 * before.norm(dim=1).mean()
    assert after.norm(dim=1).min() > 0


def test_centred_filters_can_be_transformed():
    """Per-sample gradients and forward mode, as ``torch.func`` has them."""
    layer, image = CentredConv2d(2, 3, 3).double(), torch.rand(4, 1, 2, 5, 5).double()

    def loss(weight, one):
        return torch.func.functional_call(layer, {"weight": weight}, (one,)).square().sum()

    weight = layer.weight.detach()
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, image)
    torch.testing.assert_close(each[1], torch.func.grad(loss)(weight, image[1]))
    _, slope = torch.func.jvp(lambda w: loss(w, image[0]), (weight,), (torch.ones_like(weight),))
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)  # blind to what all filters share


@torch.no_grad()
def test_an_empty_batch_has_no_scores(model):
    scores = model(torch.zeros(0, 1, 96, 96), torch.zeros(0, 1, 96, 96))
    assert tuple(scores.similarity_BK.shape) == (0, len(model.global_embeddings.seen))
    assert len(scores.class_map_BKhw) == 0


@torch.no_grad()
def test_what_lies_outside_the_field_of_view_does_not_matter(model):
    image, fov = torch.rand(2, 1, 96, 96), torch.ones(2, 1, 96, 96).bool()
    fov[:, :, :30] = False
    plain = model(image.masked_fill(~fov, 0.0), fov)
    for outside in (torch.nan, torch.inf, 7.0):
        assert torch.equal(model(image.masked_fill(~fov, outside), fov).similarity_BK, plain.similarity_BK)


def test_a_model_without_classes_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        LCLSC(build_encoder("compact"), classes=0)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (torch.rand(2, 3, 96, 96), "grey square"),
        (torch.rand(2, 1, 96, 64), "grey square"),
        (torch.rand(2, 96, 96), "grey square"),
        (torch.zeros(2, 1, 96, 96).byte(), "floats"),
    ],
)
def test_pictures_of_another_shape_are_refused(model, image, why):
    with pytest.raises(ValueError, match=why):
        model(image, torch.ones_like(image))


@pytest.mark.parametrize(("channels", "groups"), [(96, 8), (12, 6), (11, 1)])
def test_the_last_norm_has_the_most_groups_that_divide_the_channels(channels, groups):
    encoder = Encoder(nn.Conv2d(1, channels, 8, stride=8), out_channels=channels, stride=8)
    assert LCLSC(encoder, classes=2).head.norm.num_groups == groups
