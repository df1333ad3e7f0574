# SPDX-License-Identifier: Apache-2.0
"""Programs run as their files say, also in memory that held another program's code before."""

import subprocess

from test_containers import SHELL, OnePod

FUNCTIONS, ROUNDS = 2000, 6


def source(salt):
    """A program of many small functions: it prints what they make of 1, one after the other. Each salt gives other code in the same place."""
    functions = [f"F unsigned f{i}(unsigned x) {{ return x * {2 * ((i * salt) % 1009) + 1}u + {(i * salt) % 65521}u; }}"
                 for i in range(FUNCTIONS)]
    table = ", ".join(f"f{i}" for i in range(FUNCTIONS))
    return "\n".join(["#include <stdio.h>", "#define F static __attribute__((noinline))", *functions,
                      f"static unsigned (*const all[])(unsigned) = {{{table}}};",
                      f"int main(void) {{ unsigned x = 1; for (int i = 0; i < {FUNCTIONS}; i++) x = all[i](x); printf(\"%u\\n\", x); }}"])


class Recycled(OnePod):
    pod_fields = {"linux": {"security_context": {"privileged": True}}}

    def test_memory_of_one_program_becomes_anothers(self):
        directory = self.server.dir / "programs"
        directory.mkdir()
        want = []
        for name, salt in (("a", 7919), ("b", 104729)):
            (directory / f"{name}.c").write_text(source(salt))
            subprocess.run(["gcc", "-static", "-O1", "-o", directory / name, directory / f"{name}.c"], check=True)
            want.append(subprocess.run([directory / name], stdout=subprocess.PIPE, check=True, text=True).stdout)
        self.assertNotEqual(*want)
        rounds = "; ".join(["echo 3 > /proc/sys/vm/drop_caches; /programs/a; /programs/b"] * ROUNDS)
        out = self.pod.output(SHELL + [rounds], linux={"security_context": {"privileged": True}}, seconds=120,
                              mounts=[{"host_path": str(directory), "container_path": "/programs"}])
        self.assertEqual(out, "".join(want) * ROUNDS)
