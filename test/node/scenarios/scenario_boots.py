# SPDX-License-Identifier: Apache-2.0
"""RunPodSandbox against a bare boot: a table, and node-boots.json beside the counts.

The node's clock counts the instructions of its CPU (-icount, see ../run), 250 million in a second. So the seconds are those of such a
CPU, and they are the same in every run.

The server times RunPodSandbox, from the start of its work on the call to the answer. `vmmctl boot` times the bare boot, from the VMM's
spawn until the agent's port answers. Each turn checks that both ran the same command lines of VMM and virtiofsd. Boots are cold: each pod
is removed before the next turn. The median of the turns' ratios has a bound; above it the test fails. The table also shows the whole
`crictl runp`, and the server's own steps ([sandbox] enable_tracing).
"""

import json
import os
import re
import statistics

from harness import Case, keep_dir
from measure import Boots, Table, small_pages

DRIVER = os.environ.get("CRV_DRIVER", "cloud-hypervisor")
ROUNDS = 3


def steps(log):
    """Seconds of each step of RunPodSandbox, from the server's log: one list for each step."""
    found = {}
    for ms, step in re.findall(r'msg="step took ([\d.]+) ms" .*step=("[^"]*"|\S+)', log):
        found.setdefault(step.strip('"'), []).append(float(ms) / 1000)
    return found


class BareBoot(Case):
    cni = "bridge"
    config = {"server": {"log_level": "info"}, "sandbox": {"enable_tracing": True}}
    keep_pods = True

    @classmethod
    def prepare(cls):
        small_pages(cls.addClassCleanup)

    def test_RunPodSandbox_against_a_bare_boot(self):
        table, figures = Table(), {"driver": DRIVER, "kernel": os.uname().release, "cpus": os.cpu_count()}
        boots = Boots(self.server, ROUNDS)
        boots.report(table, figures)
        taken = steps(self.server.log.read_text())
        table.row("  of it in the server", ", ".join(f"{name} {statistics.median(values):.3f}" for name, values in taken.items()))
        table.print("    ")
        figures["run_pod_sandbox_steps_s"] = taken
        (keep_dir().parent / "node-boots.json").write_text(json.dumps({DRIVER: figures}, indent=1) + "\n")
        self.assertEqual({len(values) for values in taken.values()}, {ROUNDS}, taken)
        self.assertLessEqual(boots.ratio, Boots.BOUND)
