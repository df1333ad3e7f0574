# SPDX-License-Identifier: Apache-2.0
"""A guest that writes to its console without end. Its kernel takes every line of /dev/kmsg there, as one that a guest has taken over may."""

import ctypes
import os
import time

from harness import Case, eventually, secs, waits
from test_containers import SHELL

TAKEN = 9 << 20  # blocks behind the end of the file, so that vmm/trim.c (8 MiB) begins at once: an emulated guest is slow
KEPT = 1 << 20  # what vmm/trim.c leaves
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h


@waits
class Flood(Case):
    config = {"hypervisor": {"kernel_params": "printk.devkmsg=on ignore_loglevel log_buf_len=64K"}}

    def test_a_flooded_console_is_bounded_and_stops_nobody(self):
        """fault C: what the guest writes is given back but for the end, and the guest and its neighbour go on."""
        neighbour = self.server.runp().run(["sleep", "1000"])
        pod = self.server.runp(linux={"security_context": {"privileged": True}})
        path = self.server.run_dir / "pods" / pod.sandbox[:20] / "vm" / "console.log"
        with open(path, "rb+") as console:
            taken = ctypes.CDLL(None, use_errno=True).fallocate(
                console.fileno(), KEEP_SIZE, ctypes.c_long(64 << 20), ctypes.c_long(TAKEN))
            self.assertEqual(taken, 0, os.strerror(ctypes.get_errno()))
            flood = pod.run(SHELL + [f"while :; do echo {'x' * 900}; done > /dev/kmsg"],
                            linux={"security_context": {"privileged": True}})

            def held():
                return os.fstat(console.fileno()).st_size - os.lseek(console.fileno(), 0, os.SEEK_DATA)

            eventually(lambda: os.lseek(console.fileno(), 0, os.SEEK_DATA) > 0, 60, "nothing was given back")
            size, most, until = path.stat().st_size, 0, time.monotonic() + secs(5)
            self.assertGreater(size, KEPT)
            while time.monotonic() < until:
                most = max(most, held())
                time.sleep(0.01)
            print(f"    {path.stat().st_size >> 10} KiB of console, at most {most >> 10} KiB of it held", flush=True)
            self.assertGreater(path.stat().st_size, size, "the guest writes no more")
            self.assertLess(most, 2 * KEPT)
            self.assertIn(b"x" * 900, os.pread(console.fileno(), 4096, path.stat().st_size - 4096))
        self.assertEqual(neighbour.exec("echo", "unharmed").strip(), "unharmed")
        self.assertEqual(flood.exec("echo", "I go on").strip(), "I go on")
        flood.remove(force=True)
