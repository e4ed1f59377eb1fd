"""Bad input of `mobilevit train` and `prepare`: a clear message, a status, nothing left behind."""

import os

import cv2
import numpy as np
import pytest


def assert_one_line(ran, status: int, *parts: str) -> None:
    assert ran.status == status
    assert ran.out == ""
    assert ran.err.startswith("mobilevit: error: ") and ran.err.count("\n") == 1, ran.err
    for part in parts:
        assert part in ran.err


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        (["--sampler.batchsize", "3"], "--sampler.batch-size"),
        (["--epoch", "3"], "--epochs"),
        (["--optimizer.weightdecay", "0"], "--optimizer.weight-decay"),
        (["--model.patch-size", "2"], "--model.patch-sizes"),
        (["--tinny"], "--tiny"),
    ],
)
def test_an_unknown_option_names_the_nearest(train_tiny, tmp_path, option, nearest):
    ran = train_tiny(tmp_path / "run", option)
    assert ran.status == 2 and ran.out == ""
    assert option[0] in ran.err and nearest in ran.err.split("Perhaps you meant")[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--epochs", 0], ["epochs must be at least 1", "0"]),
        (["--epochs", "three"], ["--epochs", "three"]),
        (["--seed", -1], ["seed must be 0 or more", "-1"]),
        (["--model.dtype", "float16"], ["--model.dtype", "float16", "bfloat16"]),
        (["--model.patch-sizes", 2, 2], ["--model.patch-sizes"]),
        (["--model.patch-sizes", 2, 0, 2], ["patch_sizes must be three positive integers"]),
        (["--model.kernel-size", 4], ["kernel_size must be a positive odd integer"]),
        (["--model.output-stride", 4], ["output_stride must be one of [8, 16, 32]"]),
        (["--model.dropout", 1.5], ["dropout must be in [0, 1)"]),
        (["--model.num-classes", 3], ["model.num_classes is 3, but shapes/tiny has 8 classes"]),
        (["--loss.label-smoothing", 1], ["label_smoothing must be in [0, 1)"]),
        (["--ema.decay", 1], ["ema.decay must be in [0, 1)"]),
        (["--augment.crop-scale", 0, 1], ["crop_scale must be"]),
        (["--sampler.sizes", 32, 32], ["sizes must be different"]),
        (["--sampler.max-size", 96], ["sizes are given outright, so max_size 96 would have no"]),
        (["--sampler.rule", "aera"], ["--sampler.rule", "area"]),
        (["--schedule.peak", -1], ["learning rates must not be negative"]),
        (["--schedule.warmup-steps", -1], ["warmup_steps must be 0 or more"]),
        (["--optimizer.clip-norm", 0], ["clip_norm must be above 0"]),
        (["--optimizer.accumulation", 3], ["does not divide"]),
        (["--loader.threads", 0], ["threads must be at least 1"]),
        (["--evaluation.batch-size", 0], ["evaluation.batch_size must be at least 1"]),
        (
            ["--checkpoint.metric", "top3"],
            ["unknown checkpoint.metric 'top3'", "known: loss, top1"],
        ),
        (["--checkpoint.keep-best", -1], ["keep_best"]),
        # What training and evaluation would not do must not be taken and forgotten.
        (["--processor.rescale-factor", 1.0], ["pixels are always scaled by 1/255"]),
        (["--processor.no-do-rescale"], ["pixels are always scaled by 1/255"]),
        (["--processor.no-do-center-crop"], ["processor.do_center_crop must stay"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if str(value[0]).startswith("--") else "",
)
def test_a_bad_value(real_model, train_tiny, tmp_path, options, parts):
    ran = train_tiny(tmp_path / "run", options)
    assert (ran.status, ran.out) == (2, "")
    said = " ".join(ran.err.replace("│", " ").split())
    for part in parts:
        assert part in said
    assert "Traceback" not in ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--model.name", "mobilevit_xss"], ["unknown model", "did you mean 'mobilevit_xs'?"]),
        (["--data.dataset", "shapes/tinny"], ["unknown configuration", "did you mean 'tiny'?"]),
        (["--data.dataset", "brokn"], ["no data set 'brokn'", "did you mean 'broken'?"]),
        (["--data.dataset", "imagenet"], ["no data set 'imagenet'", "mobilevit prepare imagenet"]),
        (["--data.train", "trian"], ["unknown split", "did you mean 'train'?"]),
        (["--data.train", "train[:0]"], ["'train[:0]' of shapes/tiny selects no image"]),
        (["--data.train", "train[5:1:2]"], ["split 'train[5:1:2]'"]),
    ],
    ids=lambda value: value[1] if len(value) > 1 and value[0].startswith("--") else "",
)
def test_an_unknown_name(real_model, train_tiny, broken, tmp_path, options, parts):
    ran = train_tiny(tmp_path / "run", options)
    assert_one_line(ran, 2, *parts)
    assert "did you mean 'imagenet'?" not in ran.err  # it is what was asked for
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_among_the_devices(train_tiny, tmp_path):
    batch = ["--sampler.batch-size", 18, "--sampler.base-size", 32]
    ran = train_tiny(tmp_path / "run", ["--sampler.reference-devices", 1, *batch])
    assert_one_line(ran, 2, "18 images at 32x32", "4 devices", "16 or 20", "change batch_size")
    assert not (tmp_path / "run").exists()


class TestTheExperimentFile:
    def test_missing(self, mobilevit, quickstart):
        ran = mobilevit("train", quickstart.replace("quickstart", "quickstrat"))
        assert_one_line(ran, 2, "no experiment file", f"did you mean {quickstart!r}?")

    @pytest.mark.parametrize("command", ["train", "benchmark"])
    def test_without_its_ending(self, mobilevit, quickstart, command):
        """Not silently the defaults of an experiment, which are ImageNet's."""
        ran = mobilevit(command, quickstart.removesuffix(".py"))
        assert_one_line(ran, 2, "no experiment file", f"did you mean {quickstart!r}?")

    def test_not_given(self, mobilevit):
        ran = mobilevit("train", "--tiny")
        assert ran.status == 2 and "FILE" in ran.err

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "needs a function experiment()"),
            ("def experiment(): return 3", "needs a function experiment()"),
            ("def experiment(:", "SyntaxError"),
            ("import mobilevit_jaxx", "ModuleNotFoundError: No module named 'mobilevit_jaxx'"),
            ("def experiment(): return open('gone')", "FileNotFoundError"),
            ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
            (
                "from mobilevit_jax.config import Experiment\n"
                "def experiment(): return Experiment(epochs=0)",
                "epochs must be at least 1",
            ),
            (
                "from mobilevit_jax.config import Experiment\n"
                "def experiment(): return Experiment(epoch=3)",
                "unexpected keyword argument 'epoch'",
            ),
        ],
    )
    def test_broken(self, mobilevit, tmp_path, text, message):
        path = tmp_path / "mine.py"
        path.write_text(text)
        assert_one_line(mobilevit("train", path), 2, str(path), message)


class TestTheWorkDirectory:
    @pytest.mark.parametrize("place", ["file", "file/below"])
    def test_a_file_in_its_place(self, train_tiny, tmp_path, place):
        (tmp_path / "file").write_text("precious")
        ran = train_tiny(tmp_path / place)
        assert_one_line(
            ran, 2, f"the work directory {tmp_path / place} cannot be made", "--workdir"
        )
        assert (tmp_path / "file").read_text() == "precious"

    @pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
    def test_a_file_system_that_takes_no_directory(self, train_tiny):
        ran = train_tiny("/proc/mobilevit")
        assert_one_line(ran, 2, "the work directory /proc/mobilevit cannot be made", "--workdir")

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
    def test_without_permission(self, train_tiny, tmp_path):
        (tmp_path / "run").mkdir(mode=0o500)
        ran = train_tiny(tmp_path / "run")
        assert_one_line(ran, 2, "may not be written")


class TestPrepare:
    @pytest.fixture
    def source(self, tmp_path):
        for split in ("train", "test"):
            for name in ("cat", "dog"):
                folder = tmp_path / "source" / split / name
                folder.mkdir(parents=True)
                cv2.imwrite(str(folder / "1.png"), np.full((9, 9, 3), 90, np.uint8))
        return tmp_path / "source"

    @pytest.fixture
    def prepare(self, mobilevit, source, tmp_path):
        """Prepares the source and checks that a failure leaves nothing."""

        def prepared(*options: object):
            ran = mobilevit(
                *("prepare", "image_folder", "--source", source, "--name", "pets"),
                *("--data-dir", tmp_path / "data", *options),
            )
            left = list((tmp_path / "data").rglob("*")) if ran.status else []
            assert not left
            return ran

        return prepared

    @pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
    def test_a_bad_image(self, prepare, source, data):
        bad = source / "test" / "dog" / "2.png"
        bad.write_bytes(data)
        assert_one_line(prepare(), 1, str(bad))
        ran = prepare("--skip-bad-images")
        assert ran.status == 0
        assert ["test", "2", "1"] in [line.split() for line in ran.out.splitlines()]

    def test_an_empty_class(self, prepare, source):
        (source / "train" / "cat" / "1.png").unlink()
        assert_one_line(prepare(), 1, f"the class folder {source / 'train' / 'cat'} has no image")

    def test_a_class_in_one_split_only(self, prepare, source):
        (source / "test" / "dog" / "1.png").unlink()
        (source / "test" / "dog").rmdir()
        assert_one_line(prepare(), 1, "the class 'dog'", "in train but not in test")

    def test_a_source_that_is_missing(self, mobilevit, tmp_path):
        ran = mobilevit("prepare", "image_folder", "--source", tmp_path / "gone")
        assert_one_line(ran, 1, f"{tmp_path / 'gone'} is not a directory")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "name a data set: shapes, image_folder, parquet"),
            (["image_foldr"], "did you mean 'image_folder'?"),
            (["shapes"], "choose shapes/tiny"),
            (["image_folder"], "image_folder needs --source"),
        ],
    )
    def test_arguments_that_do_not_fit(self, mobilevit, arguments, message):
        assert_one_line(mobilevit("prepare", *arguments), 2, message)

    def test_a_tar_that_was_cut_short(self, mobilevit, tmp_path):
        (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(bytes(100))
        (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"")
        ran = mobilevit(
            "prepare", "imagenet", "--source", tmp_path, "--data-dir", tmp_path / "data"
        )
        assert_one_line(ran, 1, "ILSVRC2012_img_")
        assert not list((tmp_path / "data").rglob("*"))
