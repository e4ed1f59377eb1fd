"""What PyTorch itself writes, read without it: the same numbers, or refused."""

import os

import ml_dtypes
import numpy as np
import pytest

from mobilevit_jax.convert import torch_file
from mobilevit_jax.errors import DataError
from tests.convert.torch_zip import read_arrays

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def test_dtypes_and_views(torch, path):
    base = torch.arange(24).reshape(2, 3, 4)
    names = "bool uint8 int8 int16 int32 int64 uint16 uint32 uint64 float16 float32 float64"
    tensors = {name: base.to(getattr(torch, name)) for name in names.split()}
    tensors |= {name: base.to(getattr(torch, name)) for name in ("complex64", "complex128")}
    tensors |= {
        "permuted": base.float().permute(2, 0, 1),
        "strided": base.float()[:, 1:, ::2],
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.rand(3, 1).expand(3, 5),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.rand(3)),
        "with_state": torch.nn.Parameter(torch.rand(3), requires_grad=False),
    }
    torch.save(tensors, path)
    result = read_arrays(path)
    assert set(result) == set(tensors)
    for name, tensor in tensors.items():
        expected = tensor.detach().numpy()
        np.testing.assert_array_equal(result[name], expected, strict=True, err_msg=name)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_types_that_numpy_lacks(torch, path, name):
    tensor = torch.linspace(-3, 3, 7).to(getattr(torch, name))
    torch.save({"x": tensor}, path)
    result = read_arrays(path)["x"]
    assert result.dtype.name == name
    np.testing.assert_array_equal(result.astype(np.float32), tensor.float().numpy())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_module_and_optimizer(torch, path, protocol):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    module(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "seen": {1, 2},
    }
    torch.save(checkpoint, path, pickle_protocol=protocol)
    result = read_arrays(path)
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(result["model"][name], tensor.numpy(), strict=True)
    moment = optimizer.state_dict()["state"][0]["exp_avg"].numpy()
    np.testing.assert_array_equal(result["optimizer"]["state"][0]["exp_avg"], moment)


def test_whole_modules_are_refused(torch, path):
    torch.save(torch.nn.Linear(2, 3), path)
    with pytest.raises(DataError, match=r"'torch\.nn\.modules\.linear\.Linear'"):
        read_arrays(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused(torch, path):
    script = torch.jit.trace(torch.nn.Linear(2, 3), torch.rand(1, 2), check_trace=False)
    torch.jit.save(script, path)
    with pytest.raises(DataError, match="TorchScript"):
        read_arrays(path)


def test_legacy_files(torch, path):
    tensors = {"x": torch.rand(3, 4).T, "y": torch.rand(3).bfloat16()}
    saved = {"model": tensors, "epoch": 3}
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    result = torch_file.read_legacy(path)
    np.testing.assert_array_equal(result["model"]["x"], tensors["x"].numpy())
    assert result["model"]["y"].dtype == ml_dtypes.bfloat16
    expected = tensors["y"].float().numpy()
    np.testing.assert_array_equal(result["model"]["y"].astype(np.float32), expected)
    assert result["epoch"] == 3


def test_legacy_files_that_run_code_are_refused(torch, tmp_path, path):
    mark = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    torch.save({"x": Attack()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"PyTorch refuses to read .*weights\.pt"):
        torch_file.read_legacy(path)
    assert not mark.exists()
