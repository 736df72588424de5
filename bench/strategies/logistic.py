"""Multinomial logistic regression with L2 for a whole path of strengths; knows no split, no score.

Strengths are solved from coarse to fine, each level as one batch. Solutions are smooth in log C, so
that the finer levels start so near to their optimum that a single Newton step ends them: three
quarters of a path of 45 cost about as much as the first seven. What a step is, `newton` says.

Shapes: L strengths, K classes, N examples, D features, R their rank and one for the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.strategies.newton import Problem, State, newton_step, objective

_MAX_NEWTON_STEPS = 40
_BATCH_ELEMENTS = 1 << 23
_STRIDE = 4
_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Solutions:
    """One solution per strength, in the order asked.

    Attributes:
        weights: On the features as given, shape (L, K, D).
        bias: Shape (L, K).
        converged: Whether the objective is within 1e-4 relative of its minimum, by the Newton
            decrement, shape (L,).
        newton_steps: Steps taken, shape (L,).
    """

    weights: Tensor
    bias: Tensor
    converged: Tensor
    newton_steps: Tensor


@dataclass(frozen=True)
class _Path:
    """What is known of every strength so far; weights in the eigenbasis, bias last, (L, K, R)."""

    strengths: Tensor
    weights: Tensor
    converged: Tensor
    newton_steps: Tensor
    solved: set[int]

    @classmethod
    def empty(cls, problem: Problem, strengths: Sequence[float]) -> _Path:
        columns, count = problem.columns, len(strengths)
        return cls(
            strengths=torch.tensor(strengths, dtype=torch.float64),
            weights=columns.new_zeros((count, len(problem.targets), columns.shape[1])),
            converged=torch.zeros(count, dtype=torch.bool),
            newton_steps=torch.zeros(count, dtype=torch.int64),
            solved=set(),
        )


def solve_path(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: Sequence[float],
    weights: Tensor | None = None,
) -> Solutions:
    """Return the minimiser for every strength.

    Args:
        features: Centred, finite, shape (N, D); its dtype is that of the solver.
        labels: Class indices in [0, K), shape (N,).
        num_classes: K.
        strengths: Values of C, positive and ascending, shape (L,).
        weights: Of the examples' losses, positive, shape (N,); None is 1 each.
    """
    problem = make_problem(features, labels, num_classes, weights)
    path = _Path.empty(problem, strengths)
    size = num_classes * sum(problem.columns.shape)
    for level in _levels(path.strengths):
        for chunk in torch.split(level, max(1, _BATCH_ELEMENTS // size)):
            _solve(problem, path, chunk)
        path.solved.update(level.tolist())
    return Solutions(
        weights=path.weights[..., :-1] @ problem.basis.T,
        bias=path.weights[..., -1],
        converged=path.converged,
        newton_steps=path.newton_steps,
    )


def make_problem(
    features: Tensor, labels: Tensor, num_classes: int, weights: Tensor | None = None
) -> Problem:
    """Return the data rotated into its eigenbasis and cut to its rank; arguments as above."""
    basis, moments = _eigenbasis(features.double())
    basis, moments = basis.to(features.dtype), moments.to(features.dtype)
    ones = torch.ones_like(features[:, :1])
    targets = torch.nn.functional.one_hot(labels, num_classes).T.to(features.dtype)
    return Problem(
        columns=torch.cat([features @ basis, ones], dim=1),
        moments=torch.cat([moments, moments.new_tensor([len(features)])]),
        penalised=torch.cat([torch.ones_like(moments), moments.new_zeros(1)]),
        targets=targets.contiguous(),
        basis=basis,
        weights=None if weights is None else weights.to(features),
    )


def _eigenbasis(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal columns that span the rows, and the squared lengths along them."""
    if len(features) >= features.shape[1]:
        moments, basis = torch.linalg.eigh(features.T @ features)
    else:
        moments, left = torch.linalg.eigh(features @ features.T)
        basis = features.T @ left / moments.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    full = moments > max(float(moments[-1]) * _RANK_TOLERANCE, torch.finfo(torch.float64).tiny)
    return basis[:, full], moments[full]


def _levels(strengths: Tensor) -> list[Tensor]:
    """Return positions in the order they are solved, each once, in groups solved together.

    First every fourth up to C = 1, from zeros; then every fourth beyond, one after the other, since
    from zeros Newton's method takes one step per unit of log C there; then between the solved.
    """
    count = len(strengths)
    anchors = sorted({*range(0, count, _STRIDE), count - 1})
    cold = [i for i in anchors if i == 0 or strengths[i] <= 1]
    levels = [cold, *([i] for i in anchors if i not in cold)]
    seen = set(anchors)
    for stride in (_STRIDE // 2, 1):
        levels.append([i for i in range(0, count, stride) if i not in seen])
        seen.update(levels[-1])
    return [torch.tensor(level) for level in levels if level]


def _warm_start(problem: Problem, path: _Path, wanted: Tensor) -> State:
    """Return a state to start from: the best of three predictions from solved neighbours.

    The path is smooth in log C: Lagrange's formula on the one, two and four nearest strengths.
    With nothing solved yet, zeros.
    """
    strengths = path.strengths[wanted].to(path.weights)
    if not path.solved:
        return State.at(problem, strengths, torch.zeros_like(path.weights[wanted]))
    states = [
        State.at(
            problem,
            strengths,
            torch.stack([_predict(path, target, count) for target in wanted.tolist()]),
        )
        for count in (1, 2, 4)
    ]
    # Strengths that nearly coincide make the formula overflow; the nearest one alone never does.
    values = torch.stack([objective(problem, state) for state in states])
    best = values.nan_to_num(nan=torch.inf).argmin(0)
    row = torch.arange(len(wanted), device=best.device)
    return State(
        strengths,
        torch.stack([state.weights for state in states])[best, row],
        torch.stack([state.margins for state in states])[best, row],
    )


def _predict(path: _Path, target: int, count: int) -> Tensor:
    """Return weights (K, R) by Lagrange's formula in log C on the nearest solved strengths."""
    position = path.strengths.log()
    known = torch.tensor(sorted(path.solved))
    near = known[(position[known] - position[target]).abs().argsort(stable=True)[:count]]
    weights = torch.zeros_like(path.weights[target])
    for index in near.tolist():
        others = position[near[near != index]]
        factor = ((position[target] - others) / (position[index] - others)).prod()
        weights += float(factor) * path.weights[index]
    return weights


def _solve(problem: Problem, path: _Path, wanted: Tensor) -> None:
    """Solve some strengths of the path together; each leaves the batch when it has converged."""
    state = _warm_start(problem, path, wanted)
    for _ in range(_MAX_NEWTON_STEPS):
        converged, going = newton_step(problem, state)
        path.weights[wanted] = state.weights
        path.newton_steps[wanted] += 1
        path.converged[wanted] = converged
        if not going.any():
            break
        wanted, state = wanted[going], state.keep(going.to(state.weights.device))
