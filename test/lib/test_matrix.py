# SPDX-License-Identifier: Apache-2.0
"""A table that is not true is found, whichever way it is wrong."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import junit
import matrix

RUN = matrix.ROOT / "test/node/scenarios/run"


def table(**cells):
    """A table that is true for `tests()`, but for the cells given as A1=(Cloud Hypervisor, QEMU); None: no such row."""
    rows = {row: ("seen", "–") for row in matrix.MUST}
    rows.update(cells)
    return "\n".join(f"| {row} | words | {pair[0]} | {pair[1]} |" for row, pair in rows.items() if pair)


def test(name, *rows, scenario="clh-x", skip=None):
    return {"scenario": scenario, "place": "scenario_x.T", "name": name, "rows": [[r, None] for r in rows], "skip": skip}


def tests():
    return [test("test_all", *matrix.MUST[1:]), test("test_one", "A1")]


class Static(unittest.TestCase):
    def wrong(self, *names, text=None, declared=None):
        """Each fault that is found names one of these, in this order."""
        found = matrix.check_static(text or table(), declared if declared is not None else tests())
        self.assertEqual(len(found), len(names), found)
        for sentence, name in zip(found, names):
            self.assertIn(name, sentence)

    def test_true(self):
        self.wrong()

    def test_claimed_but_no_test(self):
        self.wrong("A1, Cloud Hypervisor", declared=tests()[:1])
        self.wrong("A3, QEMU", text=table(A3=("seen", "seen")))
        self.wrong("A3, QEMU", text=table(A3=("seen", "in part: half")))

    def test_claimed_but_skipped_for_that_driver(self):
        self.wrong("A1, Cloud Hypervisor", declared=[tests()[0], test("test_one", "A1", skip="QEMU's")])

    def test_shown_but_not_claimed(self):
        self.wrong("A1, Cloud Hypervisor", text=table(A1=("–", "–")))
        self.wrong("A2, QEMU", declared=[*tests(), test("test_more", "A2", scenario="qemu-x")])

    def test_another_drivers_test_is_no_proof(self):
        other = dict(test("test_one"), rows=[["A1", "qemu"]])
        self.wrong("A1, Cloud Hypervisor", "A1, QEMU", declared=[tests()[0], other])

    def test_rows_missing_twice_or_unknown(self):
        self.wrong("A7 is not in the table", text=table(A7=None))
        self.wrong("A7 is twice", text=table() + "\n| A7 | again | seen | – |")
        self.wrong("B6 is not in the table", declared=[*tests(), test("test_more", "B6")])
        self.wrong("B9, Cloud Hypervisor", text=table(B9=("seen", "–")))

    def test_a_word_that_says_nothing(self):
        for word in ("yes", "in part", ""):
            self.wrong("A1, QEMU", text=table(A1=("seen", word)))

    def test_no_table(self):
        self.wrong(*matrix.MUST, text="nothing")


class Dynamic(unittest.TestCase):
    def judge(self, outcomes, text=None, scenario="clh-x", over=True, **properties):
        """(cells judged, faults) by a file with these tests: name → kind of note, or None."""
        with tempfile.TemporaryDirectory() as place:
            suite = junit.Suite(pathlib.Path(place) / "x.xml", scenario, **properties)
            for name, kind in outcomes.items():
                suite.add("scenario_x.T", name, notes=[(kind, "because", "")] if kind else [])
            if over:
                suite.end()
            return matrix.check_results(text or table(), tests(), [junit.read(suite.path)])

    def untrue(self, outcomes, row, why, **more):
        judged, wrong = self.judge(outcomes, **more)
        self.assertEqual(judged, 24)
        self.assertEqual(len(wrong), 1, wrong)
        self.assertIn(f"{row}, Cloud Hypervisor is not true", wrong[0])
        self.assertIn(why, wrong[0])

    def test_true(self):
        self.assertEqual(self.judge({"test_all": None, "test_one": None}), (24, []))

    def test_a_failure_an_error_and_a_skip_are_no_proof(self):
        for kind in ("failure", "error", "skipped"):
            self.untrue({"test_all": None, "test_one": kind}, "A1", f"{kind}: because")

    def test_one_failure_beside_a_pass(self):
        text = table(A2=("seen", "–"))
        both = [*tests(), test("test_two", "A2")]
        cases = {("scenario_x.T", "test_all"): [], ("scenario_x.T", "test_one"): [], ("scenario_x.T", "test_two"): [("failure", "x")]}
        _, wrong = matrix.check_results(text, both, [("clh-x", {}, cases)])
        self.assertEqual(len(wrong), 1, wrong)

    def test_what_did_not_run(self):
        self.untrue({"test_all": None}, "A1", "did not run")
        self.untrue({"test_all": None}, "A1", "did not run", over=False)

    def test_scenarios_that_were_not_here_are_not_judged(self):
        self.assertEqual(self.judge({"test_all": None, "test_one": None}, scenario="clh-y"), (0, []))
        self.assertEqual(self.judge({"test_all": "skipped", "test_one": "skipped"}, skipped="no cloud-hypervisor on PATH"), (0, []))


class Real(unittest.TestCase):
    """The scenarios as they are, without running any."""

    def test_scenarios_skipped_on_the_host_are_there_by_name(self):
        with tempfile.TemporaryDirectory() as place:
            done = subprocess.run([RUN, "--skip", "clh-main", "no <VMM> here"], stdout=subprocess.PIPE, check=True, text=True,
                                  env=dict(os.environ, CRV_RESULTS=place, PYTHONDONTWRITEBYTECODE="1"))
            name, properties, cases = junit.read(pathlib.Path(place) / "clh-main.xml")
        self.assertEqual((name, properties["skipped"]), ("clh-main", "no <VMM> here"))
        self.assertEqual(len(cases), int(done.stdout))
        self.assertEqual(cases["scenario_main.MainJob", "test_05b_command_line"], [("skipped", "no <VMM> here")])

    def test_what_failed_in_the_node_fails_the_check(self):
        """The program itself, with a result for each test of clh-main of which one has failed."""
        here = [t for t in matrix.declared() if t["scenario"] == "clh-main"]
        self.assertTrue(here)
        for bad, want in ((None, 0), ("test_05b_command_line", 1)):
            with tempfile.TemporaryDirectory() as place:
                suite = junit.Suite(pathlib.Path(place) / "clh-main.xml", "clh-main")
                for t in here:
                    suite.add(t["place"], t["name"], notes=[("failure", "wrong order", "")] if t["name"] == bad else [])
                suite.end()
                done = subprocess.run([sys.executable, matrix.__file__, place], stdout=subprocess.PIPE, text=True)
            self.assertEqual(done.returncode, want, done.stdout)
            self.assertEqual("A3, Cloud Hypervisor is not true" in done.stdout, bool(bad), done.stdout)


if __name__ == "__main__":
    unittest.main()
