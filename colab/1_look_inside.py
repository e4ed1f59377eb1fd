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
# # Predict, and look inside MobileViT
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mobilevit-jax/mobilevit_jax/blob/main/colab/1_look_inside.ipynb)
#
# Names what a picture shows, then draws what the network computed on the way: the features of each
# stage, and where the transformers look.
#
# Apple's weights come from the Hugging Face hub. Where they cannot be had, a small model is trained
# here, on shapes that are drawn here: some five minutes on two CPU cores. `TINY` makes it one or two,
# and the answers useless. A TPU or GPU is used if the runtime has one.

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

print(f"{jax.device_count()} x {jax.devices()[0].device_kind}")

# %% [markdown]
# ## Weights

# %%
WEIGHTS = "apple/mobilevit-small"  # @param {type: "string"}

import mobilevit_jax as mvj
from mobilevit_jax.errors import MobileViTError

weights = WEIGHTS
try:
    loaded = mvj.load_weights(weights)
except MobileViTError as error:
    print(f"{error}\n\nSo a small model is trained here, on drawn shapes.\n")
    weights = "runs/quickstart-tiny" if TINY else "runs/quickstart"
    # %mobilevit train experiments/quickstart.py --workdir {weights} {"--tiny" if TINY else ""}
    loaded = mvj.load_weights(weights)
print(f"{loaded.model_name}, {len(loaded.class_names)} classes, {loaded.description}")

# %% [markdown]
# ## Predict
#
# `IMAGE` is the path of a picture of yours; in Colab, upload it in the panel on the left. If it is
# empty, the picture is a photograph of COCO, or a drawn one for weights that were trained here.

# %%
IMAGE = ""  # @param {type: "string"}

import urllib.request

PHOTOGRAPH = "http://images.cocodataset.org/val2017/000000039769.jpg"


def picture() -> str:
    """Returns the path of a picture to look at."""
    if IMAGE:
        return IMAGE
    if weights != WEIGHTS:
        return f"{weights}/example.png"
    try:
        return urllib.request.urlretrieve(PHOTOGRAPH, "photograph.jpg")[0]
    except OSError as error:
        raise RuntimeError(f"{PHOTOGRAPH}: {error}; name a picture of yours as IMAGE") from error


path = picture()
# %mobilevit predict {path} --weights {weights} --plot answer.png

# %%
from IPython.display import Image

Image("answer.png", width=600)

# %% [markdown]
# The same in Python: the processor resizes, crops and orders the channels as the weights expect it;
# the model is a Flax module, a pure function of weights and images.

# %%
processor = loaded.processor
if weights != WEIGHTS:
    processor = processor.for_size(128)  # twice the size of the training: more patches to look at
images = processor(path)  # [1, height, width, 3] in [0, 1]
apply = jax.jit(loaded.model.apply, static_argnames="features")
logits, features = apply(loaded.variables, images, features=True)
best = int(logits[0].argmax())
print(f"{loaded.class_names[best]}: {jax.nn.softmax(logits[0])[best]:.1%}")
for name, feature in features.items():
    print(f"{name:14} {feature.shape}")

# %% [markdown]
# ## Features
#
# The eight channels of each stage that differ most between places. `layer_3`, `layer_4` and
# `layer_5` end with MobileViT blocks.

# %%
from mobilevit_jax.analysis import plots_inside

plots_inside.feature_maps(features, "features.png")
Image("features.png", width=900)

# %% [markdown]
# ## Attention over patches
#
# A MobileViT block cuts its map into patches of 2 x 2 pixels, and a pixel attends to the pixels at
# the same place of every patch (section 3.1 of the paper). The frame is round the patch that looks,
# and yellow is what it looks at; each row is the last transformer layer of a block. `DOWN` and
# `ACROSS` choose the place, as shares of the image.

# %%
DOWN = 0.5  # @param {type: "slider", min: 0, max: 0.99, step: 0.01}
ACROSS = 0.5  # @param {type: "slider", min: 0, max: 0.99, step: 0.01}

from mobilevit_jax.models import attention_maps

rgb = images[0, :, :, ::-1] if processor.channel_order == "bgr" else images[0]
plots_inside.attention_over_patches(
    rgb,
    jax.jit(attention_maps, static_argnums=0)(loaded.model, loaded.variables, images),
    features,
    "attention.png",
    patch_sizes=loaded.model.backbone.patch_sizes,
    at=(DOWN, ACROSS),
)
Image("attention.png", width=900)

# %%
origin = "downloaded" if weights == WEIGHTS else "trained here, on drawn shapes"
print(f"The weights were {origin}: {weights}. The picture was {path}.")
