# SPDX-License-Identifier: Apache-2.0
"""What junit.py writes can be read, whatever happened."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
import xml.etree.ElementTree as tree

import junit

HERE = pathlib.Path(__file__).resolve().parent
TESTS = '''
    import os, unittest
    class T(unittest.TestCase):
        def test_1_passes(self): pass
        def test_2_fails(self): self.fail("a <b> & \\x1b[1m \\udcff \\0 c")
        def test_3_errs(self): raise OSError("bad")
        @unittest.skip("not <here>")
        def test_4_is_skipped(self): pass
        def test_5_fails_in_a_part(self):
            for n in (1, 2):
                with self.subTest(n=n):
                    self.assertEqual(n, 1)
    class U(unittest.TestCase):
        @classmethod
        def setUpClass(cls): raise OSError("no set-up")
        def test(self): pass
'''


class Written(unittest.TestCase):
    def run_tests(self, text, want=None):
        """The root of the file that a process which runs these tests leaves; `want` is its exit status."""
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        path = pathlib.Path(place.name) / "sub" / "x.xml"
        program = textwrap.dedent(text) + textwrap.dedent(f'''
            import junit
            suite = junit.Suite({str(path)!r}, "clh-main", driver="cloud-hypervisor")
            result = junit.Result(suite)
            unittest.defaultTestLoader.loadTestsFromModule(__import__("__main__")).run(result)
            suite.end()
            print(result.counts())
        ''')
        done = subprocess.run([sys.executable, "-c", program], env=dict(os.environ, PYTHONPATH=str(HERE)), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, errors="replace")
        self.assertEqual(done.returncode, want or 0, done.stdout + done.stderr)
        self.said, self.path = done.stdout, path
        return tree.parse(path).getroot()

    def test_every_outcome(self):
        root = self.run_tests(TESTS)
        self.assertEqual((root.tag, root.get("name")), ("testsuite", "clh-main"))
        found = {c.get("classname") + "." + c.get("name"): c for c in root.findall("testcase")}
        self.assertEqual({name: [n.tag for n in case] for name, case in found.items()}, {
            "T.test_1_passes": [], "T.test_2_fails": ["failure"], "T.test_3_errs": ["error"], "T.test_4_is_skipped": ["skipped"],
            "T.test_5_fails_in_a_part": ["failure"], "U.setUpClass": ["error"]})
        self.assertEqual([root.get(k) for k in ("tests", "failures", "errors", "skipped")], ["6", "2", "2", "1"])
        failure = found["T.test_2_fails"][0]
        self.assertEqual(failure.get("message"), r"AssertionError: a <b> & \x1b[1m \xdcff \x00 c")
        self.assertIn("Traceback", failure.text)
        self.assertEqual(found["T.test_4_is_skipped"][0].get("message"), "not <here>")
        self.assertIn("(n=2)", found["T.test_5_fails_in_a_part"][0].get("message"))
        self.assertTrue(all(float(c.get("time")) >= 0 for c in found.values()))
        self.assertTrue(root.get("hostname") and root.get("timestamp"))
        self.assertEqual(self.said.splitlines()[-1], "1 4 1")
        name, properties, cases = junit.read(self.path)
        self.assertEqual((name, properties["driver"]), ("clh-main", "cloud-hypervisor"))
        self.assertIn(os.uname().release, properties["system"])
        self.assertEqual((cases["T", "test_1_passes"], cases["U", "setUpClass"]), ([], [("error", "OSError: no set-up")]))

    def test_another_suites_tests_are_added(self):
        self.run_tests(TESTS)
        both = self.path.with_name("both.xml")
        suite = junit.Suite(both, "both")
        suite.add("T", "own", 1.5)
        suite.add_all(self.path)
        suite.end()
        cases = junit.read(self.path)[2]
        self.assertEqual(junit.read(both)[2], {("T", "own"): [], **cases})
        self.assertEqual(tree.parse(both).getroot().get("tests"), str(1 + len(cases)))

    def test_killed_leaves_what_it_had(self):
        root = self.run_tests('''
            import os, unittest
            class T(unittest.TestCase):
                def test_1(self): pass
                def test_2(self): os.kill(os.getpid(), 9)
                def test_3(self): pass
        ''', -signal.SIGKILL)
        self.assertEqual([(c.get("name"), [n.tag for n in c]) for c in root.findall("testcase")],
                         [("test_1", []), ("test_2", ["error"])])
        self.assertEqual((root.get("tests"), root.get("errors")), ("2", "1"))

    def test_killed_between_its_tests_is_an_error(self):
        root = self.run_tests('''
            import os, unittest
            class T(unittest.TestCase):
                def test_1(self): pass
                @classmethod
                def tearDownClass(cls): os.kill(os.getpid(), 9)
        ''', -signal.SIGKILL)
        self.assertEqual([(c.get("name"), [n.tag for n in c]) for c in root.findall("testcase")],
                         [("test_1", []), ("the whole", ["error"])])


if __name__ == "__main__":
    unittest.main()
