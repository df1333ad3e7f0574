# SPDX-License-Identifier: Apache-2.0
"""The second CPU of the node that has two (see ../run), which rests except where a test needs both: emulated CPUs that run at once are where
the emulation goes wrong (../README.md), and a node with one at work leaves the machine's other core to the node beside it."""

import os
import pathlib

ONLINE = pathlib.Path("/sys/devices/system/cpu/cpu1/online")


def rest():
    ONLINE.write_text("0")


def work(add_cleanup):
    """Until the test or the class, whose addCleanup this is, has ended."""
    ONLINE.write_text("1")
    add_cleanup(rest)
    assert os.cpu_count() == 2, os.cpu_count()
