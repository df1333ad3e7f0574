# SPDX-License-Identifier: Apache-2.0
"""Debian's containerd with crun, as most Kubernetes nodes run it, measured beside the server."""

import subprocess

import catalog
from harness import REGISTRY, CliError, Server, conflist, eventually, oci, registry, toml

PAUSE = REGISTRY + "/test/pause:1"


def pause():
    """An image whose `sleep` holds a pod's namespaces."""
    return oci.Image([catalog.busybox_layer()], {"Env": catalog.ENV, "Entrypoint": ["sleep", "100000"]})


class Containerd(Server):
    """Driven by the same crictl as our server. Its pods get the same kind of network, on a bridge of their own."""

    def __init__(self):
        super().__init__(name="cd")
        conf = conflist(self.dir, self.subnet, only_bridge=True).replace("crvt0", "crvt1")
        (self.cni_dir / "10-test.conflist").write_text(conf)
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        self.config.write_text(f'version = 2\nroot = "{self.state_dir}"\nstate = "{self.run_dir}"\n' + toml({
            "grpc": {"address": self.socket},
            cri: {"sandbox_image": PAUSE},
            cri + ".cni": {"bin_dir": "/usr/lib/cni", "conf_dir": self.cni_dir},
            cri + ".registry": {"config_path": self.certs_dir},
            cri + ".containerd": {"snapshotter": "overlayfs", "default_runtime_name": "runc"},
            cri + ".containerd.runtimes.runc": {"runtime_type": "io.containerd.runc.v2"},
            cri + ".containerd.runtimes.runc.options": {"BinaryName": "crun", "SystemdCgroup": False},
        }))

    def argv(self):
        return ["containerd", "--config", self.config]

    def start(self, seconds=30):
        super().start(seconds)

        def answers():
            # containerd reports READY=1 a moment before its CRI plugin is ready.
            try:
                return self.json("info")["status"]["conditions"]
            except CliError:
                return None
        conditions = eventually(answers, seconds, self.tail)
        if not all(c["status"] for c in conditions):
            raise AssertionError(f"containerd is not ready: {conditions}\n{self.tail()}")
        return self

    def pull(self, *images):
        oci.push(pause(), registry(), "test/pause", "1")
        super().pull(PAUSE, *images)

    def destroy(self):
        super().destroy()
        subprocess.run(["ip", "link", "del", "crvt1"], stderr=subprocess.DEVNULL)
