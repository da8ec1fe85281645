"""The loss of HomoDistil (arXiv 2302.09632, section 2.2), one function a term.

    L = L_task + α1·KL(student, teacher) + α2·L_hidden + α3·L_attn + α4·L_emb
    L_hidden = Σ_k MSE(H_s^k, H_t^k W_hidden^k)        hidden_error, summed over the layers k
    L_attn   = Σ_k MSE(A_s^k, A_t^k)                   attention_error; A is averaged over the heads
    L_emb    = MSE(E_s, E_t W_emb)                     hidden_error

Letters: B batch, S sequence, N tokens that are not padding, M masked tokens, H heads, d head width,
D hidden size (D_s student, D_t teacher), V vocabulary.

Every term is a sum divided by a count that the caller gives, so that micro-batches and processes,
which hold parts of a step's batch, add up to the same loss and gradients as one that holds it all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Projections(nn.Module):
    """W_hidden of every layer and W_emb, each [D_t, D_s]; the identity until the student is sliced."""

    def __init__(self, hidden_size: int, layers: int) -> None:
        super().__init__()
        self.hidden = nn.ParameterList(nn.Parameter(torch.eye(hidden_size)) for _ in range(layers))
        self.embedding = nn.Parameter(torch.eye(hidden_size))

    def followers(self) -> list[tuple[nn.Parameter, int]]:
        """Each matrix with the axis that follows the student's residual dimensions."""
        return [(parameter, 1) for parameter in self.parameters()]


def hidden_error(student: Tensor, teacher: Tensor, projection: Tensor, token_mask: Tensor, tokens: int) -> Tensor:
    """MSE of the student's states [B, S, D_s] from the teacher's [B, S, D_t] times [D_t, D_s].

    Args:
        student: hidden states of one layer.
        teacher: hidden states of the same layer.
        projection: W of that layer.
        token_mask: bool [B, S], False on padding.
        tokens: what to divide by besides D_s: the whole step's tokens.
    """
    with torch.autocast(teacher.device.type, enabled=False):  # rounded, the identity would not be one
        projected = teacher[token_mask].float() @ projection  # [N, D_s]
    difference = student[token_mask].float() - projected
    total: Tensor = difference.square().sum()
    return total / (tokens * student.shape[-1])


def attention_scores(query: Tensor, key: Tensor, *, heads: int, head_dim: int) -> Tensor:
    """Attention scores before the softmax, averaged over the heads, [B, S, S].

    The mean over heads of q_h·k_h/√d is one product of the unsplit projections [B, S, H·d], so the
    scores of single heads are never formed and the forward pass keeps its fused attention kernel.
    """
    scores: Tensor = (query @ key.transpose(1, 2)).float() * (head_dim**-0.5 / heads)
    return scores


def attention_error(student: Tensor, teacher: Tensor, token_mask: Tensor, pairs: int) -> Tensor:
    """MSE of two score maps [B, S, S] over pairs of tokens that are not padding.

    Args:
        student: scores of one layer.
        teacher: scores of the same layer.
        token_mask: bool [B, S].
        pairs: what to divide by: the whole step's number of such pairs.
    """
    pair_mask = token_mask[:, :, None] & token_mask[:, None, :]
    return ((student - teacher) * pair_mask).square().sum() / pairs


def masked_lm_loss(logits: Tensor, labels: Tensor, masked: int) -> Tensor:
    """Cross-entropy of logits [M, V] against token ids [M], over the whole step's masked tokens."""
    total: Tensor = functional.cross_entropy(logits.float(), labels, reduction="sum")
    return total / masked


def kl_divergence(student: Tensor, teacher: Tensor, masked: int, *, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of logits [M, V] at a temperature T, times T² (Hinton et al., 1503.02531)."""
    log_student = functional.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim=-1)
    total: Tensor = functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return total * (temperature**2 / masked)


def pool(states: Tensor, attention_mask: Tensor, *, mode: str) -> Tensor:
    """Sentence vectors [B, D], of length 1, of hidden states [B, S, D] by `mean` or `cls` pooling."""
    if mode == "cls":
        pooled = states[:, 0].float()
    else:
        weights = attention_mask[:, :, None].float()
        pooled = (states.float() * weights).sum(1) / weights.sum(1)
    return functional.normalize(pooled, dim=-1)


def similarity_error(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Mismatch of a batch's cosine similarities, of unit vectors [B, D_s] and [B, D_t].

    Each text's similarities to the others are read as a distribution at a temperature, and the KL
    divergence of the student's from the teacher's is averaged over the texts (as in SEED,
    arXiv 2101.04731, with the batch in place of its queue).
    """
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)

    def log_distribution(vectors: Tensor) -> Tensor:
        return functional.log_softmax((vectors @ vectors.T / temperature).masked_fill(own, -1e4), dim=-1)

    return functional.kl_div(
        log_distribution(student), log_distribution(teacher), reduction="batchmean", log_target=True
    )
