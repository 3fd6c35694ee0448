"""Torch modules of every kind that has a base graph."""

import torch
from torch import nn
from torch.nn import functional


class MLP(nn.Module):
    def __init__(self, width: int = 8, outputs: int = 10) -> None:
        super().__init__()
        layers = [nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)]
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), *layers)

    def forward(self, x, mask=None):
        return self.net(x if mask is None else x * mask)


class CNN(nn.Module):
    """Strides, pooling, a residual folded into a convolution and one between activations."""

    def __init__(self, c: int = 4, outputs: int = 10) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, c, 3, padding=1), nn.Conv2d(c, c, 3, padding="same")
        self.c = nn.Conv2d(c, c, 5, padding=2, stride=2, bias=False)
        self.shift = nn.Parameter(torch.randn(c, 1, 1))
        self.act, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.norm = nn.LayerNorm((2, 2), elementwise_affine=False)
        self.head = nn.Linear(c * 2 * 2, outputs)

    def forward(self, x):
        h = self.act(self.a(x))
        h = self.pool(self.act(h + self.b(h)))
        h = self.act(self.norm(self.c(h) + self.shift))
        return self.head(h.view(h.size(0), -1))


class Dense(nn.Module):
    """As DenseNet: a layer reads a concatenation part by part; upsampling; a head on channel means."""

    def __init__(self, c: int = 3, outputs: int = 10) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.c = nn.Conv2d(2 * c, c + 1, 3, padding=1)
        self.up, self.d = nn.Upsample(scale_factor=2), nn.Conv2d(3 * c + 1, 2, 3, padding=1, stride=2)
        self.mean, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(2 + 3 * c + 1, outputs)

    def forward(self, x):
        a = torch.tanh(self.a(x))
        b = torch.cat([a, torch.tanh(self.b(a))], 1)
        d = torch.cat([b, self.c(b).relu()], 1)
        e = self.d(self.up(functional.avg_pool2d(functional.silu(d), 2)))
        return self.head(torch.cat([self.mean(e).flatten(1), d.mean(dim=[-2, -1])], dim=-1))


class Gated(nn.Module):
    """Products, a layer cut in two, a residual between vectors, a skip to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.ab, self.c, self.d = nn.Linear(6, 10), nn.Linear(6, 5), nn.Linear(5, 5)
        self.out, self.skip = nn.Linear(5, 2), nn.Linear(6, 2, bias=False)

    def forward(self, x):
        a, b = self.ab(x).chunk(2, -1)
        h = functional.softplus(a) * torch.sin(b) + self.d(functional.leaky_relu(self.c(x)))
        return self.out(h) + self.skip(x)


class Block(nn.Module):
    """A transformer's: one layer gives queries, keys and values."""

    def __init__(self, d: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.n1, self.n2 = nn.LayerNorm(d, elementwise_affine=False), nn.RMSNorm(d, 1e-6, elementwise_affine=False)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d, bias=False)
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        n, t, d = x.size()
        shape = (n, t, self.heads, d // self.heads)
        q, k, v = self.qkv(self.n1(x)).split(d, dim=2)
        q, k, v = (part.view(*shape).transpose(1, 2) for part in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.proj(y.transpose(1, 2).contiguous().view(n, t, d))
        return x + self.down(functional.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    """Two blocks over embedded tokens with trained positions; the last token decides."""

    def __init__(self, causal: bool = True, d: int = 8, tokens: int = 5) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(3, d), nn.Parameter(torch.randn(1, tokens, d))
        self.blocks, self.head = nn.Sequential(Block(d, 2, causal), Block(d, 4, causal)), nn.Linear(d, 4)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x) + self.place)[:, -1])


class Attending(nn.Module):
    """MultiheadAttention, to itself (with the causal mask) and to others; a matrix over tokens; their mean."""

    def __init__(self, d: int = 8, tokens: int = 5) -> None:
        super().__init__()
        self.embed, self.context = nn.Linear(3, d), nn.Linear(3, 6)
        self.a = nn.MultiheadAttention(d, 2, batch_first=True)
        self.b = nn.MultiheadAttention(d, 4, batch_first=True, kdim=6, vdim=6, bias=False)
        self.mix, self.head = nn.Linear(tokens, 7, bias=False), nn.Linear(d, 4)
        self.register_buffer("mask", torch.ones(tokens, tokens, dtype=torch.bool).triu(1))

    def forward(self, x):
        h = self.embed(x)
        h = h + self.a(h, h, h, attn_mask=self.mask)[0]
        c = self.context(x).tanh()
        h = h + self.b(h, c, c, need_weights=False)[0]
        return self.head(self.mix(h.transpose(1, 2)).transpose(1, 2).relu().mean(1))


EXAMPLES = [
    (MLP, (64,)),
    (MLP, (1, 8, 8)),
    (CNN, (1, 8, 8)),
    (CNN, (8, 8)),
    (Dense, (1, 8, 8)),
    (Gated, (6,)),
    (GPT, (5, 3)),
    (lambda: GPT(causal=False), (5, 3)),
    (Attending, (5, 3)),
]
"""Each with the shape of one sample."""
