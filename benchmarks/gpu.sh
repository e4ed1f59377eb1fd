#!/usr/bin/env bash
# What is measured on one NVIDIA GPU, beside PyTorch on it: `benchmarks/gpu.sh [--quick] DIRECTORY`.
#
# All of it takes some hours, as every contender compiles for every row. --quick is for a GPU that is
# there for a quarter of an hour, and large enough for 128 images: XXS and S in bfloat16, a profile.
# The same command again goes on with what is missing. float32 products are TF32 in both libraries,
# JAX's default on a GPU. Needs a CUDA build of torch, transformers, and jax with CUDA, flax, optax
# and safetensors; without --quick the package has to be installed.
set -euo pipefail

quick=
if [[ "${1:-}" == --quick ]]; then
    quick=1
    shift
fi
usage="usage: benchmarks/gpu.sh [--quick] DIRECTORY, for its tables and JSON files"
directory="$(realpath -m "${1:?$usage}")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"

python3 - <<'CHECK'
import importlib.util
import sys

needed = ("jax", "flax", "optax", "safetensors", "torch", "transformers")
missing = [name for name in needed if not importlib.util.find_spec(name)]
if "jax" not in missing:
    import jax

    if jax.default_backend() != "gpu":
        sys.exit(f"JAX computes on the {jax.default_backend()}, not a GPU; pip install -e '.[cuda]'")
if missing:
    sys.exit(f"{', '.join(missing)} cannot be imported; pip install -e '.[cuda,parity]'")
import torch

if not torch.cuda.is_available():
    sys.exit("torch sees no GPU; install a CUDA build of it (https://pytorch.org/get-started)")
CHECK

mkdir -p "$directory"
measure() {  # $1: the table's name; then what prints it. One that is there is not made again.
    local name="$1" unfinished="$directory/$1.unfinished"
    shift
    [[ ! -e "$directory/$name.md" ]] || return 0
    echo "== $name"
    "$@" > "$unfinished" || { rm "$unfinished"; return 1; }
    mv "$unfinished" "$directory/$name.md"
}
profile() {  # CUDA graphs would hide the operations in them from the profiler.
    XLA_FLAGS="--xla_gpu_enable_command_buffer= ${XLA_FLAGS:-}" "$@"
}

if [[ -n "$quick" ]]; then
    limited() { timeout --foreground --signal INT --kill-after 30 "$@"; }
    common=(--models xxs s --batches 128 --sizes 256 --dtypes bfloat16 --rounds 3 --seconds 1 \
        --no-downstream --contenders ours "plain port" "eager channels-last" \
        "torch.compile channels-last")
    late=()
    # The limits, and 30 s each to stop, are below 15 minutes. What matters most goes first.
    measure quick_train limited 480 python3 benchmarks/against_pytorch.py --kinds train \
        "${common[@]}" --output "$directory/quick_train.json" || late+=(quick_train)
    measure quick_profile profile limited 100 python3 benchmarks/profile_work.py mobilevit_xxs \
        --work train --size 256 --batch 128 --dtype bfloat16 \
        --output "$directory/quick_profile.json" || late+=(quick_profile)
    measure quick_forward limited 200 python3 benchmarks/against_pytorch.py --kinds forward \
        "${common[@]}" --output "$directory/quick_forward.json" || late+=(quick_forward)
    [[ ${#late[@]} -gt 0 ]] || exit 0
    echo "not finished: ${late[*]}; the same command again goes on from the JSON files" >&2
    exit 1
fi

both=(--dtypes bfloat16 float32)
contenders=(--contenders ours "ours, norms fused" "plain port" eager "eager channels-last" \
    torch.compile "torch.compile channels-last")
measure forward python3 benchmarks/against_pytorch.py --kinds forward --batches 1 32 256 \
    "${contenders[@]}" "${both[@]}" --output "$directory/forward.json"
measure train python3 benchmarks/against_pytorch.py --kinds train --batches 1 32 256 \
    "${contenders[@]}" "${both[@]}" --output "$directory/train.json"
measure scales python3 benchmarks/against_pytorch.py --kinds train --batches 128 \
    --sizes 160 192 256 288 320 "${contenders[@]}" "${both[@]}" --output "$directory/scales.json"
# The shares of the GPU's own best: one large matrix product, one large copy.
measure shares mobilevit benchmark mobilevit_xxs mobilevit_xs mobilevit_s --work forward train \
    --sizes 256 --batches 1 32 256 "${both[@]}" --output "$directory/shares.json"
for model in mobilevit_xxs mobilevit_xs mobilevit_s; do
    for work in forward train; do
        measure "profile_${model}_$work" profile python3 benchmarks/profile_work.py "$model" \
            --work "$work" --size 256 --batch 256 --dtype bfloat16
    done
done
