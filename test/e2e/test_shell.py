# SPDX-License-Identifier: Apache-2.0
"""A server started from a plain shell, with the PATH of a login: the directory of the programs that deploy/setup builds is not in it."""

from harness import CACHE_BIN, Case

PLAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class PlainShell(Case):
    server_env = {"PATH": PLAIN_PATH}

    def test_it_finds_its_helpers(self):
        self.assertNotIn(str(CACHE_BIN), PLAIN_PATH)
        info = self.server.json("info")
        conditions = {c["type"]: c for c in info["status"]["conditions"]}
        self.assertTrue(conditions["RuntimeReady"]["status"], conditions["RuntimeReady"])
        pod = self.server.runp()
        self.assertEqual(pod.output(["echo", "it runs"]), "it runs\n")
        programs = {text.split(" ", 1)[0] for text in self.server.processes().values()}
        print(f"    {' '.join(sorted(programs))}", flush=True)
        self.assertTrue(any("virtiofsd" in program for program in programs), programs)
