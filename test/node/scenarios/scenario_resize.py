# SPDX-License-Identifier: Apache-2.0
"""A pod's VM grows and shrinks with the limits of its container, in place: virtio-mem and vCPUs of the real Cloud Hypervisor."""

import second_cpu
from harness import BUSYBOX, Case, CliError
from test_resize import Growing

FLAGS = {"memory_limit_in_bytes": "--memory", "cpu_quota": "--cpu-quota", "cpu_period": "--cpu-period"}


class Resize(Growing, Case):
    cni = "bridge"
    images = (BUSYBOX,)

    def setUp(self):
        super().setUp()
        second_cpu.work(self.addCleanup)

    def update(self, container, **resources):
        try:
            self.server.crictl("update", *(word for name, value in resources.items() for word in (FLAGS[name], str(value))),
                               container.id)
        except CliError as refusal:
            return str(refusal)
        return None
