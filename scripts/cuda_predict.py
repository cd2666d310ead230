#!/usr/bin/env python3
"""What the kernels of src/cuda should reach on MiniCPM-SALA 9B, counted from their code: scripts/cuda_predict.py prints
markdown tables of whole steps, of prompts, of each kernel, and of what a change would bring. Nothing here is measured.

A launch takes the machine's gap + max(bytes of memory, bytes of L2, tensor cores, shared memory, instructions,
dependent latency), each at what the machine reaches, compute divided by how evenly blocks fill the SMs, latency times
the waves of blocks. Its limit is max(bytes that it must move, products at the machine's peak). Instructions are those
of the machine code for sm_90 where it says so. Seconds and bytes, unless a name says so."""
import dataclasses
import math
import sys

# ---- Assumptions ---------------------------------------------------------------------------------------------------

COPY = 5.0e-6        # a copy between host and device in the stream, beside its bytes. Assumed
HOST_LINK = 50e9     # bytes a second of such copies: PCIe 5
L2_LATENCY = 0.3e-6  # a load that others wait for: from L2, from memory under load
MEMORY_LATENCY = 0.7e-6
UNROLLED = 4         # loads in flight of a loop that the code does not unroll itself: nvcc's habit
IPC = 0.6            # instructions a clock and scheduler in code of dependent arithmetic at 2 to 4 warps a scheduler
FMA_IPC = 0.8        # the same in loops of independent multiply-adds: by stall counts a warp alone has 0.57 and 0.83
ALONE_IPC = 0.7      # of a warp alone, by the stall counts of its code, without what it waits for
PIPELINE = 0.85      # of tensor cores or shared memory, where copies, products and barriers overlap (kernels of matmul)
TILE = 0.7           # the same of attend_tile, whose limits coincide
UNION = 1.5          # blocks that four neighbouring queries choose together, over those of one; unknown for real text
CHUNK = 8192         # tokens of a prompt a step


@dataclasses.dataclass
class Machine:
    """Rates per second. memory, l2_size, shared (of an SM): bytes. bandwidth: what a copy reaches on the H200, the data
    sheet's otherwise; reach: the share of it that kernels get. bf16: the peak (wgmma on the H200, measured); mma: the
    share of it, and of int8's, that mma.sync reaches. l2: bytes that reads reach. gap: between dependent launches;
    assumed, 1 us where a kernel begins before the last one's end (sm_90 on: all of these), 2 us elsewhere."""
    name: str
    memory: float
    bandwidth: float
    reach: float
    bf16: float
    int8: float
    mma: float
    sms: int
    clock: float
    l2: float
    l2_size: float
    shared: int
    gap: float

    def clocks(self, n):
        return n / self.clock

    def mma_clocks(self):
        """Clocks of a scheduler for one m16n8k16."""
        return 16 * 8 * 16 / (self.bf16 * self.mma / 2 / self.sms / self.clock / 4)


MACHINES = [
    # 4.3 TB/s and 790 TFLOP/s were measured (copy, GEMM of random data); mma.sync assumed to reach 62 % of wgmma.
    Machine("H200", 141e9, 4.3e12, 0.95, 790e12, 1580e12, 0.62, 132, 1.755e9, 6.0e12, 50e6, 227 << 10, 1e-6),
    # Data sheet; mma.sync is the only way to its tensor cores. L2 rate assumed.
    Machine("RTX 5090", 32e9, 1.79e12, 0.92, 210e12, 838e12, 1.0, 170, 2.41e9, 6.0e12, 96e6, 99 << 10, 1e-6),
    # Sources disagree (1.398 or 1.568 TB/s); 148 TFLOP/s is a cap of the product. Clock, int8 and L2 rate assumed.
    Machine("RTX 6000D", 84e9, 1.398e12, 0.92, 148e12, 296e12, 1.0, 156, 2.3e9, 5.0e12, 112e6, 99 << 10, 1e-6),
]

# ---- The model (config.json of openbmb/MiniCPM-SALA) ---------------------------------------------------------------

D, F, V, HEADS, KV_HEADS, DIM = 4096, 16384, 73448, 32, 2, 128
LIGHTNING, SPARSE = 24, 8
PAGE, SEGMENT, TOP, LOCAL, CELL, PANEL = 64, 16, 96, 34, 32, 32  # LOCAL: forced blocks, init + window + own
BODY = LIGHTNING * 5 * D * D + SPARSE * (3 * D * D + 2 * D * KV_HEADS * DIM) + (LIGHTNING + SPARSE) * 3 * D * F
BITS = {"bf16": 16, "w8": 9, "w4": 5}  # ops/weight.h: codes, f16 scale and minimum for 32 columns; the head too
DENSE = 8192                           # shorter sequences attend densely
PAGE_HEAD = 2 * PAGE * DIM * 2         # bf16 keys and values of a page and kv head
STATE = HEADS * DIM * DIM * 4          # of a Lightning layer and sequence
OPEN_CELL = HEADS * DIM * 4 * 2        # keys and values of a token in the open cell


def ceil(a, b):
    return -(-int(a) // int(b))


@dataclasses.dataclass
class Launch:
    name: str
    blocks: int
    time: float
    limit: float
    bound: str
    counts: bool   # in the floor of the whole step
    calls: float = 1


def launch(m, name, blocks, per_sm, chain, memory=0, l2=0, bf16=0, int8=0, shared=0, instructions=0, must=None, flops=0,
           peak=None, counts=False, tail=0, early=0, ipc=None):
    """One launch. chain: a block's dependent latency; shared: clocks of shared memory, of all blocks; instructions: of
    warps, at `ipc` (IPC). must, flops: what no kernel can do without, at `peak` (bf16's); tail: time behind the rest
    that nothing overlaps; early: latency of the first loads that has passed before the kernel's turn; counts: whether a
    step cannot do without the op."""
    uneven = ceil(blocks, m.sms) * m.sms / blocks
    waves = ceil(blocks, m.sms * per_sm)
    terms = {"memory": memory / (m.bandwidth * m.reach),
             "L2": l2 / m.l2,
             "tensor cores": (bf16 / m.bf16 + int8 / m.int8) / m.mma / PIPELINE * uneven,
             "shared memory": shared / (m.sms * m.clock) / PIPELINE * uneven,
             "instructions": instructions / (m.sms * 4 * m.clock * (ipc or IPC)) * uneven,
             "latency": waves * chain - early}
    bound = max(terms, key=terms.get)
    ramp = 0 if bound == "latency" else 1.0e-6 - early  # first loads, last sums
    limit = max((memory if must is None else must) / m.bandwidth, flops / (peak or m.bf16))
    return Launch(name, blocks, m.gap + terms[bound] + ramp + tail, limit, bound, counts)


# ---- matmul --------------------------------------------------------------------------------------------------------

def in_bf16(m, weights):
    """Whether products are of bf16: on the H200 codes are decoded to it."""
    return weights == "bf16" or m.mma < 1


def convert(m, name, tokens, cols, weights, hot):
    """matmul.cu:bf16_row, int8_group: f32 rows to bf16, or to codes and a pair of f32 for 32 columns. hot: rows lie in
    L2."""
    padded = ceil(tokens, 16) * 16
    size = 2 if in_bf16(m, weights) else 1 + 8 / 32
    memory = 0 if hot else tokens * cols * (4 + size)
    if in_bf16(m, weights):  # a block a row, 256 columns a turn
        chain = ceil(cols // 256, UNROLLED) * L2_LATENCY
        return launch(m, name, padded, 8, chain, memory, instructions=padded * cols / 32 * 10)
    chain = 2 * L2_LATENCY + m.clocks(500)  # largest by shuffles, then the same columns from L1, divided
    return launch(m, name, padded * ceil(cols, 256), 8, chain, memory, instructions=padded * cols / 32 * 60)


PREFETCHED = MEMORY_LATENCY - L2_LATENCY  # of the first weights, which come to L2 before a kernel's turn


def matmul_decode(m, name, tokens, rows, cols, parts, weights, fixes):
    """matmul_decode.cu: a block makes 32 outputs of up to 8 rows of activations, 16 warps one segment of K each, one
    block an SM (more than 64 registers). bf16 activations of up to four rows come as f32 and are rounded here.
    Instructions are those of the machine code, of a panel and 32 columns."""
    rounds = rounded(m, tokens, weights)
    units = ceil(rows, PANEL)
    panel = PANEL * cols * BITS[weights] / 8
    size = 2 if in_bf16(m, weights) else 1 + 8 / 32
    activations = tokens * cols * 4 if rounds else 8 * cols * size  # of a block; the second part finds them in L1
    if weights == "bf16":                    # sum_bf16: 64 columns a turn, loads then products, nothing across turns
        turn = MEMORY_LATENCY + m.clocks(300 if rounds else 250)
        chain = parts * ceil(cols // 16, 64) * turn
        each = (71 if rounds else 60) + 10 * (parts - 1)
    else:                                    # sum_codes, sum_decoded: 128 columns a turn
        each = 82 + 7 * (parts - 1)
        if in_bf16(m, weights):
            each = {"w4": 125 if rounds else 115, "w8": 143 if rounds else 132}[weights]
        turn = MEMORY_LATENCY + m.clocks(4 * each * 1.3)
        chain = parts * ceil(cols // 16, 128) * turn
    chain += L2_LATENCY + m.clocks(1000)     # the first address; keep, barrier, finish
    weight_bytes = units * parts * panel
    products, done = 2 * tokens * cols * rows * parts, 2 * 8 * cols * rows * parts
    last = units % m.sms / units             # blocks of the last wave stream alone
    tail = max(0.0, chain - last * weight_bytes / m.bandwidth) if 0 < last and units > m.sms else 0
    return launch(m, name, units, 1, chain, weight_bytes + tokens * rows * 4, weight_bytes + units * activations,
                  must=weight_bytes, flops=products, bf16=done if in_bf16(m, weights) else 0,
                  int8=0 if in_bf16(m, weights) else done, instructions=units * parts * cols / 32 * each,
                  peak=m.bf16 if weights == "bf16" else m.int8, counts=True, tail=tail, early=PREFETCHED)


def matmul_batch(m, name, tokens, rows, cols, parts, weights, fixes):
    """matmul_batch.cu, 9 to 32 rows: a block of eight warps makes all rows of four panels, or of one where there are
    fewer than 384. Instructions are those of the machine code for sm_90, of a panel and 32 columns: loads, products,
    scaling, copies, barriers."""
    panels = ceil(rows, PANEL) * parts
    wide = 4 if parts == 2 or panels >= 384 else 1
    halves = 2 if weights == "bf16" else 1            # warps that share the rows of a panel and slice
    blocks, slices = ceil(panels, wide), 8 // wide // halves
    columns = 64 if weights == "w4" and wide == 4 else 32  # of a chunk
    each = {"bf16": (190, 188), "w8": (279, 255), "w4": (243, 218)}[weights][wide == 4]
    if tokens <= 16:                                     # the second half of the rows is not multiplied
        each = {"bf16": (141, 137), "w8": (193, 169), "w4": (172, 142)}[weights][wide == 4]
    decoded = weights != "bf16" and in_bf16(m, weights)
    if decoded:
        each = {"w8": (270, 258), "w4": (210, 178)}[weights][wide == 4]
        if tokens <= 16:
            each = {"w8": (250, 240), "w4": (195, 165)}[weights][wide == 4]
    panel = PANEL * cols * BITS[weights] / 8
    size = 2 if in_bf16(m, weights) else 1 + 8 / 32
    padded = ceil(tokens, 16) * 16
    rounds = 16 // slices                                # segments of a slice; their exchange
    instructions = panels * cols / 32 * each + blocks * 8 * rounds * (125 if halves == 1 else 90)
    # Clocks of shared memory, 128 bytes each, of a panel and 32 columns: a warp reads the weights (and scales) and its
    # rows of activations (and scales); then what copies write.
    weight_reads, row_reads = {"bf16": (16, 16), "w8": (12, 24), "w4": (8, 24)}[weights]
    stage = slices * (wide * panel / cols + 32 * size) * columns
    shared = panels * cols / 32 * (weight_reads * halves + row_reads) + blocks * cols / columns / slices * stage / 128
    sums = 8 // halves * 32 * 36 * 4
    stages = min(8, int((((227 if decoded else 99) << 10) - sums) // stage))
    most = 2 if weights == "bf16" else 1                 # 94 to 106 registers; 128 to 159
    per_sm = max(1, min(most, int(m.shared // (sums + stages * stage + 1024))))
    # A chunk: barrier, copies, loads and products one behind the other; or the bytes of the stages are not there yet.
    turn = m.clocks(300 if weights == "bf16" else 400 * columns / 32)
    chain = L2_LATENCY + m.clocks(1500) + MEMORY_LATENCY
    chain += cols / columns / slices * max(turn, MEMORY_LATENCY / (stages - 1))
    weight_bytes = panels * panel
    products, done = 2 * tokens * cols * rows * parts, 2 * 32 * cols * rows * parts
    sharing = 4 if "clusters" in fixes and m.mma < 1 and wide == 1 else 1  # blocks that read activations once
    return launch(m, name, blocks, per_sm, chain, weight_bytes + tokens * rows * 4,
                  weight_bytes + blocks * padded * cols * size / sharing, must=weight_bytes, flops=products,
                  bf16=done if in_bf16(m, weights) else 0, int8=0 if in_bf16(m, weights) else done, shared=shared,
                  instructions=instructions, peak=m.bf16 if weights == "bf16" else m.int8, counts=True, early=PREFETCHED)


def matmul_prefill(m, name, tokens, rows, cols, parts, weights, fixes):
    """matmul_prefill.cu: 128 rows and 4 panels a block of 8 warps, one block an SM (255 registers, 98,304 bytes)."""
    row_tiles, out_tiles = ceil(tokens, 128), ceil(ceil(rows, PANEL) * parts, 4)
    blocks = row_tiles * out_tiles
    size = 2 if weights == "bf16" else 1 + 8 / 32
    panel = PANEL * cols * BITS[weights] / 8
    weight_bytes = ceil(rows, PANEL) * parts * panel
    bands = ceil(row_tiles, 16)              # Place: kBand tiles of rows walk the outputs together
    band_rows = min(tokens, 16 * 128) * cols * size
    again = 1 if band_rows < 0.6 * m.l2_size else max(1, blocks / bands / m.sms)
    memory = weight_bytes * bands + tokens * cols * size * again + tokens * rows * 4
    traffic = blocks * (128 * cols * size + 4 * panel)
    products = 2 * tokens * cols * rows * parts
    steps = blocks * cols / 32               # of 32 columns of a block
    if weights == "bf16":
        # multiply_bf16: 12 loads of 512 bytes a warp for 32 mma: 384 clocks of shared memory for 8 warps, and 128 to
        # write a stage.
        return launch(m, name, blocks, 1, 0, memory, traffic, bf16=products, shared=steps * 512, must=weight_bytes,
                      flops=products, counts=True)
    # multiply_codes, a group of 32 columns a warp: 16 mma, add_group 16 x 16 (convert, multiply, two FMAs, four times),
    # 80 to load codes, scales and activations and to split nibbles; two warps a scheduler.
    each = 352 if weights == "w4" else 340
    return launch(m, name, blocks, 1, 0, memory, traffic, int8=products, instructions=steps * 8 * each,
                  must=weight_bytes, flops=products, peak=m.int8, counts=True)


def matmul_warpgroup(m, name, tokens, rows, cols, parts, weights, fixes):
    """matmul_warpgroup.cu: 192 rows and 4 panels a block of 12 warps, one block an SM (168 registers, 204,880 bytes)."""
    row_tiles, out_tiles = ceil(tokens, 192), ceil(ceil(rows, PANEL) * parts, 4)
    blocks = row_tiles * out_tiles
    panel = PANEL * cols * BITS[weights] / 8
    weight_bytes = ceil(rows, PANEL) * parts * panel
    bands = ceil(row_tiles, 16)
    again = 1 if min(tokens, 16 * 192) * cols * 2 < 0.6 * m.l2_size else max(1, blocks / bands / m.sms)
    memory = weight_bytes * bands + tokens * cols * 2 * again + tokens * rows * 4
    traffic = blocks * (192 * cols * (1 if "pairs" in fixes else 2) + 4 * panel)
    products = 2 * tokens * cols * rows * parts
    # Of 32 columns: each of two warpgroups reads 192 rows and two panels, and a stage is written, 128 bytes a clock.
    shared = blocks * cols / 32 * (3 * 192 * 64 + 2 * 4 * PANEL * 4 * BITS[weights]) / 128
    # A product of 192 rows in a block of 128 where few tiles leave SMs idle costs what a full one does (`uneven`).
    full = products * row_tiles * 192 / tokens
    each = {"bf16": 90, "w8": 150, "w4": 140}[weights]  # of a warp and 32 columns, with its share of what copies take
    instructions = blocks * cols / 32 * 8 * each
    return launch(m, name, blocks, 1, 0, memory, traffic, bf16=full * m.mma, shared=shared, instructions=instructions,
                  must=weight_bytes, flops=products, peak=m.bf16 if weights == "bf16" else m.int8, counts=True)


def rounded(m, tokens, weights):
    """matmul.cu: Product::rounds."""
    return in_bf16(m, weights) and tokens <= 4


def matmul(m, name, tokens, rows, cols, parts, weights, fixes):
    """matmul.cu:matmul: convert but where activations are rounded on their way, then a kernel for at most 8 rows, at
    most 32, or more; on the H200 another for more than 128 of bf16 or 32 of codes."""
    product = matmul_decode if tokens <= 8 else matmul_batch if tokens <= 32 else matmul_prefill
    if m.mma < 1 and tokens > (128 if weights == "bf16" else 32):
        product = matmul_warpgroup
    one = product(m, name, tokens, rows, cols, parts, weights, fixes)
    if "fuse" in fixes or rounded(m, tokens, weights):
        return [one]
    return [convert(m, "convert", tokens, cols, weights, tokens <= 32), one]


# ---- what goes a row, a head or a token at a time ------------------------------------------------------------------

def residual_norm(m, tokens, hot, fixes):
    """norm.cu:residual_norm_row: h and the branch in, h and x out, 4 bytes each; a block of 512 threads a row."""
    memory = 0 if hot else tokens * D * (14 if "fuse" in fixes else 16)
    chain = L2_LATENCY + m.clocks(300) + MEMORY_LATENCY  # rows, their sum, the weight
    return launch(m, "residual_norm", tokens, 4, chain, memory, instructions=tokens * D / 128 * 25)


def qk_norm_rope(m, tokens):
    """rope.cu:norm_rope_head, once for q and once for k: a warp a head, in place. Few tokens a sequence need none:
    it is part of mix_few."""
    chain = 2 * L2_LATENCY + m.clocks(500)
    one = launch(m, "qk_norm_rope", ceil(tokens * HEADS, 4), 12, chain, tokens * (D * 8 + DIM * 4),
                 instructions=tokens * HEADS * 60)
    return [one, one]


def embed(m, tokens):
    """embed.cu:embed_row: a row lies strewn over its panel, a sector of 32 bytes for each pair of columns."""
    return launch(m, "embed", tokens, 8, L2_LATENCY + 2 * MEMORY_LATENCY, tokens * (D // 2 * 32 + D * 4))


def rope_table(m, tokens):
    """rope.cu:rope_entry: sines in double, once a step; on sm_120 a double takes 64 times a float."""
    doubles = tokens * DIM / 2 / 32 * 120 * (2 if m.mma < 1 else 64)
    return launch(m, "rope_table", ceil(tokens * DIM / 2, 128), 12, L2_LATENCY + m.clocks(2500), instructions=doubles)


# ---- Lightning -----------------------------------------------------------------------------------------------------

def lightning(m, tokens, sequences, fixes):
    """lightning.cu:lightning: of up to four tokens a sequence mix_few, else norm and RoPE and the two kernels of runs;
    then finish_token."""
    few = tokens <= 4 * sequences
    mix = [mix_few(m, sequences, fixes)] if few else [*qk_norm_rope(m, tokens), *mix_runs(m, tokens, sequences, fixes)]
    return [*mix, finish_token(m, tokens, few, fixes)]


def mix_few(m, sequences, fixes):
    """lightning_few.cu: a block a sequence, head and slice of 32 columns; one token, half a cell before it. State, keys
    and values are copied at once, q and the new key normed and turned; four blocks an SM, two with 100 KB. Instructions
    of a block, by the machine code: a warp 190 to find its place, 56 to copy state, 184 keys, 180 else; 1600 of one
    warp or a few."""
    blocks = HEADS * DIM // 32 * sequences
    per_sm = 4 if m.shared > 200 << 10 else 2
    old = CELL / 2
    must = sequences * (STATE * (1 + 1 / CELL) + OPEN_CELL * (old + 1))
    l2 = sequences * (STATE + OPEN_CELL / 2 * old * 5)         # keys once a slice
    chain = 2 * L2_LATENCY + MEMORY_LATENCY + L2_LATENCY  # starts, then position and slot; all rows; cos and weights
    chain += m.clocks(800 + 400 + 300 + 1200 + 250)       # place; copies; norm and turn; state; values
    warp = 190 + 56 + (40 if "keys" in fixes else 184) + 180   # keys copied as they lie, 16 bytes a thread
    return launch(m, "mix_few", blocks, per_sm, chain, must, l2, instructions=blocks * (8 * warp + 1600), counts=True)


def mix_runs(m, tokens, sequences, fixes):
    """lightning_cells.cu: for every 32 cells fold_cells, a block a sequence, head and slice of 32 columns, and
    mix_cells, a block a cell and head. By the machine code a warp of fold_cells has 33 instructions a token (66 for
    two, 32 of them FMAs) and 310 a cell; one of mix_cells 768 for scores, 2432 for the state, 410 for values, 700
    else."""
    memory = tokens * D * 4 * 4
    flops = tokens * HEADS * (2 * 64 * DIM * 2 + 4 * DIM * DIM)
    if "scan" in fixes:            # tensor cores, copies under way, 4 segments of the chunk: half of memory's rate
        return [launch(m, "lightning, scan", 4 * HEADS * 4 * sequences, 1, 0, memory / 0.5, 2.5 * memory, must=memory,
                       flops=flops, counts=True)]
    cells = tokens // CELL + 2 * sequences
    calls = ceil(cells, 32)
    each = tokens / CELL / calls   # cells of a call
    states = each * STATE          # put down, then read by mix_cells; 64 MB of 32 cells pass through L2 or nearly so
    rows = memory / 4 / calls      # of q, keys, values or outputs
    beyond = max(0.0, 1 - m.l2_size / states)
    start = 2 * L2_LATENCY + 2 * MEMORY_LATENCY
    turn = m.clocks(2 * (32 * 33 + 310) / FMA_IPC)             # two warps a scheduler
    fold = launch(m, "fold_cells", HEADS * DIM // 32 * sequences, 3, start + each / sequences * turn,
                  2 * rows + beyond * states, states + 5 * rows, must=0)
    mix = launch(m, "mix_cells", int(each) * HEADS, 2, start + m.clocks(4310), 2 * rows + beyond * states,
                 states + 4 * rows, instructions=each * HEADS * 8 * 4310, ipc=FMA_IPC, must=memory / calls,
                 flops=flops / calls, counts=True)
    return [dataclasses.replace(one, calls=calls) for one in (fold, mix)]


def finish_token(m, tokens, few, fixes):
    """lightning.cu:finish_token, a block a token: its keys and values to the open cell, eight of each a thread at once,
    where the cell stays open; norm and gate. By the machine code a warp has 280 instructions for eight, twice, and 100
    for its first head and channel; 800 for norm and gate; two warps a scheduler."""
    remember = (2 * 160 if "divisions" in fixes else 100 + 2 * 280) if few else 0
    chain = 5 * L2_LATENCY + m.clocks(2 * (remember + 800) / IPC)  # places; twice keys, values; rows and factors
    return launch(m, "finish_token", tokens, 8, chain, 0 if few else tokens * D * 12,
                  instructions=tokens * 8 * (remember + 800))


# ---- attention -----------------------------------------------------------------------------------------------------

def page_clocks(m, warps, per_sm, codes):
    """attention_tiles.cu:attend_tile: clocks of an SM for a page of one block, and of a block alone from page to page.
    A warp has 128 mma and 256 loads of B fragments, a clock of shared memory each; by the machine code 1130
    instructions where it is alone in its block, else 1100. Pages of int8: always four warps, `warps` of which have
    rows, and each has 490 instructions more to decode, for which shared memory takes 128 clocks of codes written, 192
    read (two rows of keys lie in the same banks) and 256 of pairs written. Of bf16: 256 for what copies write."""
    tensor = 128 * m.mma_clocks()
    decode = 490 if codes else 0
    each = 1130 if warps == 1 and not codes else 1100
    wait = 0.3e-6 * m.clock                  # what of the copies' latency is not hidden
    alone = tensor + (each - 128 + decode) / ALONE_IPC + wait
    reads = 256 * warps + (128 + 192 + 256 if codes else 256)
    busy = max(max(tensor * warps / 4, reads) / TILE, (each * warps / 4 + decode) / IPC)
    return max(alone / per_sm, busy), alone


def segments_touched(blocks):
    """Segments of 16 blocks in a list of 96: three local ones, the first, and those that 62 chosen blocks fall into."""
    if blocks <= TOP:
        return ceil(blocks, SEGMENT)
    far = max(1.0, blocks / SEGMENT - 3)
    return 4 + far * (1 - (1 - 1 / far) ** 62)


def attention(m, tokens, sequences, length, fixes):
    """attention.cu:attention: split among one-warp blocks where there are fewer than 512 queries and kv heads, else
    tiles of four tokens by four warps over the union of their blocks."""
    blocks = length / PAGE
    dense = length < DENSE
    pages = blocks if dense else min(blocks, TOP)
    products = 4 * DIM * HEADS * pages * PAGE * tokens
    codes = "int8 pages" in fixes
    page_head = 2 * PAGE * DIM + 4 * PAGE if codes else PAGE_HEAD
    if tokens * KV_HEADS < 512:  # parts_of
        items = tokens * KV_HEADS
        parts = segments_touched(blocks) if not dense else ceil(blocks, SEGMENT)
        longest = min(pages, SEGMENT)
        per_sm = min(2, m.shared // (43264 + 1024)) if codes else m.shared // (44032 + 1024)
        shared_page, alone = page_clocks(m, 1, per_sm, codes)
        if "split" in fixes:     # four warps a page of a part, 16 of its tokens each
            alone = alone / 4 + 0.3e-6 * m.clock
        chain = 5 * L2_LATENCY + 2 * MEMORY_LATENCY + longest * m.clocks(alone) + m.clocks(1000)
        read = items * pages * page_head
        written = tokens * HEADS * parts * (DIM + 2) * 4
        full = ceil(items * parts, m.sms * per_sm) > 1
        # The longest parts, the local ones, have the last block indices: they run behind the rest.
        rest = read * (1 - min(1, 48 / pages)) / m.bandwidth if full else 0
        waves_chain = max(chain + rest, items * pages * m.clocks(shared_page) / m.sms)
        attend = launch(m, "attend_tile", int(items * parts), per_sm, 0, read, bf16=products, must=read, counts=True)
        if waves_chain + m.gap > attend.time:
            attend = dataclasses.replace(attend, time=m.gap + waves_chain, bound="latency")
        # merge_parts: a block a head; count_parts reads the list, then part by part
        step = L2_LATENCY / UNROLLED + m.clocks(60)
        merge = launch(m, "merge_parts", tokens * HEADS, 16, 7 * L2_LATENCY + parts * step, 0, written)
        return [attend, merge]
    tiles = ceil(tokens, 4) * KV_HEADS
    union = pages if pages < TOP or dense else LOCAL + (TOP - LOCAL) * UNION
    per_sm = min(2, m.shared // (68608 + 1024))
    clocks, _ = page_clocks(m, 4, per_sm, codes)
    l2 = tiles * union * page_head
    memory = l2 / 4 + tokens * D * 4 * 3
    must = tokens * D * 4 * 3
    attend = launch(m, "attend_tile", tiles, per_sm, 0, memory, l2, must=must, flops=products, counts=True)
    busy = ceil(tiles, m.sms) * union * m.clocks(clocks)
    if "queries" in fixes:       # eight tokens a block, B fragments for 32 rows a warp: 1850 instructions for 2200
        busy = max(busy * 1850 / 2200, products / (m.bf16 * m.mma) / 0.6)
    if busy > attend.time:
        attend = dataclasses.replace(attend, time=m.gap + busy, bound="instructions")
    return [attend]


def block_select(m, tokens, sequences, length, fixes):
    """select.cu:block_select: scores, the merge of normalisers, the choice; tokens in parts of 64 MiB of ranks."""
    names = ("normalise_tile", "merge_tiles", "rank_tile", "choose_blocks")
    width = ceil(length, PAGE)
    if length < DENSE or width <= TOP:
        return [launch(m, name, tokens * KV_HEADS, 16, 3 * L2_LATENCY) for name in names]
    most = min(tokens, max(1, (64 << 20) // (4 * KV_HEADS * width)))
    items = most * KV_HEADS
    score = score_single if tokens < 4 * sequences else score_four
    normalise, rank = score(m, items, length, tokens <= 32, fixes)
    parts = [normalise, merge_tiles(m, items, coarse_windows(length)), rank, choose_blocks(m, items, width, fixes)]
    return [dataclasses.replace(one, calls=tokens / most) for one in parts]


def coarse_windows(length):
    return (length - 128) // 64 + 1


def fine_windows(length):
    return (length - 32) // 16 + 1


def scores(m, name, items, windows, blocks, per_sm, chain, hot, readers, instructions, shared=0):
    """A launch that scores windows for items, `readers` of which share what a block reads. What must be read: each
    window once a sequence by a step of replies (`hot`), and by one of a prompt nothing."""
    key, products = DIM * 2, 2 * 16 * DIM * items * windows
    must = items * windows * key if hot else 0
    return launch(m, name, blocks, per_sm, chain, must, items * windows * key / readers, bf16=products, must=must,
                  flops=products, counts=True, instructions=instructions, shared=shared)


def score_single(m, items, length, hot, _):
    """select_tiles.cu, one query a block: a chunk of 32 windows a warp. By the machine code 443 and 422 instructions a
    chunk with its copies, 350 to begin."""
    chain = 3 * L2_LATENCY + MEMORY_LATENCY + m.clocks(2000)  # position; q and page, key; scores
    per_sm = min(4, m.shared // (41472 + 1024))
    coarse, fine = coarse_windows(length), fine_windows(length)
    made = []
    for name, windows, tiles, each in (("normalise_tile", coarse, ceil(coarse, 128), 443),
                                       ("rank_tile", fine, ceil(ceil(length, PAGE), 31), 422)):
        made.append(scores(m, name, items, windows, items * tiles, per_sm, chain, hot, 1,
                           items * tiles * 4 * (350 + each)))
    return made


def score_four(m, items, length, hot, fixes):
    """select_tiles.cu, four queries a block, a warp each: chunks of 32 windows for all of them, 16 a block, three in
    flight. By the machine code 366 and 315 instructions a chunk and query with its copies, of which 64 bring scores to
    exp2f and its results back; 500 to begin. Shared memory: 64 clocks of reads a chunk and query, 16 of writes."""
    spared = 64 if "exponentials" in fixes else 0
    per_sm = min(4, m.shared // (32768 + 1024))
    coarse, fine = coarse_windows(length), fine_windows(length)
    made = []
    for name, windows, tiles, each in (("normalise_tile", coarse, ceil(coarse, 512), 366),
                                       ("rank_tile", fine, ceil(ceil(length, PAGE), 127), 315)):
        chain = 3 * L2_LATENCY + MEMORY_LATENCY + min(16, ceil(windows, 32)) * m.clocks(800)
        made.append(scores(m, name, items, windows, items // 4 * tiles, per_sm, chain, hot, 4,
                           items * (tiles * 500 + windows / 32 * (each - spared)), items * windows / 32 * 80))
    return made


def merge_tiles(m, items, coarse):
    """select.cu:merge_tiles: a warp a head, 32 tiles at a time, of which the sum goes from one to the next."""
    tiles = ceil(coarse, 128)
    rounds = ceil(tiles, 32)
    chain = 2 * L2_LATENCY + rounds * (L2_LATENCY + m.clocks(250 + 12 * min(tiles, 32)))
    return launch(m, "merge_tiles", items * 4, 16, chain, 0, items * 16 * 8 * tiles,
                  instructions=items * 16 * (100 + rounds * 140 + tiles * 2))


def choose_blocks(m, items, width, fixes):
    """select.cu:choose_blocks: four digits, then two looks at the ranks; 1024 threads where a step has at most 64
    queries and kv heads, else 128. A thread has four ranks in flight, from L2 and then, where they fit, from L1. By the
    machine code a look at four ranks a thread takes 109 or 78 instructions a digit, 68 and 144 at the end; 550 or 350 a
    warp else. A digit has five barriers and a search by one warp, 900 clocks."""
    threads = 1024 if items <= 64 else 128
    looks = ceil(width, 4 * threads)
    fits = width <= 16384 if threads == 1024 else width <= 2048
    again = m.clocks(100) if fits else L2_LATENCY
    chain = 2 * L2_LATENCY + m.clocks(4 * 900 + 500) + looks * (L2_LATENCY + 5 * again)
    digit = 109 if threads == 1024 else 78
    if "choose" in fixes:        # ranks stay in registers
        digit /= 2
    each = (550 if threads == 1024 else 350) + looks * (4 * digit + (106 if "choose" in fixes else 212))
    return launch(m, "choose_blocks", items, 2048 // threads, chain, 0, items * width * 4 * (2 if fits else 6),
                  shared=items * width * 0.5, instructions=items * threads / 32 * each, must=items * TOP * 4)


def kv(m, tokens, hot):
    """kv.cu:append_run, then compress_window for both levels: only a token that ends a window has work."""
    items = tokens * KV_HEADS
    append = launch(m, "kv_append", 2 * (items if tokens < 16 else ceil(tokens, 32) * KV_HEADS), 8,
                    3 * L2_LATENCY + MEMORY_LATENCY, 0 if hot else items * DIM * 12)
    rows = [append]
    for name, size, stride in (("compress_keys fine", 32, 16), ("compress_keys coarse", 128, 64)):
        window = size / UNROLLED * (MEMORY_LATENCY if hot else L2_LATENCY)
        share = min(1.0, items / stride) if not hot else 1 / stride   # that some block has a window; a mean over steps
        idle = ceil(items, m.sms * 16) * 2 * L2_LATENCY
        memory = 0 if hot else items / stride * size * DIM * 2
        rows.append(launch(m, name, items, 1 << 20, idle + share * window, memory))
    return rows


# ---- what comes once a step ------------------------------------------------------------------------------------------

def copied(m, name, size):
    """A copy between host and device, behind and before everything else of the stream."""
    return Launch(name, 0, COPY + size / HOST_LINK, 0, "latency", False)


def upload(m, tokens, sequences, length):
    """model.cc:upload: page tables, rounded up to eighths of a doubling, and five numbers a token or sequence."""
    pages = ceil(length, PAGE)
    unit = max(1, 2 ** math.ceil(math.log2(pages)) // 8)
    return copied(m, "upload", sequences * ceil(pages, unit) * unit * 4 + 20 * tokens)


def sample(m, rows):
    """Runner::launch: how tokens are drawn goes over, sample.cu draws with top_p, tokens come back. find_first and
    weigh_chunk: a block for 2048 tokens, eight a thread; by the machine code 180 instructions for a token's weight, 42
    of which are of doubles (64 times a float's on sm_120). choose_token: a block of 16 warps a row; of two searches
    each looks at all logits, 350 instructions for 16, then halves its bin's list bit by bit, 30 times."""
    blocks, warps = ceil(V, 2048) * rows, rows * V / 32
    first = launch(m, "find_first", blocks, 8, 2 * L2_LATENCY + m.clocks(600), 0, rows * V * 4, instructions=warps * 20)
    weigh = launch(m, "weigh_chunk", blocks, 8, 4 * L2_LATENCY + m.clocks(8 * 500), 0, rows * V * 4,
                   instructions=warps * (140 + 42 * (2 if m.mma < 1 else 64)))
    look = ceil(V, 16 * 512) * (L2_LATENCY + m.clocks(350 * 4 / IPC))
    choose = launch(m, "choose_token", rows, 1, 5 * L2_LATENCY + 2 * (look + m.clocks(30 * 150)), 0, 2 * rows * V * 4)
    return [copied(m, "draws", rows * 40), first, weigh, choose, copied(m, "tokens told", rows * 4)]


# ---- steps ---------------------------------------------------------------------------------------------------------

def step(m, tokens, sequences, length, weights, fixes=(), logits=None):
    """All launches of runner.cc:launch and model.cc:forward as [(launch, times)]; the host's work runs while the step
    before does. length: tokens of a sequence up to its last query, or up to the mean query of a chunk. logits: rows of
    the head, `tokens` by default."""
    hot = tokens <= 32
    layers = LIGHTNING + SPARSE
    logits = tokens if logits is None else logits
    rows = [(upload(m, tokens, sequences, length), 1), (rope_table(m, tokens), 1), (embed(m, tokens), 1)]

    def add(times, launches):
        rows.extend((one, times) for one in launches)

    add(2 * layers, [residual_norm(m, tokens, hot, fixes)])
    add(LIGHTNING, matmul(m, "q, k, v, gate (lightning)", tokens, 4 * D, D, 1, weights, fixes))
    add(LIGHTNING, lightning(m, tokens, sequences, fixes))
    add(SPARSE, matmul(m, "q, k, v, gate (sparse)", tokens, 2 * D + 2 * KV_HEADS * DIM, D, 1, weights, fixes))
    add(SPARSE, kv(m, tokens, hot))
    add(SPARSE, block_select(m, tokens, sequences, length, fixes))
    add(SPARSE, attention(m, tokens, sequences, length, fixes))
    add(layers, matmul(m, "output", tokens, D, D, 1, weights, fixes))
    add(layers, matmul(m, "gate_up, SwiGLU", tokens, F, D, 2, weights, fixes))
    add(layers, matmul(m, "down", tokens, D, F, 1, weights, fixes))
    if logits:
        rows.append((residual_norm(m, tokens, hot, fixes), 1))
        add(1, matmul(m, "head", logits, V, D, 1, weights, fixes))
        add(1, sample(m, logits))
    return rows


def seconds(rows):
    return sum(one.time * one.calls * times for one, times in rows)


def launches(rows):
    return sum(max(1, one.calls) * times for one, times in rows)


def decode(m, batch, length, weights, fixes=()):
    return seconds(step(m, batch, batch, length, weights, fixes))


def decode_floor(m, batch, length, weights):
    """Bytes that must move once, or products at the peak."""
    moved = (BODY + D * V) * BITS[weights] / 8
    moved += batch * LIGHTNING * (STATE * (1 + 1 / CELL) + OPEN_CELL * (CELL / 2 + 1))
    moved += batch * SPARSE * KV_HEADS * min(length, DENSE if length < DENSE else TOP * PAGE) / PAGE * PAGE_HEAD
    if length >= DENSE:
        moved += batch * SPARSE * KV_HEADS * (length / 16 + length / 64) * DIM * 2
    return max(moved / m.bandwidth, 2 * batch * (BODY + D * V) / (m.bf16 if weights == "bf16" else m.int8))


def chunks(prompt):
    """(tokens, length at the mean query) of each step."""
    return [(min(CHUNK, prompt - begin), begin + min(CHUNK, prompt - begin) // 2) for begin in range(0, prompt, CHUNK)]


def prompt_step(m, tokens, length, prompt, weights, fixes=(), last=False):
    """A step of a prompt: a long one is sparse from its first token, but chooses only among more than TOP blocks."""
    if prompt >= DENSE and length >= TOP * PAGE:
        length = max(length, DENSE)
    return step(m, tokens, 1, length, weights, fixes, int(last))


def first_token(m, prompt, weights, fixes=()):
    steps = chunks(prompt)
    return sum(seconds(prompt_step(m, t, n, prompt, weights, fixes, i + 1 == len(steps)))
               for i, (t, n) in enumerate(steps))


def first_token_floor(m, prompt, weights):
    """Products of the body, Lightning in cells of 64, attention to 6144 keys, scores of fine and coarse windows."""
    visible = prompt / 2 if prompt < DENSE else 6144 - 6144 * 6144 / 2 / prompt
    attention_flops = SPARSE * 4 * HEADS * DIM * visible
    select_flops = SPARSE * 2 * HEADS * DIM * prompt / 2 * (1 / 16 + 1 / 64) if prompt >= DENSE else 0
    rest = LIGHTNING * HEADS * (2 * 64 * DIM * 2 + 4 * DIM * DIM) + attention_flops + select_flops
    return prompt * (2 * BODY / (m.bf16 if weights == "bf16" else m.int8) + rest / m.bf16)


# ---- tables --------------------------------------------------------------------------------------------------------

LENGTHS = {"4K": 4096, "128K": 131072, "1M": 1048576}


def fits(m, batch, length, weights):
    embedding = D * V * 2 if weights == "bf16" else D * V * BITS[weights] / 8
    return (BODY + D * V) * BITS[weights] / 8 + embedding + batch * (length * 8512 + LIGHTNING * STATE) + 1e9 < m.memory


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def cell(predicted, floor, unit):
    return f"{predicted * unit:.2f} / {floor * unit:.2f} ({100 * floor / predicted:.0f} %)"


def decode_table():
    rows = []
    for m in MACHINES:
        for weights in BITS:
            for batch in (1, 32):
                row = [m.name, weights, str(batch)]
                for n in LENGTHS.values():
                    row.append(cell(decode(m, batch, n, weights), decode_floor(m, batch, n, weights), 1e3)
                               if fits(m, batch, n, weights) else "does not fit")
                rows.append(row)
    print("Decode, ms a step: predicted / floor (share)\n")
    table(["machine", "weights", "batch", *LENGTHS], rows)


def prompt_table():
    rows = []
    for m in MACHINES:
        for weights in BITS:
            row = [m.name, weights]
            row += [cell(first_token(m, n, weights), first_token_floor(m, n, weights), 1) for n in LENGTHS.values()]
            rows.append(row)
    print(f"A prompt's first token, s: predicted / floor (share); steps of {CHUNK} tokens\n")
    table(["machine", "weights", *LENGTHS], rows)


def merged(rows):
    """Launches by name, in order: name -> [launches, blocks, seconds, limit, bound, counts, longest]."""
    names = {}
    for one, times in rows:
        n = one.calls * times
        entry = names.setdefault(one.name, [0, one.blocks, 0.0, 0.0, one.bound, one.counts, 0.0])
        entry[0] += max(1, one.calls) * times
        entry[2] += one.time * n
        entry[3] += one.limit * n
        if one.time * n > entry[6]:
            entry[1], entry[4], entry[6] = one.blocks, one.bound, one.time * n
    return names


def kernel_table(title, rows):
    total = seconds(rows)
    lines = []
    for name, (calls, blocks, time, limit, bound, _, _) in sorted(merged(rows).items(), key=lambda item: -item[1][2]):
        share = f"{100 * limit / time:.0f} %" if limit > 0 else "-"
        lines.append([name, f"{calls:.0f}", f"{blocks:,}", f"{time / calls * 1e6:.1f}", f"{time * 1e3:.3f}",
                      f"{100 * time / total:.1f} %", share, bound])
    lines.append(["all", f"{launches(rows):.0f}", "", "", f"{total * 1e3:.2f}", "100 %", "", ""])
    print(title + "\n")
    table(["kernel", "launches", "blocks", "us each", "ms", "of the step", "share of its limit", "bound by"], lines)


def both_table(m, length):
    """Batch 1 and 32, bf16 and w4, side by side."""
    cases = [(weights, batch) for weights in ("bf16", "w4") for batch in (1, 32)]
    steps = [step(m, batch, batch, length, weights) for weights, batch in cases]
    found = [merged(rows) for rows in steps]
    names = {name: sum(one[name][2] for one in found if name in one) for one in found for name in one}
    lines = []
    for name in sorted(names, key=lambda name: -names[name]):
        few, many = found[0].get(name), found[1][name]  # convert is of batches alone
        line = [name, f"{many[0]:.0f}", f"{few[1]:,}, {many[1]:,}" if few and many[1] else f"{many[1]:,}" if many[1] else "copy"]
        for one in found:
            if name not in one:
                line.append("")
                continue
            _, _, time, limit, bound, _, _ = one[name]
            share = f", {100 * limit / time:.0f} %" if limit > 0 else ""
            line.append(f"{time * 1e3:.3f}{share}, {bound}")
        lines.append(line)
    lines.append(["all", f"{launches(steps[0]):.0f}, with convert {launches(steps[1]):.0f}", ""])
    for weights, batch in cases:
        time, floor = decode(m, batch, length, weights), decode_floor(m, batch, length, weights)
        lines[-1].append(f"{time * 1e3:.2f}, {100 * floor / time:.0f} %")
    print(f"A decode step at {length:,} tokens on the {m.name}: ms, share of its limit, what bounds it\n")
    table(["kernel", "launches", "blocks (batch 1, 32)", *(f"{w}, batch {b}" for w, b in cases)], lines)


FIXES = [
    ("matmul_warpgroup: pairs of blocks multicast activations (H200)", ("pairs",)),
    ("matmul_batch: clusters of four multicast activations (H200, matrices of fewer than 384 panels)", ("clusters",)),
    ("selection in prompts: exp2 without its test for tiny results, scores scaled with q", ("exponentials",)),
    ("mix_few: keys copied as they lie, 16 bytes a thread", ("keys",)),
    ("finish_token: heads of a size known when it is compiled, no divisions", ("divisions",)),
    ("choose_blocks: ranks stay in registers", ("choose",)),
    ("lightning prompts: tensor cores, four segments of a chunk", ("scan",)),
    ("attend_tile, few queries: four warps a page", ("split",)),
    ("attend_tile, prompts: 32 rows a warp", ("queries",)),
    ("no convert: norms, SwiGLU and gates write bf16 or codes", ("fuse",)),
]


def fix_table():
    every = tuple({name for _, names in FIXES for name in names})
    steps = [("H200", "bf16", 1, "128K"), ("H200", "bf16", 1, "1M"), ("H200", "w4", 1, "128K"),
             ("H200", "bf16", 32, "128K"), ("H200", "w4", 32, "128K"), ("RTX 5090", "bf16", 32, "4K")]
    prompts = [("H200", "bf16", "128K"), ("H200", "bf16", "1M"), ("H200", "w4", "128K"), ("RTX 5090", "bf16", "128K")]
    machines = {m.name: m for m in MACHINES}

    def times(fixes):
        return ([1e3 * decode(machines[m], batch, LENGTHS[n], weights, fixes) for m, weights, batch, n in steps] +
                [first_token(machines[m], LENGTHS[n], weights, fixes) for m, weights, n in prompts])

    def shown(values):
        return [f"{v:.2f}" if abs(v) >= 0.005 else "" for v in values]

    now = times(())
    rows = [[text, *shown(a - b for a, b in zip(now, times(fixes)))] for text, fixes in FIXES]
    rows.append(["all of them", *shown(a - b for a, b in zip(now, times(every)))])
    rows.append(["as it is", *shown(now)])
    print("What a change brings alone: ms of a decode step, s of a prompt\n")
    table(["change", *(f"{m}, {weights}, batch {batch}, {n}" for m, weights, batch, n in steps),
           *(f"{m}, {weights}, {n} prompt" for m, weights, n in prompts)], rows)


def doubt_table():
    """The H200 with one assumption changed."""
    m = MACHINES[0]
    rows = []

    def add(text):
        values = [1e3 * decode(m, batch, 131072, weights) for weights in ("bf16", "w4") for batch in (1, 32)]
        values += [first_token(m, 131072, weights) for weights in ("bf16", "w4")] + [first_token(m, 1048576, "bf16")]
        rows.append([text, *(f"{value:.2f}" for value in values)])

    def vary(holder, name, values):
        before = getattr(holder, name)
        for value in values:
            setattr(holder, name, value)
            add(f"{name} {value:g}")
        setattr(holder, name, before)

    add("as assumed")
    vary(m, "gap", (0.5e-6, 2e-6))
    for name, values in (("COPY", (2e-6, 10e-6)), ("L2_LATENCY", (0.2e-6, 0.4e-6)),
                         ("MEMORY_LATENCY", (0.5e-6, 0.9e-6)), ("UNROLLED", (1, 8)), ("IPC", (0.45, 0.8)),
                         ("FMA_IPC", (0.6, 0.95)), ("PIPELINE", (0.7, 0.95)), ("UNION", (1, 3)),
                         ("CHUNK", (512, 2048))):
        vary(sys.modules[__name__], name, values)
    vary(m, "l2", (5e12, 8e12))
    print("The H200 at 128K with one assumption changed: ms of a decode step, s of a prompt\n")
    table(["assumption", "bf16, batch 1", "bf16, batch 32", "w4, batch 1", "w4, batch 32", "bf16, prompt", "w4, prompt",
           "bf16, 1M prompt"], rows)


def check():
    """What the launches of a step must move is what the step must move."""
    for m in MACHINES:
        for weights in BITS:
            for batch in (1, 32):
                rows = step(m, batch, batch, 131072, weights)
                limit = sum(one.limit * one.calls * times for one, times in rows if one.counts)
                assert abs(limit / decode_floor(m, batch, 131072, weights) - 1) < 0.01, (m.name, weights, batch, limit)


def matmul_table():
    """Three matrices at 32 rows, gaps included."""
    matrices = [("output", D, D, 1), ("gate_up, SwiGLU", F, D, 2), ("down", D, F, 1)]
    lines = []
    for name, rows, cols, parts in matrices:
        for weights in BITS:
            made = [matmul_batch(m, name, 32, rows, cols, parts, weights, ()) for m in MACHINES]
            lines.append([name, weights, *(f"{x.time * 1e6:.1f}, {100 * x.limit / x.time:.0f} %, {x.bound}"
                                           for x in made)])
    print("A matmul of 32 rows, us, share of its limit, what bounds it\n")
    table(["matrix", "weights", *(m.name for m in MACHINES)], lines)


def pages_table():
    kinds = [(weights, pages, ("int8 pages",) if pages == "int8" else ())
             for weights in ("bf16", "w4") for pages in ("bf16", "int8")]
    lines = []
    for m in MACHINES[:2]:
        for name in ("128K", "1M"):
            lines.append([f"{m.name}, {name}", *(f"{1e3 * decode(m, 1, LENGTHS[name], weights, fixes):.2f}, "
                                                 f"{first_token(m, LENGTHS[name], weights, fixes):.2f}"
                                                 for weights, _, fixes in kinds)])
    print("Pages of keys and values: ms a step at batch 1, s a prompt\n")
    table(["", *(f"{weights}, pages of {pages}" for weights, pages, _ in kinds)], lines)


def main():
    check()
    m = MACHINES[0]
    print(f"Body {BODY / 1e9:.3f} G parameters; bytes of weights a step: " +
          ", ".join(f"{w} {(BODY + D * V) * b / 8e9:.2f} GB" for w, b in BITS.items()) + "\n")
    decode_table()
    prompt_table()
    both_table(m, 131072)
    for weights in ("bf16", "w4"):
        kernel_table(f"A step of {CHUNK} tokens of a prompt at 131,072 tokens on the H200, {weights}",
                     step(m, CHUNK, 1, 131072, weights, logits=0))
    kernel_table(f"A step of {CHUNK} tokens of a prompt at 1,048,576 tokens on the H200, bf16",
                 step(m, CHUNK, 1, 1048576, "bf16", logits=0))
    matmul_table()
    fix_table()
    doubt_table()
    pages_table()


if __name__ == "__main__":
    main()
