"""What every command that computes sets up first: allocator, compilation cache, other hosts."""

import contextlib
import os
from dataclasses import dataclass
from typing import Annotated

import tyro

from mobilevit_jax.allocator import keep_memory_of_steps
from mobilevit_jax.cli.options import called
from mobilevit_jax.errors import ConfigurationError


@dataclass(frozen=True)
class HostsOptions:
    """Training by several processes, such as one on each host of a TPU slice or GPU cluster.

    Where a TPU slice, Slurm or Open MPI tells each process of the others, nothing need be given.

    Attributes:
        coordinator: Address of the first process, where the environment does not tell.
        num_processes: How many processes there are.
        process_id: Which one this is, from 0.
        join: Train alone, whatever the environment tells.
        lost_after: Seconds without a sign of life after which another process counts as lost,
            and this one ends.
    """

    coordinator: Annotated[str | None, called("HOST:PORT")] = None
    num_processes: Annotated[int | None, called("N")] = None
    process_id: Annotated[int | None, called("I")] = None
    join: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")] = True
    lost_after: Annotated[int, tyro.conf.arg(metavar="SECONDS")] = 100

    def __post_init__(self) -> None:
        named = (self.coordinator, self.num_processes, self.process_id)
        if not self.join and named != (None, None, None):
            raise ConfigurationError("--no-join trains alone, so leave the other processes out")
        count, index = self.num_processes, self.process_id
        if count is not None and count < 1:
            raise ConfigurationError(f"--num-processes must be at least 1; got {count}")
        if index is not None and not 0 <= index < (count or index + 1):
            below = f" and below --num-processes {count}" if count else ""
            raise ConfigurationError(f"--process-id must be 0 or more{below}; got {index}")
        if self.lost_after < 1:
            raise ConfigurationError(f"--lost-after must be at least 1; got {self.lost_after}")

    def joined(self) -> contextlib.AbstractContextManager[None]:
        """Joins the other processes, if there are any, until the block ends."""
        if not self.join:
            return contextlib.nullcontext()
        from mobilevit_jax.training.multihost import hosts

        named = (self.coordinator, self.num_processes, self.process_id)
        place = None if named == (None, None, None) else hosts.Place(*named)
        return hosts.joined(place, lost_after=self.lost_after)


# Contains xla_gpu_exclude_nondeterministic_ops, and keeps autotuning from choosing by the clock.
_DETERMINISTIC = "--xla_gpu_deterministic_ops"


def start_jax(*, deterministic: bool = False) -> None:
    """Sets up allocator and compilation cache; call it before anything is computed.

    Args:
        deterministic: Have XLA compute the same bits at every start on a GPU, with operations that
            may be slower. CPUs and TPUs do so anyway.

    Raises:
        ConfigurationError: If $XLA_FLAGS asks for the opposite.
    """
    if deterministic:
        _make_deterministic()
    keep_memory_of_steps()
    from mobilevit_jax.cli.compilation_cache import use_compilation_cache

    use_compilation_cache()


def _make_deterministic() -> None:
    """Adds the flag to $XLA_FLAGS, which XLA reads when the first device is asked for."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    given = [flag for flag in flags if flag.split("=")[0] == _DETERMINISTIC]
    if any(flag.partition("=")[2].lower() in ("false", "0") for flag in given):
        raise ConfigurationError(
            f"--deterministic, but $XLA_FLAGS has {' '.join(given)}; leave one of them out"
        )
    if not given:
        os.environ["XLA_FLAGS"] = " ".join([*flags, f"{_DETERMINISTIC}=true"])
