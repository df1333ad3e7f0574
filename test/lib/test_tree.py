# SPDX-License-Identifier: Apache-2.0
"""check-spdx and check-format find what is planted in a small tree."""

import pathlib
import shutil
import subprocess
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
LINE = "/* SPDX-License-Identifier: Apache-2.0 */\n"


class Tree(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)
        (self.root / "test/lib").mkdir(parents=True)
        for name in ("check-spdx", "check-format"):
            shutil.copy(HERE / name, self.root / "test/lib" / name)
        shutil.copy(HERE.parents[1] / ".clang-format", self.root)
        for n in range(120):
            (self.root / f"file{n}.c").write_text(LINE + f"int file{n};\n")
        subprocess.run(["git", "init", "-q", self.root], check=True)

    def check(self, name):
        done = subprocess.run([self.root / "test/lib" / name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode == 77:
            self.skipTest(done.stdout.strip())
        return done.returncode, done.stdout

    def test_licence_lines(self):
        self.assertEqual(self.check("check-spdx")[0], 0)
        (self.root / "tool").write_text("#!/bin/sh\n# a script without the line\n")
        (self.root / "file7.c").write_text("int late;\n\n" + LINE)
        status, said = self.check("check-spdx")
        self.assertEqual(status, 1)
        self.assertIn("file7.c: no line", said)
        self.assertIn("tool: no line", said)
        self.assertIn("2 of 124 source files", said)

    def test_format_and_width(self):
        self.assertEqual(self.check("check-format")[0], 0)
        (self.root / "file3.c").write_text(LINE + "int  file3;\n")
        (self.root / "file4.h").write_text(LINE + "/*\t" + "x" * 103 + " */\n/*\t" + "é" * 97 + " */\n")
        status, said = self.check("check-format")
        self.assertEqual(status, 1)
        self.assertEqual(said.splitlines()[:-1], ["file3.c:2: not as clang-format leaves it", "file4.h:2: 114 columns"])


if __name__ == "__main__":
    unittest.main()
