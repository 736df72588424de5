"""Multinomial logistic regression with L2 for many strengths at once; knows no split and no score.

Per strength C, in scikit-learn's units, the objective over weights W (K, D) and bias b (K,) is

    F_C(W, b) = C * sum_n nll(softmax(W x_n + b), y_n) + ||W||^2 / 2

Newton's method, with the step from conjugate gradients (CG). What makes it fast:

- All strengths of a batch share each pass over the data: one matrix product with L*K columns.
- Features are rotated into the eigenbasis of X^T X, cut to its rank, so that the curvature of equal
  class probabilities is diagonal. To this diagonal the preconditioner adds, per strength, the
  curvature of the examples that are least certain, each with its leading direction among classes,
  through the Woodbury identity: near the optimum of a weak penalty they carry nearly all of it.
- Logits are kept as margins, relative to the true class, so that the small probabilities on which a
  weak penalty turns keep all their digits and float32 is enough.
- Strengths are solved from coarse to fine; the finer ones start between their solved neighbours.

Shapes: L strengths, K classes, N examples, R columns (rank of the features, then one of ones for
the bias), A examples in the preconditioner.

Source: truncated Newton as in Nash & Sofer, 1990 (the CG stopping rule), and Lin, Weng & Keerthi,
2008 (logistic regression).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_TOLERANCE = 2e-5
_MAX_NEWTON_STEPS = 40
_MAX_CG_STEPS = 40
_CG_PROGRESS = 0.25
_LINE_SEARCH_STEPS = 20
_FLAT = 0.1
_MAX_MARGIN_CHANGE = 16.0
_NUM_CURVED = 256
_POWER_STEPS = 3
_BATCH_ELEMENTS = 1 << 23
_STRIDE = 4
_RANK_TOLERANCE = 1e-10
_JITTER = 1e-5


@dataclass(frozen=True)
class Problem:
    """Data in the eigenbasis of its second moments.

    Attributes:
        columns: Rotated features and a column of ones, shape (N, R).
        moments: Diagonal of columns^T columns, shape (R,); the rest of it is 0.
        penalised: 1 per feature, 0 for the column of ones, shape (R,).
        targets: One-hot labels, shape (K, N).
        basis: Orthonormal columns that turn features into `columns`, shape (D, R - 1).
    """

    columns: Tensor
    moments: Tensor
    penalised: Tensor
    targets: Tensor
    basis: Tensor


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


@dataclass
class _State:
    """Strengths that are being solved together.

    Attributes:
        strengths: C, shape (L,).
        weights: In the eigenbasis, bias last, shape (L, K, R).
        margins: Logits of the weights less that of the true class, shape (L, K, N).
    """

    strengths: Tensor
    weights: Tensor
    margins: Tensor

    def keep(self, mask: Tensor) -> _State:
        return _State(self.strengths[mask], self.weights[mask], self.margins[mask])


def solve_path(
    features: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float]
) -> Solutions:
    """Return the minimiser for every strength.

    Args:
        features: Centred, finite, shape (N, D); its dtype is that of the solver.
        labels: Class indices in [0, K), shape (N,).
        num_classes: K.
        strengths: Values of C, positive and ascending, shape (L,).
    """
    problem = make_problem(features, labels, num_classes)
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


def make_problem(features: Tensor, labels: Tensor, num_classes: int) -> Problem:
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


def _warm_start(problem: Problem, path: _Path, wanted: Tensor) -> Tensor:
    """Return starting weights (L, K, R): the best of three predictions from solved neighbours.

    The path is smooth in log C: Lagrange's formula on the one, two and four nearest strengths.
    With nothing solved yet, zeros.
    """
    if not path.solved:
        return torch.zeros_like(path.weights[wanted])
    strengths = path.strengths[wanted].to(path.weights)
    best, lowest = None, None
    for count in (1, 2, 4):
        start = torch.stack([_predict(path, int(target), count) for target in wanted])
        value = _objective(problem, _State(strengths, start, _margins(problem, start)))
        if best is None or lowest is None:
            best, lowest = start, value
        better = value < lowest
        best = torch.where(better[:, None, None], start, best)
        lowest = torch.where(better, value, lowest)
    assert best is not None
    return best


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
    start = _warm_start(problem, path, wanted)
    state = _State(path.strengths[wanted].to(start), start, _margins(problem, start))
    for _ in range(_MAX_NEWTON_STEPS):
        converged, going = _newton_step(problem, state)
        path.weights[wanted] = state.weights
        path.newton_steps[wanted] += 1
        path.converged[wanted] = converged
        if not going.any():
            break
        wanted, state = wanted[going], state.keep(going.to(start.device))


def _margins(problem: Problem, weights: Tensor) -> Tensor:
    """Return logits less that of the true class, (L, K, R) -> (L, K, N), in one matrix product."""
    flat = weights.flatten(0, 1) @ problem.columns.T
    logits = flat.view(*weights.shape[:2], -1)
    return logits - (logits * problem.targets).sum(1, keepdim=True)


def _pull_back(problem: Problem, state: _State, slopes: Tensor, weights: Tensor) -> Tensor:
    """Return C * slopes @ columns + penalised * weights: the adjoint of `_margins`, with the L2."""
    flat = slopes.flatten(0, 1) @ problem.columns
    return flat.view_as(weights) * state.strengths[:, None, None] + weights * problem.penalised


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product per strength, shape (L,)."""
    product: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return product


def _newton_step(problem: Problem, state: _State) -> tuple[Tensor, Tensor]:
    """Move the state by one Newton step; return what converged and what goes on, each (L,), on CPU.

    Half the decrease that the step predicts is the distance of the objective from its minimum, to
    second order; CG underestimates it by about a tenth, and the step itself removes most of it.
    """
    probability = torch.softmax(state.margins, dim=1)
    wrong = probability * (1 - problem.targets)
    slopes = wrong - problem.targets * wrong.sum(1, keepdim=True)
    gradient = _pull_back(problem, state, slopes, state.weights)
    precondition = _preconditioner(problem, state, probability)
    step, change, decrease = _conjugate_gradients(
        problem, state, probability, gradient, precondition
    )
    length = _line_search(problem, state, step, change)
    state.weights = state.weights + length[:, None, None] * step
    state.margins = state.margins + length[:, None, None] * change
    converged = decrease <= _TOLERANCE * _objective(problem, state)
    return converged.cpu(), (~converged & (length > 0)).cpu()


def _objective(problem: Problem, state: _State) -> Tensor:
    """Return the penalised objective per strength, shape (L,)."""
    top = state.margins.amax(1)
    wrong = (state.margins - top[:, None]).exp() * (1 - problem.targets)
    loss = (top + torch.log1p(torch.expm1(-top) + wrong.sum(1))).sum(1)
    penalty = (state.weights.square() * problem.penalised).sum((1, 2)) / 2
    return state.strengths * loss + penalty


def _conjugate_gradients(
    problem: Problem,
    state: _State,
    probability: Tensor,
    gradient: Tensor,
    precondition: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Newton step, its change of the margins, and the decrease it predicts (L,).

    A strength stops once its last iteration added little to the predicted decrease, or little to
    what counts as converged.
    """
    step, change = torch.zeros_like(gradient), torch.zeros_like(probability)
    residual = -gradient
    direction = precondition(residual)
    power = _dot(residual, direction)
    decrease, active = torch.zeros_like(power), power > 0
    enough = _TOLERANCE * _objective(problem, state)
    for count in range(1, _MAX_CG_STEPS + 1):
        margins = _margins(problem, direction)
        slopes = probability * (margins - (probability * margins).sum(1, keepdim=True))
        curved = _pull_back(problem, state, slopes, direction)
        curvature = _dot(direction, curved)
        active &= curvature > 0
        length = torch.where(active, power / curvature, 0.0)
        gain = length * power / 2
        decrease += gain
        length = length[:, None, None]
        step += length * direction
        change += length * margins
        active &= count * gain > _CG_PROGRESS * torch.maximum(decrease, enough)
        if not active.any():
            break
        residual -= length * curved
        solved = precondition(residual)
        renewed = _dot(residual, solved)
        direction = solved + torch.where(active, renewed / power, 0.0)[:, None, None] * direction
        power = torch.where(active, renewed, power)
    return step, change, decrease


def _line_search(problem: Problem, state: _State, step: Tensor, change: Tensor) -> Tensor:
    """Return the length along the step that minimises the objective, per strength, shape (L,).

    Newton's method in one dimension within a bracket; the change of the margins is at hand, so a
    trial costs no pass over the data. A length that is returned lowers the objective, or is 0.
    """
    linear = _dot(state.weights * problem.penalised, step)
    square = _dot(step * problem.penalised, step)

    def slopes(length: Tensor) -> tuple[Tensor, Tensor]:
        trial = torch.softmax(state.margins + length[:, None, None] * change, 1)
        mean = (trial * change).sum(1)
        spread = _dot(trial * change, change) - mean.square().sum(1)
        first = state.strengths * mean.sum(1) + linear + length * square
        return first, state.strengths * spread + square

    low = torch.zeros_like(linear)
    high = _MAX_MARGIN_CHANGE / change.abs().amax((1, 2)).clamp_min(_tiny(change))
    steepest = slopes(low)[0].abs()
    length = high.clamp_max(1.0)
    for _ in range(_LINE_SEARCH_STEPS):
        first, second = slopes(length)
        flat = first.abs() <= _FLAT * steepest
        low = torch.where(first < 0, length, low)
        high = torch.where(first < 0, high, length)
        if flat.all():
            break
        guess = length - first / second
        guess = torch.where((guess > low) & (guess < high), guess, (low + high) / 2)
        length = torch.where(flat, length, guess)
    return torch.where(flat, length, low)


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def _preconditioner(
    problem: Problem, state: _State, probability: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return an approximate inverse of the Hessian, as a function (L, K, R) -> (L, K, R).

    The Hessian is P + C * sum_n S_n x x_n x_n^T with S_n = diag(p_n) - p_n p_n^T. Uncertain
    examples enter with the leading eigenvector u of their S_n; all else enters through its mean
    weight, which makes it diagonal in this basis.
    """
    columns, strengths = problem.columns, state.strengths
    num_classes = len(problem.targets)
    wrong = probability * (1 - problem.targets)
    missing = wrong.sum(1)
    trace = missing * (2 - missing) - wrong.square().sum(1)
    size = min(_NUM_CURVED, len(columns))
    index = (trace * columns.square().sum(1)).topk(size, dim=1).indices
    leading, value = _leading_direction(problem, probability, index)
    rest = (trace.sum(1) - value.sum(1)).clamp_min(0) / (len(columns) * (num_classes - 1))
    diagonal = problem.penalised + (strengths * rest)[:, None] * problem.moments
    diagonal[:, -1] = (strengths * trace.sum(1) / num_classes).clamp_min(_tiny(trace))
    diagonal = diagonal[:, None, :]
    leading = leading * (strengths[:, None] * value).sqrt()[:, None, :]
    curved = columns[index]
    gram = (curved / diagonal) @ curved.mT * (leading.mT @ leading)
    largest = gram.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
    gram.diagonal(dim1=1, dim2=2).add_(1 + _JITTER * largest)
    factor, failed = torch.linalg.cholesky_ex(gram)
    usable = (failed == 0)[:, None, None]
    factor = torch.where(usable, factor, torch.eye(size, dtype=gram.dtype, device=gram.device))
    leading = torch.where(usable, leading, 0.0)

    def apply(residual: Tensor) -> Tensor:
        scaled = residual / diagonal
        along = (leading * (scaled @ curved.mT)).sum(1)
        along = torch.cholesky_solve(along[..., None], factor)[..., 0]
        return scaled - ((leading * along[:, None, :]) @ curved) / diagonal

    return apply


def _leading_direction(
    problem: Problem, probability: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Return leading eigenvectors (L, K, A) of diag(p) - p p^T and their values (L, A).

    A few power iterations from the most likely wrong class; an underestimate is harmless. Vectors
    are taken relative to the true class, which changes no product and keeps small ones exact.
    """
    index = index[:, None, :].expand(-1, len(problem.targets), -1)
    chosen = probability.gather(2, index)
    targets = problem.targets.expand_as(probability).gather(2, index)
    first = (chosen * (1 - targets)).argmax(1, keepdim=True)
    vector = torch.zeros_like(chosen).scatter_(1, first, 1.0)
    for _ in range(_POWER_STEPS):
        vector = vector - (vector * targets).sum(1, keepdim=True)
        vector = chosen * (vector - (chosen * vector).sum(1, keepdim=True))
        norm = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
        vector = vector / norm.clamp_min(_tiny(vector))
    relative = vector - (vector * targets).sum(1, keepdim=True)
    value = (chosen * relative.square()).sum(1) - (chosen * relative).sum(1).square()
    return vector, value.clamp_min(0)
