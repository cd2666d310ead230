#!/usr/bin/env python3
"""fuzz/quantised_seeds.py: writes fuzz/corpus/weights_quantised, a small checkpoint of random numbers in every format that
tests/prequantised_test.py writes, as fuzz_weights_quantised takes it: the configuration, a line break, a safetensors file."""
import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import prequantised_test as t  # noqa: E402

OUT = ROOT / "fuzz" / "corpus" / "weights_quantised"
X = np.random.default_rng(0).standard_normal((8, 32), np.float32)


def quantised(bits=4, size=32, symmetric=True, order=False):
    return t.Quantised(X, bits, size, symmetric, 0, order)


def gptq(bits=4, size=32, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": size} | more


def main():
    signed = t.signed("a", quantised(8, -1), True)
    seeds = {
        "gptq": (gptq(), t.gptq("a", quantised(), 4)),
        "gptq_8": (gptq(8, -1), t.gptq("a", quantised(8, -1), 8)),
        "gptq_scattered": (gptq(size=16), t.gptq("a", quantised(size=16, order=True), 4)),
        "gptq_v2_bias": (gptq(checkpoint_format="gptq_v2"),
                         t.gptq("a", quantised(), 4, 2) | {"a.bias": np.zeros(8, np.float16)}),
        "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, t.awq("a", quantised(symmetric=False), 4)),
        "packed": (t.scheme(4, 32, True, "pack-quantized"), t.packed("a", quantised(), 4, True)),
        "packed_zeros": (t.scheme(4, 32, False, "pack-quantized"), t.packed("a", quantised(symmetric=False), 4, False)),
        "signed": (t.scheme(8, -1, True, "int-quantized"), signed),
        "signed_zeros": (t.scheme(8, 32, False, "int-quantized"), t.signed("a", quantised(8, 32, False), False)),
        "one_scale": (t.scheme(8, -1, True, "int-quantized"), signed | {"a.weight_scale": np.ones(1, np.float32)}),
        "no_method": ({"quant_method": "fp8"}, {"a.weight": X}),
    }
    for name, (configuration, tensors) in seeds.items():
        t.write_safetensors(OUT / name, tensors)
        (OUT / name).write_bytes(json.dumps(configuration).encode() + b"\n" + (OUT / name).read_bytes())


if __name__ == "__main__":
    main()
