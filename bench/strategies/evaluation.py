"""Passes over a split in eval mode and their scores; it knows no training and no strategy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.numerics import autocast, make_pass, prepare_inputs
from bench.record import NumericsPlan
from bench.strategies.buckets import evaluation_order, put_back
from bench.strategies.feed import Feed
from bench.strategies.head import Classifier
from bench.strategies.microbatch import EvalBatch

_EVAL_BATCH = {"cpu": 64, "cuda": 256}


def predict_logits(
    classifier: Classifier,
    feed: Feed,
    plan: NumericsPlan,
    device: torch.device,
    at_once: EvalBatch | None = None,
) -> Tensor:
    """Return logits of every example in order, float32, shape (N, K), on the device.

    The model is put in eval mode and left there. Where memory runs out, batches become smaller.

    Args:
        classifier: With the plan applied to it.
        feed: Of the split.
        plan: Numerics of the forward pass.
        device: Where the model is.
        at_once: Remembers what fits, for the next pass; None begins with `eval_batch_size`.
    """
    classifier.eval()
    size = eval_batch_size(device, plan)
    at_once = at_once or EvalBatch(size, device)
    forward = make_pass(classifier, plan, size)
    order = evaluation_order(len(feed), feed.lengths)

    def run(first: int, sizes: Sequence[int]) -> Iterator[Tensor]:
        for batch in feed.batches(order[first:], sizes):
            yield forward(prepare_inputs(batch.inputs, plan)).float()

    with torch.no_grad(), autocast(plan, device):
        logits = torch.cat(at_once.collect(len(feed), run))
    return put_back(logits, order, feed.lengths)


def eval_batch_size(device: torch.device, plan: NumericsPlan | None = None) -> int:
    """Return examples per forward pass in evaluation: those of the plan, or enough for the device.

    Without a plan, it is also the most that a plan tries.
    """
    measured = None if plan is None else plan.batch_size
    return measured or _EVAL_BATCH.get(device.type, _EVAL_BATCH["cpu"])


def score_logits(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return accuracy in [0, 1] and mean cross-entropy in nats, with one wait for the device."""
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    accuracy, loss = torch.stack((accuracy, F.cross_entropy(logits, labels))).tolist()
    return accuracy, loss
