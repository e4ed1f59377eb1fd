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
# # Detect and segment with MobileViT
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mobilevit-jax/mobilevit_jax/blob/main/colab/4_detect_and_segment.ipynb)
#
# SSDLite and YOLOX draw boxes, DeepLabv3 outlines, all on MobileViT.
#
# Apple's segmentation weights come from the Hugging Face hub; there are none for detection. What
# cannot be had is trained here, on scenes that are drawn here: some fifteen minutes on two CPU cores
# for both. `TINY` makes it two, and the answers useless. A TPU or GPU is used if the runtime has
# one.

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
# ## Detect: SSDLite or YOLOX
#
# `EPOCHS` of 16 is the experiment as it stands; 8 is what a CPU does in minutes. `docs/yolo.md` is for
# people who come from YOLOv5 or v8.

# %%
DETECTOR = "ssdlite"  # @param ["ssdlite", "yolox"]
EPOCHS = 8  # @param {type: "integer"}

experiment = "yolox_shapes" if DETECTOR == "yolox" else "shapes"
detector = f"runs/detection_{experiment}-tiny" if TINY else f"runs/detection_{experiment}"
options = "--tiny" if TINY else f"--epochs {EPOCHS}"
# %mobilevit train experiments/detection/{experiment}.py --workdir {detector} {options}

# %%
from IPython.display import Image, display

# %mobilevit evaluate --weights {detector} --plots found.png
Image("found.png", width=900)

# %% [markdown]
# In Python, an image goes in and boxes come out. `IMAGE` is the path of a picture of yours; if it is
# empty, a drawn one is taken.

# %%
IMAGE = ""  # @param {type: "string"}

import mobilevit_jax as mvj

detect = mvj.load_predictor(detector)
detections = detect(IMAGE or f"{detector}/example.png")
for found in detections:
    print(f"{found.name} {found.score:.0%} at {[round(side) for side in found.box]}")
if not detections:
    print("nothing found")

# %% [markdown]
# ## Segment: DeepLabv3

# %%
WEIGHTS = "apple/deeplabv3-mobilevit-xx-small"  # @param {type: "string"}

from mobilevit_jax.errors import MobileViTError

weights = WEIGHTS
try:
    segment = mvj.load_predictor(weights)
except MobileViTError as error:
    print(f"{error}\n\nSo a model is trained here, on drawn scenes.\n")
    weights = "runs/segmentation_shapes-tiny" if TINY else "runs/segmentation_shapes"
    options = "--tiny" if TINY else "--epochs 3" if ON_CPU else ""
    # %mobilevit train experiments/segmentation/shapes.py --workdir {weights} {options}
    segment = mvj.load_predictor(weights)
    # %mobilevit evaluate --weights {weights} --plots outlined.png

# %% [markdown]
# A mask has the picture's own size, with the class of each pixel.

# %%
import urllib.request

PHOTOGRAPH = "http://images.cocodataset.org/val2017/000000039769.jpg"


def picture() -> str:
    """Returns the path of a picture to segment."""
    if IMAGE:
        return IMAGE
    if weights != WEIGHTS:
        return f"{weights}/example.png"
    try:
        return urllib.request.urlretrieve(PHOTOGRAPH, "photograph.jpg")[0]
    except OSError as error:
        raise RuntimeError(f"{PHOTOGRAPH}: {error}; name a picture of yours as IMAGE") from error


path = picture()
# %mobilevit predict {path} --weights {weights} --plot overlay.png
Image("overlay.png", width=600)

# %%
import numpy as np

mask = segment(path)
classes, pixels = np.unique(mask, return_counts=True)
for index, count in sorted(zip(classes, pixels, strict=True), key=lambda pair: -pair[1]):
    print(f"{segment.class_names[index]}: {count / mask.size:.1%} of the picture")

# %%
if weights != WEIGHTS:
    display(Image("outlined.png", width=900))

# %%
origin = "downloaded" if weights == WEIGHTS else "trained here, on drawn scenes"
print(f"The detector was trained here, on drawn scenes: {detector}.")
print(f"The segmentation weights were {origin}: {weights}.")
