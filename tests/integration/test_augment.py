import pytest
import torch
from torch import Tensor

from bench.strategies.augment import Augmentation, make_augmentation, warp_images

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
