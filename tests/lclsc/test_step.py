"""One step against the same objective written as one autograd graph, and its edge cases."""

from dataclasses import replace

import pytest
import torch

from lclsc import (
    LCLSC,
    ObjectiveSettings,
    ShardBatch,
    StepResult,
    ViewSettings,
    World,
    build_encoder,
    consistency,
    label_contrast,
    label_map,
    make_views,
    saliency,
    top_k_contrast,
    train_step,
)

SETTINGS = ObjectiveSettings(temperature=0.1, global_keys=False)


def fresh(*, seen: bool = True, encoder: str = "compact") -> LCLSC:
    torch.manual_seed(0)
    model = LCLSC(build_encoder(encoder), classes=3, embedding_dim=16)
    if seen:
        model.global_embeddings.update_(torch.randn(30, 16), torch.arange(30) % 3)
    return model


def whole_batch(samples: int = 8, side: int = 32) -> ShardBatch:
    image = torch.rand(samples, 1, side, side, generator=torch.Generator().manual_seed(0))
    return ShardBatch(
        image_B1SS=image,
        fov_B1SS=torch.ones_like(image, dtype=torch.bool),
        labels_B=torch.arange(samples) % 3,
        sample_index_B=torch.arange(samples),
    )


def in_double(batch: ShardBatch) -> ShardBatch:
    """Float64, so that an order of addition is no difference; whatever the processor's kernels are."""
    return replace(batch, image_B1SS=batch.image_B1SS.double())


def cut(batch: ShardBatch, shards: int) -> list[ShardBatch]:
    names = ("image_B1SS", "fov_B1SS", "labels_B", "sample_index_B")
    parts = zip(*(getattr(batch, name).chunk(shards) for name in names), strict=True)
    return [ShardBatch(**dict(zip(names, part, strict=True))) for part in parts]


def one_step(model: LCLSC, shards: list[ShardBatch], settings: ObjectiveSettings = SETTINGS, **changes) -> StepResult:
    arguments = {"step": 60, "total_steps": 100, "seed": 3, "epoch": 1, "world": World()}
    return train_step(model, shards, settings, **(arguments | {"logical_shards": len(shards)} | changes))


def gradient_of(model: LCLSC) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def plain_objective(model: LCLSC, batch: ShardBatch, settings: ObjectiveSettings) -> torch.Tensor:
    """LCL + SC + beta TK of the whole batch as one ordinary graph."""
    looks = [
        make_views(
            batch.image_B1SS,
            batch.fov_B1SS,
            batch.sample_index_B,
            seed=3,
            epoch=1,
            view=v,
            settings=ViewSettings(),
        )
        for v in (0, 1)
    ]
    embeddings = [model.embed(look.image_B1SS, look.fov_B1SS) for look in looks]
    bank, y = model.global_embeddings, batch.labels_B
    z, labels = torch.cat([e.z_BD for e in embeddings]), torch.cat((y, y))
    lcl, anchors = label_contrast(z, labels, z, labels, first_key=0, temperature=settings.temperature)
    maps = [saliency(label_map(e.dense_BDhw, bank.vectors[y], e.norm_B), e.fov_Bhw) for e in embeddings]
    fovs, affines = [e.fov_Bhw for e in embeddings], [look.affine_B33 for look in looks]
    (s1, ok1), (s2, ok2) = maps
    sc, pairs = consistency(s1, s2, *fovs, *affines, kind=settings.consistency, include_B=ok1 & ok2)
    tks = [
        top_k_contrast(s, fov, rho=settings.rho, delta=settings.delta, include_B=ok)
        for (s, ok), fov in zip(maps, fovs, strict=True)
    ]
    tk = sum(total for total, _ in tks) / sum(count for _, count in tks)
    return lcl / anchors + settings.lam * (sc / pairs + settings.beta * tk)


@pytest.mark.parametrize("kind", ["mse", "l1", "cosine"])
@pytest.mark.parametrize("reduction", ["ordered", "ddp"])
def test_the_step_is_the_plain_objective_in_value_and_gradient(kind, reduction):
    batch, settings = in_double(whole_batch()), replace(SETTINGS, consistency=kind)
    plain, model = fresh().double(), fresh().double()
    loss = plain_objective(plain, batch, settings)
    loss.backward()
    result = one_step(model, cut(batch, 4), settings, reduction=reduction)
    assert result.losses["total"] == pytest.approx(float(loss.detach()), abs=1e-6)
    torch.testing.assert_close(gradient_of(model), gradient_of(plain), rtol=1e-6, atol=1e-6)


def test_embeddings_come_back_in_the_documented_order():
    batch = whole_batch()
    result = one_step(fresh(), cut(batch, 4))
    expected = [label for shard in cut(batch, 4) for _ in (0, 1) for label in shard.labels_B.tolist()]
    assert result.labels_N.tolist() == expected
    assert result.z_ND.shape == (16, 16)
    assert not result.z_ND.requires_grad


def test_before_any_class_is_seen_only_label_contrast_counts():
    result = one_step(fresh(seen=False), cut(whole_batch(), 2))
    assert result.counts == {"lcl": 16, "sc": 0, "tk": 0}
    assert result.losses["total"] == result.losses["lcl"]


def test_the_warm_up_reports_saliency_losses_but_leaves_their_gradient_out():
    warm, lonely = fresh(), fresh()
    result = one_step(warm, cut(whole_batch(), 2), step=0)
    one_step(lonely, cut(whole_batch(), 2), replace(SETTINGS, lam=0.0))
    assert result.counts["sc"] > 0
    assert result.losses["total"] == result.losses["lcl"]
    assert torch.equal(gradient_of(warm), gradient_of(lonely))


def test_a_batch_of_lonely_classes_is_finite():
    batch = replace(whole_batch(3), labels_B=torch.arange(3))
    model = fresh()
    result = one_step(model, cut(batch, 3))
    assert all(value == value for value in result.losses.values())
    assert gradient_of(model).isfinite().all()


def test_global_keys_draw_samples_to_their_global_embedding():
    plain, drawn = fresh(), fresh()
    one = one_step(plain, cut(whole_batch(), 2))
    two = one_step(drawn, cut(whole_batch(), 2), replace(SETTINGS, global_keys=True, class_balanced=True))
    assert one.losses["lcl"] != two.losses["lcl"]
    assert gradient_of(drawn).isfinite().all()


def test_the_same_step_twice_is_the_same_to_the_bit():
    one, two = fresh(), fresh()
    one_step(one, cut(whole_batch(), 4))
    one_step(two, cut(whole_batch(), 4))
    assert torch.equal(gradient_of(one), gradient_of(two))


def test_frozen_parameters_get_no_gradient():
    model = fresh()
    one_step(model, cut(whole_batch(), 2))
    model.encoder.requires_grad_(False)  # frozen after it was trained: its last gradient goes too
    one_step(model, cut(whole_batch(), 2))
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_wrong_shards_are_refused_with_a_remedy():
    shards = cut(whole_batch(), 4)
    with pytest.raises(ValueError, match="4 shards given: 2 over 1 workers"):
        one_step(fresh(), shards, logical_shards=2)
    with pytest.raises(ValueError, match="all must be equal"):
        one_step(fresh(), [*shards[:1], *cut(whole_batch(3), 1)])
    with pytest.raises(ValueError, match="reduction 'mean' is unknown"):
        one_step(fresh(), shards, reduction="mean")
