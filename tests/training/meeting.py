"""Joins another process, then dies or fails in one of the two while the other one waits for it.

Usage: python -m tests.training.meeting ADDRESS PROCESS WHO HOW
"""

import os
import signal
import sys

from mobilevit_jax.errors import DataError
from mobilevit_jax.training.multihost import hosts

if __name__ == "__main__":
    address, process, who, how = sys.argv[1:]
    with hosts.joined(hosts.Place(address, 2, int(process)), lost_after=8):
        hosts.agree("nothing", {})
        if process == who and how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if process == who:
            raise DataError(f"the disk of process {who} is gone")
        hosts.agree("something", {"one": 1})
