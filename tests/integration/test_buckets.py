"""Orders of examples that differ in length: little padding, nothing lost, the same every time."""

import pytest
import torch
from torch import Tensor

from bench.strategies.buckets import WINDOW, evaluation_order, put_back, training_order
from bench.strategies.feed import batch_sizes


def lengths_of(count: int) -> Tensor:
    return torch.randint(1, 257, (count,), generator=torch.Generator().manual_seed(1))


def epoch(
    count: int, batch: int, seed: int = 0, lengths: Tensor | None = None
) -> tuple[Tensor, tuple[int, ...], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    sizes = batch_sizes(count, batch)
    return order, sizes, training_order(order, sizes, lengths, generator)


def padding(order: Tensor, sizes: tuple[int, ...], lengths: Tensor) -> float:
    """Return the share of a batch's places that are padding."""
    batches = torch.split(lengths[order], list(sizes))
    return 1 - float(lengths.sum()) / sum(int(b.max()) * len(b) for b in batches)


@pytest.mark.parametrize("count", [1, 31, 64, 65, 1000, WINDOW * 16 + 17])
def test_every_example_is_in_every_epoch_once(count: int) -> None:
    _, _, order = epoch(count, 16, lengths=lengths_of(count))
    assert sorted(order.tolist()) == list(range(count))


def test_batches_carry_little_padding() -> None:
    lengths = lengths_of(4000)
    plain, sizes, order = epoch(4000, 32, lengths=lengths)
    assert padding(order, sizes, lengths) < 0.05 < 0.4 < padding(plain, sizes, lengths)


def test_long_batches_do_not_come_first_nor_in_the_same_place_twice() -> None:
    lengths = lengths_of(1600)
    _, sizes, order = epoch(1600, 32, lengths=lengths)
    _, _, other = epoch(1600, 32, seed=1, lengths=lengths)
    longest = [int(b.max()) for b in torch.split(lengths[order], list(sizes))]
    assert longest != sorted(longest, reverse=True)
    assert order.tolist() != other.tolist()


def test_the_same_seed_gives_the_same_order() -> None:
    lengths = lengths_of(500)
    assert torch.equal(epoch(500, 16, 3, lengths)[2], epoch(500, 16, 3, lengths)[2])


def test_without_lengths_the_order_is_as_drawn_and_nothing_more_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(100, generator=generator)
    before = generator.get_state()
    assert training_order(order, batch_sizes(100, 16), None, generator) is order
    assert torch.equal(generator.get_state(), before)
    assert evaluation_order(5, None).tolist() == [0, 1, 2, 3, 4]


def test_evaluation_goes_from_the_longest_and_is_put_back() -> None:
    lengths = lengths_of(50)
    order = evaluation_order(50, lengths)
    assert lengths[order].diff().max() <= 0
    outputs = order.float()[:, None]
    assert put_back(outputs, order, lengths).flatten().tolist() == list(range(50))
    assert put_back(outputs, order, None) is outputs
