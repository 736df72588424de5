"""Newton's method on multinomial logistic regression, for many L2 strengths at once; knows no path.

Per strength C, in scikit-learn's units, the objective over weights W (K, D) and bias b (K,) is

    F_C(W, b) = C * sum_n s_n * nll(softmax(W x_n + b), y_n) + ||W||^2 / 2

with a weight s_n per example, 1 unless given.

The step comes from conjugate gradients (CG). What makes it fast:

- All strengths of a batch share each pass over the data: one matrix product with L*K columns.
- Features are rotated into the eigenbasis of X^T X, cut to its rank, so that the curvature of equal
  class probabilities is diagonal. To this diagonal the preconditioner adds, per strength, the
  curvature of the examples that are least certain, each with its leading direction among classes,
  through the Woodbury identity: near the optimum of a weak penalty they carry nearly all of it.
- Logits are kept as margins, relative to the true class, so that the small probabilities on which a
  weak penalty turns keep all their digits and float32 is enough.

Shapes: L strengths, K classes, N examples, R columns (rank of the features, then one of ones for
the bias), A examples in the preconditioner.

Source: truncated Newton as in Nash & Sofer, 1990 (the CG stopping rule), and Lin, Weng & Keerthi,
2008 (logistic regression).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_TOLERANCE = 2e-5
_MAX_CG_STEPS = 40
_CG_PROGRESS = 0.25
_LINE_SEARCH_STEPS = 20
_FLAT = 0.1
_MAX_MARGIN_CHANGE = 16.0
_NUM_CURVED = 256
_POWER_STEPS = 3
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
        weights: Of the examples' losses, shape (N,); None is 1 each.
    """

    columns: Tensor
    moments: Tensor
    penalised: Tensor
    targets: Tensor
    basis: Tensor
    weights: Tensor | None = None

    def weigh(self, values: Tensor) -> Tensor:
        """Return values whose last dimension is N, each times the weight of its example."""
        return values if self.weights is None else values * self.weights


@dataclass
class State:
    """Strengths that are being solved together.

    Attributes:
        strengths: C, shape (L,).
        weights: In the eigenbasis, bias last, shape (L, K, R).
        margins: Logits of the weights less that of the true class, shape (L, K, N).
    """

    strengths: Tensor
    weights: Tensor
    margins: Tensor

    @classmethod
    def at(cls, problem: Problem, strengths: Tensor, weights: Tensor) -> State:
        """Return the state of some weights."""
        return cls(strengths, weights, _margins(problem, weights))

    def keep(self, mask: Tensor) -> State:
        """Return the state of the strengths under a mask, shape (L,)."""
        return State(self.strengths[mask], self.weights[mask], self.margins[mask])


def _margins(problem: Problem, weights: Tensor) -> Tensor:
    """Return logits less that of the true class, (L, K, R) -> (L, K, N), in one matrix product."""
    flat = weights.flatten(0, 1) @ problem.columns.T
    logits = flat.view(*weights.shape[:2], -1)
    return logits - (logits * problem.targets).sum(1, keepdim=True)


def _pull_back(problem: Problem, state: State, slopes: Tensor, weights: Tensor) -> Tensor:
    """Return C * slopes @ columns + penalised * weights: the adjoint of `_margins`, with the L2."""
    flat = slopes.flatten(0, 1) @ problem.columns
    return flat.view_as(weights) * state.strengths[:, None, None] + weights * problem.penalised


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product per strength, shape (L,)."""
    product: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return product


def newton_step(problem: Problem, state: State) -> tuple[Tensor, Tensor]:
    """Move the state by one Newton step; return what converged and what goes on, each (L,), on CPU.

    Half the decrease that the step predicts is the distance of the objective from its minimum, to
    second order; CG underestimates it by about a tenth, and the step itself removes most of it.
    """
    probability = torch.softmax(state.margins, dim=1)
    wrong = probability * (1 - problem.targets)
    slopes = problem.weigh(wrong - problem.targets * wrong.sum(1, keepdim=True))
    gradient = _pull_back(problem, state, slopes, state.weights)
    precondition = _preconditioner(problem, state, probability)
    step, change, decrease = _conjugate_gradients(
        problem, state, probability, gradient, precondition
    )
    length = _line_search(problem, state, step, change)
    state.weights = state.weights + length[:, None, None] * step
    state.margins = state.margins + length[:, None, None] * change
    converged = decrease <= _TOLERANCE * objective(problem, state)
    return converged.cpu(), (~converged & (length > 0)).cpu()


def objective(problem: Problem, state: State) -> Tensor:
    """Return the penalised objective per strength, shape (L,)."""
    top = state.margins.amax(1)
    wrong = (state.margins - top[:, None]).exp() * (1 - problem.targets)
    loss = problem.weigh(top + torch.log1p(torch.expm1(-top) + wrong.sum(1))).sum(1)
    penalty = (state.weights.square() * problem.penalised).sum((1, 2)) / 2
    return state.strengths * loss + penalty


def _conjugate_gradients(
    problem: Problem,
    state: State,
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
    enough = _TOLERANCE * objective(problem, state)
    for count in range(1, _MAX_CG_STEPS + 1):
        margins = _margins(problem, direction)
        slopes = probability * (margins - (probability * margins).sum(1, keepdim=True))
        slopes = problem.weigh(slopes)
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


def _line_search(problem: Problem, state: State, step: Tensor, change: Tensor) -> Tensor:
    """Return the length along the step that minimises the objective, per strength, shape (L,).

    Newton's method in one dimension within a bracket; the change of the margins is at hand, so a
    trial costs no pass over the data. A length that is returned lowers the objective, or is 0.
    """
    linear = _dot(state.weights * problem.penalised, step)
    square = _dot(step * problem.penalised, step)

    def slopes(length: Tensor) -> tuple[Tensor, Tensor]:
        trial = torch.softmax(state.margins + length[:, None, None] * change, 1)
        mean = (trial * change).sum(1)
        spread = _dot(problem.weigh(trial * change), change)
        spread = spread - problem.weigh(mean.square()).sum(1)
        first = state.strengths * problem.weigh(mean).sum(1) + linear + length * square
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
    problem: Problem, state: State, probability: Tensor
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
    trace = problem.weigh(missing * (2 - missing) - wrong.square().sum(1))
    size = min(_NUM_CURVED, len(columns))
    index = (trace * columns.square().sum(1)).topk(size, dim=1).indices
    leading, value = _leading_direction(problem, probability, index)
    if problem.weights is not None:
        value = value * problem.weights[index]
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
