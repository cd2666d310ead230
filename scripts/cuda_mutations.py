#!/usr/bin/env python3
"""Which mistakes in src/cuda the tests find: scripts/cuda_mutations.py [--list] [ID...] makes one mistake after the
other in a copy of this tree (build/mutations), builds the test that should find it on emulated kernels and runs it. A
test that fails, crashes or never ends has found it. Prints a table; exits with 1 where a mistake was not found, does
not compile, or names text that its file does not hold exactly once.

The copy's build is kept, and with ccache a second run compiles little. OMP_NUM_THREADS=N builds with N processes."""
import dataclasses
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "build/mutations"
BARRIER = "__syncthreads();"


@dataclasses.dataclass
class Mutation:
    """In src/cuda/`file`, `old` becomes `new`; `check`, a test program and a filter of its tests, should mind."""
    id: str
    file: str
    old: str
    new: str
    breaks: str
    check: tuple[str, str]


def dropped(id, file, before, after, breaks, check):
    """Without the barrier between two texts; a comment behind it belongs to `after`."""
    return Mutation(id, file, before + BARRIER + after, before + after, breaks, check)


def dropped_of_codes(id, text, breaks, check):
    """Without a barrier of attend_tile where pages hold codes."""
    return Mutation(id, "attention_tiles.cu", BARRIER + "  // " + text + "\n",
                    f"if constexpr (!kCodes) {BARRIER}  // {text}\n", breaks, check)


NORM_ROPE = "norm_rope_test", "Devices/NormRope.*/cuda_emulated"
MATMUL = "matmul_test", "Types/MatmulOf.IsTheProductOfTheRoundedActivations/*"
MATMUL_DEVICE = "matmul_test", "Devices/Matmul.*/cuda_emulated"
MATMUL_ROWS = "matmul_test", "Types/MatmulRowsCuda.DependOnThemselvesAlone/*"
WARPGROUPS = "matmul_test", "MatmulWarpgroups.GiveTheSameRows"
LIGHTNING = "lightning_test", "Cases/Lightning.OfATokenOnCudaDependsOnItsPastAlone/*-*released"
RECURRENCE = "lightning_test", "Cases/Lightning.IsTheRecurrence/*"
ATTENTION = "attention_test", "Cases/AttentionOnCuda.OfATokenDependsOnItsPastAlone/*"
ATTENTION_LISTS = "attention_test", "AttentionOnCudaLists.LongAreTheSameAtOnceAndInParts"
CODES = "attention_test", "AttentionOnCudaCodes.AreTheNumbersThatTheyStandForInBf16"
SELECT = "select_test", "SelectOnCuda.ChoosesAmongManyBlocks"
MANY = "select_test", "SelectOnCuda.ChoosesAmongVeryManyBlocks"
TIES = "select_test", "Cases/Select.GivesTiesToTheLowestBlock/*"
PAGES = "pages_test", "Cases/Pages.HoldTheReferencesBits/*"
KEPT = "pages_test", "Cases/Pages.OfKeptTokensAreNotWritten/*"

# Those of a file lie together, so that a file is compiled once for each and once more behind its last. Every barrier
# and every wait for copies is left out once, but for those without which nothing is wrong as the code is today: the first
# barrier of normalise_windows (select.cu) and the last of a warp in merge_tiles (select.cu) and for_each_chunk
# (select_tiles.cu), since barriers, shuffles and products behind the same reads have threads wait as well; the other of
# a warp in for_each_chunk, since lanes read what they copied themselves.
MUTATIONS = [
    Mutation("embed-panel-edge", "embed.cu", "id / kPanel * panel_bytes", "(id - 1) / kPanel * panel_bytes",
             "the first row of a panel is looked for in the panel before", NORM_ROPE),
    Mutation("embed-tail", "embed.cu", "i < 8 && k + i < cols", "i < 8",
             "a thread writes eight columns behind the end of a row", NORM_ROPE),

    Mutation("norm-tail", "rows_device.h", "if (aligned && i + 4 <= n) {\n    return",
             "if (aligned && i + 3 <= n) {\n    return",
             "a load of four reads one column past a row", NORM_ROPE),
    dropped("norm-sum-barrier", "rows_device.h", "partial[threadIdx.x / kWarpThreads] = x;\n  ", "\n",
            "the block's sum is read before all warps wrote theirs", NORM_ROPE),
    Mutation("norm-lane-barrier", "rows_device.h",
             "if (threadIdx.x % kWarpThreads == 0) partial[threadIdx.x / kWarpThreads] = x;\n  __syncthreads();",
             "if (threadIdx.x % kWarpThreads == 0) {\n    partial[threadIdx.x / kWarpThreads] = x;\n"
             "    __syncthreads();\n  }",
             "one lane a warp waits for the others, which go on", NORM_ROPE),
    Mutation("norm-held", "norm.cu", "i += kStep)\n    sum =", "i += 2 * kStep)\n    sum =",
             "columns beyond those held in registers are skipped", NORM_ROPE),

    Mutation("rope-odd-head", "rope_device.h", ".b = i + half < d ? x[i + half] : 0.0f", ".b = x[i + half]",
             "the middle of an odd head takes the next head's first channel", NORM_ROPE),
    Mutation("rope-half-edge", "rope_device.h", "half)\n      turn_pair(", "half + 1)\n      turn_pair(",
             "one lane too many stores a pair", NORM_ROPE),

    dropped("kv-places-barrier", "kv.cu", "head.values;\n    }\n  }\n  ", "\n",
            "tokens go to places that other warps have not found yet", PAGES),
    dropped("kv-grid-barrier", "kv.cu", "      }\n    }\n    ", "\n  }\n  const int rows",
            "codes are made before their grid is in the page", PAGES),
    Mutation("kv-range-lanes", "kv.cu", "delta < kWarpThreads; delta *= 2", "delta < kWarpThreads / 2; delta *= 2",
             "a group's range leaves out half of the lanes", PAGES),
    Mutation("kv-window-end", "kv.cu", "u <= to", "u < to", "the mean of a window lacks its last key", PAGES),
    Mutation("kv-kept-edge", "kv.cu", "if (p >= step.kept_of(b))", "if (p > step.kept_of(b))",
             "the first token behind the kept ones is not written", KEPT),

    Mutation("lightning-tile-barrier", "lightning_few.cu", "    if (first > 0) __syncthreads();  // the tile is read\n", "",
             "the next tile of a cell is copied over the one in use", LIGHTNING),
    Mutation("lightning-wait", "lightning_few.cu", "wait_copies<0>();\n    __syncthreads();  // tiles are there",
             "__syncthreads();  // tiles are there",
             "queries and keys are multiplied while they are copied", LIGHTNING),
    dropped("lightning-load-barrier", "lightning_few.cu", "    ", "  // tiles are there\n",
            "queries and keys are multiplied before other threads' copies are there", LIGHTNING),
    dropped("lightning-weights-barrier", "lightning_few.cu", "    ", "  // weights are there\n",
            "values are added before their weights are there", LIGHTNING),
    dropped("lightning-state-barrier", "lightning_few.cu", "    ", "  // all is read\n",
            "the next cell begins while the state is folded", LIGHTNING),
    dropped("lightning-fold-barrier", "lightning_few.cu", "      ", "  // the tile before is read\n",
            "the first tile to be folded is copied over the last one in use", LIGHTNING),
    Mutation("lightning-fold-wait", "lightning_few.cu", "wait_copies<0>();\n      __syncthreads();  // the tile is there",
             "__syncthreads();  // the tile is there",
             "keys are folded while they are copied", LIGHTNING),
    dropped("lightning-folded-there", "lightning_few.cu", "      ", "  // the tile is there\n",
            "keys are folded before other threads' copies are there", LIGHTNING),
    Mutation("lightning-fold-decay", "lightning_few.cu", "s.powers[mix.cell - 1 - first - j]",
             "s.powers[mix.cell - first - j]",
             "a folded token has decayed once too often", LIGHTNING),
    dropped("lightning-turned-barrier", "lightning_few.cu", "  ", "  // rows are turned\n",
            "rows are multiplied before other warps have turned them", LIGHTNING),
    Mutation("lightning-turned-warp", "lightning_few.cu", "    __syncwarp();\n    float* to", "    float* to",
             "a turned key is put down before other lanes have turned it", LIGHTNING),
    Mutation("lightning-turned-place", "lightning_few.cu", "turn_head(mix.k_turn, keys.token + j,",
             "turn_head(mix.k_turn, keys.token + j - keys.old,",
             "a key is turned by the place of an earlier one", LIGHTNING),
    Mutation("lightning-turned-head", "lightning_few.cu", "at.h == at.g * mix.group", "at.h == 0",
             "keys of the first head alone are put down", LIGHTNING),
    Mutation("lightning-early", "lightning.cu",
             "  wait_for_earlier();\n  const int64_t t = blockIdx.x;\n  remember(mix, t);\n",
             "  const int64_t t = blockIdx.x;\n  remember(mix, t);\n  wait_for_earlier();\n",
             "turned keys are remembered while the kernel before makes them", LIGHTNING),
    Mutation("lightning-never-waits", "lightning.cu",
             "  wait_for_earlier();\n  const int64_t t = blockIdx.x;\n  remember(mix, t);\n",
             "  const int64_t t = blockIdx.x;\n  remember(mix, t);\n",
             "a kernel does not wait for those before", LIGHTNING),
    Mutation("lightning-remember", "lightning.cu", "if (position / mix.cell != end / mix.cell) return;",
             "if (position / mix.cell == end / mix.cell) return;",
             "tokens of full cells are remembered, not those of open ones", LIGHTNING),
    Mutation("lightning-run-wait", "lightning_cells.cu", "wait_copies<kStages - 2>();",
             "wait_copies<kStages - 1>();",
             "keys of a long run are folded while they are copied", LIGHTNING),
    dropped("lightning-run-barrier", "lightning_cells.cu", "    ", "  // this tile is there, the one before is read\n",
            "keys of a long run are folded before other threads' copies are there", LIGHTNING),
    Mutation("lightning-run-decay", "lightning_cells.cu", "s.powers[mix.cell - 1 - from - j]",
             "s.powers[mix.cell - from - j]",
             "a folded token of a long run has decayed once too often", RECURRENCE),
    Mutation("lightning-open-cell", "lightning_cells.cu", "  if (cell < end) put_down(cell);\n",
             "",
             "what a cell that stays open begins with is not put down", LIGHTNING),
    Mutation("lightning-cell-places", "lightning_cells.cu", "+ 2 * int64_t{b};",
             "+ int64_t{b};",
             "the cells of neighbouring sequences share a place", LIGHTNING),
    Mutation("lightning-diagonal", "lightning_cells.cu", "if (first + i <= ahead + r)",
             "if (first + i < ahead + r)",
             "a token of a long run does not see itself", RECURRENCE),
    Mutation("lightning-keys-wait", "lightning_cells.cu", "wait_copies<1>();\n  __syncthreads();  // queries and keys are there",
             "wait_copies<2>();\n  __syncthreads();  // queries and keys are there",
             "a cell's queries and keys are multiplied while they are copied", LIGHTNING),
    dropped("lightning-keys-there", "lightning_cells.cu", "  ", "  // queries and keys are there\n",
            "a cell's queries and keys are multiplied before other threads' copies are there", LIGHTNING),
    dropped("lightning-keys-read", "lightning_cells.cu", "  ", "  // keys are read\n",
            "a cell's values are copied over keys in use", LIGHTNING),
    Mutation("lightning-stage-wait", "lightning_cells.cu", "      wait_copies<2>();\n",
             "      wait_copies<3>();\n",
             "the first channels of a state are multiplied while they are copied", LIGHTNING),
    Mutation("lightning-stages-wait", "lightning_cells.cu", "    else\n      wait_copies<1>();\n",
             "    else\n      wait_copies<2>();\n",
             "the next channels of a state are multiplied while they are copied", LIGHTNING),
    Mutation("lightning-last-wait", "lightning_cells.cu", "    if (first + kChannels >= width)\n      wait_copies<0>();\n    else if",
             "    if",
             "a state's last channels, and values, are used while they are copied", LIGHTNING),
    dropped("lightning-stage-there", "lightning_cells.cu", "    ", "  // this stage is there\n",
            "a state is multiplied before other threads' copies are there", LIGHTNING),
    dropped("lightning-stage-read", "lightning_cells.cu", "    ", "  // this stage is read\n",
            "channels of a state are copied over those in use", LIGHTNING),
    dropped("lightning-values-read", "lightning_cells.cu", "    ", "  // values are read\n",
            "the next keys of a cell are copied over values in use", LIGHTNING),
    Mutation("lightning-next-keys-wait", "lightning_cells.cu", "wait_copies<0>();\n    __syncthreads();  // the next keys are there",
             "__syncthreads();  // the next keys are there",
             "the next keys of a cell are multiplied while they are copied", LIGHTNING),
    dropped("lightning-next-keys-there", "lightning_cells.cu", "    ", "  // the next keys are there\n",
            "the next keys of a cell are multiplied before other threads' copies are there", LIGHTNING),
    dropped("lightning-next-keys-read", "lightning_cells.cu", "    ", "  // they are read\n",
            "the next values of a cell are copied over keys in use", LIGHTNING),
    Mutation("lightning-next-values-wait", "lightning_cells.cu", "wait_copies<0>();\n    __syncthreads();  // the next values are there",
             "__syncthreads();  // the next values are there",
             "the next values of a cell are added while they are copied", LIGHTNING),
    dropped("lightning-next-values-there", "lightning_cells.cu", "    ", "  // the next values are there\n",
            "the next values of a cell are added before other threads' copies are there", LIGHTNING),

    Mutation("round-half-groups", "matmul.cu", "int step = kWarpThreads / 4;", "int step = kWarpThreads / 2;",
             "sums of 16 codes are those of 32", MATMUL),

    dropped("decode-barrier", "matmul_decode.cu", "sum[1][2 + i]}};\n  }\n  ", "\n  const int64_t out",
            "segments are added before all warps have theirs", MATMUL_DEVICE),
    Mutation("decode-order", "matmul_decode.cu", "int segment = 0; segment < kSegments; ++segment",
             "int segment = kSegments - 1; segment >= 0; --segment",
             "segments are added from the last to the first", MATMUL_ROWS),
    Mutation("decode-fragment", "matmul_decode.cu", "{sum[0][i], sum[0][2 + i], sum[1][i], sum[1][2 + i]}",
             "{sum[0][i], sum[1][i], sum[0][2 + i], sum[1][2 + i]}",
             "rows of two fragments are swapped", MATMUL_ROWS),
    Mutation("decode-rounded", "matmul_decode.cu", "pack_bf16(b.at[0], b.at[1])", "pack_bf16(a.at[0], a.at[1])",
             "of eight columns rounded on their way two are taken twice", MATMUL_ROWS),
    Mutation("decode-row-edge", "matmul_decode.cu", "out >= p.rows", "out > p.rows",
             "an output behind the last is written", MATMUL_DEVICE),

    dropped("batch-barrier", "matmul_batch.cu", "= 0;\n    }\n  }\n  ", "\n",
            "segments are added before all slices have theirs", MATMUL_ROWS),
    Mutation("batch-order", "matmul_batch.cu", "int slice = 0; slice < kSlices<Kind>; ++slice",
             "int slice = kSlices<Kind> - 1; slice >= 0; --slice",
             "the segments that slices ended are added from the last to the first", MATMUL_ROWS),
    Mutation("batch-walk", "matmul_batch.cu", "chunk += (kSlices<Kind> - 1) * length;",
             "chunk += kSlices<Kind> * length;",
             "a slice skips a segment", MATMUL_ROWS),
    Mutation("batch-zeros", "matmul_batch.cu", "chunk < at[j].chunks", "chunk <= at[j].chunks",
             "what lies behind the last column is multiplied", MATMUL_ROWS),
    Mutation("batch-super", "matmul_batch.cu", "(super_chunk + chunk) /", "chunk /",
             "blocks of 256 columns are counted from where a slice begins", MATMUL_ROWS),
    Mutation("batch-row-place", "batch_kinds_device.h", "(row * kCount + row_place<kCount>(row, c))", "(row * kCount + c)",
             "activations are not permuted where they are written", MATMUL_ROWS),
    Mutation("batch-code-place", "batch_kinds_device.h", "code < 0 ? i : i - c", "code < 32 ? i : i - c",
             "the first lines of codes are not permuted", MATMUL_ROWS),
    Mutation("batch-few-rows", "matmul_batch.cu", "at.first_row : kRows / 2))", "at.first_row : kRows))",
             "the last 16 of more than 16 rows are not multiplied", MATMUL_ROWS),
    Mutation("batch-scales-row", "batch_kinds_device.h", "[group][first_row / 2 + 4 * tile + t]", "[group][4 * tile + t]",
             "rows from the 16th on have the scales of the first", MATMUL_ROWS),
    Mutation("batch-write-edge", "matmul_batch.cu", "if (out < p.rows) p.y", "if (out <= p.rows) p.y",
             "an output behind the last is written", MATMUL_DEVICE),

    Mutation("batch-decoded-line", "batch_kinds_device.h", "column % L::kColumns / D::kLineColumns + i;",
             "column % L::kColumns / D::kLineColumns;", "both lines of eight columns are the first", WARPGROUPS),

    Mutation("warpgroup-full", "matmul_warpgroup.cu", "    barrier(s.full[turn.stage]).wait(turn.round);\n", "",
             "chunks are multiplied while they are copied", WARPGROUPS),
    Mutation("warpgroup-empty", "matmul_warpgroup.cu", "if (chunk >= kStages) barrier(s.empty[filled.stage]).wait(filled.round ^ 1);",
             "", "chunks are copied over those in use", WARPGROUPS),
    Mutation("warpgroup-turn", "matmul_warpgroup.cu", "wait(filled.round ^ 1)", "wait(filled.round)",
             "a stage is waited for that cannot be empty", WARPGROUPS),
    Mutation("warpgroup-copies", "matmul_warpgroup.cu", "    wait_copies<kAhead>();\n", "",
             "chunks are shown while they are copied", WARPGROUPS),
    Mutation("warpgroup-wait", "matmul_warpgroup.cu", "    wait_products();\n", "",
             "sums are read, and stages given back, while products are made", WARPGROUPS),
    Mutation("warpgroup-early", "matmul_warpgroup.cu",
             "    wait_products();\n    if (threadIdx.x % kWarpThreads == 0) barrier(s.empty[turn.stage]).arrive();\n",
             "    if (threadIdx.x % kWarpThreads == 0) barrier(s.empty[turn.stage]).arrive();\n    wait_products();\n",
             "a stage is given back while products read it", WARPGROUPS),
    dropped("warpgroup-barriers", "matmul_warpgroup.cu", "    }\n  ", "\n  if (threadIdx.x >= kWorkers)",
            "barriers are used before they are set up", WARPGROUPS),
    Mutation("warpgroup-swizzle", "matmul_warpgroup.cu", "stage.x[row][swizzled_piece(row, c)]", "stage.x[row][c]",
             "activations lie otherwise than the descriptor says", WARPGROUPS),
    Mutation("warpgroup-segment", "matmul_warpgroup.cu", "chunk % segment != 0 || step > 0", "chunk > 0 || step > 0",
             "segments are not begun afresh", WARPGROUPS),
    Mutation("warpgroup-fragment", "matmul_warpgroup.cu", "[i % 2 * 2 + panel] = pairs[i]", "[panel * 2 + i % 2] = pairs[i]",
             "two registers of the weights' fragment are swapped", WARPGROUPS),
    Mutation("warpgroup-half", "matmul_warpgroup.cu", "static_cast<int>(k % L::kColumns);", "0;",
             "the second half of a long group has the codes of the first", WARPGROUPS),
    Mutation("warpgroup-code-place", "matmul_warpgroup.cu", "code_piece(line / D::kWords % 4, c)",
             "code_piece(line / D::kWords % 2, c)", "codes lie where nobody looks for them", WARPGROUPS),
    Mutation("warpgroup-edge", "matmul_warpgroup.cu", "!p.paired && second < p.rows", "!p.paired",
             "outputs behind the last are written", WARPGROUPS),
    Mutation("warpgroup-order", "matmul_kernels.h", "+ 4 * step + place % 16 / 8 * 2", "+ 2 * step + place % 16 / 8 * 4",
             "activations of two steps are exchanged", WARPGROUPS),

    Mutation("decoding-order", "weights_device.h", "i % 2 == 0 ? 0x4140 : 0x4342", "i % 2 == 0 ? 0x4041 : 0x4342",
             "two columns of 4-bit codes are swapped", MATMUL),
    Mutation("decoding-middle", "weights_device.h", "fmaf(8.0f, s.scale, s.minimum)", "fmaf(7.0f, s.scale, s.minimum)",
             "4-bit codes stand for one less", MATMUL),
    Mutation("decoding-bias", "weights_device.h", "fmaf(-32768.0f, s.scale, s.minimum)", "fmaf(-32767.0f, s.scale, s.minimum)",
             "8-bit codes stand for one more", MATMUL),

    Mutation("pipeline-wait", "pipeline_device.h", "wait_copies<kStages - 2>();", "wait_copies<kStages - 1>();",
             "a chunk is multiplied while it is copied", MATMUL_DEVICE),
    dropped("pipeline-barrier", "pipeline_device.h", "wait_copies<kStages - 2>();\n    ",
            "  // the chunk is there for all",
            "a chunk is multiplied before other threads' copies are there", MATMUL_DEVICE),
    Mutation("pipeline-commit", "pipeline_device.h",
             "if (chunk + kStages - 1 < chunks) copy(next, chunk + kStages - 1);\n    commit_copies();",
             "if (chunk + kStages - 1 < chunks) {\n      copy(next, chunk + kStages - 1);\n"
             "      commit_copies();\n    }",
             "without empty groups the last chunks are not waited for", MATMUL_ROWS),
    Mutation("pipeline-stage", "pipeline_device.h", "next = stage;",
             "next = stage + 1 == kStages ? 0 : stage + 1;",
             "a copy goes to the stage that is read next", MATMUL_ROWS),

    Mutation("prefill-segment", "matmul_prefill.cu",
             "if ((chunk + 1) % segment == 0 || chunk + 1 == chunks) end_segment(total, sum);",
             "if (chunk % segment == 0 || chunk + 1 == chunks) end_segment(total, sum);",
             "segments of bf16 products end one chunk early", MATMUL_ROWS),
    Mutation("prefill-code-segment", "matmul_prefill.cu",
             "if ((chunk + 1) % segment == 0 || chunk + 1 == chunks) end_segment(total, chain);",
             "if (chunk % segment == 0 || chunk + 1 == chunks) end_segment(total, chain);",
             "segments of products of codes end one chunk early", MATMUL_ROWS),
    Mutation("prefill-write-edge", "matmul_prefill.cu", "if (n + i < p.rows) y[i]", "if (n + i <= p.rows) y[i]",
             "an output behind the last is written", MATMUL_DEVICE),
    Mutation("prefill-swizzle", "matmul_prefill.cu", "pair_piece(row, at.g)]", "at.g]",
             "weights are read from the place that they had without the permutation", MATMUL_ROWS),

    dropped("fma-tile-barrier", "matmul_fma.cu", ": 0.0f;\n    }\n    ", "\n",
            "columns are multiplied before they are decoded", MATMUL_ROWS),
    dropped("fma-stale-tile", "matmul_fma.cu", "          }\n    ",
            "\n  }\n  for (int r = 0; r < 4; ++r) {\n    const int64_t t",
            "the next columns are decoded over those in use", MATMUL_ROWS),
    dropped("fma-decode-barrier", "matmul_fma.cu", "= sum[part][r];\n  ", "\n",
            "segments are added before all warps have theirs", MATMUL_ROWS),
    Mutation("fma-last-segment", "matmul_fma.cu", "k + kTileColumns >= p.cols)", "k + kTileColumns > p.cols)",
             "a last, shorter segment is not added", MATMUL_ROWS),

    Mutation("fragment-a", "weights_device.h",
             "first.at[2 * j + 1], second.at[2 * j],\n                         second.at",
             "second.at[2 * j], first.at[2 * j + 1],\n                         second.at",
             "two registers of the A fragment of bf16 are swapped", MATMUL),
    Mutation("code-swizzle", "weights_device.h", "return row / kLoads % 4;", "return row % 4;",
             "codes are permuted for other lanes than those that load them", MATMUL_ROWS),

    dropped("attention-tile-barrier", "attention.cu", "? visible - first : kKeys;\n      ",
            "  // the tile before, the queries",
            "keys are loaded over values in use", ATTENTION),
    dropped("attention-keys-there", "attention.cu", "true, first, count, s.tile);\n      ", "\n",
            "scores are made before keys are loaded", ATTENTION),
    dropped("attention-values-barrier", "attention.cu", "s.rescale[row] = rescale;\n      }\n      ", "\n",
            "values are loaded over keys in use", ATTENTION),
    dropped("attention-values-there", "attention.cu", "false, first, count, s.tile);\n      ", "\n",
            "values are added before they are loaded", ATTENTION),
    dropped("attention-factors-barrier", "attention.cu", "= factors;\n    }\n    ", "\n",
            "values are merged before their factors are there", ATTENTION),
    dropped("attention-sums-barrier", "attention.cu", "total[i].sum;\n    }\n  ", "\n",
            "values are divided before their sums are there", ATTENTION),
    Mutation("attention-causal", "attention.cu", "p - block * pages.page + 1;", "p - block * pages.page;",
             "a token does not see itself", ATTENTION),
    Mutation("attention-merge-order", "attention.cu", "int32_t i = 0; i < parts; ++i",
             "int32_t i = parts - 1; i >= 0; --i",
             "parts are merged from the last to the first", ATTENTION),
    Mutation("attention-part-edge", "attention_device.h", "< all.end ? first + kSegment : all.end",
             "< all.end ? first + kSegment - 1 : all.end",
             "the last block of a split query's segments is left out", ATTENTION),

    Mutation("tiles-wait", "attention_tiles.cu", "wait_copies<1>();\n    __syncthreads();  // keys",
             "wait_copies<2>();\n    __syncthreads();  // keys",
             "scores are made while keys are copied", ATTENTION_LISTS),
    Mutation("tiles-values-wait", "attention_tiles.cu", "wait_copies<1>();\n    __syncthreads();  // values are there",
             "wait_copies<2>();\n    __syncthreads();  // values are there",
             "values are multiplied while they are copied", ATTENTION_LISTS),
    dropped("tiles-keys-there", "attention_tiles.cu", "    ", "  // keys are there\n",
            "keys are read before other threads' copies are there", ATTENTION_LISTS),
    dropped("tiles-keys-read", "attention_tiles.cu", "    ", "  // keys are read\n",
            "the next page's keys are copied over those in use", ATTENTION_LISTS),
    dropped("tiles-values-there", "attention_tiles.cu", "    ", "  // values are there\n",
            "values are read before other threads' copies are there", ATTENTION_LISTS),
    dropped("tiles-values-read", "attention_tiles.cu", "    ", "  // values are read\n",
            "the next page's values are copied over those in use", ATTENTION_LISTS),
    Mutation("tiles-fragment", "attention_tiles.cu", "pack_bf16(two[0], two[1])", "pack_bf16(two[1], two[0])",
             "two columns of the weights' A fragment are swapped", ATTENTION_LISTS),
    Mutation("tiles-page-row", "attention_tiles.cu", "{at[0], at[4 * pair_stride(kDim)]}", "{at[0], at[4 * kDim]}",
             "the second register of the values' B fragment comes from a wrong row", ATTENTION_LISTS),
    Mutation("tiles-visitors", "attention_tiles.cu", "here)) << 32 * i", "here)) << 31 * i",
             "tokens from the 32nd of a tile on take each other's pages", ATTENTION_LISTS),
    Mutation("tiles-others-page", "attention_tiles.cu", "rows[i].there() && (visit.tokens >> rows[i].token & 1) != 0",
             "rows[i].there()", "a token sees the pages of its neighbours", ATTENTION_LISTS),
    Mutation("tiles-segment", "attention_tiles.cu", "following.key / kSegment != visit.key / kSegment",
             "following.none()", "segments are not begun afresh", ATTENTION_LISTS),
    dropped_of_codes("codes-keys-there", "keys are there", "keys are decoded over values in use", CODES),
    dropped_of_codes("codes-keys-read", "keys are read", "keys are multiplied before all are decoded", CODES),
    dropped_of_codes("codes-values-there", "values are there", "values are decoded over keys in use", CODES),
    dropped_of_codes("codes-values-read", "values are read", "values are multiplied before all are decoded", CODES),
    Mutation("codes-helpers", "attention_tiles.cu", "if (warp < kTileWarps)", "if (warp <= kTileWarps)",
             "a warp without rows writes behind the sums of the others", ATTENTION_LISTS),
    Mutation("codes-bias", "page_tile_device.h", "-(32768.0f + 128)", "-(32768.0f + 127)",
             "int8 codes stand for one more", CODES),
    Mutation("codes-halves", "page_tile_device.h", ">> 4 * part &", ">> 4 * (1 - part) &",
             "channels of the two halves of a byte are swapped", CODES),
    Mutation("codes-tokens", "page_tile_device.h", "token % 2 * 16", "token / 2 % 2 * 16",
             "a token takes its neighbour's scale", CODES),
    Mutation("codes-group", "page_tile_device.h", "(kKeys ? row / 16 : word / 4)", "(kKeys ? row / 16 : word / 8)",
             "groups of channels share a scale", CODES),
    Mutation("codes-minima", "page_tile_device.h", "grid[kGroups * kTokenPairs + pair + i]", "grid[pair + i]",
             "scales are taken for minima", CODES),

    dropped("select-coarse-queries", "select.cu", "s.q);\n    ", "\n    float scores",
            "coarse windows are scored before queries are loaded", SELECT),
    dropped("select-fine-queries", "select.cu", "head + thread);\n      ", "\n      if (!seen)",
            "fine windows are scored before queries are loaded", SELECT),
    dropped("select-votes-barrier", "select.cu", "j, vote);\n  }\n  ", "\n",
            "ranks are read before all votes are cast", SELECT),
    dropped("select-queries-barrier", "select.cu", ": kTileHeads;\n      ",
            "\n      load_queries(call, query, head, rows, s.q);\n      if",
            "the next 16 heads are loaded over those in use", SELECT),
    Mutation("merge-tiles-there", "select.cu", "exp2f(part.largest - through);\n    __syncwarp();",
             "exp2f(part.largest - through);",
             "a lane merges tiles that other lanes have not prepared", SELECT),
    Mutation("merge-tiles-carry", "select.cu", "lane == 0 ? largest : left;", "left;",
             "the sum of 32 tiles keeps its scale when the next have a larger score", MANY),
    dropped("select-sums-barrier", "select.cu", "= {largest, sum};\n    }\n    ", "\n",
            "warps' sums are merged before all are there", SELECT),
    Mutation("choose-one-thread", "select.cu", "if (warp == 0) find_digit", "if (thread == 0) find_digit",
             "one lane alone calls for a shuffle of its warp", SELECT),
    dropped("choose-zero-barrier", "select.cu", "s.histograms[copy][i] = 0;\n    ", "\n",
            "blocks are counted in bins that are not empty yet", SELECT),
    dropped("choose-bins-barrier", "select.cu", "(kBins - 1)), 1U);\n    }\n    ", "\n",
            "bins are added up before all blocks are counted", SELECT),
    dropped("choose-copies-barrier", "select.cu", "+= s.histograms[copy][i];\n    ", "\n",
            "the digit is sought before all bins are added up", SELECT),
    dropped("choose-digit-barrier", "select.cu", "if (warp == 0) find_digit(s, left);\n    ", "\n",
            "the digit is read before it is found", SELECT),
    dropped("choose-counts-barrier", "select.cu", "s.equal[warp] = equal;\n  }\n  ", "\n",
            "blocks are placed before all warps have counted theirs", SELECT),
    Mutation("choose-before", "select.cu", "w < warp; ++w", "w <= warp; ++w",
             "a warp counts its own blocks as those before them", SELECT),
    Mutation("choose-run", "select.cu", "first - lane < end; first += kWarpThreads * kBatch) {\n    ranks.load("
             "first, kWarpThreads, end, x);\n#pragma unroll\n    for (int i = 0; i < kBatch; ++i) {\n      const int32_t",
             "first < end; first += kWarpThreads * kBatch) {\n    ranks.load("
             "first, kWarpThreads, end, x);\n#pragma unroll\n    for (int i = 0; i < kBatch; ++i) {\n      const int32_t",
             "lanes behind the last block do not vote", SELECT),
    Mutation("choose-ties", "select.cu", "(is_equal && my_equal < equals)", "(is_equal && my_equal <= equals)",
             "one tied block too many is chosen", TIES),
    Mutation("select-last-window", "select_device.h", "call.block_windows == call.block_windows - 1 &&",
             "call.block_windows == 0 &&",
             "a block's first window, not its last, votes for the next block too", SELECT),

    dropped("select-tiles-barrier", "select_tiles.cu", "best[i] = 0;\n  ", "\n",
            "votes are cast for ranks that are not zero yet", SELECT),
    dropped("select-tiles-sums", "select_tiles.cu", "if constexpr (kQueries == 1) {\n    ",
            "\n    if (thread >= call.group)",
            "warps' sums are merged before all are there", SELECT),
    dropped("select-tiles-votes", "select_tiles.cu", "});\n  ", "\n  for (int32_t i = self",
            "ranks are read before all votes are cast", SELECT),
    Mutation("select-tiles-fragment", "select_tiles.cu", "x[c / 8 * 32 + c % 8]", "x[c]",
             "queries' channels lie in another order than keys'", SELECT),
    Mutation("select-tiles-window-edge", "select_tiles.cu", "quad * 2 + k >= count)", "quad * 2 + k > count)",
             "a window that is not full yet counts in the sum", SELECT),
    Mutation("select-tiles-first", "select_tiles.cu", "first_block * call.block_windows - 1;",
             "first_block * call.block_windows;",
             "a tile of blocks leaves out the window before it", SELECT),
    Mutation("select-chunk-wait", "select_tiles.cu", "      wait_copies<0>();\n", "",
             "a warp's own chunk is scored while it is copied", SELECT),
    Mutation("select-stage-wait", "select_tiles.cu", "wait_copies<kStages - 2>();", "wait_copies<kStages - 1>();",
             "the block's chunk is scored while it is copied", SELECT),
    dropped("select-stage-there", "select_tiles.cu", "      ", "  // this chunk is there, the last one is read\n",
            "a chunk is scored before other threads' copies are there", SELECT),
    dropped("select-stage-read", "select_tiles.cu", "    ", "  // all is read\n",
            "the next sequence's chunks are copied over those in use", SELECT),
]


def copy_tree():
    """Brings the copy to this tree's state. Only what differs is written, so that the build there takes up the rest."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                           stdout=subprocess.PIPE, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, COPY / name
        if not source.is_file():  # deleted, not committed yet
            target.unlink(missing_ok=True)
        elif not target.is_file() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def build(tests, options=()):
    """None, or what the compiler said first."""
    made = subprocess.run(["scripts/build.sh", "release", *tests, *options], cwd=COPY, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if made.returncode == 0:
        return None
    lines = made.stdout.splitlines() or ["nothing"]
    return next((line for line in lines if "error: " in line.lower()), lines[-1])


def in_short(said):
    """What GoogleTest said of a failure without the expressions that it compared."""
    for pattern, text in ((r"Actual: false \((.*?)\) Expected: true", "{}"),
                          (r"Value of: (.*) Actual: false Expected: true", "not {}"),
                          (r"The difference between .* is (\S+), which exceeds", "off by {}"),
                          (r"Expected equality of these values: (.*?) Which is", "{} is another")):
        if found := re.search(pattern, said):
            return text.format(found[1])
    return said


def first_failure(output, status):
    """The first thing that a test said when it failed; None where nothing tells why it did."""
    lines = output.splitlines()
    for i, line in enumerate(lines):
        if found := re.search(r"([\w.]+):\d+: Failure$", line):
            said = []
            for after in lines[i + 1:]:
                if not after.strip() or after.startswith(("Google Test trace", "[")) or after.endswith(": Failure"):
                    break
                said.append(after.strip())
            return f"{found[1]}: {in_short(' '.join(said))}"
        if found := re.search(r"bug at \S*?([\w.]+):\d+: (.*)", line):
            return f"ends the program: {found[1]}: {found[2]}"
    return f"ends with {signal.Signals(-status).name}" if status < 0 else None


def run(check, timeout):
    """Whether the test passed, what it said where it did not, and the seconds it took."""
    test, pattern = check
    begin = time.monotonic()
    try:
        done = subprocess.run([COPY / "build/release/src/cpu" / test, f"--gtest_filter={pattern}",
                               "--gtest_fail_fast"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired:
        return False, f"hangs: not done in {timeout:.0f} s", timeout
    seconds = time.monotonic() - begin
    if done.returncode != 0:
        return False, first_failure(done.stdout, done.returncode), seconds
    # A filter that matches nothing passes too.
    count = re.search(r"\[  PASSED  \] (\d+) test", done.stdout)
    if not count or int(count[1]) == 0:
        sys.exit(f"{test} has no test {pattern}")
    return True, None, seconds


def attempt(mutation, timeout):
    """Makes the mistake in the copy and says what became of it."""
    file = COPY / "src/cuda" / mutation.file
    text = file.read_text()
    file.write_text(text.replace(mutation.old, mutation.new))
    try:
        if error := build([mutation.check[0]]):
            return f"ERROR: does not build: {error}"
        passed, said, _ = run(mutation.check, timeout)
    finally:
        file.write_text(text)
    if passed:
        return "SURVIVED"
    return f"caught: {said}" if said else "ERROR: the test failed without a reason"


def main():
    ids = [argument for argument in sys.argv[1:] if argument != "--list"]
    if unknown := set(ids) - {mutation.id for mutation in MUTATIONS}:
        sys.exit(f"{' '.join(sorted(unknown))}: no such mutation; --list names them")
    chosen = [mutation for mutation in MUTATIONS if not ids or mutation.id in ids]
    if "--list" in sys.argv[1:]:
        for mutation in chosen:
            print(f"{mutation.id:26} {mutation.file:20} {mutation.breaks}: {' '.join(mutation.check)}")
        return 0

    started = time.monotonic()
    results = {}
    for mutation in chosen:
        count = (ROOT / "src/cuda" / mutation.file).read_text().count(mutation.old)
        if count != 1:
            results[mutation.id] = f"ERROR: {count} places in {mutation.file} hold the text"
    copy_tree()
    if error := build(sorted({mutation.check[0] for mutation in chosen}), ["--", "-DSALA_TESTS=ON"]):
        sys.exit(f"the tree as it is does not build: {error}")
    # What passes without a mistake, and how long it takes then: one that never ends is told by that.
    seconds = {}
    for check in dict.fromkeys(mutation.check for mutation in chosen):
        passed, said, seconds[check] = run(check, 1200)
        if not passed:
            sys.exit(f"the tree as it is fails {' '.join(check)}: {said}")
        print(f"as it is, in {seconds[check]:.0f} s: {' '.join(check)}", flush=True)

    for i, mutation in enumerate(chosen):
        begin = time.monotonic()
        if mutation.id not in results:
            results[mutation.id] = attempt(mutation, 30 + 5 * seconds[mutation.check])
        took = f"{time.monotonic() - begin:.0f} s"
        print(f"[{i + 1}/{len(chosen)}] {mutation.id} ({took}): {results[mutation.id]}", flush=True)

    print("\n| mutation | file | mistake | found by |\n|---|---|---|---|")
    for mutation in chosen:
        how = textwrap.shorten(results[mutation.id].removeprefix("caught: "), 110, placeholder=" ...")
        print(f"| {mutation.id} | `{mutation.file}` | {mutation.breaks} | {how.replace('|', '/')} |")
    caught = sum(result.startswith("caught") for result in results.values())
    print(f"\n{caught} of {len(chosen)} caught, in {(time.monotonic() - started) / 60:.0f} min")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
