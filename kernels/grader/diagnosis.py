"""Guess why an output is wrong: find the classic mistake that explains it.

Each mistake predicts an output. The guess is the mistake whose
prediction lies closest to what the learner's function returned, and it is only made if
the prediction lies much closer than the right answer does. Otherwise no classic mistake
explains the output, and none is named.
"""

import math

import torch

from kernels.grader.attempt import MARK
from kernels.grader.attention_mistakes import (
    lse_mistakes,
    output_mistakes,
    true_lse,
)
from kernels.grader.head_mistakes import group_mistakes
from kernels.grader.key_counts import head_of, weighted
from kernels.grader.row_sum_mistakes import row_sum_mistakes

EXPLAINS = 0.25  # a guess is at most this fraction of the right answer's distance away
AS_GOOD = 1.5  # predictions within this factor explain alike; the first one is named
NEARLY = 0.05  # an unexplained output this close to the truth lacks only precision


def diagnose(case, inputs: tuple, name: str, actual, wrong) -> str | None:
    """The key in ``causes.CAUSES`` of what explains output ``name``, or None.

    ``actual`` is what the function returned for ``inputs`` of ``case``, and ``wrong``
    (bool, same shape) where that is wrong.
    """
    values = actual[wrong]
    cause = most_likely(case, inputs, name, actual, wrong, values)
    if cause in (None, "precision") and not values.isfinite().all():
        return "not-finite"
    return cause


def most_likely(case, inputs, name, actual, wrong, values) -> str | None:
    """As ``diagnose``; ``values`` are the wrong ones. NaN and infinity may be left."""
    if (values == torch.tensor(MARK).to(values)).all():
        return "unwritten"
    if name == "y":
        if (values == 0).all():
            return "left-zero"
        x, w = inputs
        truth = x.float() @ w.float()
        return best_explanation(actual.float(), truth, row_sum_mistakes(x, w))
    batch, n_head = (index.item() for index in wrong.nonzero()[0][:2])
    if inputs[1].shape[1] < inputs[0].shape[1]:
        truth, predictions = group_mistakes(case, inputs, batch)
        cause = explanation(actual[batch].float().flatten(0, 1), truth, predictions)
        if cause:
            return cause
    if (values == 0).all():
        return "left-zero"
    head = head_of(case, inputs, batch, n_head)
    actual = actual[batch, n_head].float()
    if name == "lse":
        return best_explanation(actual, true_lse(head), lse_mistakes(head))
    truth = weighted(head.scores, head.v, head.visible)
    predictions = output_mistakes(head, inputs, batch, n_head)
    return best_explanation(actual, truth, predictions)


def explanation(actual, truth, predictions) -> str | None:
    """The first prediction that explains ``actual`` about as well as any does."""
    misfits = [(cause, misfit(actual, truth, o)) for cause, o in predictions]
    best = min(value for _, value in misfits)
    if best > EXPLAINS:
        return None
    return next(cause for cause, value in misfits if value <= best * AS_GOOD)


def best_explanation(actual, truth, predictions) -> str | None:
    """``explanation``, or "precision" where nothing explains a small difference."""
    cause = explanation(actual, truth, predictions)
    if cause:
        return cause
    unit = truth.square().mean().sqrt()
    is_near = distance(actual, truth, unit) < NEARLY
    return "precision" if is_near and (actual - truth).abs().max() < unit else None


def misfit(actual, truth, prediction) -> float:
    """How far ``prediction`` is from ``actual``, as a fraction of how far the truth is.

    Over the rows for which the mistake predicts something. A row of NaN, which sees no
    key, is none of them: what a kernel returns there is its own affair.
    """
    actual, truth, prediction = (
        x.reshape(len(x), -1) for x in (actual, truth, prediction)
    )
    unit = truth.square().mean().sqrt()
    says = ~prediction.isnan().any(1)
    far = distance(actual[says], truth[says], unit)
    if says.float().mean() < 0.25 or far == 0:
        return math.inf
    return distance(actual[says], prediction[says], unit) / far


def distance(x, y, unit) -> float:
    """Root mean square of (x − y) / unit, where each difference counts at most 1.

    So does NaN or infinity in the place of a number.
    """
    difference = ((x - y).abs() / unit).nan_to_num(nan=1.0).clamp(max=1.0)
    alike = ~x.isfinite() & ~y.isfinite()
    return difference.masked_fill(alike, 0.0).square().mean().sqrt().item()
