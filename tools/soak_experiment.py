"""What `soak.py` trains: two sizes, dropout, EMA, checkpoints within epochs and at their end."""

from mobilevit_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, Experiment
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


def experiment() -> Experiment:
    """Returns it: some 6 steps an epoch; rows, checkpoints and epochs seldom fall together."""
    return Experiment(
        name="soak",
        epochs=25,
        log_every=3,
        model=ModelConfig("mobilevit_xxs"),
        data=DataConfig("shapes/tiny", test="test"),
        processor=ImageProcessor(size=32, crop_size=(32, 32)),
        sampler=SamplerConfig(
            batch_size=16, base_size=32, sizes=(32, 48), rule="area", reference_devices=1
        ),
        schedule=ScheduleConfig(warmup_steps=10, cosine_by="step"),
        ema=EMAConfig(decay=0.99),
        evaluation=EvaluationConfig(batch_size=16, raw_weights=True),
        checkpoint=CheckpointConfig(every_steps=7, keep_best=2),
    )
