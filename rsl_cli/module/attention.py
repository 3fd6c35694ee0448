"""Attention: heads are copies of one vertex, which reads its queries, keys and values copy by copy."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rsl_cli.module.call import IDENTITY, Call
from rsl_cli.module.draft import COPIES, MAPS, TOKENS, DraftVertex, Part, Read, Term, Value
from rsl_cli.module.weighted import matrix, parameter_named


def attention(
    call: Call,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: object = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """scaled_dot_product_attention on (N, heads, T, d), or (N, T, d)."""
    if dropout_p or scale is not None or enable_gqa:
        call.refuse(f"dropout_p={dropout_p}, scale={scale}, enable_gqa={enable_gqa}; accepted: their defaults")
    parts = [call.one(part, what) for part, what in ((query, "the query"), (key, "the key"), (value, "the value"))]
    q, _, v = parts
    if any(part.axes not in (MAPS, TOKENS) or part.draft.copies != q.draft.copies for part in parts):
        call.refuse("reads neither (N, heads, T, d) nor (N, T, d); view as (N, T, heads, d), then transpose(1, 2)")
    causal = is_causal or _is_causal(call, attn_mask)
    terms = [Term(part.draft, IDENTITY, None, slot) for slot, part in zip("qkv", parts, strict=True)]
    draft = DraftVertex(call.name, call.where, q.draft.copies, (q.draft.space[0], v.draft.space[1]), terms)
    draft.combine = {"kind": "attention", "causal": True} if causal else "attention"
    return Value((Part(draft, q.axes),))


def _is_causal(call: Call, mask: object) -> bool:
    if mask is None:
        return False
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[0] == mask.shape[1]:
        later = torch.ones_like(mask, dtype=torch.bool).triu(1)
        # scaled_dot_product_attention is told where to look, MultiheadAttention where not to.
        hidden = (mask == -math.inf) if mask.is_floating_point() else mask
        if torch.equal(hidden, later) and (not mask.is_floating_point() or not mask[~later].any()):
            return True
    return call.refuse("has an attn_mask; accepted: none, or the causal one")


def attention_function(call: Call, *args: Any, **kwargs: Any) -> Value:
    """As `attention`, where a mask of booleans says where to look."""
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        args = (*args[:3], ~mask, *args[4:]) if len(args) > 3 else args
        kwargs |= {} if len(args) > 3 else {"attn_mask": ~mask}
    return attention(call, *args, **kwargs)


def multihead(
    call: Call,
    layer: nn.MultiheadAttention,
    query: Value,
    key: Value,
    value: Value,
    key_padding_mask: object = None,
    need_weights: bool = True,
    attn_mask: object = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Value, None]:
    """A MultiheadAttention layer: its projections, one attention vertex of so many copies as heads, its output."""
    if not layer.batch_first or layer.dropout or layer.bias_k is not None or layer.add_zero_attn:
        call.refuse(
            f"batch_first={layer.batch_first}, dropout={layer.dropout}, add_bias_kv={layer.bias_k is not None}, "
            f"add_zero_attn={layer.add_zero_attn}; accepted: batch_first=True and the other defaults"
        )
    if key_padding_mask is not None:
        call.refuse("has a key_padding_mask; accepted: none")
    heads, width = layer.num_heads, layer.embed_dim
    projected = []
    for i, (slot, read) in enumerate(zip("qkv", (query, key, value), strict=True)):
        if layer.in_proj_weight is None:
            weight = parameter_named(call.name_of(getattr(layer, f"{slot}_proj_weight")))
        else:
            weight = _rows_of(parameter_named(call.name_of(layer.in_proj_weight)), i * width, width)
        bias = None
        if layer.in_proj_bias is not None:
            bias = _rows_of(parameter_named(call.name_of(layer.in_proj_bias)), i * width, width)
        draft = matrix(call, f"{call.name}.{slot}", read, weight, bias, width).first.draft
        if not draft.has_rows or len(draft.space) != 2:
            call.refuse("reads vectors; accepted: tokens (N, T, d)")
        projected.append(Value((Part(draft.rows(draft.name, 0, heads, width // heads), MAPS),)))
    inner = replace(call, name=f"{call.name}.heads")
    made = attention(inner, *projected, attn_mask=attn_mask, is_causal=is_causal and attn_mask is None).first
    merged = Value((replace(made, axes=((0,), (COPIES, 1))),))
    out = layer.out_proj
    bias = None if out.bias is None else parameter_named(call.name_of(out.bias))
    weight = parameter_named(call.name_of(out.weight))
    return matrix(call, call.name, merged, weight, bias, width), None


def _rows_of(read: Read, start: int, count: int) -> Read:
    return lambda state: read(state)[start : start + count]
