# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Multi-scale training, and the paper's ablations
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mobilevit-jax/mobilevit_jax/blob/main/colab/3_multi_scale_and_ablations.ipynb)
#
# What the multi-scale sampler does; a study, several runs that differ in one thing, with the paper's
# numbers beside ours; and what a MobileViT block can see.
#
# With a TPU or GPU the study is on CIFAR-10, which is downloaded. On a CPU, or without a network, it
# is on shapes that are drawn here, for some ten minutes on two cores. `TINY` makes it two minutes,
# and the numbers meaningless. For ImageNet see
# [docs/tpu_gpu.md](https://github.com/mobilevit-jax/mobilevit_jax/blob/main/docs/tpu_gpu.md).

# %%
# @title Install
TINY = False  # @param {type: "boolean"}

import glob
import os
import shutil
import subprocess

REPOSITORY = "https://github.com/mobilevit-jax/mobilevit_jax"
TPU = bool(glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*"))
GPU = shutil.which("nvidia-smi") is not None

if os.path.isdir("../experiments"):  # this notebook was opened in a checkout
    os.chdir("..")
if not os.path.isdir("experiments"):
    extra = "[tpu]" if TPU else "[cuda]" if GPU else ""
    if subprocess.run(["git", "clone", "-q", "--depth", "1", REPOSITORY]).returncode:
        raise RuntimeError(
            f"{REPOSITORY} cannot be fetched. Without a network, install the package from a "
            "checkout, and open this notebook in its folder colab/."
        )
    os.chdir("mobilevit_jax")
    # %pip install -q ".{extra}"

# %load_ext mobilevit_jax.cli.notebook

# %% [markdown]
# ## The multi-scale sampler
#
# Every step draws an image size. Small images come in large batches, so that an epoch takes fewer
# steps (section 3.2 of the paper). The plan of an epoch follows from the configuration and the seed
# alone: it is the same on any number of devices.

# %%
import matplotlib.pyplot as plt

from mobilevit_jax.data.sampler import SamplerConfig, plan_epoch, scale_table, steps_in_epoch

IMAGENET = 1_281_167
samplers = {
    "standard": SamplerConfig(sizes=(256,)),
    "multi-scale": SamplerConfig(),
    "multi-scale, batches by area": SamplerConfig(rule="area"),
}
for name, sampler in samplers.items():
    table = scale_table(sampler)
    steps = steps_in_epoch(seed=0, epoch=0, num_examples=IMAGENET, table=table)
    batches = ", ".join(f"{scale.batch_size} at {scale.height}" for scale in table)
    print(f"{name}: {steps} steps in the first epoch of ImageNet; {batches} pixels")

# %%
figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
for name in ("standard", "multi-scale"):
    table = scale_table(samplers[name])
    plan = plan_epoch(seed=0, epoch=0, num_examples=IMAGENET, table=table)[:60]
    axes.step(range(len(plan)), [batch.height for batch in plan], where="mid", label=name)
axes.set(xlabel="step", ylabel="image size in pixels")
figure.legend(loc="outside right upper", frameon=False)
plt.show()

# %% [markdown]
# ## A study
#
# A study is a Python file: rows, each of them an experiment, and tables of their numbers beside the
# paper's. `mobilevit sweep` trains each row in a process of its own, goes on where it stopped, and
# skips what is done. `experiments/ablations/` has the paper's studies; this is their small form. Its
# other rows are weight_decay_0.1, weight_decay_0.0001, no_label_smoothing, patches_2_2_2_at_128 and
# patches_8_4_2_at_128.
#
# JAX has not been used in this process yet, and must not be: a TPU belongs to one process at a time.

# %%
ROWS = "recipe standard_sampler no_fusion"  # @param {type: "string"}

import pickle
import tarfile
import urllib.request
from pathlib import Path

from PIL import Image as Picture

CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


def fetch_cifar10(folder: Path) -> None:
    """Downloads CIFAR-10 and writes its pictures as <split>/<class>/<name>.png."""
    archive, _ = urllib.request.urlretrieve(CIFAR10)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    batches = folder / "cifar-10-batches-py"
    names = pickle.loads((batches / "batches.meta").read_bytes())["label_names"]
    for split, pattern in (("train", "data_batch_*"), ("test", "test_batch")):
        for name in names:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for file in sorted(batches.glob(pattern)):
            batch = pickle.loads(file.read_bytes(), encoding="bytes")
            pictures = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for pixels, label, name in zip(
                pictures, batch[b"labels"], batch[b"filenames"], strict=True
            ):
                Picture.fromarray(pixels).save(folder / split / names[label] / name.decode())
    shutil.rmtree(batches)


data = "drawn shapes"
options = "--data.dataset shapes/quickstart --data.train train --data.validation validation"
options += " --epochs 3 --augment.crop-scale 0.85 1.0"
if TINY:
    options = "--tiny"
elif TPU or GPU:
    try:
        fetch_cifar10(Path("cifar10"))
        data, options = "CIFAR-10", ""
        # %mobilevit prepare image_folder --source cifar10 --name cifar10_images
    except OSError as error:
        print(f"{CIFAR10}: {error}\n\nSo the study is on drawn shapes.\n")
sweep = f"runs/study-{data.replace(' ', '-')}" + "-tiny" * TINY
# %mobilevit sweep experiments/ablations/cifar10.py --rows {ROWS} --workdir {sweep} {options}

# %% [markdown]
# The report is one page, `report/index.html`, that opens without a network; its tables are also in
# `report/tables.md`. What was not run is said to be.

# %%
from IPython.display import Image, Markdown, display

# %mobilevit report {sweep} --output report
display(Markdown(Path("report/tables.md").read_text().split("\n## Learning curves")[0]))
for picture in sorted(Path("report").glob("*top1.png")):
    display(Image(picture, width=700))

# %% [markdown]
# ## What a block can see
#
# One pixel (red) before the fusion: its attention reaches the same place of every patch (dark), and
# the local convolution has brought the neighbours of each (light). Nothing is out of reach as long as
# the patch is not larger than the kernel (Figure 13 of the paper). It is computed from gradients.

# %%
from mobilevit_jax.analysis.plots_receptive_field import receptive_fields

receptive_fields("receptive_field.png")
Image("receptive_field.png", width=900)

# %%
print(f"The study was on {data}{', in its tiny form' if TINY else ''}: {sweep}.")
