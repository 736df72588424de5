"""Features of augmented views, drawn from the seed alone, and what a probe makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from bench.errors import StrategyError
from bench.interfaces import Split
from bench.strategies import views as views_module
from bench.strategies.augment import Augmentation
from bench.strategies.features import extract_features, plan_features
from bench.strategies.inputs import load_batch, normalise
from bench.strategies.linear_probe import LinearProbe, LinearProbeSpec
from bench.strategies.views import Views, extract_views
from tests.training import TestRuntime, make_split, make_task, small_backbone

TWO = Views(count=2, augmentation="flip_crop", seed=3)


def views_of(split: Split, views: Views, runtime: TestRuntime | None = None) -> Tensor:
    backbone, runtime = small_backbone(), runtime or TestRuntime()
    plan = plan_features(backbone, split, runtime)
    return extract_views(backbone, split, runtime, plan, views)


def test_views_are_augmented_images_through_the_plain_pass() -> None:
    split, backbone = make_split("train", 40, 1), small_backbone()
    features = views_of(split, TWO)
    assert features.shape == (80, 16)
    images = load_batch(split, slice(None), torch.device("cpu")).float() / 255
    for number in range(2):
        sequence = np.random.SeedSequence([3, number, 0])
        seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)
        augment = Augmentation("flip_crop", torch.Generator().manual_seed(seed))
        with torch.no_grad():
            inputs = normalise(augment(images), backbone.preprocessing)
            expected = backbone.module.eval()(inputs)
        part = features[40 * number : 40 * (number + 1)]
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


def test_views_differ_by_number_seed_and_kind() -> None:
    split, runtime = make_split("train", 30, 1), TestRuntime()
    first, second = views_of(split, TWO, runtime).split(30)
    plain = extract_features(small_backbone(), split, runtime)
    others = [
        views_of(split, replace(TWO, count=1, seed=4), runtime),
        views_of(split, replace(TWO, count=1, augmentation="strong"), runtime),
    ]
    for other in (second, plain, *others):
        assert not torch.allclose(first, other, atol=1e-3)


def test_a_view_does_not_depend_on_the_chunks_it_is_made_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = make_split("train", 150, 1)
    whole = views_of(split, TWO)
    monkeypatch.setattr("bench.artifacts._CHUNK_BYTES", 16 * 4 * 50)
    torch.testing.assert_close(views_of(split, TWO), whole, rtol=1e-4, atol=1e-5)


def test_views_are_made_once_for_all_settings() -> None:
    split, runtime = make_split("train", 30, 1), TestRuntime()
    views_of(split, TWO, runtime)
    pool = split.pool
    gathers = pool.num_gathers  # type: ignore[attr-defined]
    again = views_of(split, TWO, runtime)
    # The plan alone looks at images again.
    assert pool.num_gathers == gathers + 1  # type: ignore[attr-defined]
    assert torch.equal(again, views_of(split, TWO, runtime))


def test_the_probe_is_fitted_on_every_view_and_the_record_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    real = views_module.extract_views

    def watch(*args: object) -> Tensor:
        seen.append(real(*args))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(views_module, "extract_views", watch)
    task, test = make_task(num_train=90), make_split("test", 60, 3)
    plain = LinearProbe().adapt(task, LinearProbeSpec())
    assert not seen and not any("views" in note for note in plain.effective.notes)
    adapted = LinearProbe().adapt(task, LinearProbeSpec(views=4, augmentation="strong"))
    assert [len(features) for features in seen] == [360]
    assert (
        "fitted on 4 strong views of each train image beside the plain one"
        in adapted.effective.notes
    )
    assert not torch.equal(adapted.predict(test), plain.predict(test))
    accuracy = (adapted.predict(test).argmax(1).numpy() == test.labels).mean()
    assert accuracy > 0.7


def test_a_probe_without_views_is_what_it_was_before_there_were_any() -> None:
    assert set(LinearProbeSpec().model_dump()) == {"name", "l2", "standardize"}
    assert LinearProbeSpec(views=2).model_dump()["augmentation"] == "flip_crop"
    round_trip = LinearProbeSpec.model_validate(LinearProbeSpec(views=2).model_dump())
    assert round_trip.views == 2


def test_views_are_a_whole_number_from_none_to_a_hundred() -> None:
    for wrong in (-1, 101, 1.5):
        with pytest.raises(ValidationError):
            LinearProbeSpec(views=wrong)  # type: ignore[arg-type]


def test_views_that_are_not_finite_are_an_error() -> None:
    backbone, split, runtime = small_backbone(), make_split("train", 20, 1), TestRuntime()
    plan = plan_features(backbone, split, runtime)
    with torch.no_grad():
        backbone.module.last[1].bias.fill_(torch.nan)  # type: ignore[index, union-attr]
    with pytest.raises(StrategyError, match="features of 20 of 20 train examples"):
        extract_views(backbone, split, runtime, plan, TWO)
