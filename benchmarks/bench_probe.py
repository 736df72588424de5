"""The probe solver against scikit-learn's warm-started path, at the same penalised objective.

Run ``python benchmarks/bench_probe.py [FEATURES.npz]``: the archive holds ``features`` (N, D) and
``labels`` (N,); without it, features are drawn. Both solvers run in turn, with the threads that
torch and BLAS have by default. Printed per run: wall seconds, CPU seconds, and the largest relative
distance from the least objective up to C = 100 and over the whole path. The least objective comes
from a float64 run of this solver that its duality gap certifies.
"""

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from bench.strategies import newton
from bench.strategies.logistic import solve_path

STRENGTHS = 10.0 ** np.linspace(-6, 5, 45)
MATCHED = 1e-4
PEER_TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


@dataclass(frozen=True)
class Data:
    """Standardised features, float64, shape (N, D), and labels, shape (N,)."""

    features: Tensor
    labels: Tensor
    num_classes: int


@dataclass(frozen=True)
class Fit:
    """Weights (L, K, D) and bias (L, K) with what they took."""

    weights: Tensor
    bias: Tensor
    wall_seconds: float
    cpu_seconds: float


def draw(num_examples: int, dim: int, num_classes: int) -> Data:
    """Return features with a decaying spectrum, as those of networks have."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_examples) % num_classes
    centres = rng.normal(size=(num_classes, dim)) / 4
    spectrum = np.arange(1, dim + 1) ** -0.7 * dim**0.5
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    noise = (rng.normal(size=(num_examples, dim)) * spectrum) @ rotation
    return standardise(np.maximum(centres[labels] + noise, -1), labels)


def standardise(features: np.ndarray, labels: np.ndarray) -> Data:
    values = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    deviation = values.std(axis=0)
    values /= np.where(deviation > 0, deviation, 1)
    return Data(torch.from_numpy(values), torch.from_numpy(labels), int(labels.max()) + 1)


def timed(solve: Callable[[], tuple[Tensor, Tensor]]) -> Fit:
    wall, cpu = time.perf_counter(), time.process_time()
    weights, bias = solve()
    return Fit(weights, bias, time.perf_counter() - wall, time.process_time() - cpu)


def solve_ours(data: Data) -> Fit:
    def solve() -> tuple[Tensor, Tensor]:
        values = data.features.float()
        found = solve_path(values, data.labels, data.num_classes, STRENGTHS.tolist())
        return found.weights, found.bias

    return timed(solve)


def solve_peer(data: Data, tolerance: float) -> Fit:
    """Run scikit-learn from the strongest penalty on, in float32 as we do."""
    values, labels = data.features.float().numpy(), data.labels.numpy()

    def solve() -> tuple[Tensor, Tensor]:
        model = LogisticRegression(warm_start=True, max_iter=20_000, tol=tolerance)
        weights, bias = [], []
        for c in STRENGTHS:
            model.set_params(C=c).fit(values, labels)
            weights.append(torch.from_numpy(model.coef_.copy()))
            bias.append(torch.from_numpy(model.intercept_.copy()))
        return torch.stack(weights), torch.stack(bias)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return timed(solve)


def objectives(data: Data, fit: Fit) -> np.ndarray:
    values = []
    for c, weights, bias in zip(STRENGTHS, fit.weights.double(), fit.bias.double(), strict=True):
        logits = data.features @ weights.T + bias
        loss = torch.nn.functional.cross_entropy(logits, data.labels, reduction="sum")
        values.append(float(c * loss + weights.square().sum() / 2))
    return np.array(values)


def least_objectives(data: Data) -> np.ndarray:
    """Return the minimum per strength, by a run whose duality gap is asserted to be tiny."""
    saved = newton._TOLERANCE, newton._CG_PROGRESS, newton._MAX_CG_STEPS
    newton._TOLERANCE, newton._CG_PROGRESS, newton._MAX_CG_STEPS = 1e-8, 0.02, 200
    try:
        found = solve_path(data.features, data.labels, data.num_classes, STRENGTHS.tolist())
    finally:
        newton._TOLERANCE, newton._CG_PROGRESS, newton._MAX_CG_STEPS = saved
    least = objectives(data, Fit(found.weights, found.bias, 0, 0))
    targets = torch.nn.functional.one_hot(data.labels, data.num_classes)
    for c, value, weights, bias in zip(STRENGTHS, least, found.weights, found.bias, strict=True):
        slopes = torch.softmax(data.features @ weights.T + bias, dim=1) - targets
        gap = float((weights + c * slopes.T @ data.features).square().sum() / 2)
        assert gap < MATCHED / 10 * value, f"reference not certified at C = {c:g}"
    return least


def report(name: str, data: Data, fit: Fit, least: np.ndarray) -> float:
    """Print a line; return the largest relative distance up to C = 100."""
    distance = (objectives(data, fit) - least) / least
    matched = float(distance[STRENGTHS <= 100.1].max())
    print(
        f"{name:28s} {fit.wall_seconds:8.2f} s wall {fit.cpu_seconds:8.2f} s CPU   "
        f"C <= 100: {matched:8.1e}   all: {distance.max():8.1e}",
        flush=True,
    )
    return matched


def compare(data: Data) -> None:
    """Print both solvers in turn, from scikit-learn's loosest tolerance until it matches."""
    least = least_objectives(data)
    for tolerance in PEER_TOLERANCES:
        ours = solve_ours(data)
        report("bench", data, ours, least)
        peer = solve_peer(data, tolerance)
        if report(f"scikit-learn tol {tolerance:g}", data, peer, least) <= MATCHED:
            print(f"matched: {peer.wall_seconds / ours.wall_seconds:.1f} times as fast")
            return
    print("scikit-learn does not reach the objective at any tolerance tried")


def test_the_whole_path_is_solved_at_the_objective(benchmark) -> None:  # type: ignore[no-untyped-def]
    data = draw(1000, 300, 10)
    fit = benchmark.pedantic(solve_ours, args=(data,), rounds=3, warmup_rounds=1)
    assert report("bench", data, fit, least_objectives(data)) <= MATCHED


if __name__ == "__main__":
    if len(sys.argv) > 1:
        archive = np.load(sys.argv[1])
        compare(standardise(archive["features"], archive["labels"]))
    else:
        compare(draw(3000, 1280, 10))
