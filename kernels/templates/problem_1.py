"""Problem 1: FlashAttention in plain PyTorch, block by block (chapter 03).

    python -m kernels.grader 1 problem_1.py

Only ``FlashAttention2Function.forward`` is left to write. Work on all heads at once:
q[:, :, rows] is the same block of queries of every head.
"""

import math

import torch

BLOCK_M, BLOCK_N = 64, 64  # queries and keys in a block


class FlashAttention2Function(torch.autograd.Function):
    """Attention by tiles: ``apply(q, k, v, is_causal)`` returns (o, lse)."""

    @staticmethod
    def forward(ctx, q, k, v, is_causal=False):
        """softmax(Q Kᵀ / √d) V, and the log-sum-exp of each row of scores.

        q : (B, H, N_q, d), float16 or bfloat16.
        k, v : (B, H, N_k, d), of the same dtype.
        is_causal : query i sees the keys j ≤ i + N_k − N_q only.

        Returns o (B, H, N_q, d) in q's dtype and lse (B, H, N_q), float32, in natural
        logarithms.
        """
        n_queries, n_keys, head_dim = q.shape[2], k.shape[2], q.shape[3]
        sm_scale = 1 / math.sqrt(head_dim)
        o = torch.empty_like(q)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)

        for start_m in range(0, n_queries, BLOCK_M):
            # TODO 1. Take this block's queries as float32: q_i (B, H, rows, d). The
            #         last block may hold fewer than BLOCK_M rows; slicing sees to that.
            # TODO 2. Start the running state: m_i (B, H, rows) = −inf, the largest
            #         score so far; l_i (B, H, rows) = 0, the sum of exp(score − m_i);
            #         acc (B, H, rows, d) = 0, the same sum with each term times its
            #         row of V. All float32.
            for start_n in range(0, n_keys, BLOCK_N):
                # TODO 3. Take this block's keys and values as float32, and compute the
                #         scores q_i k_jᵀ · sm_scale: (B, H, rows, columns).
                # TODO 4. If is_causal, set the scores of keys that a query may not see
                #         to −inf. Compare positions in the whole sequence, not in the
                #         block. A block that none of these queries sees: skip it.
                # TODO 5. Update the state. The new maximum first; then p and alpha:
                #             m_new = max(m_i, largest score of each row)
                #             p     = exp(scores − m_new)
                #             alpha = exp(m_i − m_new)
                #         Then rescale what is there by alpha and add what is new:
                #             l_i = l_i · alpha + the row sums of p
                #             acc = acc · alpha + p v_j
                #         And keep m_new as m_i for the next block.
                pass
            # TODO 6. Finish these rows: o = acc / l_i, and lse = m_i + log(l_i).

        raise NotImplementedError(
            "problem 1: write TODO 1 to 6, then delete this raise"
        )
        ctx.mark_non_differentiable(lse)
        return o, lse

    @staticmethod
    def backward(ctx, grad_o, grad_lse):
        raise NotImplementedError("problem 1 asks for the forward pass alone")
