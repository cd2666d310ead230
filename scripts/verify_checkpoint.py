#!/usr/bin/env python3
"""Compares `sala logits` with the authors' own code on the real checkpoint, in two halves on two machines.

  verify_checkpoint.py dump MODEL --tokens IDS.json --out DUMP [--last N]
  verify_checkpoint.py compare DUMP MODEL [--program build/release/sala] [-- FLAGS OF sala logits...]

`dump` needs an NVIDIA GPU, torch, transformers and what the model's own code needs (flash-attn, infllm_v2, fla). It runs that
code (trust_remote_code): do so where you would run any program from the internet. `compare` needs numpy only and runs no
code of the model. docs/verify.md explains the numbers.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
AGAIN = 64  # tokens behind the prompt in the second run: other shapes of every product, the same length modulo a block
MEAN_KL, AGREEMENT = 0.01, 0.98


# --- dump -----------------------------------------------------------------------------------------------------------

def check_rope(cos, sin):
    """Exits unless row p of the tables, [positions, size], turns the first pair by p radians. Some versions of
    transformers leave buffers that are not in the checkpoint uninitialised: cos and sin of zero then erase every query
    and key of the Lightning layers, without an error."""
    cos, sin = np.asarray(cos, np.float64), np.asarray(sin, np.float64)
    if abs(cos[0] - 1).max() > 1e-2 or abs(sin[0]).max() > 1e-2 or abs(sin[1, 0] - np.sin(1.0)) > 1e-2:
        sys.exit(f"the RoPE tables are wrong: cos[0] = {cos[0, :4]}, sin[0] = {sin[0, :4]}, sin[1, 0] = {sin[1, 0]}; expected 1, "
                 "0 and 0.841. The buffers were not initialised: use the transformers version of the checkpoint (4.56)")


def block_lists(chosen, block_size):
    """[kv_head, position, slot] block indices, -1 where a slot is empty -> [kv_head][position][ascending indices]."""
    chosen = np.asarray(chosen)
    if chosen.ndim != 3:
        sys.exit(f"block choices have shape {chosen.shape}, expected [kv_heads, positions, slots]: the model's code is not the one "
                 "that this script knows")
    return [[sorted({int(b) for b in row if 0 <= b <= t // block_size}) for t, row in enumerate(head)] for head in chosen]


def check_buffers(model):
    """Every rotary module of the model, by what it returns for its first positions."""
    import torch
    found = 0
    for name, module in model.named_modules():
        if "rotary" not in type(module).__name__.lower():
            continue
        inv = getattr(module, "inv_freq", None)
        if inv is not None and abs(float(inv[0]) - 1) > 1e-3:
            sys.exit(f"{name}.inv_freq[0] is {float(inv[0])}, expected 1: the buffer was not initialised")
        x = torch.zeros(1, 1, 8, 1, device=model.device, dtype=torch.float32)
        try:
            cos, sin = module(x, seq_len=8)
        except TypeError:  # the signature of newer versions
            cos, sin = module(x, torch.arange(8, device=model.device)[None])
        check_rope(cos.reshape(-1, cos.shape[-1])[:8].float().cpu(), sin.reshape(-1, sin.shape[-1])[:8].float().cpu())
        found += 1
    if found == 0:
        sys.exit("no rotary embedding found in the model's modules: its code is not the one that this script knows")
    print(f"{found} rotary tables are right")


def record_blocks(model):
    """Makes the model's code tell what its block choice gives, in the order of its layers; the list that it fills."""
    code = sys.modules[type(model).__module__]
    calls = []
    choose = getattr(code, "compressed_attention", None)
    if choose is None:
        print("the model's code has no function compressed_attention: block choices are not dumped")
        return calls

    def recorded(*arguments, **named):
        chosen = choose(*arguments, **named)
        calls.append(chosen.to("cpu", copy=True).numpy())
        return chosen

    code.compressed_attention = recorded
    return calls


def forward(model, ids, last):
    """Float32 logits of the `last` positions of one run over all ids."""
    import torch
    tokens = torch.tensor([ids], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=True).logits
    return logits[0, -last:].float().cpu().numpy()


def dump(a):
    try:
        import torch
        import transformers
    except ImportError as error:
        sys.exit(f"dump needs torch and transformers: {error}")
    if not torch.cuda.is_available():
        sys.exit("dump needs a GPU: the authors' sparse kernels exist for CUDA only")
    ids = json.loads(a.tokens.read_text())
    last = min(a.last or len(ids), len(ids))
    config = json.loads((a.model / "config.json").read_text())
    dense_len = (config.get("sparse_config") or {}).get("dense_len", 0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(a.model), trust_remote_code=True, torch_dtype=torch.bfloat16, attn_implementation="flash_attention_2",
        device_map="cuda").eval()
    check_buffers(model)
    calls = record_blocks(model)
    a.out.mkdir(parents=True, exist_ok=True)
    np.save(a.out / "logits.npy", forward(model, ids, last))
    blocks = [block_lists(chosen, config["sparse_config"]["block_size"]) for chosen in calls]
    if blocks:
        layers = [i for i, kind in enumerate(config["mixer_types"]) if kind == "minicpm4"] if "mixer_types" in config \
            else list(range(config["num_hidden_layers"]))
        if len(blocks) != len(layers):
            sys.exit(f"{len(blocks)} block choices for {len(layers)} layers: the model's code is not the one that this script knows")
        (a.out / "blocks.json").write_text(json.dumps({"layers": layers, "blocks": blocks}))
    if (len(ids) < dense_len) == (len(ids) + AGAIN < dense_len):
        again = forward(model, ids + ids[:AGAIN] + [1] * (AGAIN - len(ids[:AGAIN])), last + AGAIN)
        np.save(a.out / "again.npy", again[:last])
    (a.out / "ids.json").write_text(json.dumps(ids))
    (a.out / "facts.json").write_text(json.dumps({
        "transformers": transformers.__version__, "torch": torch.__version__, "device": torch.cuda.get_device_name(),
        "model": str(a.model)}, indent=1))
    print(f"wrote {a.out}: logits of {last} positions, {len(blocks)} layers of block choices")


# --- compare --------------------------------------------------------------------------------------------------------

def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def differences(want, got):
    """Of every position: KL(want || got) in nats, whether the likeliest token is the same, |got - want| / |want|."""
    p, q = log_softmax(want), log_softmax(got)
    kl = (np.exp(p) * (p - q)).sum(axis=-1)
    same = p.argmax(axis=-1) == q.argmax(axis=-1)
    want = want.astype(np.float64)
    return kl, same, np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)


def describe(name, kl, same, error, first):
    worst, far = int(kl.argmax()), int(error.argmax())
    print(f"{name}: {len(kl)} positions\n"
          f"  KL               mean {kl.mean():.2e}, median {np.median(kl):.2e}, worst {kl[worst]:.2e} at position {first + worst}\n"
          f"  likeliest token  the same at {same.mean():.2%}\n"
          f"  relative error   median {np.median(error):.2e}, worst {error[far]:.2e} at position {first + far}")


def compare_blocks(want, got):
    """Prints, layer by layer, how many choices are equal."""
    ours = dict(zip(got["layers"], got["blocks"]))
    for layer, theirs in zip(want["layers"], want["blocks"]):
        pairs = [(set(a), set(b)) for a_head, b_head in zip(theirs, ours[layer]) for t, (a, b) in enumerate(zip(a_head, b_head))]
        equal = np.mean([a == b for a, b in pairs])
        overlap = np.mean([len(a & b) / max(len(a | b), 1) for a, b in pairs])
        print(f"  layer {layer:3}: {equal:.2%} of {len(pairs)} choices equal, {overlap:.2%} of the blocks the same")


def load(path):
    logits = np.load(path)
    if logits.ndim != 2 or not np.isfinite(logits).all():
        sys.exit(f"{path}: expected finite logits [positions, vocabulary], found {logits.dtype} {logits.shape}")
    return logits


def compare(a):
    want, ids = load(a.dump / "logits.npy"), json.loads((a.dump / "ids.json").read_text())
    if len(want) > len(ids):
        sys.exit(f"{a.dump}: logits of {len(want)} positions for {len(ids)} ids")
    with tempfile.TemporaryDirectory() as scratch:
        out, chosen = pathlib.Path(scratch) / "logits.npy", pathlib.Path(scratch) / "blocks.json"
        theirs = a.dump / "blocks.json"
        done = subprocess.run([a.program, "logits", a.model, "--tokens", a.dump / "ids.json", "--out", out, "--last", str(len(want)),
                               "--sparse", "hf", *(["--blocks", chosen] if theirs.exists() else []), *a.flags])
        if done.returncode:
            sys.exit(f"{a.program} ended with status {done.returncode}")
        got = load(out)
        if got.shape != want.shape:
            sys.exit(f"logits are {got.shape}, the dump's {want.shape}: not the same model")
        kl, same, error = differences(want, got)
        describe("sala against the dump", kl, same, error, len(ids) - len(want))
        if theirs.exists():
            compare_blocks(json.loads(theirs.read_text()), json.loads(chosen.read_text()))
    kl_bound, agreement = a.kl, a.agreement
    if (a.dump / "again.npy").exists():
        noise, noise_same, noise_error = differences(want, load(a.dump / "again.npy"))
        describe("the dump against itself, other shapes", noise, noise_same, noise_error, len(ids) - len(want))
        kl_bound = max(kl_bound, 4 * noise.mean())
        agreement = min(agreement, 1 - 2 * (1 - noise_same.mean()))
    passed = kl.mean() <= kl_bound and same.mean() >= agreement
    print(f"{'passed' if passed else 'FAILED'}: mean KL {kl.mean():.2e} (bound {kl_bound:.2e}), the same token at {same.mean():.2%} "
          f"(bound {agreement:.2%})")
    return 0 if passed else 1


def main():
    flags = []
    arguments = sys.argv[1:]
    if "--" in arguments:
        at = arguments.index("--")
        arguments, flags = arguments[:at], arguments[at + 1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    half = commands.add_parser("dump", help="run the authors' code on a GPU")
    half.add_argument("model", type=pathlib.Path, help="the checkpoint's directory")
    half.add_argument("--tokens", type=pathlib.Path, required=True, help="JSON array of ids, as `sala tokenize` prints it")
    half.add_argument("--out", type=pathlib.Path, required=True, help="folder to write")
    half.add_argument("--last", type=int, help="only the last N positions (a position takes 300 KB)")
    half.set_defaults(run=dump)
    half = commands.add_parser("compare", help="run sala on the same ids and compare")
    half.add_argument("dump", type=pathlib.Path)
    half.add_argument("model", type=pathlib.Path)
    half.add_argument("--program", type=pathlib.Path, default=ROOT / "build" / "release" / "sala")
    half.add_argument("--kl", type=float, default=MEAN_KL, help="bound of the mean KL in nats")
    half.add_argument("--agreement", type=float, default=AGREEMENT, help="least share of positions with the same likeliest token")
    half.set_defaults(run=compare, flags=flags)
    a = parser.parse_args(arguments)
    return a.run(a)


if __name__ == "__main__":
    sys.exit(main())
