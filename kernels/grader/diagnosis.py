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
from kernels.grader.key_counts import Head, weighted
from kernels.grader.row_sum_mistakes import row_sum_mistakes
from kernels.reference import attention_mask

EXPLAINS = 0.25  # a guess is at most this fraction of the right answer's distance away
AS_GOOD = 1.5  # predictions within this factor explain alike; the first one is named
NEARLY = 0.05  # an unexplained output this close to the truth lacks only precision

# What each mistake is called in a verdict.
CAUSES = {
    "mask-strict": "the causal mask hides each query's own key (> where >= is meant)",
    "mask-next": "the causal mask shows each query the next key too (off by one)",
    "mask-missing": "the causal mask is missing: every query sees every key",
    "mask-reversed": "the causal mask is the wrong way round (<= where >= is meant)",
    "mask-start": "the causal mask is aligned at the start: row i has to see "
    "j <= i + N_k - N_q",
    "mask-unasked": "a causal mask is applied although is_causal is False",
    "scale-missing": "the scores are not scaled by 1/sqrt(d)",
    "scale-twice": "the scores are scaled twice (by 1/d in all)",
    "log2e-missing": "exp2 is taken of scores without the factor log2(e)",
    "log2e-extra": "exp is taken of scores that carry the factor log2(e)",
    "kv-swapped": "K and V have changed places",
    "v-as-k": "V is read where K is meant",
    "k-as-v": "K is read where V is meant",
    "k-not-advanced": "K is read from its first block in every iteration",
    "v-not-advanced": "V is read from its first block in every iteration",
    "kv-not-advanced": "K and V are read from their first block in every iteration",
    "q-not-advanced": "every program reads the first block of Q",
    "tail-keys": "zeros loaded past the last key are counted in the denominator: set "
    "their scores to -inf",
    "tail-dropped": "keys past the last whole block are left out: the loop ends early",
    "first-block-skipped": "the first block of keys is left out: where does the loop "
    "start?",
    "diagonal-skipped": "the blocks on the diagonal are left out: where does the "
    "second phase start and end?",
    "diagonal-late": "the phase on the diagonal starts one block late",
    "diagonal-short": "the phase on the diagonal ends one block early",
    "last-key-skipped": "the second phase ends one key early, and the last query can "
    "miss its own: range leaves its end out",
    "diagonal-unmasked": "the blocks on the diagonal are not masked: is the second "
    "phase masked, and does the first end before them?",
    "diagonal-twice": "the blocks on the diagonal are added twice: the first phase has "
    "to end where the second starts",
    "below-skipped": "the blocks below the diagonal do not count: does the first phase "
    "run, and is its state carried on?",
    "below-short": "the phase below the diagonal ends one block early",
    "below-rounded-up": "keys beyond the diagonal are counted: round the end of the "
    "first phase down to whole blocks, not up",
    "below-unrounded": "the first phase runs past its end, so some keys are counted "
    "twice, others though hidden: round its end down to whole blocks",
    "below-twice": "some keys are counted twice: the second phase has to start where "
    "the first really ended",
    "last-block-only": "only the last block of keys counts: is m_i updated, and are "
    "l_i and acc carried on?",
    "not-normalised": "acc is not divided by l_i at the end",
    "alpha-acc": "acc is not rescaled by alpha when the running maximum changes",
    "alpha-l": "l_i is not rescaled by alpha when the running maximum changes",
    "alpha-both": "neither acc nor l_i is rescaled when the running maximum changes",
    "alpha-units": "alpha and p are in different units (exp in one, exp2 in the other)",
    "max-missing": "no maximum is subtracted before the exponential, which overflows",
    "max-units": "the running maximum and the scores are in different units: one of "
    "them is not multiplied by the scale",
    "other-kv-head": "K and V are read from another head or batch",
    "other-head": "the output of another head or batch is stored here",
    "unwritten": "these elements are never stored: do the grid and the store's mask "
    "cover them?",
    "left-zero": "these elements are zero: are they computed, and stored?",
    "strides": "the strides of an input or of the output",
    "precision": "rounding: compute in float32, and round once, at the end",
    "not-finite": "NaN or infinity: are loads past the last element masked (0 * NaN is "
    "NaN), and is -inf - (-inf) computed in a row that has seen no key?",
    # The log-sum-exp of problem 1.
    "lse-base-2": "lse is in base 2: multiply it by ln(2)",
    "lse-no-max": "lse lacks the running maximum: it is m_i + log(l_i)",
    "lse-no-sum": "lse is the running maximum alone: it is m_i + log(l_i)",
    # The weighted row sum of problem 2.
    "w-missing": "the elements of x are summed without their weights",
    "w-not-advanced": "w is read from its first block in every iteration",
    "x-not-advanced": "x is read from its first block in every iteration",
    "x-rows-not-advanced": "every program reads the first rows of x",
    "first-columns-only": "only the first block of columns is summed",
    "last-columns-only": "only the last block of columns counts: is the sum added to?",
    "columns-dropped": "columns past the last whole block are left out",
    "mean": "the sum is divided by the number of columns",
}


def diagnose(case, inputs: tuple, name: str, actual, wrong) -> str | None:
    """The key in ``CAUSES`` of what explains output ``name``, or None.

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
    if (values == 0).all():
        return "left-zero"
    if name == "y":
        x, w = inputs
        truth = x.float() @ w.float()
        return best_explanation(actual.float(), truth, row_sum_mistakes(x, w))
    batch, n_head = (index.item() for index in wrong.nonzero()[0][:2])
    q, k, v = (x[batch, n_head].float() for x in inputs)
    visible = attention_mask(len(q), len(k), case.is_causal, device=q.device)
    scores = q @ k.T / math.sqrt(q.shape[1])
    head = Head(q, k, v, scores, visible, case.is_causal, inputs[0].dtype)
    actual = actual[batch, n_head].float()
    if name == "lse":
        return best_explanation(actual, true_lse(head), lse_mistakes(head))
    truth = weighted(scores, v, visible)
    predictions = output_mistakes(head, inputs, batch, n_head)
    return best_explanation(actual, truth, predictions)


def best_explanation(actual, truth, predictions) -> str | None:
    """The first prediction that explains ``actual`` about as well as any does."""
    misfits = [(cause, misfit(actual, truth, o)) for cause, o in predictions]
    best = min(value for _, value in misfits)
    if best <= EXPLAINS:
        return next(cause for cause, value in misfits if value <= best * AS_GOOD)
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
