"""A good solution of problem 1, for the grader's tests to plant mistakes in."""

import math

import torch

BLOCK_M, BLOCK_N = 64, 32


class FlashAttention2Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, is_causal=False):
        n_queries, n_keys, head_dim = q.shape[2], k.shape[2], q.shape[3]
        sm_scale = 1 / math.sqrt(head_dim)
        o = torch.empty_like(q)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        for start_m in range(0, n_queries, BLOCK_M):
            q_i = q[:, :, start_m : start_m + BLOCK_M].float()
            n_rows = q_i.shape[2]
            rows = torch.arange(start_m, start_m + n_rows, device=q.device)
            m_i = torch.full_like(q_i[..., 0], -math.inf)
            l_i = torch.zeros_like(m_i)
            acc = torch.zeros_like(q_i)
            n_seen = n_keys
            if is_causal:
                n_seen = start_m + n_rows + n_keys - n_queries
            for start_n in range(0, n_seen, BLOCK_N):
                k_j = k[:, :, start_n : start_n + BLOCK_N].float()
                v_j = v[:, :, start_n : start_n + BLOCK_N].float()
                scores = q_i @ k_j.mT * sm_scale
                if is_causal:
                    keys = start_n + torch.arange(k_j.shape[2], device=q.device)
                    hidden = keys > rows[:, None] + n_keys - n_queries
                    scores = scores.masked_fill(hidden, -math.inf)
                m_new = torch.maximum(m_i, scores.amax(-1))
                p = torch.exp(scores - m_new[..., None])
                alpha = torch.exp(m_i - m_new)
                l_i = l_i * alpha + p.sum(-1)
                acc = acc * alpha[..., None] + p @ v_j
                m_i = m_new
            o[:, :, start_m : start_m + BLOCK_M] = acc / l_i[..., None]
            lse[:, :, start_m : start_m + BLOCK_M] = m_i + torch.log(l_i)
        ctx.mark_non_differentiable(lse)
        return o, lse
