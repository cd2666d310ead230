"""GGUF's blocks of 256 columns: Q2_K to Q6_K and IQ4_XS, in the layout of ggml.

Their groups of 16 or 32 columns have small integers s and m as scale and minimum, which are multiplied by f16 numbers of
the block. A value is d s q - dmin m, or d s q with signed q where there is no minimum.
"""
import numpy as np

TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
# columns of a group, largest s and m, largest q; those without a minimum have s and q from -largest - 1 to largest
WITH_MINIMUM = {"q2_k": (16, 15, 3), "q4_k": (32, 63, 15), "q5_k": (32, 63, 31)}
SIGNED = {"q3_k": (16, 31, 3), "q6_k": (16, 127, 31), "iq4_xs": (32, 31, None)}
KINDS = (*WITH_MINIMUM, *SIGNED)


def ratio(a, b):
    """a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def round_to_blocks(x, kind):
    """[blocks, 256] numbers -> d, dmin (f16), s, m [blocks, groups], q [blocks, 256], and what they stand for."""
    if kind in WITH_MINIMUM:
        columns, most, codes = WITH_MINIMUM[kind]
        groups = x.reshape(len(x), -1, columns)
        low = np.minimum(groups.min(axis=2), 0)
        step = (groups.max(axis=2) - low) / codes
        d, dmin = ((v.max(axis=1) / most).astype(np.float16) for v in (step, -low))
        wide, wide_min = d.astype(np.float64)[:, None], dmin.astype(np.float64)[:, None]
        s = np.clip(np.rint(ratio(step, wide)), 0, most)
        m = np.clip(np.rint(ratio(-low, wide_min)), 0, most)
        scale, minimum = (wide * s)[:, :, None], (wide_min * m)[:, :, None]
        q = np.clip(np.rint(ratio(groups + minimum, scale)), 0, codes)
        return d, dmin, s, m, q.reshape(x.shape), (scale * q - minimum).reshape(x.shape)
    columns, most, codes = SIGNED[kind]
    groups = x.reshape(len(x), -1, columns)
    peak = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    step = peak / -(codes + 1 if codes else 127)
    d = (np.abs(step).max(axis=1) / most).astype(np.float16)
    s = np.clip(np.rint(ratio(step, d.astype(np.float64)[:, None])), -most - 1, most)
    scale = (d.astype(np.float64)[:, None] * s)[:, :, None]
    wanted = ratio(groups, scale)
    if codes is None:
        q = np.abs(wanted[..., None] - TABLE).argmin(axis=-1)
        value = TABLE[q]
    else:
        q = value = np.clip(np.rint(wanted), -codes - 1, codes)
    return d, None, s, None, q.reshape(x.shape), (scale * value).reshape(x.shape)


def spread(fields, shifts):
    """Ors integer arrays, each shifted; bytes."""
    return sum(f.astype(np.uint32) << s for f, s in zip(fields, shifts)).astype(np.uint8)


def encode(x, kind):
    """The bytes of a tensor [.., columns] and the float64 numbers that they stand for."""
    d, dmin, s, m, q, values = round_to_blocks(x.reshape(-1, 256), kind)
    n = len(d)
    d, dmin = (None if v is None else v[:, None].view(np.uint8) for v in (d, dmin))
    s = s.astype(np.int64)
    q = q.astype(np.int64) + {"q3_k": 4, "q6_k": 32}.get(kind, 0)
    rows = q.reshape(n, 8, 32)                                   # column k is [k / 32][k % 32]
    halves = rows.reshape(n, 2, 4, 32)
    two_bits = lambda v: spread([v[:, :, j] for j in range(4)], (0, 2, 4, 6)).reshape(n, 64)
    nibbles = lambda v: spread([v[:, 0::2], v[:, 1::2]], (0, 4)).reshape(n, 128)
    high_bits = lambda bit: spread([rows[:, j] >> bit & 1 for j in range(8)], range(8))
    if kind == "q2_k":
        parts = [spread([s, m], (0, 4)), two_bits(halves), d, dmin]
    elif kind == "q3_k":
        s += 32
        low = spread([s[:, :8] & 15, s[:, 8:] & 15], (0, 4))
        high = spread([s[:, 4 * j:4 * j + 4] >> 4 for j in range(4)], (0, 2, 4, 6))
        parts = [high_bits(2), two_bits(halves & 3), low, high, d]
    elif kind == "q6_k":
        low = spread([halves[:, :, :2] & 15, halves[:, :, 2:] & 15], (0, 4)).reshape(n, 128)
        parts = [low, two_bits(halves >> 4), s.astype(np.int8).view(np.uint8), d]
    elif kind == "iq4_xs":
        s += 32
        high = sum((s[:, j] >> 4) << 2 * j for j in range(8)).astype(np.uint16)[:, None].view(np.uint8)
        pairs = q.reshape(n, 8, 2, 16)
        parts = [d, high, spread([s[:, 0::2] & 15, s[:, 1::2] & 15], (0, 4)),
                 spread([pairs[:, :, 0], pairs[:, :, 1]], (0, 4)).reshape(n, 128)]
    else:
        m = m.astype(np.int64)
        levels = [spread([v[:, :4], v[:, 4:] >> 4], (0, 6)) for v in (s, m)] + [spread([s[:, 4:] & 15, m[:, 4:] & 15], (0, 4))]
        parts = [d, dmin, *levels] + ([high_bits(4)] if kind == "q5_k" else []) + [nibbles(rows & 15)]
    return np.concatenate(parts, axis=1).tobytes(), values.reshape(x.shape)
