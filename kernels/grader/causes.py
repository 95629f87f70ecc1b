"""What each mistake is called in a verdict."""

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
    # The heads of K and V in problems 5 to 7.
    "group-undivided": "K and V are read with the query's head: query head h reads K/V "
    "head h // G, with G = H / H_kv",
    "group-transposed": "query head h reads K/V head h % H_kv: heads of a group are "
    "neighbours, so it is h // G, with G = H / H_kv",
    "group-count": "query head h reads K/V head h // H_kv: divide by the size of a "
    "group, G = H / H_kv, not by their number",
    "group-remainder": "query head h reads K/V head h % G, its place in the group: the "
    "group itself is h // G, with G = H / H_kv",
    "group-first": "every query head reads the first head of K and V",
    "group-one-sided": "K and V are read from different heads: both have to be K/V "
    "head h // G",
    # The window of problems 6 and 7.
    "window-missing": "the window is missing: every query sees all keys before it",
    "window-wide": "the window is one key too wide: the query at position p sees "
    "p - w < j <= p, its own key included",
    "window-narrow": "the window is one key too narrow: the query at position p sees "
    "p - w < j <= p, which is w keys with its own",
    "window-reversed": "the window is the wrong way round: it hides the near keys and "
    "shows the far ones",
    "window-rows": "the window is counted from row i: the query's position among the "
    "keys is i + N_k - N_q",
    "window-first-row": "all rows of a block have the window of its first row: compare "
    "with each row's own position",
    "edge-skipped": "keys at the window's left edge are left out: visit them from "
    "where the window of the block's first row starts, and give each row its own mask",
    "edge-rounded-up": "the window's start is rounded up to whole blocks: round it "
    "down, and mask",
    "edge-negative": "keys before the first are counted: no part starts before key 0",
    "edge-unmasked": "the blocks at the window's left edge are not masked",
    "edge-twice": "the window's left edge is added twice: the part without a mask has "
    "to start where the left edge ends",
    "edge-past-diagonal": "left edge and diagonal overlap, and keys count twice: in a "
    "small window, the left edge ends where the diagonal starts",
    "diagonal-unwindowed": "the window is not applied on the diagonal, where a small "
    "window has its left edge too",
    "middle-early": "the part without a mask starts too early: not only the first row, "
    "every row of the block has to see all of it",
    "middle-skipped": "the keys between the window's left edge and the diagonal are "
    "left out",
    "middle-twice": "the keys between the window's left edge and the diagonal are "
    "added twice",
    # The first-token sinks of problem 7.
    "sink-missing": "the sinks are missing: only the window is seen",
    "sink-fewer": "there is one sink too few: they are the keys j < s",
    "sink-more": "there is one sink too many: they are the keys j < s, not j <= s",
    "sink-future": "queries see sinks that come after them: a sink is seen if j <= p",
    "sink-twice": "sinks are counted twice where the window holds them too: end their "
    "part where the window's blocks start",
    "sink-and": "sinks and window are joined with and: a key is seen if it is in "
    "either one",
    "sink-skipped": "the sinks are only seen by the first blocks of queries: does each "
    "program visit the blocks of sinks before its window?",
    "sink-short": "only the first block of sinks is visited",
    "sink-unmasked": "whole blocks of sinks are seen: mask them to the keys j < s",
    "sink-hidden": "sinks are hidden at the window's left edge: the mask there has to "
    "show the keys j < s too",
}
