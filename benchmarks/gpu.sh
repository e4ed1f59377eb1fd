#!/usr/bin/env bash
# All that is measured on one NVIDIA GPU, beside PyTorch on it: `benchmarks/gpu.sh DIRECTORY`.
#
# Some hours, as every contender compiles for every row; the same command again goes on with the
# rows of the comparisons that are missing, and does shares and profiles anew. float32 products are
# TF32 in both libraries, JAX's default on a GPU. Needs the extras 'cuda' and 'parity', and a CUDA
# build of torch.
set -euo pipefail

directory="$(realpath -m "${1:?usage: benchmarks/gpu.sh DIRECTORY, for its tables and JSON files}")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"

python - <<'CHECK'
import importlib.util
import sys

import jax

if jax.default_backend() != "gpu":
    sys.exit(f"JAX computes on the {jax.default_backend()}, not a GPU; pip install -e '.[cuda]'")
if not importlib.util.find_spec("torch") or not importlib.util.find_spec("transformers"):
    sys.exit("torch or transformers are missing; pip install -e '.[parity]'")
import torch

if not torch.cuda.is_available():
    sys.exit("torch sees no GPU; install a CUDA build of it (https://pytorch.org/get-started)")
CHECK

mkdir -p "$directory"
both=(--dtypes bfloat16 float32)
measure() {  # $1: the tables' name; then what prints them
    local name="$1" unfinished="$directory/$1.unfinished"
    shift
    echo "== $name"
    "$@" > "$unfinished" || { rm "$unfinished"; return 1; }
    mv "$unfinished" "$directory/$name.md"
}

contenders=(--contenders ours "ours, norms fused" eager "eager channels-last" torch.compile \
    "torch.compile channels-last")
measure forward python benchmarks/against_pytorch.py --kinds forward --batches 1 32 256 \
    "${contenders[@]}" "${both[@]}" --output "$directory/forward.json"
measure train python benchmarks/against_pytorch.py --kinds train --batches 1 32 256 \
    "${contenders[@]}" "${both[@]}" --output "$directory/train.json"
measure scales python benchmarks/against_pytorch.py --kinds train --batches 128 \
    --sizes 160 192 256 288 320 "${contenders[@]}" "${both[@]}" --output "$directory/scales.json"
# The shares of the GPU's own best: one large matrix product, one large copy.
measure shares mobilevit benchmark mobilevit_xxs mobilevit_xs mobilevit_s --work forward train \
    --sizes 256 --batches 1 32 256 "${both[@]}" --output "$directory/shares.json"
for model in mobilevit_xxs mobilevit_xs mobilevit_s; do
    for work in forward train; do
        measure "profile_${model}_$work" python benchmarks/profile_work.py "$model" \
            --work "$work" --size 256 --batch 256 --dtype bfloat16
    done
done
