"""The loss of HomoDistil (arXiv 2302.09632, section 2.2), one function a term.

    L = L_task + α1·KL(student, teacher) + α2·L_hidden + α3·L_attn + α4·L_emb
    L_hidden = Σ_k MSE(H_s^k W_hidden^k, H_t^k)        hidden_error, summed over the layers k
    L_attn   = Σ_k MSE(A_s^k, A_t^k)                   attention_error; A is averaged over the heads
    KL                                                 logits_error
    L_emb    = MSE(E_s W_emb, E_t)                     hidden_error

W stands on the student's side (as in TinyBERT, arXiv 1909.10351, equation 8), for all that the teacher's states say is
then asked of the student; the paper has it on the teacher's side, MSE(H_s, H_t W), where W may choose what is easy.
`distill.compare_in` has both.

Letters: B batch, S sequence, N tokens that are not padding (or rows of logits), C classes (for
masked-lm the vocabulary), H heads, R relation heads, d head width, D hidden size (D_s student,
D_t teacher).

Every term is a sum divided by a count that the caller gives, so that micro-batches and processes,
which hold parts of a step's batch, add up to the same loss and gradients as one that holds it all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from homoexport.choices import PoolingMode
from homoexport.encoder import pooled


def hidden_error(states: Tensor, targets: Tensor, projection: Tensor, token_mask: Tensor, tokens: int) -> Tensor:
    """MSE of states [B, S, D] times a projection W [D, D'] from targets [B, S, D'].

    One side is the student's, the other the teacher's. `token_mask` is bool [B, S], False on padding; it is divided by
    the whole step's tokens and by D'.
    """
    # torch has no types for `apply`
    total: Tensor = _HiddenSquares.apply(states, targets, projection, token_mask)  # type: ignore[no-untyped-call]
    return total / (tokens * targets.shape[-1])


class _HiddenSquares(torch.autograd.Function):
    """Σ (H W − T)² over tokens that are not padding.

    The difference is also the gradient, but for factors, so it is all that is made and kept between the passes.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, projection: Tensor, token_mask: Tensor) -> Tensor:
        rows, goals = states.flatten(0, 1).float(), targets.flatten(0, 1).float()  # [B·S, D], [B·S, D']
        with torch.autocast(states.device.type, enabled=False):  # rounded, the identity would not be one
            difference = torch.addmm(goals, rows, projection, beta=-1)
        # Padding is weighed by 0: cheaper than gathering the tokens, whose gradient would be scattered back.
        difference.mul_(token_mask.flatten()[:, None])
        ctx.save_for_backward(difference, states, projection)
        ctx.shape, ctx.dtype = targets.shape, targets.dtype
        return _sum_of_squares(difference)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        difference, states, projection = ctx.saved_tensors
        gradient = difference * (2 * outer[0])
        of_states = of_targets = None
        if ctx.needs_input_grad[0]:
            of_states = (gradient @ projection.T).view(states.shape).to(states.dtype)
        if ctx.needs_input_grad[1]:
            of_targets = gradient.neg().view(ctx.shape).to(ctx.dtype)
        return of_states, of_targets, states.flatten(0, 1).float().T @ gradient, None


class Attention(NamedTuple):
    """What the attention scores of one layer are made of.

    Queries and keys are [B, S, H·d]; the bias [H, S, S] or [B, H, S, S], of relative positions, is added to every
    head's scores.
    """

    query: Tensor
    key: Tensor
    heads: int
    head_dim: int
    bias: Tensor | None = None


def attention_scores(attention: Attention) -> Tensor:
    """Attention scores before the softmax, averaged over the heads, [B, S, S].

    The mean over heads of q_h·k_h/√d is one product of the unsplit projections [B, S, H·d], so the
    scores of single heads are never formed and the forward pass keeps its fused attention kernel.
    """
    query, key, heads, head_dim, bias = attention
    scores: Tensor = (query @ key.transpose(1, 2)).float() * (head_dim**-0.5 / heads)
    return scores if bias is None else scores + bias.float().mean(-3)


def attention_probabilities(attention: Attention, seen: Tensor) -> Tensor:
    """Attention after the softmax, averaged over the heads, [B, S, S]; `seen` [B, S, S] is False where a token may not
    attend.
    """
    probabilities: Tensor = _head_scores(attention).masked_fill(~seen[:, None], -1e4).softmax(-1)
    return probabilities.mean(1)


def _head_scores(attention: Attention) -> Tensor:
    """Attention scores of every head before the softmax, [B, H, S, S]."""
    query, key, heads, head_dim, bias = attention
    batch, length, _ = query.shape
    split = [side.view(batch, length, heads, head_dim).transpose(1, 2) for side in (query, key)]  # [B, H, S, d]
    scores: Tensor = (split[0] @ split[1].transpose(2, 3)).float() * head_dim**-0.5
    return scores if bias is None else scores + bias.float()


def attention_heads_error(student: Attention, teacher: Attention, counted: Tensor, pairs: int) -> Tensor:
    """Each head's scores against the same head's of the teacher, which has as many (TinyBERT, arXiv 1909.10351,
    equation 7): MSE over the pairs of tokens that count, averaged over the heads.
    """
    difference = (_head_scores(student) - _head_scores(teacher)) * counted[:, None]
    return difference.square().sum() / (pairs * student.heads)


def attention_error(student: Tensor, teacher: Tensor, counted: Tensor, pairs: int) -> Tensor:
    """MSE of two maps [B, S, S] over the pairs of tokens that count, whose number in the whole step is `pairs`.

    `counted` is bool [B, S, S]: neither token is padding, and the one can see the other.
    """
    return ((student - teacher) * counted).square().sum() / pairs


def attention_scores_error(student: Attention, teacher: Tensor, counted: Tensor, pairs: int) -> Tensor:
    """`attention_error` of `attention_scores`, in less time and memory; the teacher's scores are [B, S, S]."""
    query, key, heads, head_dim, bias = student
    # torch has no types for `apply`
    total: Tensor = _ScoresSquares.apply(query, key, bias, teacher, counted, heads, head_dim)  # type: ignore[no-untyped-call]
    return total / pairs


class _ScoresSquares(torch.autograd.Function):
    """Σ (A_s − A_t)² of attention scores over the pairs that count; one map serves both passes."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        bias: Tensor | None,
        teacher: Tensor,
        counted: Tensor,
        heads: int,
        head_dim: int,
    ) -> Tensor:
        difference = attention_scores(Attention(query, key, heads, head_dim, bias))
        difference.sub_(teacher).mul_(counted)
        ctx.save_for_backward(difference, query, key)
        ctx.heads, ctx.head_dim = heads, head_dim
        ctx.bias_dtype, ctx.bias_shape = (None, None) if bias is None else (bias.dtype, bias.shape)
        return _sum_of_squares(difference)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        difference, query, key = ctx.saved_tensors
        of_scores = difference * (2 * outer[0])
        of_bias = None
        if ctx.bias_dtype is not None and ctx.needs_input_grad[2]:
            of_texts = of_scores if len(ctx.bias_shape) == 4 else of_scores.sum(0)
            of_bias = (of_texts / ctx.heads).to(ctx.bias_dtype).unsqueeze(-3).expand(ctx.bias_shape)
        of_products = of_scores.mul_(ctx.head_dim**-0.5 / ctx.heads).to(query.dtype)
        return of_products @ key, of_products.transpose(1, 2) @ query, of_bias, None, None, None, None


def _sum_of_squares(values: Tensor) -> Tensor:
    """Row by row: one long sum of products would lose digits, the more the longer it is."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return norms.square().sum()


def relation_error(student: Tensor, teacher: Tensor, token_mask: Tensor, tokens: int) -> Tensor:
    """Mismatch of the relations among one layer's queries (or keys, or values): MiniLMv2, arXiv 2012.15828.

    The projections [B, S, H·d] are split into relation heads, whatever the attention's own heads are; each token's
    scaled products with all tokens are read as a distribution, and the KL divergence of the student's from the
    teacher's is averaged over heads and the whole step's tokens (equations 2 to 4). `token_mask` is bool [B, S].
    """
    heads = relation_heads(student.shape[-1], teacher.shape[-1])

    def log_relations(projected: Tensor) -> Tensor:
        split = projected.float().view(*projected.shape[:2], heads, -1).transpose(1, 2)  # [B, R, S, d_r]
        products = split @ split.transpose(2, 3) * split.shape[-1] ** -0.5
        return functional.log_softmax(products.masked_fill(~token_mask[:, None, None], -1e4), dim=-1)

    divergence = functional.kl_div(
        log_relations(student), log_relations(teacher), reduction="none", log_target=True
    ).sum(-1)  # [B, R, S]
    total: Tensor = (divergence * token_mask[:, None]).sum()
    return total / (heads * tokens)


def relation_heads(student_width: int, teacher_width: int) -> int:
    """Number of relation heads: the most that split both widths and leave the teacher's 16 wide (as in MiniLMv2)."""
    both = math.gcd(student_width, teacher_width)
    return max(heads for heads in range(1, max(1, teacher_width // 16) + 1) if both % heads == 0)


def label_loss(logits: Tensor, labels: Tensor, labelled: int) -> Tensor:
    """Cross-entropy of logits [N, C] against class or token ids [N], -100 for none, over the whole step's labels.

    Of scores, floats [N] with NaN for none, it is the squared error of the one output.
    """
    if labels.is_floating_point():
        errors = torch.where(labels.isfinite(), logits[:, 0].float() - labels, 0.0)
        return errors.square().sum() / max(1, labelled)
    total: Tensor = functional.cross_entropy(logits.float(), labels, reduction="sum")
    return total / max(1, labelled)


def logits_error(student: Tensor, teacher: Tensor, rows: int, *, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of logits [N, C] at a temperature T, times T² (Hinton et al., 1503.02531).

    It is divided by `rows`, the whole step's N. One output alone (C = 1: regression, relevance) has no distribution:
    there it is the squared error.
    """
    if student.shape[-1] == 1:
        squares: Tensor = (student.float() - teacher.float()).square().sum()
        return squares / max(1, rows)
    total = _divergence(student.float() / temperature, teacher.float() / temperature)
    return total * (temperature**2 / max(1, rows))


def pool(
    states: Tensor,
    attention_mask: Tensor,
    *,
    modes: Sequence[PoolingMode],
    dense: Callable[[Tensor], Tensor] = lambda vectors: vectors,
) -> Tensor:
    """Sentence vectors [B, D'], of length 1, of hidden states [B, S, D]: the modes' vectors, one behind the other.

    `dense` are the layers behind the pooling, [B, D M] of M modes to [B, D'].
    """
    states = states.float()
    with torch.autocast(states.device.type, enabled=False):  # rounded, the identity would not be one
        parts = [_pooled(states, attention_mask, mode) for mode in modes]
        return functional.normalize(dense(torch.cat(parts, dim=-1)), dim=-1)


def _pooled(states: Tensor, attention_mask: Tensor, mode: PoolingMode) -> Tensor:
    if mode != "mean":
        return pooled(states, attention_mask, mode)
    weights = attention_mask[:, :, None].float()
    return (states * weights).sum(1) / weights.sum(1)


def vectors_error(student: Tensor, teacher: Tensor, texts: int) -> Tensor:
    """1 - cosine of unit vectors [B, D] of the same texts, over the whole step's texts.

    As half the squared distance, which is exact where they are equal.
    """
    squares: Tensor = (student - teacher).square().sum()
    return squares / (2 * texts)


def similarity_error(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Mismatch of a batch's cosine similarities, of unit vectors [B, D_s] and [B, D_t].

    Each text's similarities to the others are read as a distribution at a temperature, and the KL
    divergence of the student's from the teacher's is averaged over the texts (as in SEED,
    arXiv 2101.04731, with the batch in place of its queue).
    """
    own = torch.eye(len(student), dtype=torch.bool, device=student.device)
    similarities = [(side @ side.T / temperature).masked_fill(own, -1e4) for side in (student, teacher)]
    return _divergence(*similarities) / len(student)


def match_error(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], *, temperature: float) -> Tensor:
    """Mismatch of a batch's query-document similarities, from both sides: a query's over the documents, a document's
    over the queries. Each side has unit vectors [B, D] of queries and documents.
    """
    ours, theirs = (queries @ documents.T / temperature for queries, documents in (student, teacher))
    return (_divergence(ours, theirs) / len(ours) + _divergence(ours.T, theirs.T) / len(ours.T)) / 2


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the distributions over each row's columns, summed over the rows."""
    logs = [functional.log_softmax(scores, dim=-1) for scores in (student, teacher)]
    return functional.kl_div(logs[0], logs[1], reduction="sum", log_target=True)
