"""What the files of a work directory are called; a module of its own, as it imports nothing."""

EXPERIMENT = "experiment.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
TIMING = "timing.json"
CURVES = "learning_curves.png"
EXAMPLE = "example.png"  # to try prediction on
LOCK = ".lock"
EVALUATION = "evaluation-{}.json"  # from `mobilevit evaluate`
BENCHMARK = "benchmark.json"  # where `mobilevit benchmark FILE --output` is to leave it
