#!/usr/bin/env python3
"""MiniCPM-SALA and dense transformers in PyTorch with flash-linear-attention's kernels: what sala's CUDA backend is measured
beside. Random weights, bf16.

  bench/peer/torch_sala.py measure CONFIG.json OUT.json --prompt 4096,131072 --depth 4096,131072 --batch 1,8
  bench/peer/torch_sala.py check        its arithmetic against tests/reference/sala_ref.py; needs no GPU

It is written as one who knows these libraries would for speed: projections of one input are one product, attention is
torch's fastest, Lightning is fla's simple_gla, the chosen blocks are attended by fla's NSA kernel, scoring is compiled,
a prompt passes layer by layer as a whole, and a step of decoding is captured in a graph besides.
Needs PyPI's torch and flash-linear-attention.
"""
import argparse
import contextlib
import dataclasses
import json
import math
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "reference"))
import sala_ref  # noqa: E402
from sala_ref import SPARSE  # noqa: E402

ROWS = 32768             # of a prompt at once where a tensor would be too large: the MLP, Lightning
SCORES = 1 << 30         # bytes of scores at once when blocks are chosen


def read_config(path):
    """A Hugging Face configuration of MiniCPM-SALA or Qwen3 as sala_ref.Config."""
    values = json.loads(pathlib.Path(path).read_text())
    names = {f.name for f in dataclasses.fields(sala_ref.Config)}
    known = {k: v for k, v in (values | (values.get("sparse_config") or {})).items() if k in names}
    if values["model_type"] == "minicpm_sala":
        return sala_ref.Config(**known)
    if values["model_type"] == "qwen3":
        return sala_ref.qwen3_config(**known, mixer_types=[SPARSE] * values["num_hidden_layers"])
    raise SystemExit(f"{path}: model_type is {values['model_type']!r}, expected \"minicpm_sala\" or \"qwen3\"")


# ---- Operators -----------------------------------------------------------------------------------------------------

@torch.compile(dynamic=True)
def rope(x, cos, sin):
    """x [B, T, heads, d], cos and sin [T, 1, d/2] in f32."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


@torch.compile(dynamic=True)
def silu_mul(gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


@torch.compile(dynamic=True)
def gated(x, gate):
    return x * torch.sigmoid(gate)


@torch.compile(dynamic=True)
def block_scores(fine, coarse, position, blocks, size, stride, block, init, local):
    """fine and coarse: scores [B, kv, T, G, windows], already scaled, of queries from `position` on; the result is
    [B, kv, T, blocks], -inf for the future, +inf for blocks that are always read."""
    at = position + torch.arange(fine.shape[2], device=fine.device)[:, None, None]
    ends1 = torch.arange(fine.shape[-1], device=fine.device) * stride + size
    ends2 = torch.arange(coarse.shape[-1], device=fine.device) * (4 * stride) + 4 * size
    normaliser = torch.where(ends2 <= at + 1, coarse.float(), -math.inf).logsumexp(-1, keepdim=True)
    votes = torch.where((ends1 <= at + 1) & normaliser.isfinite(), (fine.float() - normaliser).exp(), 0.0).sum(3)
    step = block // stride
    pooled = F.max_pool1d(F.pad(votes, (0, blocks * step - votes.shape[-1])).flatten(0, 2), step + 1, step, 1)
    pooled = pooled.view(votes.shape[:3] + (-1,))[..., :blocks]
    own, index = at[:, 0] // block, torch.arange(blocks, device=fine.device)
    pooled = torch.where((index < init) | (own <= index + local), math.inf, pooled)
    return torch.where(index > own, -math.inf, pooled)


def best(scores, n):
    """Indices of the n largest. Neighbouring blocks share a window and so often tie: the model leaves it to torch.topk which
    of them is read, the reference takes the first."""
    return scores.topk(n, sorted=False).indices if scores.is_cuda else scores.sort(stable=True, descending=True).indices[..., :n]


def lightning(q, k, v, slopes, scale, state):
    """q, k, v [B, T, H, d], state [B, H, dk, dv] in f32, which moves on."""
    if not q.is_cuda:
        from fla.ops.simple_gla.naive import naive_recurrent_simple_gla
        decays = -slopes.expand(q.shape[:3])
        out, new = naive_recurrent_simple_gla(q, k, v, decays, scale=scale, initial_state=state)
    else:
        from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla
        op = fused_recurrent_simple_gla if q.shape[1] == 1 else chunk_simple_gla
        out, new = op(q, k, v, g_gamma=-slopes, scale=scale, initial_state=state, output_final_state=True)
    state.copy_(new)
    return out


def attend_all(q, k, v):
    """q [B, T, H, d] of the last T positions of k and v [B, N, kv, d]: T is N or 1."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    assert q.shape[2] in (1, k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True).transpose(1, 2)


def attend_blocks(q, k, v, chosen, block):
    """The blocks `chosen` [B, kv, T, S] of k and v; those after a query's own are not read."""
    B, T, H, d = q.shape
    N, kv = k.shape[1:3]
    if T > 1 and q.is_cuda:
        from fla.ops.nsa.parallel import parallel_nsa_fwd
        return parallel_nsa_fwd(q, k, v, chosen.transpose(1, 2).contiguous(), chosen.shape[-1], block, d ** -0.5)[0]
    if T > 1:
        allowed = torch.zeros(B, kv, T, -(-N // block), dtype=torch.bool, device=q.device).scatter_(-1, chosen, True)
        allowed = allowed.repeat_interleave(block, -1)[..., :N].repeat_interleave(H // kv, 1)
        allowed &= torch.arange(N) <= torch.arange(N - T, N)[:, None]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=True).transpose(1, 2)
    # One query: its own block last, so that what is beyond the query is at the end and can be left out.
    tokens = (chosen[:, :, 0].sort(-1).values[..., None] * block + torch.arange(block, device=q.device)).flatten(2)
    tokens = tokens[..., :tokens.shape[-1] - (-N % block)].transpose(1, 2)[..., None].expand(-1, -1, -1, d)
    return attend_all(q, k.gather(1, tokens), v.gather(1, tokens))


# ---- Model ---------------------------------------------------------------------------------------------------------

class Pages:
    """Keys and values [B, capacity, kv, d] of one attention layer, and their mean-pooled levels."""

    def __init__(self, c, batch, capacity, dtype, device):
        def keys(n):
            return torch.zeros(batch, n, c.num_key_value_heads, c.head_dim, dtype=dtype, device=device)
        self.c, self.k, self.v = c, keys(capacity), keys(capacity)
        fine, coarse = (self.windows(capacity, scale) for scale in (1, 4)) if c.sparse else (0, 0)
        self.pooled = {1: keys(fine), 4: keys(coarse)}

    def windows(self, n, scale):
        return max(0, (n - scale * self.c.kernel_size) // (scale * self.c.kernel_stride) + 1)

    def append(self, k, v, at):
        """k and v [B, T, kv, d] of the positions from `at` on."""
        end = at + k.shape[1]
        self.k[:, at:end], self.v[:, at:end] = k, v
        for scale in (1, 4) if self.c.sparse else ():
            first, last = self.windows(at, scale), self.windows(end, scale)
            if last > first:
                stride, size = scale * self.c.kernel_stride, scale * self.c.kernel_size
                keys = self.k[:, first * stride:(last - 1) * stride + size]
                self.pooled[scale][:, first:last] = keys.unfold(1, size, stride).mean(-1)


class Model:
    """weights: Hugging Face's names, [out, in]."""

    def __init__(self, c, weights):
        self.c = c
        self.embedding, self.norm = weights["model.embed_tokens.weight"], weights["model.norm.weight"]
        self.head = weights.get("lm_head.weight", self.embedding)
        self.layers = []
        for i, mixer in enumerate(c.mixer_types):
            layer = {name.removeprefix(f"model.layers.{i}."): w for name, w in weights.items()
                     if name.startswith(f"model.layers.{i}.")}
            inputs = [layer.pop(f"self_attn.{name}.weight", None) for name in ("q_proj", "k_proj", "v_proj", "o_gate", "z_proj")]
            layer["inputs"] = torch.cat([w for w in inputs if w is not None])
            layer["gate_up"] = torch.cat([layer.pop("mlp.gate_proj.weight"), layer.pop("mlp.up_proj.weight")])
            self.layers.append(layer)
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        self.slopes = torch.tensor(sala_ref.decay_slopes(c.lightning_nh), dtype=torch.float32, device=self.device)
        frequencies, _ = sala_ref.rope_frequencies(c.head_dim, c.rope_theta, None, c.max_position_embeddings)
        self.frequencies = torch.tensor(frequencies, dtype=torch.float32, device=self.device)

    def new_cache(self, batch, capacity):
        c = self.c
        return [Pages(c, batch, capacity, self.dtype, self.device) if mixer == SPARSE else
                torch.zeros(batch, c.lightning_nh, c.lightning_head_dim, c.lightning_head_dim, device=self.device)
                for mixer in c.mixer_types]

    def forward(self, tokens, cache, at):
        """Logits [B, vocab] behind tokens [B, T] of the positions from `at` on: a whole prompt (at = 0), or one token."""
        c, T = self.c, tokens.shape[1]
        angles = torch.arange(at, at + T, device=self.device, dtype=torch.float32)[:, None, None] * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        h = F.embedding(tokens, self.embedding) * c.scale_emb
        for layer, mixer, memory in zip(self.layers, c.mixer_types, cache):
            attend = self.attention if mixer == SPARSE else self.lightning
            h = h + attend(layer, F.rms_norm(h, h.shape[-1:], layer["input_layernorm.weight"], c.rms_norm_eps), memory, at,
                           cos, sin) * c.residual_scale
            for rows in h.split(ROWS, dim=1):
                x = F.rms_norm(rows, rows.shape[-1:], layer["post_attention_layernorm.weight"], c.rms_norm_eps)
                rows += F.linear(silu_mul(F.linear(x, layer["gate_up"])), layer["mlp.down_proj.weight"]) * c.residual_scale
        last = F.rms_norm(h[:, -1], h.shape[-1:], self.norm, c.rms_norm_eps) / c.logit_divisor
        return F.linear(last, self.head)

    def heads(self, layer, x, norm, rotate, heads, kv_heads, d, cos, sin):
        """q, k, v [B, T, heads, d] and what is left of the product: a gate, or nothing."""
        sizes = [heads * d, kv_heads * d, kv_heads * d, layer["inputs"].shape[0] - (heads + 2 * kv_heads) * d]
        q, k, v, gate = F.linear(x, layer["inputs"]).split(sizes, dim=-1)
        q, k, v = (y.unflatten(-1, (-1, d)) for y in (q, k, v))
        if norm:
            q = F.rms_norm(q, (d,), layer["self_attn.q_norm.weight"], self.c.rms_norm_eps)
            k = F.rms_norm(k, (d,), layer["self_attn.k_norm.weight"], self.c.rms_norm_eps)
        if rotate:
            q, k = rope(q, cos, sin), rope(k, cos, sin)
        return q.contiguous(), k.contiguous(), v.contiguous(), gate

    def attention(self, layer, x, pages, at, cos, sin):
        c, end = self.c, at + x.shape[1]
        q, k, v, gate = self.heads(layer, x, c.attn_qk_norm, c.attn_use_rope, c.num_attention_heads, c.num_key_value_heads,
                                   c.head_dim, cos, sin)
        pages.append(k, v, at)
        keys, values = pages.k[:, :end], pages.v[:, :end]
        if c.sparse and end >= c.dense_len:
            out = attend_blocks(q, keys, values, self.choose(q, pages, at), c.block_size)
        else:
            out = attend_all(q, keys, values)
        out = out.flatten(2)
        return F.linear(gated(out, gate) if c.attn_use_output_gate else out, layer["self_attn.o_proj.weight"])

    def choose(self, q, pages, at):
        """The blocks [B, kv, T, S] that InfLLM-V2 reads for queries q [B, T, H, d]."""
        c, (B, T, H, d) = self.c, q.shape
        kv, end = c.num_key_value_heads, at + T
        fine, coarse = (pages.pooled[scale][:, :pages.windows(end, scale)].permute(0, 2, 3, 1) for scale in (1, 4))
        blocks = -(-end // c.block_size)
        chosen = []
        for first in range(0, T, rows := max(1, SCORES // (B * H * fine.shape[-1] * q.element_size()))):
            some = q[:, first:first + rows].unflatten(2, (kv, -1)).transpose(1, 2) * d ** -0.5     # [B, kv, rows, G, d]
            scores = [(some.flatten(2, 3) @ level).unflatten(2, some.shape[2:4]) for level in (fine, coarse)]
            scores = block_scores(*scores, at + first, blocks, c.kernel_size, c.kernel_stride, c.block_size, c.init_blocks,
                                  c.local_blocks)
            chosen.append(best(scores, min(c.total_topk, blocks)))
        return torch.cat(chosen, dim=2)

    def lightning(self, layer, x, state, at, cos, sin):
        c, out = self.c, []
        for first in range(0, x.shape[1], ROWS):
            rows = slice(first, first + ROWS)
            q, k, v, gate = self.heads(layer, x[:, rows], c.qk_norm, c.lightning_use_rope, c.lightning_nh, c.lightning_nkv,
                                       c.lightning_head_dim, cos[rows], sin[rows])
            y = lightning(q, k, v, self.slopes, c.light_scale(), state).flatten(2).to(x.dtype)
            if c.use_output_norm:
                y = F.rms_norm(y, y.shape[-1:], layer["self_attn.o_norm.weight"], c.rms_norm_eps)
            out.append(F.linear(gated(y, gate) if c.use_output_gate else y, layer["self_attn.o_proj.weight"]))
        return torch.cat(out, dim=1)


# ---- Check ---------------------------------------------------------------------------------------------------------

def check():
    """Prompts and steps behind them, both sides of dense_len, give the reference's logits, in f32, on the CPU. A GPU's kernels
    give in bf16 what the CPU gives in f32."""
    torch.set_grad_enabled(False)
    if torch.cuda.is_available():
        check_kernels()
    tokens = np.random.default_rng(3).integers(0, 61, 240)
    for name, c, steps in (("MiniCPM-SALA", sala_ref.tiny_config(), ((100, 20), (112, 20), (230, 10))),
                           ("Qwen3", sala_ref.qwen3_config(), ((40, 5),))):
        weights = sala_ref.random_weights(c, 1, np.float32)
        reference, model = sala_ref.Model(c, weights), Model(c, {n: torch.from_numpy(w) for n, w in weights.items()})
        for prompt, generated in steps:
            worst = 0.0
            expected = reference.new_cache()
            cache = model.new_cache(1, prompt + generated)
            for at in [0, *range(prompt, prompt + generated)]:
                part = tokens[at:at + 1] if at else tokens[:prompt]
                want = reference.forward(part, expected)[-1]
                got = model.forward(torch.from_numpy(part)[None], cache, at)[0].numpy()
                worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
            print(f"{name}: a prompt of {prompt} and {generated} steps, differing by {worst:.1e} of the largest logit at most")
            if not worst < 1e-4:
                raise SystemExit("torch_sala: expected less than 1e-4")


def check_kernels():
    def same(name, op, inputs, *others):
        """inputs: tensors that are bf16 on the GPU; others go there as they are."""
        inputs = [x.bfloat16() for x in inputs]
        want = op(*(x.float() for x in inputs), *(x.clone() if torch.is_tensor(x) else x for x in others))
        got = op(*(x.cuda() for x in inputs), *(x.cuda() if torch.is_tensor(x) else x for x in others))
        worst = float((got.float().cpu() - want).abs().max() / want.abs().max())
        print(f"{name}: the GPU differs by {worst:.1e} of the largest value at most")
        if not worst < 2e-2:
            raise SystemExit("torch_sala: expected less than 2e-2")

    def heads(tokens, n):
        return torch.randn(1, tokens, n, 128)
    torch.manual_seed(0)
    slopes = torch.tensor(sala_ref.decay_slopes(32), dtype=torch.float32)
    for tokens in (1, 300):
        same(f"Lightning, {tokens} tokens", lightning, [heads(tokens, 32) for _ in "qkv"], slopes, 128 ** -0.5,
             torch.randn(1, 32, 128, 128))
    own = torch.arange(700, 1000) // 64
    chosen = torch.stack([own, own - 1, own - 5, own * 0], -1).expand(1, 2, -1, -1)
    for last in (300, 1):
        same(f"chosen blocks, {last} tokens", attend_blocks, [heads(last, 32), heads(1000, 2), heads(1000, 2)],
             chosen[:, :, -last:].contiguous(), 64)


# ---- Measurement ---------------------------------------------------------------------------------------------------

def random_model(c):
    torch.manual_seed(0)

    def tensor(shape):
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16, device="cuda")
        return torch.randn(shape, dtype=torch.bfloat16, device="cuda") * shape[1] ** -0.5
    return Model(c, {name: tensor(shape) for name, shape in sala_ref.tensor_shapes(c).items()})


def seconds(run, times):
    """The shortest of `times` runs, each to its end."""
    best = math.inf
    for _ in range(times):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def captured(run):
    """`run` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def measure(a):
    if not torch.cuda.is_available():
        raise SystemExit("torch_sala: measuring needs an NVIDIA GPU; torch sees none")
    import fla
    c = read_config(a.config)
    model = random_model(c)
    name = pathlib.Path(a.config).stem
    result = {"machine": {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
                          "fla": fla.__version__}, "rows": []}

    def row(phase, how, tokens, depth, sequences, measurement):
        """What does not fit or run says so in the row, and the next is measured."""
        entry = {"model": name, "phase": phase, "how": how, "tokens": tokens, "depth": depth, "sequences": sequences}
        try:
            entry["seconds"] = measurement()
            entry["peak_bytes"] = torch.cuda.max_memory_allocated()
        except Exception as error:  # of any of these libraries
            entry["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        result["rows"].append(entry)
        print(json.dumps(entry), flush=True)
        a.out.write_text(json.dumps(result, indent=1) + "\n")

    def prompt(tokens, backend):
        ids = torch.randint(c.vocab_size, (1, tokens), device="cuda")
        cache = model.new_cache(1, tokens)

        def run():
            for memory in cache:
                if torch.is_tensor(memory):
                    memory.zero_()
            return model.forward(ids, cache, 0).argmax(-1).item()
        with sdpa_kernel(backend) if backend else contextlib.nullcontext():
            first = seconds(run, 1)  # compiles and tunes, too
            return min(seconds(run, 2 if first < 30 else 1), first)

    def step(depth, sequences, graph):
        ids = torch.randint(c.vocab_size, (sequences, 1), device="cuda")
        cache = model.new_cache(sequences, depth + 1)
        for memory in cache:
            if torch.is_tensor(memory):
                memory.normal_()
            else:  # random keys, and their pooled ones; a copy of one sequence's
                shape = (1,) + memory.k.shape[1:]
                memory.append(*(torch.randn(shape, dtype=model.dtype, device="cuda").expand_as(memory.k) for _ in "kv"), 0)
        logits = [None]

        def run():
            logits[0] = model.forward(ids, cache, depth)
        run()
        replay = captured(run).replay if graph else run

        def steps():
            for _ in range(32):
                replay()
                ids.copy_(logits[0].argmax(-1, keepdim=True))
        return seconds(steps, 3) / 32

    with torch.inference_mode():
        for tokens in a.prompt:
            dense = not c.sparse or tokens < c.dense_len
            for how, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)) if dense \
                    else (("nsa", None),):
                row("prompt", how, tokens, 0, 1, lambda: prompt(tokens, backend))
        for depth in a.depth:
            for sequences in a.batch:
                for graph in (False, True):
                    row("decode", "captured" if graph else "eager", 1, depth, sequences, lambda: step(depth, sequences, graph))


def main():
    def numbers(text):
        return [int(x) for x in text.split(",") if x]
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(required=True)
    sub.add_parser("check").set_defaults(run=lambda a: check())
    m = sub.add_parser("measure")
    m.add_argument("config", type=pathlib.Path)
    m.add_argument("out", type=pathlib.Path)
    m.add_argument("--prompt", type=numbers, default=[], help="lengths of prompts, first token and all")
    m.add_argument("--depth", type=numbers, default=[], help="tokens behind which one is generated")
    m.add_argument("--batch", type=numbers, default=[1], help="texts at once")
    m.set_defaults(run=measure)
    a = ap.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
