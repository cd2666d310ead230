#!/usr/bin/env python3
"""Independent numpy reference of MiniCPM-SALA (hybrid InfLLM-V2 sparse + Lightning linear attention), and of Llama,
Qwen3, MiniCPM4 and HypeNet, which are made of the same parts.

Written from the published formulas; it shares no code with any other implementation.
It favours clarity over speed and works with tiny configurations in float64 (or float32).

  python3 sala_ref.py            run the self-test
  python3 sala_ref.py golden F   write weights, tokens and logits of the tiny model to F (.npz)

One deliberate design: everything is a function of absolute positions, so a call with T new tokens
on top of a cache of P tokens is the same code for prefill (P=0), chunked prefill and decode (T=1).

Llama is the same skeleton: every layer a softmax layer with RoPE, no gates, all scalings 1 (llama_config).
"""
import math
import sys
from dataclasses import dataclass, field

import numpy as np

SPARSE = "minicpm4"
LIGHT = ("lightning-attn", "lightning_attn", "lightning")


# ------------------------------------------------------------------------------------- config
@dataclass
class Config:
    vocab_size: int = 73448
    hidden_size: int = 4096
    intermediate_size: int = 16384
    num_attention_heads: int = 32
    num_key_value_heads: int = 2
    head_dim: int = 128
    lightning_nh: int = 32
    lightning_nkv: int = 32
    lightning_head_dim: int = 128
    lightning_scale: str = "1/sqrt(d)"
    lightning_use_rope: bool = True
    attn_use_rope: bool = False
    attn_qk_norm: bool = False          # False for SALA/MiniCPM4, True for HypeNet/Qwen3 attention layers
    qk_norm: bool = True                # lightning layers only
    use_output_gate: bool = True        # lightning: z_proj
    use_output_norm: bool = True        # lightning: o_norm
    attn_use_output_gate: bool = True   # sparse: o_gate
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict = None           # Hugging Face's dictionary: {"rope_type": "llama3" | "linear" | "longrope", ...}
    max_position_embeddings: int = 524288
    attn_logits_scaling: object = None  # HypeNet: a number, or "hype a": q of position p times ln(p + a) / ln(a)
    scale_emb: float = 12.0
    scale_depth: float = 1.4
    dim_model_base: int = 256
    tie_word_embeddings: bool = False
    kernel_size: int = 32
    kernel_stride: int = 16
    block_size: int = 64
    init_blocks: int = 1
    window_size: int = 2048
    topk: int = 64
    dense_len: int = 8192
    sparse: bool = True                 # False (no sparse_config): the softmax layers are ordinary causal attention
    mixer_types: list = field(default_factory=lambda: [
        SPARSE if i in (0, 9, 16, 17, 22, 29, 30, 31) else "lightning-attn" for i in range(32)])

    @property
    def num_hidden_layers(self):
        return len(self.mixer_types)

    @property
    def local_blocks(self):
        return self.window_size // self.block_size

    @property
    def total_topk(self):               # the number really used: topk + window blocks (64 + 32 = 96)
        return self.topk + self.local_blocks

    @property
    def residual_scale(self):
        return self.scale_depth / math.sqrt(self.num_hidden_layers)

    @property
    def logit_divisor(self):
        return self.hidden_size / self.dim_model_base

    def light_scale(self):
        d = self.lightning_head_dim
        return {"1/sqrt(d)": d ** -0.5, "1/d": 1.0 / d}.get(self.lightning_scale, 1.0)


def tiny_config(**kw):
    base = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_attention_heads=4,
                num_key_value_heads=2, head_dim=8, lightning_nh=4, lightning_nkv=4,
                lightning_head_dim=8, dim_model_base=8, scale_emb=2.0,
                kernel_size=8, kernel_stride=4, block_size=16, window_size=32, topk=3, init_blocks=1,
                dense_len=112, mixer_types=[SPARSE, "lightning-attn", "lightning-attn", SPARSE])
    base.update(kw)
    return Config(**base)


def llama_config(**kw):
    """A tiny Llama: softmax attention with RoPE in every layer, and every scaling of muP equal to 1."""
    base = dict(vocab_size=61, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
                head_dim=8, rms_norm_eps=1e-5, attn_use_rope=True, attn_use_output_gate=False, scale_emb=1.0,
                sparse=False, mixer_types=[SPARSE] * 3)
    base.update(kw)
    base.setdefault("scale_depth", math.sqrt(len(base["mixer_types"])))
    base.setdefault("dim_model_base", base["hidden_size"])
    return Config(**base)


def qwen3_config(**kw):
    """Llama with QK-norm."""
    return llama_config(**(dict(attn_qk_norm=True, rms_norm_eps=1e-6, rope_theta=1e6) | kw))


def minicpm_config(**kw):
    """MiniCPM4: muP, RoPE and InfLLM-V2 in every layer, no gates."""
    return tiny_config(**(dict(mixer_types=[SPARSE] * 3, attn_use_rope=True, attn_use_output_gate=False) | kw))


def hypenet_config(**kw):
    """HypeNet: gated NoPE attention with QK-norm, and Lightning; no muP."""
    return llama_config(**(dict(mixer_types=["lightning-attn", SPARSE, "lightning-attn", SPARSE], attn_qk_norm=True,
                                attn_use_rope=False, attn_use_output_gate=True, rms_norm_eps=1e-6) | kw))


def tensor_shapes(c):
    """Every tensor of the checkpoint, Hugging Face names, in PyTorch [out, in] layout."""
    D, I, V = c.hidden_size, c.intermediate_size, c.vocab_size
    t = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if not c.tie_word_embeddings:
        t["lm_head.weight"] = (V, D)
    for i, mix in enumerate(c.mixer_types):
        p = f"model.layers.{i}."
        t[p + "input_layernorm.weight"] = (D,)
        t[p + "post_attention_layernorm.weight"] = (D,)
        t[p + "mlp.gate_proj.weight"] = (I, D)
        t[p + "mlp.up_proj.weight"] = (I, D)
        t[p + "mlp.down_proj.weight"] = (D, I)
        a = p + "self_attn."
        light = mix != SPARSE
        nh, nkv, d = ((c.lightning_nh, c.lightning_nkv, c.lightning_head_dim) if light else
                      (c.num_attention_heads, c.num_key_value_heads, c.head_dim))
        t[a + "q_proj.weight"] = (nh * d, D)
        t[a + "k_proj.weight"] = (nkv * d, D)
        t[a + "v_proj.weight"] = (nkv * d, D)
        t[a + "o_proj.weight"] = (D, nh * d)
        if light:
            if c.qk_norm:
                t[a + "q_norm.weight"] = (d,)
                t[a + "k_norm.weight"] = (d,)
            if c.use_output_norm:
                t[a + "o_norm.weight"] = (nh * d,)
            if c.use_output_gate:
                t[a + "z_proj.weight"] = (nh * d, D)
        else:
            if c.attn_qk_norm:
                t[a + "q_norm.weight"] = (d,)
                t[a + "k_norm.weight"] = (d,)
            if c.attn_use_output_gate:
                t[a + "o_gate.weight"] = (nh * d, D)
    return t


def random_weights(c, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    w = {}
    for name, shape in tensor_shapes(c).items():
        if len(shape) == 1:
            w[name] = (1.0 + 0.2 * rng.standard_normal(shape)).astype(dtype)
        else:
            gain = 2.5 if ("q_proj" in name or "k_proj" in name) else 1.0   # make attention peaked
            w[name] = (gain * rng.standard_normal(shape) / math.sqrt(shape[1])).astype(dtype)
    return w


# ------------------------------------------------------------------------------------- basic parts
def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def rope_frequencies(d, theta, scaling, max_positions):
    """Inverse frequencies [d/2] in float32, and what cos and sin are multiplied by.

    llama3: transformers' _compute_llama3_parameters; longrope: arXiv 2402.13753 with the factors of the stretched model
    where it is stretched."""
    e = (np.arange(0, d, 2, dtype=np.float32) / np.float32(d)).astype(np.float64)
    inv = np.float32(1) / (np.float64(theta) ** e).astype(np.float32)       # two float32 roundings, as torch does
    if not scaling:
        return inv, 1.0
    if scaling["rope_type"] == "linear":
        return inv / np.float32(scaling["factor"]), 1.0
    if scaling["rope_type"] == "llama3":
        factor, low, high = (np.float32(scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
        original = np.float32(scaling["original_max_position_embeddings"])
        wavelength = np.float32(2 * math.pi) / inv
        smooth = (original / wavelength - low) / (high - low)
        middle = (np.float32(1) - smooth) * inv / factor + smooth * inv
        return np.where(wavelength > original / low, inv / factor, np.where(wavelength < original / high, inv, middle)), 1.0
    original = scaling["original_max_position_embeddings"]
    stretched = max_positions > original
    factors = np.array(scaling["long_factor" if stretched else "short_factor"], np.float32)
    return inv / factors, math.sqrt(1 + math.log(max_positions / original) / math.log(original)) if stretched else 1.0


def rope(x, pos, c):
    """x [T, heads, d]; rotate-half (neox) pairing of dimension i with i + d/2.

    Frequencies and angles are formed in float32, as in the release: their rounding is part of the model."""
    d = x.shape[-1]
    inv, magnitude = rope_frequencies(d, c.rope_theta, c.rope_scaling, c.max_position_embeddings)
    ang = (pos.astype(np.float32)[:, None] * inv[None, :]).astype(np.float64)
    cos, sin = magnitude * np.cos(ang)[:, None, :], magnitude * np.sin(ang)[:, None, :]
    a, b = x[..., : d // 2], x[..., d // 2:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def logit_factor(c, pos):
    """What q is multiplied by at each position (HypeNet's attn_logits_scaling)."""
    if c.attn_logits_scaling is None:
        return np.ones(len(pos))
    if not isinstance(c.attn_logits_scaling, str):
        return np.full(len(pos), float(c.attn_logits_scaling))
    words = c.attn_logits_scaling.split()
    a = float(words[1]) if len(words) > 1 else 362.0
    return np.log(pos + a) / math.log(a)


def decay_slopes(n):
    """Positive ALiBi slopes; the log decay of head h is -slope[h], the same in every layer."""
    def pow2(m):
        s = 2.0 ** (-(2.0 ** -(math.log2(m) - 3)))     # = 2^(-8/m)
        return [s ** (i + 1) for i in range(m)]
    if math.log2(n).is_integer():
        return np.array(pow2(n))
    m = 2 ** math.floor(math.log2(n))
    return np.concatenate([pow2(m), decay_slopes(2 * m)[0::2][: n - m]])


# ------------------------------------------------------------------------------------- lightning
def lightning_recurrent(q, k, v, state, scale):
    """q,k,v [T,H,d]; state [H,dk,dv] (any float dtype). Token t: S = e^-s S + k v^T ; o = scale q S."""
    lam = np.exp(-decay_slopes(q.shape[1]))[:, None, None]
    out = np.empty_like(v)
    for t in range(q.shape[0]):
        state = lam * state + k[t][:, :, None] * v[t][:, None, :]
        out[t] = scale * np.einsum("hk,hkv->hv", q[t], state)
    return out, state


def lightning_chunked(q, k, v, state, scale, chunk=64):
    """The same map, chunk by chunk; the last partial chunk decays by its true length, not by `chunk`."""
    s = decay_slopes(q.shape[1])
    out = np.empty_like(v)
    for b in range(0, q.shape[0], chunk):
        Q, K, V = q[b:b + chunk], k[b:b + chunk], v[b:b + chunk]
        n = len(Q)
        i = np.arange(n)
        gap = i[:, None] - i[None, :]
        mask = np.where(gap >= 0, np.exp(-s[:, None, None] * np.maximum(gap, 0)), 0.0)   # [H,n,n]
        A = np.einsum("ihd,jhd->hij", Q, K) * mask
        into = np.exp(-s[None, :] * (i[:, None] + 1))                                    # [n,H]
        out[b:b + n] = scale * (np.einsum("hij,jhv->ihv", A, V)
                                + np.einsum("ihk,hkv->ihv", Q * into[:, :, None], state))
        left = np.exp(-s[None, :] * (n - 1 - i[:, None]))                                # [n,H]
        state = (np.exp(-s * n)[:, None, None] * state
                 + np.einsum("jhk,jhv->hkv", K * left[:, :, None], V))
    return out, state


# ------------------------------------------------------------------------------------- sparse cache
class SparseCache:
    """K, V [n,kv,d] plus the two levels of mean-pooled keys, kept up to date incrementally."""

    def __init__(self, c, dtype):
        shape = (0, c.num_key_value_heads, c.head_dim)
        self.c = c
        self.K, self.V = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self.K1, self.K2 = np.zeros(shape, dtype), np.zeros(shape, dtype)

    @staticmethod
    def windows(n, size, stride):
        """How many complete windows [j*stride, j*stride+size) fit in n tokens."""
        return max(0, (n - size) // stride + 1) if n >= size else 0

    def _extend(self, pooled, size, stride):
        want = self.windows(len(self.K), size, stride)
        new = [self.K[j * stride:j * stride + size].mean(axis=0) for j in range(len(pooled), want)]
        return np.concatenate([pooled, np.stack(new)]) if new else pooled

    def append(self, k, v):
        self.K = np.concatenate([self.K, k])
        self.V = np.concatenate([self.V, v])
        c = self.c
        self.K1 = self._extend(self.K1, c.kernel_size, c.kernel_stride)
        self.K2 = self._extend(self.K2, 4 * c.kernel_size, 4 * c.kernel_stride)


# ------------------------------------------------------------------------------------- InfLLM-V2
def visible(pos, count, size, stride):
    """[T,count] true where window j has completely ended at or before position pos[t] (inclusive)."""
    j = np.arange(count)
    return j[None, :] * stride + size <= pos[:, None] + 1


def visible_kernel(T, count, stride, first_pos):
    """The mask the published CUDA stage-1 kernel applies to a call with T>1 queries.

    Its limit uses trunc((T-stride+1)/stride) instead of the true window count, so a call whose length
    is congruent to stride-1 modulo stride sees one window too few for every query.  T==1: no mask."""
    j = np.arange(count)[None, :]
    if T == 1:
        return np.ones((1, count), bool)
    t = np.arange(T)[:, None]
    c = int((T - stride + 1) / stride)                       # truncation towards zero, as in C
    limit = np.maximum(0, (t + 1) // stride - 1 + count - c)
    return j < np.minimum(limit, count)


def stage1(c, q, cache, pos, kernel_mask=False):
    """Scores [kv,T,M1]: sum over the heads of a group of exp(s.q.k1 - m2)/Z2, Z2 over the coarse keys."""
    T, H, d = q.shape
    kv = c.num_key_value_heads
    G = H // kv
    scale = d ** -0.5
    M1, M2 = len(cache.K1), len(cache.K2)
    if kernel_mask:
        v1 = visible_kernel(T, M1, c.kernel_stride, pos[0])
        v2 = visible_kernel(T, M2, 4 * c.kernel_stride, pos[0])
    else:
        v1 = visible(pos, M1, c.kernel_size, c.kernel_stride)
        v2 = visible(pos, M2, 4 * c.kernel_size, 4 * c.kernel_stride)
    out = np.zeros((kv, T, M1))
    if M1 == 0 or M2 == 0:
        return out                                           # kernel leaves the score buffer at zero
    for g in range(kv):
        qg = q[:, g * G:(g + 1) * G]                         # query heads g*G .. g*G+G-1
        s2 = scale * np.einsum("thd,md->thm", qg, cache.K2[:, g])
        s2 = np.where(v2[:, None, :], s2, -np.inf)
        m = s2.max(axis=-1, keepdims=True)
        m = np.where(np.isfinite(m), m, 0.0)
        Z = np.exp(s2 - m).sum(axis=-1, keepdims=True)
        s1 = scale * np.einsum("thd,md->thm", qg, cache.K1[:, g])
        p = np.where(v1[:, None, :] & (Z > 0), np.exp(s1 - m) / np.where(Z > 0, Z, 1.0), 0.0)
        out[g] = p.sum(axis=1)
    return out


def round_bf16(x):
    u = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    finite = np.isfinite(np.asarray(x, np.float32))
    r = ((u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return np.where(finite, r, x)


def pool_scores(c, scores, pos, bf16=False):
    """Max-pool window scores [kv,T,M1] to blocks [kv,T,nblocks]; the forced init and local blocks are +inf.

    Blocks after the query's own are no candidates. The published code drops them after the choice, which is the same
    while a window is longer than the stride (no window then ends before the block whose pool it is in begins)."""
    kv, T, M1 = scores.shape
    nb = int(pos[-1]) // c.block_size + 1
    step = c.block_size // c.kernel_stride                   # 4; window of the pool = step+1, padding 1
    block = np.full((kv, T, nb), -np.inf)
    for b in range(nb):
        lo, hi = max(b * step - 1, 0), min(b * step + step, M1)
        if hi > lo:
            block[:, :, b] = scores[:, :, lo:hi].max(axis=-1)
    if bf16:
        block = round_bf16(block)
    qb = pos // c.block_size
    idx = np.arange(nb)
    forced = (idx[None, :] < c.init_blocks) | ((idx[None, :] <= qb[:, None])
                                               & (qb[:, None] <= idx[None, :] + c.local_blocks))
    return np.where(idx[None, :] > qb[:, None], -np.inf, np.where(forced[None], np.inf, block))


def select_blocks(c, block, pos):
    """The top blocks of pooled scores, [kv,T,nblocks] (bool).  Ties: the lowest block index wins (stable order)."""
    nb = block.shape[-1]
    order = np.argsort(-block, axis=-1, kind="stable")[..., :min(c.total_topk, nb)]
    sel = np.zeros(block.shape, bool)
    np.put_along_axis(sel, order, True, axis=-1)
    return sel & (np.arange(nb) <= (pos // c.block_size)[:, None])   # future blocks (-inf) only fill what nothing else does


class Follow:
    """Somebody else's choice of blocks, one list [kv_head][position] of block indices per sparse layer in order, which
    the reference checks and then follows, so that everything after a choice can still be compared.

    A choice that differs is a tie where the scores of the swapped blocks agree within what f32 does to them. A score is
    sum_h exp(x_h) with x_h = s q_h.k - m_h, so an error dx of x is the relative error of the score. q and the two k carry
    a relative error of `input_error` each (every op before them rounds to f32), the product of `dim` terms adds at most
    dim * 2^-24, and so dx <= 2 (2 input_error + dim 2^-24) X with X = max_h s |q_h| max_j |k_j|: once for s q.k1 and once for m. Two
    scores can change places if they agree within twice that, or if both are below f32's smallest normal number.
    `differing` counts such choices, `widest` is the largest relative gap among them with its bound, `wrong` lists the
    choices that are no ties."""

    def __init__(self, blocks, input_error=2.0 ** -19):
        self.blocks, self.input_error = list(blocks), input_error
        self.layer = self.differing = 0
        self.widest, self.wrong = (0.0, 0.0), []

    def choose(self, c, q, cache, pos, block, sel, dense):
        """The followed choice as [kv,T,nblocks]; `sel` is the reference's own, which stays where a position is dense."""
        kv, T, nb = sel.shape
        theirs = np.zeros_like(sel)
        for g in range(kv):
            for i, t in enumerate(pos):
                if dense[i]:
                    theirs[g, i] = sel[g, i]
                    continue
                theirs[g, i, self.blocks[self.layer][g][t]] = True
        G = c.num_attention_heads // kv
        for g, i in zip(*np.nonzero((theirs != sel).any(axis=-1))):
            keys = max(np.linalg.norm(level[:, g], axis=-1).max(initial=0) for level in (cache.K1, cache.K2))
            x = c.head_dim ** -0.5 * np.linalg.norm(q[i, g * G:(g + 1) * G], axis=-1).max() * keys
            bound = 4 * (2 * self.input_error + c.head_dim * 2.0 ** -24) * x
            gained, lost = np.flatnonzero(theirs[g, i] & ~sel[g, i]), np.flatnonzero(sel[g, i] & ~theirs[g, i])
            best, worst = block[g, i, lost].max(initial=-np.inf), block[g, i, gained].min(initial=np.inf)
            gap = np.inf
            if len(gained) == len(lost) and np.isfinite([best, worst]).all():
                gap = 0.0 if best < 2.0 ** -126 else (best - worst) / best
            self.differing += 1
            if gap <= bound:
                self.widest = max(self.widest, (float(gap), float(bound)))
            else:
                self.wrong.append(f"sparse layer {self.layer}, kv head {g}, position {pos[i]}: instead of {lost.tolist()} "
                                  f"chose {gained.tolist()}, relative gap {gap:.1e}, rounding explains {bound:.1e}")
        self.layer += 1
        return theirs


def softmax_attention(c, q, cache, pos, allowed):
    """allowed [kv,T,n] or None (plain causal).  Returns [T,H,d]."""
    T, H, d = q.shape
    G = H // c.num_key_value_heads
    causal = np.arange(len(cache.K))[None, :] <= pos[:, None]
    out = np.empty_like(q)
    for h in range(H):
        g = h // G
        s = d ** -0.5 * (q[:, h] @ cache.K[:, g].T)
        keep = causal if allowed is None else causal & allowed[g]
        s = np.where(keep, s, -np.inf)
        p = np.exp(s - s.max(axis=-1, keepdims=True))
        out[:, h] = (p / p.sum(axis=-1, keepdims=True)) @ cache.V[:, g]
    return out


def infllm_attention(c, q, cache, pos, policy, kernel_mask=False, bf16_scores=False, trace=None, follow=None):
    """policy: dense | sparse | per_query (query t is sparse if t + 1 >= dense_len) | per_call (the call's length decides)."""
    n = len(cache.K)
    if not c.sparse or policy == "dense" or (policy == "per_call" and n < c.dense_len):
        return softmax_attention(c, q, cache, pos, None)
    dense = pos + 1 < c.dense_len if policy == "per_query" else np.zeros(len(pos), bool)
    scores = stage1(c, q, cache, pos, kernel_mask)
    block = pool_scores(c, scores, pos, bf16_scores)
    sel = select_blocks(c, block, pos)
    if follow is not None:
        sel = follow.choose(c, q, cache, pos, block, sel, dense)
    if trace is not None:
        trace.append(sel)
    allowed = np.repeat(sel, c.block_size, axis=-1)[:, :, :n]
    allowed = allowed | dense[None, :, None]
    return softmax_attention(c, q, cache, pos, allowed)


# ------------------------------------------------------------------------------------- model
class Model:
    def __init__(self, c, weights):
        self.c, self.w = c, weights
        self.dtype = weights["model.embed_tokens.weight"].dtype

    def new_cache(self):
        c = self.c
        layers = [SparseCache(c, self.dtype) if m == SPARSE else
                  np.zeros((c.lightning_nh, c.lightning_head_dim, c.lightning_head_dim), self.dtype)
                  for m in c.mixer_types]
        return {"len": 0, "layers": layers}

    def _lin(self, x, name):
        return x @ self.w[name + ".weight"].T

    def _sparse(self, i, x, pos, cache, opt):
        c, p, T = self.c, f"model.layers.{i}.self_attn.", len(x)
        q = self._lin(x, p + "q_proj").reshape(T, c.num_attention_heads, c.head_dim)
        k = self._lin(x, p + "k_proj").reshape(T, c.num_key_value_heads, c.head_dim)
        v = self._lin(x, p + "v_proj").reshape(T, c.num_key_value_heads, c.head_dim)
        if c.attn_qk_norm:
            q = rms_norm(q, self.w[p + "q_norm.weight"], c.rms_norm_eps)
            k = rms_norm(k, self.w[p + "k_norm.weight"], c.rms_norm_eps)
        if c.attn_use_rope:
            q, k = rope(q, pos, c), rope(k, pos, c)
        q = q * logit_factor(c, pos)[:, None, None]
        cache["layers"][i].append(k, v)
        o = infllm_attention(c, q, cache["layers"][i], pos, **opt).reshape(T, -1)
        if c.attn_use_output_gate:
            o = o * sigmoid(self._lin(x, p + "o_gate"))
        return self._lin(o, p + "o_proj")

    def _lightning(self, i, x, pos, cache, chunk):
        c, p, T = self.c, f"model.layers.{i}.self_attn.", len(x)
        d = c.lightning_head_dim
        q = self._lin(x, p + "q_proj").reshape(T, c.lightning_nh, d)
        k = self._lin(x, p + "k_proj").reshape(T, c.lightning_nkv, d)
        v = self._lin(x, p + "v_proj").reshape(T, c.lightning_nkv, d)
        if c.qk_norm:                                        # per head, before RoPE
            q = rms_norm(q, self.w[p + "q_norm.weight"], c.rms_norm_eps)
            k = rms_norm(k, self.w[p + "k_norm.weight"], c.rms_norm_eps)
        if c.lightning_use_rope:
            q, k = rope(q, pos, c), rope(k, pos, c)
        rep = c.lightning_nh // c.lightning_nkv
        k, v = np.repeat(k, rep, axis=1), np.repeat(v, rep, axis=1)
        S = cache["layers"][i]
        if T < 64:
            o, S = lightning_recurrent(q, k, v, S, c.light_scale())
        else:
            o, S = lightning_chunked(q, k, v, S, c.light_scale(), chunk)
        cache["layers"][i] = S.astype(self.dtype)
        o = o.reshape(T, -1)
        if c.use_output_norm:                                # one RMS over all heads together
            o = rms_norm(o, self.w[p + "o_norm.weight"], c.rms_norm_eps)
        if c.use_output_gate:
            o = o * sigmoid(self._lin(x, p + "z_proj"))
        return self._lin(o, p + "o_proj")

    def forward(self, tokens, cache, policy="per_call", kernel_mask=False, bf16_scores=False, chunk=64,
                trace=None, follow=None):
        """Feed the next tokens of the sequence held by `cache`; returns logits [T, vocab]."""
        c = self.c
        pos = np.arange(cache["len"], cache["len"] + len(tokens))
        opt = dict(policy=policy, kernel_mask=kernel_mask, bf16_scores=bf16_scores, trace=trace,
                   follow=follow)
        h = self.w["model.embed_tokens.weight"][np.asarray(tokens)] * c.scale_emb
        for i, mix in enumerate(c.mixer_types):
            p = f"model.layers.{i}."
            x = rms_norm(h, self.w[p + "input_layernorm.weight"], c.rms_norm_eps)
            a = (self._sparse(i, x, pos, cache, opt) if mix == SPARSE
                 else self._lightning(i, x, pos, cache, chunk))
            h = h + c.residual_scale * a
            x = rms_norm(h, self.w[p + "post_attention_layernorm.weight"], c.rms_norm_eps)
            m = self._lin(silu(self._lin(x, p + "mlp.gate_proj")) * self._lin(x, p + "mlp.up_proj"),
                          p + "mlp.down_proj")
            h = h + c.residual_scale * m
        cache["len"] += len(tokens)
        h = rms_norm(h, self.w["model.norm.weight"], c.rms_norm_eps) / c.logit_divisor
        head = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
        return self._lin(h, head)

    def run(self, tokens, pieces=None, **kw):
        """Split the sequence into pieces (list of lengths, or an int piece size) and concatenate logits."""
        n = len(tokens)
        if pieces is None:
            pieces = [n]
        elif isinstance(pieces, int):
            pieces = [pieces] * (n // pieces) + ([n % pieces] if n % pieces else [])
        cache, out, at = self.new_cache(), [], 0
        for size in pieces:
            out.append(self.forward(tokens[at:at + size], cache, **kw))
            at += size
        assert at == n
        return np.concatenate(out)


# ------------------------------------------------------------------------------------- self-test
class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def ok(self, cond, text):
        if cond:
            self.passed += 1
        else:
            self.failed += 1
        print(("ok    " if cond else "FAIL  ") + text)


def worst(a, b):
    return float(np.abs(a - b).max())


def self_test():
    ck = Checks()
    rng = np.random.default_rng(7)

    # 1. decay slopes
    s = decay_slopes(32)
    ck.ok(np.allclose(s, 2.0 ** (-0.25 * np.arange(1, 33))), "slopes(32)[h] = 2^(-(h+1)/4)")
    ck.ok(len(decay_slopes(12)) == 12 and np.allclose(decay_slopes(12)[:8], decay_slopes(8)),
          "slopes for a head count that is not a power of two")

    # 2. lightning: chunked == recurrent, any chunk size, any split, non-zero initial state
    q, k, v = (rng.standard_normal((150, 4, 8)) for _ in range(3))
    S0 = rng.standard_normal((4, 8, 8))
    o_ref, s_ref = lightning_recurrent(q, k, v, S0, 0.3)
    for chunk in (1, 16, 64, 200):
        o, st = lightning_chunked(q, k, v, S0, 0.3, chunk)
        ck.ok(worst(o, o_ref) < 1e-9 and worst(st, s_ref) < 1e-9, f"lightning chunk={chunk} equals recurrence")

    # 3. compressed keys: incremental == from scratch; window counts
    c = tiny_config()
    kk = rng.standard_normal((137, 2, 8))
    one, many = SparseCache(c, np.float64), SparseCache(c, np.float64)
    one.append(kk, kk)
    for t in range(137):
        many.append(kk[t:t + 1], kk[t:t + 1])
    ck.ok(worst(one.K1, many.K1) == 0 and worst(one.K2, many.K2) == 0, "compressed keys: incremental equals batch")
    ck.ok(len(one.K1) == (137 - 8) // 4 + 1 and len(one.K2) == (137 - 32) // 16 + 1, "compressed key counts")
    ck.ok(SparseCache.windows(31, 32, 16) == 0 and SparseCache.windows(32, 32, 16) == 1
          and SparseCache.windows(8192, 32, 16) == 511 and SparseCache.windows(8192, 128, 64) == 127,
          "window counts at 31, 32 and 8192 tokens (511 fine, 127 coarse)")

    p = np.float32(1e4) ** (np.arange(0, 128, 2, dtype=np.float32) / np.float32(128))
    a = rope(np.eye(1, 128).reshape(1, 1, 128), np.array([524287]), Config())[0, 0]
    ck.ok(abs(a[0] - math.cos(524287.0)) < 1e-6 and p[0] == 1, "rope at position 524287: the first pair turns by the position")
    scales = [Model(tiny_config(use_output_norm=False, lightning_scale=s), random_weights(tiny_config(use_output_norm=False), 2))
              .run(np.arange(50) % 61, policy="dense") for s in ("1/sqrt(d)", "1/d", "none")]
    ck.ok(worst(scales[0], scales[1]) > 1e-3 and worst(scales[0], scales[2]) > 1e-3, "lightning_scale shows without o_norm")

    # 4. decode == chunked == prefill where the policy is a function of the position only
    for dtype, tol in ((np.float64, 1e-9), (np.float32, 1e-5)):
        m = Model(c, random_weights(c, 1, dtype))
        toks = rng.integers(0, c.vocab_size, 240)
        for policy in ("dense", "sparse", "per_query"):
            full = m.run(toks, policy=policy)
            d1 = worst(full, m.run(toks, 1, policy=policy))
            d2 = worst(full, m.run(toks, 37, policy=policy))
            d3 = worst(full, m.run(toks, [100, 1, 1, 66, 72], policy=policy))
            ck.ok(max(d1, d2, d3) < tol,
                  f"{np.dtype(dtype).name} {policy:9s}: prefill = decode ({d1:.1e}) = chunks of 37 ({d2:.1e}) "
                  f"= mixed ({d3:.1e})")
    m = Model(c, random_weights(c, 1))

    # 5. the released behaviour decides per CALL: prefill and decode are not the same function
    cover = c.total_topk * c.block_size                      # 5 blocks = 80 tokens here; 6144 in the release
    full = m.run(toks, policy="per_call")                    # 240 >= dense_len: every query is sparse
    dec = m.run(toks, 1, policy="per_call")                  # queries below dense_len are dense
    ck.ok(worst(full, m.run(toks, policy="sparse")) == 0, "per_call prefill of a long prompt = sparse for all")
    ck.ok(worst(dec, m.run(toks, 1, policy="per_query")) == 0, "per_call decode from an empty cache = per_query")
    same = worst(full[:cover], dec[:cover])
    diff = np.abs(full - dec).max(axis=1)
    first = int(np.argmax(diff > 1e-6))
    ck.ok(same < 1e-9, f"per_call: prefill = decode for positions < topk*block = {cover}")
    ck.ok(cover <= first < c.dense_len, f"per_call: first differing position {first} lies in [{cover}, {c.dense_len})")
    ck.ok(diff[c.dense_len:].max() > 1e-6, "per_call: the difference persists after dense_len (stale hidden states)")
    chk = m.run(toks, [100, 140], policy="per_call")         # positions 80..99 are dense here, sparse above
    ck.ok(worst(full, chk) > 1e-6, "per_call: chunked prefill with a first chunk below dense_len differs")
    chk = m.run(toks, [120, 120], policy="per_call")
    ck.ok(worst(full, chk) < 1e-9, "per_call: chunked prefill equals prefill when the first chunk >= dense_len")
    short = m.run(toks[:c.dense_len - 1], policy="per_call")
    ck.ok(worst(short, m.run(toks[:c.dense_len - 1], policy="dense")) == 0, "kv_len = dense_len-1 is dense")
    at = m.run(toks[:c.dense_len], policy="per_call")
    ck.ok(worst(at, m.run(toks[:c.dense_len], policy="sparse")) == 0, "kv_len = dense_len is sparse")

    # 6. sparse == dense while all past blocks fit in the selection
    a, b = m.run(toks, policy="sparse"), m.run(toks, policy="dense")
    ck.ok(worst(a[:cover], b[:cover]) < 1e-9 and worst(a, b) > 1e-6, "sparse = dense exactly while blocks <= topk total")

    # 7. selection invariants
    tr = []
    m.run(toks, policy="sparse", trace=tr)
    good = True
    for sel in tr:
        for t in range(sel.shape[1]):
            qb = t // c.block_size
            want = min(c.total_topk, qb + 1)
            good &= bool((sel[:, t].sum(axis=-1) == want).all()) and not sel[:, t, qb + 1:].any()
            good &= bool(sel[:, t, :c.init_blocks].all()) and bool(sel[:, t, max(0, qb - c.local_blocks):qb + 1].all())
    ck.ok(good, "each query: min(total, past) blocks, init forced, local_blocks+1 local blocks forced, none in the future")

    # 8. causal masking of the fine keys cannot change the selection; of the coarse keys it can
    stride2 = 4 * c.kernel_stride
    for n in (208, 200, 205):
        x = worst(m.run(toks[:n], policy="sparse"), m.run(toks[:n], policy="sparse", kernel_mask=True))
        ck.ok(x < 1e-9, f"published kernel mask = exact mask for a prefill of {n} tokens (mod {stride2} = {n % stride2})")
    n = 207
    tr1, tr2 = [], []
    m.run(toks[:n], policy="sparse", trace=tr1)
    m.run(toks[:n], policy="sparse", kernel_mask=True, trace=tr2)
    changed = sum(int((x != y).any(axis=-1).sum()) for x, y in zip(tr1, tr2))
    sc = SparseCache(c, np.float64)
    sc.append(rng.standard_normal((n, 2, 8)), rng.standard_normal((n, 2, 8)))
    qq, pp = rng.standard_normal((n, 4, 8)), np.arange(n)
    ratio = stage1(c, qq, sc, pp, True)[:, 60:, :8] / stage1(c, qq, sc, pp)[:, 60:, :8]
    ck.ok(worst(ratio, 1.0) > 1e-3, f"prefill of {n} tokens (mod {stride2} = {stride2 - 1}): the published kernel drops one "
                                    f"coarse key from the normaliser of every query ({changed} selections changed here)")

    # 9. the same parts with other switches: MiniCPM4-like and HypeNet-like
    for name, kw in (("MiniCPM4-like", dict(mixer_types=[SPARSE] * 3, attn_use_rope=True, attn_use_output_gate=False)),
                     ("HypeNet-like", dict(mixer_types=["lightning-attn", SPARSE], attn_qk_norm=True, scale_emb=1.0,
                                           scale_depth=math.sqrt(2), dim_model_base=32, tie_word_embeddings=True))):
        v = tiny_config(**kw)
        m2 = Model(v, random_weights(v, 5))
        x = worst(m2.run(toks, policy="per_query"), m2.run(toks, 1, policy="per_query"))
        ck.ok(x < 1e-9, f"{name} configuration: prefill = decode ({x:.1e})")

    # 10. following the choice of somebody else: a copy changes nothing, another block is told from a tie
    tr = []
    own = m.run(toks, policy="sparse", trace=tr)
    lists = [[[np.flatnonzero(row).tolist() for row in head] for head in sel] for sel in tr]
    follow = Follow(lists)
    ck.ok(worst(own, m.run(toks, policy="sparse", follow=follow)) == 0 and not follow.differing,
          "following one's own choice changes nothing")
    t = len(toks) - 1
    free = [b for b in range(t // c.block_size + 1) if b not in lists[0][0][t]]
    lists[0][0][t] = sorted([b for b in lists[0][0][t] if b != lists[0][0][t][1]] + free[:1])
    follow = Follow(lists)
    m.run(toks, policy="sparse", follow=follow)
    ck.ok(bool(follow.wrong) and follow.wrong[0].startswith(f"sparse layer 0, kv head 0, position {t}:"),
          "a choice that is no tie is told")
    t, cache = np.array([79]), SparseCache(c, np.float64)
    cache.append(rng.standard_normal((80, 2, 8)), rng.standard_normal((80, 2, 8)))
    for gap, wrong in ((1e-6, 0), (1e-2, 2)):
        block = np.tile([np.inf, 1.0, 1.0 - gap, np.inf, np.inf], (2, 1, 1))
        follow = Follow([[{79: [0, 2, 3, 4]}] * 2])
        own = select_blocks(tiny_config(topk=2), block, t)
        follow.choose(c, rng.standard_normal((1, 4, 8)), cache, t, block, own, [False])
        ck.ok(follow.differing == 2 and len(follow.wrong) == wrong,
              f"scores that differ by {gap:.0e}: {wrong} of 2 choices are no ties")

    # 11. Llama: all positions attend to all before them, decode = prefill
    v = llama_config(rope_theta=500000.0)
    m3 = Model(v, random_weights(v, 6))
    ck.ok(v.residual_scale == 1 and v.logit_divisor == 1, "llama: all scalings are 1")
    ck.ok(worst(m3.run(toks), m3.run(toks, 1)) < 1e-9
          and worst(m3.run(toks, policy="sparse"), m3.run(toks, policy="dense")) == 0,
          "llama: prefill = decode, and no policy matters")

    # 12. sizes of the released model
    real = Config()
    total = sum(math.prod(s) for s in tensor_shapes(real).values())
    ck.ok(total == 9_477_203_968, f"released model: {total} parameters, {2 * total} bytes in bf16")
    ck.ok(len(tensor_shapes(real)) == 3 + 24 * 13 + 8 * 10, f"released model: {len(tensor_shapes(real))} tensors")
    print(f"{ck.passed} passed, {ck.failed} failed")
    return ck.failed


def write_golden(path):
    c = tiny_config()
    m = Model(c, random_weights(c, 1))
    toks = np.random.default_rng(3).integers(0, c.vocab_size, 240)
    out = {f"w/{k}": v for k, v in m.w.items()}
    out["tokens"] = toks
    for policy in ("dense", "sparse", "per_query", "per_call"):
        out[f"logits/{policy}"] = m.run(toks, policy=policy)
    np.savez(path, **out)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "golden":
        write_golden(sys.argv[2])
    else:
        sys.exit(1 if self_test() else 0)
