import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.strategies.augment import (
    Augmentation,
    Mixing,
    make_augmentation,
    make_mixing,
    warp_images,
)
from bench.strategies.feed import Batch
from bench.strategies.full import Full, FullSpec
from bench.strategies.partial import Partial, PartialSpec
from tests.training import make_split, make_task

CPU = torch.device("cpu")


def make_images(num_images: int = 64) -> Tensor:
    return torch.rand((num_images, 12, 12, 3), generator=torch.Generator().manual_seed(0))


def augment(kind: str, seed: int = 0, images: Tensor | None = None) -> Tensor:
    made = make_augmentation(kind, seed, CPU)  # type: ignore[arg-type]
    assert made is not None
    return made(make_images() if images is None else images)


def test_no_augmentation_is_none() -> None:
    assert make_augmentation("none", 0, CPU) is None


@pytest.mark.parametrize("kind", ["flip_crop", "strong"])
def test_views_have_the_shape_and_range_of_images(kind: str) -> None:
    views = augment(kind)
    assert views.shape == (64, 12, 12, 3) and views.dtype == torch.float32
    assert views.min() >= -1e-6 and views.max() <= 1 + 1e-6


@pytest.mark.parametrize("kind", ["flip_crop", "strong"])
def test_a_seed_fixes_the_views_and_global_state_does_not_matter(kind: str) -> None:
    torch.manual_seed(1)
    first = augment(kind, seed=3)
    torch.manual_seed(2)
    assert torch.equal(first, augment(kind, seed=3))
    assert not torch.equal(first, augment(kind, seed=4))


@pytest.mark.parametrize("kind", ["flip_crop", "strong"])
def test_every_sample_gets_a_view_of_its_own(kind: str) -> None:
    same = make_images(1).expand(32, -1, -1, -1)
    views = augment(kind, images=same)
    assert len({view.numpy().tobytes() for view in views}) == 32


def test_two_batches_of_one_generator_differ() -> None:
    augmentation = Augmentation("flip_crop", torch.Generator().manual_seed(0))
    assert not torch.equal(augmentation(make_images()), augmentation(make_images()))


def test_an_identity_warp_changes_nothing_and_a_flip_mirrors_columns() -> None:
    maps = make_images(2).permute(0, 3, 1, 2)
    identity = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[-1.0, 0, 0], [0, 1, 0]]])
    warped = warp_images(maps, identity)
    assert torch.allclose(warped[0], maps[0], atol=1e-5)
    assert torch.allclose(warped[1], maps[1].flip(-1), atol=1e-5)


def ramp(num_images: int) -> Tensor:
    """Columns rise from 0 to 1, so that a view tells where it was taken from."""
    columns = torch.linspace(0, 1, 32).view(1, 1, -1, 1)
    return columns.expand(num_images, 32, -1, 3).contiguous()


def test_half_of_the_views_are_mirrored_and_crops_cover_half_to_all_of_the_area() -> None:
    views = augment("flip_crop", images=ramp(2000))[:, 16, :, 0]
    slope = views[:, 16] - views[:, 15]
    assert 0.45 < float((slope < 0).float().mean()) < 0.55
    covered = slope.abs() * 31
    assert float(covered.min()) > 0.6 and float(covered.max()) <= 1.01
    assert float(covered.max() - covered.min()) > 0.3


def test_strong_erases_about_a_quarter_and_greys_about_a_tenth() -> None:
    images = make_images(1).expand(2000, -1, -1, -1)
    views = augment("strong", images=images)
    grey = (views.std(dim=3) < 1e-4).flatten(1).all(dim=1).float().mean()
    assert 0.06 < float(grey) < 0.14
    flat = views.view(2000, -1, 3)
    repeated = torch.tensor([len(torch.unique(view, dim=0)) < 143 for view in flat[:400]])
    assert 0.15 < float(repeated.float().mean()) < 0.5


# Mixing


def make_mix(mixup: float = 0.0, cutmix: float = 0.0, seed: int = 0) -> Mixing:
    made = make_mixing(FullSpec(mixup=mixup, cutmix=cutmix), 12, seed, CPU)
    assert made is not None
    return made


def make_batch() -> Batch:
    """Return a batch in which each example has a class of its own, so that labels tell pairs."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand((12, 20, 30, 3), generator=generator).permute(0, 3, 1, 2)
    return Batch(inputs, torch.randperm(12, generator=generator), 0.25)


def pairs_of(mixed: Batch, batch: Batch) -> tuple[Tensor, float]:
    """Return the partner of each example and its own share, read from the mixed labels."""
    own = mixed.labels[torch.arange(12), batch.labels]
    share = float(own.min())
    partners = torch.where(
        own > 0.9999,
        batch.labels,
        (mixed.labels * (own < 1)[:, None]).scatter(1, batch.labels[:, None], 0.0).argmax(dim=1),
    )
    position = torch.argsort(batch.labels)
    return position[partners], share


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_images_and_labels_in_the_same_shares(seed: int) -> None:
    batch = make_batch()
    mixed = make_mix(mixup=1.0, seed=seed)(batch)
    partners, share = pairs_of(mixed, batch)
    assert sorted(partners.tolist()) == list(range(12))
    expected = share * batch.inputs + (1 - share) * batch.inputs[partners]
    assert torch.allclose(mixed.inputs, expected, atol=1e-5)
    assert torch.allclose(mixed.labels.sum(dim=1), torch.ones(12))
    assert mixed.waited_seconds == 0.25


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_fills_a_rectangle_from_the_partner_whose_label_counts_by_its_area(
    seed: int,
) -> None:
    batch = make_batch()
    mixed = make_mix(cutmix=1.0, seed=seed)(batch)
    partners, share = pairs_of(mixed, batch)
    assert sorted(partners.tolist()) == list(range(12))
    for number, partner in enumerate(partners.tolist()):
        if partner == number:
            continue
        foreign = (mixed.inputs[number] != batch.inputs[number]).all(dim=0)
        assert float(foreign.float().mean()) == pytest.approx(1 - share, abs=1e-5)
        assert torch.equal(mixed.inputs[number][:, foreign], batch.inputs[partner][:, foreign])
        rows, columns = foreign.any(dim=1).sum(), foreign.any(dim=0).sum()
        assert int(rows * columns) == int(foreign.sum())


def test_the_loss_of_mixed_labels_is_the_mixture_of_losses_with_smoothing_kept() -> None:
    batch = make_batch()
    mixed = make_mix(mixup=0.4)(batch)
    partners, share = pairs_of(mixed, batch)
    logits = torch.randn((12, 12), generator=torch.Generator().manual_seed(2))
    own, other = (
        F.cross_entropy(logits, labels, label_smoothing=0.1)
        for labels in (batch.labels, batch.labels[partners])
    )
    loss = F.cross_entropy(logits, mixed.labels, label_smoothing=0.1)
    assert float(loss) == pytest.approx(float(share * own + (1 - share) * other), abs=1e-5)


def test_with_both_on_each_batch_takes_one_at_even_odds() -> None:
    batch, mix = make_batch(), make_mix(mixup=1.0, cutmix=1.0)
    known = set(batch.inputs.flatten().tolist())
    cuts = sum(set(mix(batch).inputs.flatten().tolist()) <= known for _ in range(200))
    assert 70 < cuts < 130


def test_alpha_says_how_evenly_shares_are_drawn() -> None:
    def mean_distance(alpha: float) -> float:
        mix, batch = make_mix(mixup=alpha), make_batch()
        shares = torch.tensor([pairs_of(mix(batch), batch)[1] for _ in range(100)])
        return float((shares - 0.5).abs().mean())

    assert mean_distance(50.0) < 0.06 < 0.2 < mean_distance(1.0) < 0.3 < 0.4 < mean_distance(0.1)


@pytest.mark.parametrize("fields", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_a_seed_fixes_the_mixtures_and_memory_order_and_global_state_stay(
    fields: dict[str, float],
) -> None:
    batch, before = make_batch(), torch.get_rng_state()
    kept = batch.inputs.clone()
    first, second = (make_mix(seed=3, **fields)(batch) for _ in range(2))
    assert torch.equal(first.inputs, second.inputs) and torch.equal(first.labels, second.labels)
    assert not torch.equal(first.inputs, make_mix(seed=4, **fields)(batch).inputs)
    assert first.inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(batch.inputs, kept)


def test_no_mixing_is_none() -> None:
    assert make_mixing(FullSpec(), 3, 0, CPU) is None


def test_a_training_on_mixtures_learns_and_repeats_itself() -> None:
    spec = FullSpec(epochs=10, batch_size=16, learning_rate=0.02, mixup=0.2, cutmix=1.0)
    plain = spec.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    test = make_split("test", 60, 9)
    first, second, other = (Full().adapt(make_task(), each) for each in (spec, spec, plain))
    logits = first.predict(test)
    assert torch.equal(logits, second.predict(test))
    assert not torch.equal(logits, other.predict(test))
    assert float((logits.argmax(1).numpy() == test.labels).mean()) > 0.8


def test_partial_with_mixing_runs_its_prefix_in_every_epoch_and_says_so() -> None:
    adapted = Partial().adapt(make_task(), PartialSpec(epochs=1, batch_size=16, mixup=0.2))
    assert adapted.effective.notes == ("frozen prefix run in every epoch: images are mixed",)
