import signal
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mobilevit_jax.cli.runtime import HostsOptions
from mobilevit_jax.config import Experiment, to_dict
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.training.multihost import hosts
from mobilevit_jax.training.multihost.hosts import Place, told_of_others
from tests.processes import finish, free_address, start

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM, Place()),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        # In a batch script, not started by srun.
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None),
        (OMPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.0.0.1:34911"}, Place()),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "1"}, Place()),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ML_PLATFORM": "JAX"}, None),
        ({"TPU_PROCESS_ADDRESSES": "local", "TPU_ML_PLATFORM": "JAX"}, None),
        ({"TPU_WORKER_HOSTNAMES": "t-0", "MEGASCALE_NUM_SLICES": "2"}, Place()),
        ({"TPU_ML_PLATFORM": "JAX"}, Place(certain=False)),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, None),
    ],
)
def test_what_the_environment_tells(environment, expected):
    assert told_of_others(environment) == expected


def test_open_mpi_without_an_address_needs_one():
    with pytest.raises(ConfigurationError, match="started 2 processes.*--coordinator HOST:PORT"):
        told_of_others(OMPI)
    assert hosts.completed(Place("here:1"), OMPI) == Place("here:1", 2, 1)
    assert hosts.completed(Place("here:1", 3, 0), OMPI) == Place("here:1", 3, 0)
    assert hosts.completed(Place("here:1"), {}) == Place("here:1")


class TestJoining:
    """JAX has computed here, so that it can join nobody any more; only the call is looked at."""

    @pytest.fixture(autouse=True)
    def calls(self, monkeypatch):
        """What `jax.distributed.initialize` is called with."""
        calls = []

        def initialize(*arguments, **options):
            calls.append((arguments, options))

        monkeypatch.setattr(jax.distributed, "initialize", initialize)
        for name in (*SLURM, *OMPI, "TPU_WORKER_HOSTNAMES", "TPU_ML_PLATFORM"):
            monkeypatch.delenv(name, raising=False)
        return calls

    def test_a_process_alone_does_not_ask(self, calls):
        with HostsOptions().joined():
            assert not calls

    def test_the_environment_is_enough(self, calls, monkeypatch, capsys):
        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
        with HostsOptions(lost_after=7).joined():
            ((arguments, options),) = calls
        assert arguments == (None, None, None) and options["heartbeat_timeout_seconds"] == 7
        assert "waiting for them up to 300 s" in capsys.readouterr().err
        with HostsOptions(join=False).joined():
            assert len(calls) == 1

    def test_by_hand(self, calls):
        with HostsOptions("here:1", 1, 0).joined():
            assert calls[0][0] == ("here:1", 1, 0)

    def test_nothing_is_found(self, monkeypatch, capsys):
        def fail(*arguments, **options):
            raise ValueError("coordinator_address should be defined.")

        monkeypatch.setattr(jax.distributed, "initialize", fail)
        with pytest.raises(ConfigurationError, match="cannot join .*defined.*--num-processes N"):
            with HostsOptions(process_id=1).joined():
                pass
        # A TPU on its own, whose metadata server does not answer.
        monkeypatch.setenv("TPU_ML_PLATFORM", "JAX")
        monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
        with HostsOptions().joined():
            assert "on this host alone" in capsys.readouterr().err


class TestFacts:
    def facts(self, *, names=("cat", "dog"), versions=None, **changes):
        experiment = to_dict(Experiment())
        for path, value in changes.items():
            section, name = path.split("__")
            experiment[section][name] = value
        return hosts.run_facts(
            experiment, names, {"plan": "abc"}, versions or {"jax": "1", "python": "3.11.1"}
        )

    def test_where_and_how_data_are_read_may_differ(self):
        assert self.facts() == self.facts(
            data__data_dir="/elsewhere",
            loader__threads=3,
            versions={"jax": "1", "python": "3.11.2"},
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"data__train": "train[:50%]"},
            {"optimizer__clip_norm": 3.0},
            {"names": ("dog", "cat")},
            {"versions": {"jax": "2"}},
        ],
    )
    def test_what_must_not(self, changes):
        assert self.facts() != self.facts(**changes)

    def test_digest(self):
        ids = np.arange(5)
        same = hosts.digest("a", ids)
        assert same == hosts.digest(b"a", ids[::1].copy()) and len(same) == 16
        assert same != hosts.digest("a", ids[::-1])


def test_one_process_agrees_with_itself():
    hosts.agree("anything", {"not for JSON": object()})


@pytest.fixture(autouse=True)
def _no_others():
    assert jax.process_count() == 1


def meet(who: int, how: str) -> list[SimpleNamespace]:
    """Returns how each of two processes ended, and after how many seconds."""
    address, since = free_address(), time.monotonic()
    arguments = [(address, index, who, how) for index in range(2)]
    processes = [start("tests.training.meeting", one, devices=1) for one in arguments]
    outputs = finish(processes, 120)
    seconds = time.monotonic() - since
    return [
        SimpleNamespace(status=process.returncode, output=output, seconds=seconds)
        for process, output in zip(processes, outputs, strict=True)
    ]


def test_one_that_fails_tells_the_others_why():
    failed, other = meet(0, "fails")
    assert failed.status == 1 and "DataError: the disk of process 0 is gone" in failed.output
    assert other.status == 1
    line = other.output.strip().splitlines()[-1]
    assert line == "mobilevit: error: process 0 has failed: the disk of process 0 is gone"


@pytest.mark.slow
def test_one_without_a_sign_of_life_ends_the_others():
    other, killed = meet(1, "dies")
    assert killed.status == -signal.SIGKILL
    # JAX itself ends the process, and says why in more than a line.
    assert other.status != 0 and "another task died" in other.output
    assert other.seconds < 110
