#!/usr/bin/env python3
"""What the kernels of src/cuda should reach on MiniCPM-SALA 9B, counted from their code: scripts/cuda_predict.py prints
markdown tables of whole steps, of prompts, of each kernel, and of what a change would bring. Nothing here is measured.

A launch takes GAP + max(bytes of memory, bytes of L2, tensor cores, shared memory, instructions, dependent latency),
each at what the machine reaches, compute divided by how evenly blocks fill the SMs, latency times the waves of blocks.
Its limit is max(bytes that it must move, products at the machine's peak). Seconds and bytes, unless a name says so."""
import dataclasses
import math

# ---- Assumptions ---------------------------------------------------------------------------------------------------

GAP = 2.0e-6         # between dependent launches of a captured graph; with its loads a tiny kernel takes about 3 us
L2_LATENCY = 0.3e-6  # a load that others wait for: from L2, from memory under load
MEMORY_LATENCY = 0.7e-6
UNROLLED = 4         # loads in flight of a loop that the code does not unroll itself: nvcc's habit
IPC = 0.6            # instructions a clock and scheduler in code of dependent arithmetic at 2 to 4 warps a scheduler
PIPELINE = 0.85      # of tensor cores or shared memory, where copies, products and barriers overlap (kernels of matmul)
TILE = 0.7           # the same of attend_tile, whose limits coincide
UNION = 1.5          # blocks that four neighbouring queries choose together, over those of one; unknown for real text
CHUNK = 8192         # tokens of a prompt a step


@dataclasses.dataclass
class Machine:
    """Rates per second. memory, l2_size, shared (of an SM): bytes. bandwidth: what a copy reaches on the H200, the data
    sheet's otherwise; reach: the share of it that kernels get. bf16: the peak (wgmma on the H200, measured); mma: the
    share of it, and of int8's, that mma.sync reaches. l2: bytes that reads reach."""
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

    def fma(self):
        return self.sms * 256 * self.clock

    def clocks(self, n):
        return n / self.clock

    def mma_clocks(self):
        """Clocks of a scheduler for one m16n8k16."""
        return 16 * 8 * 16 / (self.bf16 * self.mma / 2 / self.sms / self.clock / 4)


MACHINES = [
    # 4.3 TB/s and 790 TFLOP/s were measured (copy, GEMM of random data); mma.sync assumed to reach 62 % of wgmma.
    Machine("H200", 141e9, 4.3e12, 0.95, 790e12, 1580e12, 0.62, 132, 1.755e9, 6.0e12, 50e6, 227 << 10),
    # Data sheet; mma.sync is the only way to its tensor cores. L2 rate assumed.
    Machine("RTX 5090", 32e9, 1.79e12, 0.92, 210e12, 838e12, 1.0, 170, 2.41e9, 6.0e12, 96e6, 99 << 10),
    # Sources disagree (1.398 or 1.568 TB/s); 148 TFLOP/s is a cap of the product. Clock, int8 and L2 rate assumed.
    Machine("RTX 6000D", 84e9, 1.398e12, 0.92, 148e12, 296e12, 1.0, 156, 2.3e9, 5.0e12, 112e6, 99 << 10),
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
           peak=None, counts=False, tail=0):
    """One launch. chain: a block's dependent latency; shared: clocks of shared memory, of all blocks; instructions: of
    warps. must, flops: what no kernel can do without, at `peak` (bf16's); tail: time behind the rest that nothing
    overlaps; counts: whether a step cannot do without the op."""
    uneven = ceil(blocks, m.sms) * m.sms / blocks
    waves = ceil(blocks, m.sms * per_sm)
    terms = {"memory": memory / (m.bandwidth * m.reach),
             "L2": l2 / m.l2,
             "tensor cores": (bf16 / m.bf16 + int8 / m.int8) / m.mma / PIPELINE * uneven,
             "shared memory": shared / (m.sms * m.clock) / PIPELINE * uneven,
             "instructions": instructions / (m.sms * 4 * m.clock * IPC) * uneven,
             "latency": waves * chain}
    bound = max(terms, key=terms.get)
    ramp = 0 if bound == "latency" else 1.0e-6  # first loads, last sums
    limit = max((memory if must is None else must) / m.bandwidth, flops / (peak or m.bf16))
    return Launch(name, blocks, GAP + terms[bound] + ramp + tail, limit, bound, counts)


# ---- matmul --------------------------------------------------------------------------------------------------------

def convert(m, name, tokens, cols, weights, hot):
    """matmul.cu:bf16_row, int8_group: f32 rows to bf16, or to codes and a pair of f32 for 32 columns. hot: rows lie in
    L2."""
    padded = ceil(tokens, 16) * 16
    size = 2 if weights == "bf16" else 1 + 8 / 32
    memory = 0 if hot else tokens * cols * (4 + size)
    if weights == "bf16":  # a block a row, 256 columns a turn
        chain = ceil(cols // 256, UNROLLED) * L2_LATENCY
        return launch(m, name, padded, 8, chain, memory, instructions=padded * cols / 32 * 10)
    chain = 2 * L2_LATENCY + m.clocks(500)  # largest by shuffles, then the same columns from L1, divided
    return launch(m, name, padded * ceil(cols, 256), 8, chain, memory, instructions=padded * cols / 32 * 60)


def matmul_decode(m, name, tokens, rows, cols, parts, weights, fixes):
    """matmul_decode.cu: a block makes 32 outputs of 8 rows of activations, 16 warps one segment of K each. Up to 32 rows
    as they were before matmul_batch.cu: 16 a block, 8 warps two segments each."""
    if "batch" in fixes and tokens > 8:
        return matmul_batch(m, name, tokens, rows, cols, parts, weights)
    tile = 8 if tokens <= 8 else 16          # run<kParts, kTiles>: rows of a block
    tiles = ceil(tokens, tile)
    turns = tile // 8                        # decode: turns of a warp for each part
    units = ceil(rows, PANEL)
    panel = PANEL * cols * BITS[weights] / 8
    size = 2 if weights == "bf16" else 1 + 8 / 32
    activations = tile * cols * size         # of a block; the second part of a pair finds them in L1
    blocks = units * tiles
    # 512 threads of more than 64 registers; 256 of at most 128, and 18,432 bytes for each matrix and 8 rows
    per_sm = 1 if tile == 8 else max(1, min(2, m.shared // (18432 * parts * turns + 1024)))
    traffic = blocks * (parts * panel + activations)
    if weights == "bf16":                    # sum_bf16: 64 columns a turn, loads then products, nothing across turns
        turn = MEMORY_LATENCY + m.clocks(250 if tile == 8 else 350)
        chain = parts * turns * ceil(cols // 16, 64) * turn
        instructions = blocks * parts * cols / 32 * (20 if tile == 8 else 25)
    else:                                    # sum_codes: 4 groups of 32 columns a turn
        group = 82 if tile == 8 else 122     # instructions: 42 for weights, 40 for each 8 rows (add_group: 2 x 16)
        turn = MEMORY_LATENCY + m.clocks(4 * group * 1.3)
        chain = parts * turns * ceil(cols // 16, 128) * turn
        instructions = blocks * parts * cols / 32 * group
    if weights != "bf16" and "codes as bf16" in fixes and m.mma < 1:  # decoded in registers, once for all rows
        instructions *= (55 + 6 * tile // 8) / group
    chain += L2_LATENCY + m.clocks(1000)     # the first address; keep, barrier, finish
    weight_bytes = units * parts * panel
    products = 2 * tokens * cols * rows * parts
    peak = m.bf16 if weights == "bf16" else m.int8
    done = 2 * tiles * tile * cols * rows * parts
    last = blocks % (m.sms * per_sm) / blocks    # blocks of the last wave stream alone
    tail = max(0.0, chain - last * weight_bytes / m.bandwidth) if 0 < last and blocks > m.sms * per_sm else 0
    return launch(m, name, blocks, per_sm, chain, weight_bytes + tokens * rows * 4, traffic, must=weight_bytes,
                  flops=products, bf16=done if weights == "bf16" else 0, int8=0 if weights == "bf16" else done,
                  instructions=instructions, peak=peak, counts=True, tail=tail)


def matmul_batch(m, name, tokens, rows, cols, parts, weights):
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
    panel = PANEL * cols * BITS[weights] / 8
    size = 2 if weights == "bf16" else 1 + 8 / 32
    padded = ceil(tokens, 16) * 16
    rounds = 16 // slices                                # segments of a slice; their exchange
    instructions = panels * cols / 32 * each + blocks * 8 * rounds * (125 if halves == 1 else 90)
    # Clocks of shared memory, 128 bytes each, of a panel and 32 columns: a warp reads the weights (and scales) and its
    # rows of activations (and scales); then what copies write.
    weight_reads, row_reads = {"bf16": (16, 16), "w8": (12, 24), "w4": (8, 24)}[weights]
    stage = slices * (wide * panel / cols + 32 * size) * columns
    shared = panels * cols / 32 * (weight_reads * halves + row_reads) + blocks * cols / columns / slices * stage / 128
    sums = 8 // halves * 32 * 36 * 4
    stages = min(8, int(((99 << 10) - sums) // stage))
    most = 2 if weights == "bf16" else 1                 # 94 to 106 registers; 128 to 159
    per_sm = max(1, min(most, int(m.shared // (sums + stages * stage + 1024))))
    # A chunk: barrier, copies, loads and products one behind the other; or the bytes of the stages are not there yet.
    turn = m.clocks(300 if weights == "bf16" else 400 * columns / 32)
    chain = L2_LATENCY + m.clocks(1500) + MEMORY_LATENCY
    chain += cols / columns / slices * max(turn, MEMORY_LATENCY / (stages - 1))
    weight_bytes = panels * panel
    products, done = 2 * tokens * cols * rows * parts, 2 * 32 * cols * rows * parts
    return launch(m, name, blocks, per_sm, chain, weight_bytes + tokens * rows * 4,
                  weight_bytes + blocks * padded * cols * size, must=weight_bytes, flops=products,
                  bf16=done if weights == "bf16" else 0, int8=0 if weights == "bf16" else done, shared=shared,
                  instructions=instructions, peak=m.bf16 if weights == "bf16" else m.int8, counts=True)


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
    wgmma = "wgmma" in fixes and m.mma < 1
    if weights == "bf16" or ("codes as bf16" in fixes and m.mma < 1):
        # multiply_bf16: 12 loads of 512 bytes a warp for 32 mma: 384 clocks of shared memory for 8 warps, and 128 to
        # write a stage.
        shared = 0 if wgmma else steps * 512
        return launch(m, name, blocks, 1, 0, memory, traffic / 2 if wgmma else traffic,
                      bf16=products * (m.mma if wgmma else 1), shared=shared, must=weight_bytes, flops=products,
                      peak=m.bf16 if weights == "bf16" else m.int8, counts=True)
    # multiply_codes, a group of 32 columns a warp: 16 mma, add_group 16 x 16 (convert, multiply, two FMAs, four times),
    # 80 to load codes, scales and activations and to split nibbles; two warps a scheduler.
    each = 352 if weights == "w4" else 340
    return launch(m, name, blocks, 1, 0, memory, traffic, int8=products, instructions=steps * 8 * each,
                  must=weight_bytes, flops=products, peak=m.int8, counts=True)


def matmul(m, name, tokens, rows, cols, parts, weights, fixes):
    """matmul.cu:matmul: convert, then a kernel for at most 32 rows or for more."""
    few = tokens <= 32
    product = matmul_decode if few else matmul_prefill
    both = [convert(m, "convert", tokens, cols, weights, few),
            product(m, name, tokens, rows, cols, parts, weights, fixes)]
    return both[1:] if "fuse" in fixes else both


# ---- what goes a row, a head or a token at a time ------------------------------------------------------------------

def residual_norm(m, tokens, hot, fixes):
    """norm.cu:residual_norm_row: h and the branch in, h and x out, 4 bytes each; a block of 512 threads a row."""
    memory = 0 if hot else tokens * D * (14 if "fuse" in fixes else 16)
    chain = L2_LATENCY + m.clocks(300) + MEMORY_LATENCY  # rows, their sum, the weight
    return launch(m, "residual_norm", tokens, 4, chain, memory, instructions=tokens * D / 128 * 25)


def qk_norm_rope(m, tokens, hot, fixes):
    """rope.cu:norm_rope_head, once for q and once for k: a warp a head, in place."""
    memory = 0 if hot else tokens * (D * 8 + DIM * 4)
    chain = 2 * L2_LATENCY + m.clocks(500)
    one = launch(m, "qk_norm_rope", ceil(tokens * HEADS, 4), 12, chain, memory, instructions=tokens * HEADS * 60)
    if "fuse" in fixes:  # both in one launch
        time = one.time + (0 if hot else one.time - GAP)
        return [dataclasses.replace(one, blocks=2 * one.blocks, time=time, limit=2 * one.limit)]
    return [one, dataclasses.replace(one)]


def embed(m, tokens):
    """embed.cu:embed_row: a row lies strewn over its panel, a sector of 32 bytes for each pair of columns."""
    return launch(m, "embed", tokens, 8, L2_LATENCY + 2 * MEMORY_LATENCY, tokens * (D // 2 * 32 + D * 4))


def rope_table(m, tokens):
    """rope.cu:rope_entry: sines in double, once a step; on sm_120 a double takes 64 times a float."""
    doubles = tokens * DIM / 2 / 32 * 120 * (2 if m.mma < 1 else 64)
    return launch(m, "rope_table", ceil(tokens * DIM / 2, 128), 12, L2_LATENCY + m.clocks(2500), instructions=doubles)


# ---- Lightning -----------------------------------------------------------------------------------------------------

def lightning(m, tokens, sequences, fixes):
    """lightning.cu:mix_cells: a block a sequence, head and slice of 32 columns, cell by cell; then finish_token: a
    block a token."""
    blocks = HEADS * DIM // 32 * sequences
    per_sm = max(1, min(2, m.shared // (59408 + 1024)))
    hot = tokens <= 32
    if hot:  # one token, half a cell before it
        old = CELL / 2
        start = 2 * L2_LATENCY                                 # starts, then slot and position
        state = ceil(DIM // 8, UNROLLED) * MEMORY_LATENCY      # 16 rows a warp
        keys = ceil(DIM // 8, UNROLLED) * MEMORY_LATENCY       # load_keys: 16 channels a warp, then values
        chain = start + state + L2_LATENCY + keys + MEMORY_LATENCY + m.clocks(1200 + 300 + 500)
        if "state" in fixes:                                   # everything copied at once
            chain = start + MEMORY_LATENCY + m.clocks(2000)
        must = sequences * (STATE * (1 + 1 / CELL) + OPEN_CELL * (old + 1))
        l2 = sequences * (STATE + OPEN_CELL / 2 * old * 5)     # keys once a slice
        mix = launch(m, "lightning", blocks, per_sm, chain, must, l2, instructions=blocks * 2800, counts=True)
    else:
        cells = ceil(tokens / sequences, CELL)
        # load_rows of q and keys: 4 rows a warp, one after the other; values at once. Then clocks of shared memory for
        # 8 warps: multiply_state 2048, multiply_keys 2048, add_values 800, fold 1700; nothing overlaps.
        loads, work = 9 * MEMORY_LATENCY, 6800
        chain = cells * (loads + m.clocks(work))
        memory = tokens * D * 4 * 4
        flops = tokens * HEADS * (2 * 64 * DIM * 2 + 4 * DIM * DIM)
        moved, l2, instructions = memory, 2.5 * memory, blocks * cells * 20200
        if "scan" in fixes:        # tensor cores, copies under way, 4 segments of the chunk: 35 % of memory's rate
            blocks, chain, moved, instructions = 4 * blocks, 0, memory / 0.35, 0
        elif "prefetch" in fixes:  # the next cell's rows by cp.async while this one is worked on
            chain = cells * m.clocks(work * 1.1)
        mix = launch(m, "lightning", blocks, per_sm, chain, moved, l2, instructions=instructions, must=memory,
                     flops=flops, counts=True)
    chain = 9 * L2_LATENCY + m.clocks(400)  # positions; 16 keys and values a thread; sum; gate and weight
    finish = launch(m, "lightning: norm, gate", tokens, 8, chain, 0 if hot else tokens * D * 12,
                    instructions=tokens * D / 128 * 60)
    return [mix, finish]


# ---- attention -----------------------------------------------------------------------------------------------------

def page_clocks(m, warps, per_sm, codes=False):
    """attention_tiles.cu:attend_tile: clocks of an SM for a page of one block, and of a block alone from page to page.
    A warp has 128 mma; 256 loads of B fragments, a clock of shared memory each; softmax and merges, 500; copies of 512
    bytes, 64 (16 of four warps). Pages of int8: always four warps, `warps` of which have rows; each has half the copies
    and 490 instructions to decode, for which shared memory takes 128 clocks of codes written, 192 read (two rows of keys
    lie in the same banks) and 256 of pairs written."""
    tensor = 128 * m.mma_clocks()
    copies = 64 * 8 if warps == 1 else 16 * 8
    if codes:
        alone = tensor + 256 + 500 + 8 * 8 + 490 / IPC + 0.3e-6 * m.clock
        busy = max(tensor * warps / 4, 256 * warps + 128 + 192 + 256, (128 + 256 + 500) * warps / 4 + 490)
        return max(alone / per_sm, busy / TILE), alone
    alone = tensor + 256 + 500 + copies + 0.3e-6 * m.clock  # and what of the copies' latency is not hidden
    busy = max(tensor * warps / 4, 256 * warps + 256, (128 + 256 + 500) * warps / 4)
    return max(alone / per_sm, busy / TILE), alone


def segments_touched(blocks):
    """Segments of 16 blocks in a list of 96: three local ones, the first, and those that 62 chosen blocks fall into."""
    if blocks <= TOP:
        return ceil(blocks, SEGMENT)
    far = max(1.0, blocks / SEGMENT - 3)
    return 4 + far * (1 - (1 - 1 / far) ** 62)


def attend_rows(m, items, pages, parts, products):
    """attention.cu:attend_rows, pages of int8: a block of 8 warps a query and kv head, or a part of it, one an SM (168
    registers). 32 keys take a warp 768 instructions for scores, 550 for values, 640 to decode, 120 for the softmax."""
    each = 2 * 8 * 2080  # of a page
    longest = pages if parts == 1 else min(pages, SEGMENT)
    chain = 9 * L2_LATENCY + longest * (m.clocks(each / 4 / IPC) + 2 * MEMORY_LATENCY)
    page_head = 2 * PAGE * DIM + 4 * PAGE
    return launch(m, "attend_rows", int(items * parts), 1, chain if parts > 1 else 0, items * pages * page_head / 4,
                  items * pages * page_head, instructions=items * pages * each, must=items * pages * page_head / 4,
                  flops=products)


def attention(m, tokens, sequences, length, fixes):
    """attention.cu:attention: split among one-warp blocks where there are fewer than 512 queries and kv heads, else
    tiles of four tokens by four warps over the union of their blocks."""
    blocks = length / PAGE
    dense = length < DENSE
    pages = blocks if dense else min(blocks, TOP)
    products = 4 * DIM * HEADS * pages * PAGE * tokens
    codes = "codes" in fixes  # of int8, on tensor cores
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
        if waves_chain + GAP > attend.time:
            attend = dataclasses.replace(attend, time=GAP + waves_chain, bound="latency")
        if "int8 pages" in fixes and not codes:
            attend = attend_rows(m, items, pages, parts, products)
        # merge_parts: a block a head; count_parts reads the list, then part by part
        step = L2_LATENCY / UNROLLED + m.clocks(60)
        merge = launch(m, "merge_parts", tokens * HEADS, 16, 7 * L2_LATENCY + parts * step, 0, written)
        return [attend, merge]
    if "int8 pages" in fixes and not codes:
        return [attend_rows(m, tokens * KV_HEADS, pages, 1, products)]
    tiles = ceil(tokens, 4) * KV_HEADS
    union = pages if pages < TOP or dense else LOCAL + (TOP - LOCAL) * UNION
    per_sm = min(2, m.shared // (68608 + 1024))
    clocks, _ = page_clocks(m, 4, per_sm, codes)
    l2 = tiles * union * page_head
    memory = l2 / 4 + tokens * D * 4 * 3
    must = tokens * D * 4 * 3
    attend = launch(m, "attend_tile", tiles, per_sm, 0, memory, l2, must=must, flops=products, counts=True)
    busy = ceil(tiles, m.sms) * union * m.clocks(clocks)
    if "queries" in fixes:       # eight tokens a block, B fragments for 32 rows a warp: half the shared memory
        busy = max(busy * 0.6, products / (m.bf16 * m.mma) / 0.6)
    if busy > attend.time:
        attend = dataclasses.replace(attend, time=GAP + busy, bound="shared memory" if m.mma < 1 else "tensor cores")
    return [attend]


def block_select(m, tokens, length, fixes):
    """select_tiles.cu:normalise_tile, rank_tile and select.cu:choose_blocks; tokens in parts of 64 MiB of ranks."""
    width = ceil(length, PAGE)
    fine, coarse = max(0, (length - 32) // 16 + 1), max(0, (length - 128) // 64 + 1)
    scored = length >= DENSE and width > TOP
    start = 4 * L2_LATENCY  # positions, sparse, starts; then the query
    if not scored:
        items = tokens * KV_HEADS
        return [launch(m, name, items, 16, start) for name in ("normalise_tile", "rank_tile", "choose_blocks")]
    most = min(tokens, max(1, (64 << 20) // (4 * KV_HEADS * width)))
    calls = tokens / most
    items = most * KV_HEADS
    coarse_tiles, rank_tiles = ceil(coarse, 128), ceil(width, 31)  # tile_blocks = 127 / 4
    key = DIM * 2
    # A warp takes 8 windows at a time: 150 instructions to find a window (64-bit division), 20 to load and multiply,
    # the rest for exponentials, shuffles and votes; 150 a warp to load the query.
    shares = "tokens" in fixes and tokens > 32  # four tokens a block share windows: a quarter of loads and addresses
    scale, read = (1 / 3, 1 / 4) if shares else (1, 1)
    bf16 = 2 * 16 * DIM * items
    # What must be read: each window once a sequence (by decode), q and the lists (by a prompt); products once.
    must_n = items * coarse * key if tokens <= 32 else 0
    must_r = items * fine * key if tokens <= 32 else 0
    chain = start + L2_LATENCY + MEMORY_LATENCY + m.clocks(1500)
    normalise = launch(m, "normalise_tile", items * coarse_tiles, 6, chain, must_n, items * coarse * key * read,
                       bf16=bf16 * coarse, must=must_n, flops=bf16 * coarse, counts=True,
                       instructions=scale * items * (coarse / 8 * 200 + coarse_tiles * 4 * 150))
    # whole_normaliser: every block of rank_tile merges all coarse tiles of its query again, a thread a head.
    merges = 1 if "normaliser" in fixes else coarse_tiles
    whole = merges * (L2_LATENCY / UNROLLED + m.clocks(60))
    turn = L2_LATENCY + MEMORY_LATENCY + m.clocks(350)
    rank = launch(m, "rank_tile", items * rank_tiles, 6, (start + whole + L2_LATENCY + 4 * turn) * scale, must_r,
                  items * fine * key * read, bf16=bf16 * fine, must=must_r, flops=bf16 * fine, counts=True,
                  instructions=scale * items * (fine / 8 * 300 + rank_tiles * (4 * 150 + merges * 40)))
    # choose_blocks: a pass over the ranks from L2, three from L1, one with barriers; atomics of a bin, one a clock.
    turns = ceil(width, 128)
    chain = 2e-6 + turns * (L2_LATENCY + m.clocks(3 * 120 + 260))
    better = "choose" in fixes and items < m.sms
    if better:                   # 1024 threads, ranks in shared memory, equal digits of a warp counted together
        chain = 2e-6 + ceil(width, 1024) * (L2_LATENCY + m.clocks(200))
    atomics = items * width * (0.3 if better else 1.5)
    choose = launch(m, "choose_blocks", items, 2 if better else 16, chain, 0, items * width * 8, shared=atomics,
                    must=items * TOP * 4)
    return [dataclasses.replace(one, calls=calls) for one in (normalise, rank, choose)]


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


# ---- steps ---------------------------------------------------------------------------------------------------------

def step(m, tokens, sequences, length, weights, fixes=(), logits=None):
    """All launches of model.cc:forward as [(launch, times)]. length: tokens of a sequence up to its last query, or up
    to the mean query of a chunk. logits: rows of the head, `tokens` by default."""
    hot = tokens <= 32
    layers = LIGHTNING + SPARSE
    rows = [(embed(m, tokens), 1), (rope_table(m, tokens), 1)]

    def add(times, launches):
        rows.extend((one, times) for one in launches)

    add(2 * layers, [residual_norm(m, tokens, hot, fixes)])
    add(LIGHTNING, matmul(m, "q, k, v, gate (lightning)", tokens, 4 * D, D, 1, weights, fixes))
    add(LIGHTNING, qk_norm_rope(m, tokens, hot, fixes))
    add(LIGHTNING, lightning(m, tokens, sequences, fixes))
    add(SPARSE, matmul(m, "q, k, v, gate (sparse)", tokens, 2 * D + 2 * KV_HEADS * DIM, D, 1, weights, fixes))
    add(SPARSE, kv(m, tokens, hot))
    add(SPARSE, block_select(m, tokens, length, fixes))
    add(SPARSE, attention(m, tokens, sequences, length, fixes))
    add(layers, matmul(m, "output", tokens, D, D, 1, weights, fixes))
    add(layers, matmul(m, "gate_up, SwiGLU", tokens, F, D, 2, weights, fixes))
    add(layers, matmul(m, "down", tokens, D, F, 1, weights, fixes))
    logits = tokens if logits is None else logits
    if logits:
        rows.append((residual_norm(m, tokens, hot, fixes), 1))
        add(1, matmul(m, "head", logits, V, D, 1, weights, fixes))
    if "overlap" in fixes:  # programmatic dependent launch: the next kernel's start beside this one's end
        rows = [(dataclasses.replace(one, time=one.time - 1.0e-6), times) for one, times in rows]
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
    found = [merged(step(m, batch, batch, length, weights)) for weights, batch in cases]
    lines = []
    for name in sorted(found[0], key=lambda name: -sum(one[name][2] for one in found)):
        line = [name, f"{found[0][name][0]:.0f}", f"{found[0][name][1]:,}, {found[1][name][1]:,}"]
        for one in found:
            _, _, time, limit, bound, _, _ = one[name]
            share = f", {100 * limit / time:.0f} %" if limit > 0 else ""
            line.append(f"{time * 1e3:.3f}{share}, {bound}")
        lines.append(line)
    lines.append(["all", f"{launches(step(m, 1, 1, length, 'bf16')):.0f}", ""])
    for weights, batch in cases:
        time, floor = decode(m, batch, length, weights), decode_floor(m, batch, length, weights)
        lines[-1].append(f"{time * 1e3:.2f}, {100 * floor / time:.0f} %")
    print(f"A decode step at {length:,} tokens on the {m.name}: ms, share of its limit, what bounds it\n")
    table(["kernel", "launches", "blocks (batch 1, 32)", *(f"{w}, batch {b}" for w, b in cases)], lines)


FIXES = [
    ("bf16_prefill by wgmma and TMA (H200): 85 % of the peak, half the traffic of L2", ("wgmma",)),
    ("w8, w4 on the H200: codes to bf16 once a block, products in bf16", ("codes as bf16",)),
    ("selection: a query's normalisers merged once, by normalise_tile's last block", ("normaliser",)),
    ("selection: four queries share windows; no division to find them", ("tokens",)),
    ("both of the selection", ("normaliser", "tokens")),
    ("choose_blocks: 1024 threads, ranks in shared memory", ("choose",)),
    ("lightning decode: state, keys and values copied at once", ("state",)),
    ("lightning prompts: the next cell copied while this one is worked on", ("prefetch",)),
    ("lightning prompts: tensor cores, four segments of a chunk", ("scan",)),
    ("matmul_batch: 32 rows a block, four panels share activations", ("batch",)),
    ("attend_tile, few queries: four warps a page", ("split",)),
    ("attend_tile, prompts: 32 rows a warp", ("queries",)),
    ("no convert: norms, SwiGLU and gates write bf16 or codes; q and k in one launch", ("fuse",)),
    ("programmatic dependent launch: 1 us less a launch", ("overlap",)),
]


def fix_table():
    every = tuple({name for _, names in FIXES for name in names} - {"prefetch"})
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

    add("as assumed")
    for name, values in (("GAP", (1.5e-6, 3e-6)), ("L2_LATENCY", (0.2e-6, 0.4e-6)),
                         ("MEMORY_LATENCY", (0.5e-6, 0.9e-6)), ("UNROLLED", (1, 8)), ("IPC", (0.45, 0.8)),
                         ("PIPELINE", (0.7, 0.95)), ("UNION", (1, 3))):
        before = globals()[name]
        for value in values:
            globals()[name] = value
            add(f"{name} {value:g}")
        globals()[name] = before
    before = m.l2
    for m.l2 in (5e12, 8e12):
        add(f"L2 {m.l2:g}")
    m.l2 = before
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


def batch_table():
    """Three matrices at 32 rows before and after matmul_batch.cu, gaps included."""
    matrices = [("output", D, D, 1), ("gate_up, SwiGLU", F, D, 2), ("down", D, F, 1)]
    lines = []
    for m in MACHINES[:2]:
        for weights in BITS:
            for name, rows, cols, parts in matrices:
                one = [matmul_decode(m, name, 32, rows, cols, parts, weights, fixes) for fixes in ((), ("batch",))]
                lines.append([m.name, weights, name, *(f"{x.time * 1e6:.1f}, {100 * x.limit / x.time:.0f} %, {x.bound}"
                                                       for x in one)])
    print("A matmul of 32 rows, us, share of its limit, what bounds it\n")
    table(["machine", "weights", "matrix", "16 rows a block", "matmul_batch"], lines)


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
    batch_table()
    fix_table()
    doubt_table()
    for m in MACHINES[:2]:
        for prompt in (131072, 1048576):
            for text, fixes in (("bf16", ()), ("int8, attend_rows", ("int8 pages",)),
                                ("int8, attend_tile", ("int8 pages", "codes"))):
                steps = ", ".join(f"{weights} {decode(m, 1, prompt, weights, fixes) * 1e3:.2f} ms a step and "
                                  f"{first_token(m, prompt, weights, fixes):.2f} s" for weights in ("bf16", "w4"))
                print(f"{m.name}, {prompt:,} tokens, pages of {text}: {steps}")


if __name__ == "__main__":
    main()
