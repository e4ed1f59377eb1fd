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
# # Fine-tune MobileViT on your images
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mobilevit-jax/mobilevit_jax/blob/main/colab/2_fine_tune.ipynb)
#
# A folder of pictures, one sub-folder a class, becomes a classifier that transformers can open.
#
# Without a folder of yours, this notebook draws one: stripes, checks and dots. The weights to start
# from are Apple's, from the Hugging Face hub; where they cannot be had, a small model is trained
# first, on drawn shapes. On two CPU cores all of it takes some seven minutes; `TINY` makes it two,
# and the result useless. A TPU or GPU is used if the runtime has one.

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

# %%
import jax

ON_CPU = jax.default_backend() == "cpu"
print(f"{jax.device_count()} x {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Images
#
# `FOLDER` holds `train/<class>/*.jpg` and `validation/<class>/*.jpg`; png, webp, gif, tif and others will do too.

# %%
FOLDER = ""  # @param {type: "string"}

from pathlib import Path

import numpy as np
from PIL import Image as Picture


def texture(kind: str, rng: np.random.Generator, side: int = 96) -> np.ndarray:
    """Draws stripes, checks or dots, at any angle and in any two colours."""
    y, x = np.mgrid[:side, :side] / side
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(20, 45)
    along = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    across = np.sin(frequency * (y * np.cos(angle) - x * np.sin(angle)) + rng.uniform(0, 6))
    inside = {"stripes": along > 0, "checks": along * across > 0, "dots": along + across > 1}[kind]
    dark, bright = rng.uniform(20, 110, 3), rng.uniform(145, 235, 3)
    pixels = np.where(inside[..., None] ^ (rng.random() < 0.5), dark, bright)
    return np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)


def draw_folder(folder: Path, counts: dict[str, int]) -> None:
    """Writes so many pictures of each of three classes for each split."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for kind in ("stripes", "checks", "dots"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                Picture.fromarray(texture(kind, rng)).save(
                    folder / split / kind / f"{index:03}.png"
                )


folder, dataset = FOLDER, "my_images"
if not folder:
    dataset = folder = "drawn_textures_tiny" if TINY else "drawn_textures"
    draw_folder(
        Path(folder), {"train": 16, "validation": 8} if TINY else {"train": 200, "validation": 50}
    )
    print(f"No FOLDER was named, so pictures were drawn into {folder}.")
# %mobilevit prepare image_folder --source {folder} --name {dataset}

# %% [markdown]
# ## Weights to start from

# %%
WEIGHTS = "apple/mobilevit-xx-small"  # @param {type: "string"}

import mobilevit_jax as mvj
from mobilevit_jax.errors import MobileViTError

weights = WEIGHTS
try:
    start = mvj.load_weights(weights)
except MobileViTError as error:
    print(f"{error}\n\nSo a small model is trained here first, on drawn shapes.\n")
    weights = "runs/quickstart-tiny" if TINY else "runs/quickstart"
    # %mobilevit train experiments/quickstart.py --workdir {weights} {"--tiny" if TINY else ""}
    start = mvj.load_weights(weights)
print(f"{start.model_name}, {len(start.class_names)} classes, {start.description}")

# %% [markdown]
# ## Fine-tune
#
# `experiments/fine_tune.py` is the recipe, and every field of it an option. The classifier is drawn
# anew for your classes; the rest learns at a tenth of its rate. On a CPU the images are small. The
# same cell again goes on where it stopped.

# %%
EPOCHS = 10  # @param {type: "integer"}

workdir = "runs/fine_tuned-tiny" if TINY else "runs/fine_tuned"
options = f"--init-from {weights} --model.name {start.model_name} --data.dataset {dataset}"
options += f" --epochs {1 if TINY else EPOCHS} --schedule.warmup-steps 10 --log-every 10"
if ON_CPU or weights != WEIGHTS:
    options += " --processor.size 72 --processor.crop-size 64 64 --sampler.sizes 48 64"
    options += " --sampler.base-size 64 --sampler.batch-size 16"
# %mobilevit train experiments/fine_tune.py --workdir {workdir} {options}

# %%
from IPython.display import Image

Image(f"{workdir}/learning_curves.png", width=900)

# %% [markdown]
# ## Evaluate

# %%
# %mobilevit evaluate --weights {workdir} --plots examples.png
Image("examples.png", width=900)

# %% [markdown]
# ## Take it away
#
# The directory holds `config.json`, `model.safetensors` and `preprocessor_config.json`: transformers'
# `MobileViTForImageClassification` opens it, and so does `mvj.from_pretrained`.

# %%
# %mobilevit convert {workdir} my_model
archive = shutil.make_archive("my_model", "zip", "my_model")
model, variables, processor = mvj.from_pretrained("my_model")
print(f"{archive}: {os.path.getsize(archive) / 1e6:.1f} MB, {model.num_classes} classes")

# %%
origin = "downloaded" if weights == WEIGHTS else "trained here, on drawn shapes"
print(f"The weights to start from were {origin}: {weights}.")
print(f"The pictures were {'yours' if FOLDER else 'drawn here'}: {folder}.")
