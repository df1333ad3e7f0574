# SPDX-License-Identifier: Apache-2.0
"""The second CPU of the node that has two (see ../run). It is offline except where a test needs both: QEMU's emulation fails most often
with two CPUs at work (../README.md), and the machine's other core is left to the node beside."""

import os
import pathlib

ONLINE = pathlib.Path("/sys/devices/system/cpu/cpu1/online")


def rest():
    ONLINE.write_text("0")


def work(add_cleanup):
    """Puts it online until the clean-up of the test or class."""
    ONLINE.write_text("1")
    add_cleanup(rest)
    assert os.cpu_count() == 2, os.cpu_count()
