# SPDX-License-Identifier: Apache-2.0
"""Results as JUnit XML, the one place that writes it, and the unittest result of the tests here, which also says each test."""

import os
import pathlib
import re
import socket
import time
import unittest
import xml.etree.ElementTree as tree

# What XML 1.0 cannot hold, not even escaped (section 2.2).
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
UNFINISHED = "was not over when its process ended"


def clean(text):
    return FORBIDDEN.sub(lambda match: f"\\x{ord(match.group()):02x}", str(text))


class Suite:
    """One <testsuite> in a file that is whole after each test: a killed run leaves what it had, and what it was at as an error."""

    def __init__(self, path, name, **properties):
        self.path, self.name, self.properties = pathlib.Path(path), name, properties
        self.cases, self.running, self.over = [], None, False
        self.stamp, self.began = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()), time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def start(self, place, name):
        self.running = (place, name)
        self.write()

    def add(self, place, name, seconds=0.0, notes=()):
        """One test that is over; notes are (failure | error | skipped, message, text), none of them if it passed."""
        self.cases.append((place, name, seconds, list(notes)))
        self.running = None
        self.write()

    def add_all(self, path):
        """The tests of another suite's file."""
        for case in tree.parse(path).getroot().iter("testcase"):
            notes = [(note.tag, note.get("message", ""), note.text or "") for note in case]
            self.cases.append((case.get("classname"), case.get("name"), float(case.get("time")), notes))
        self.write()

    def end(self):
        self.over, self.running = True, None
        self.write()

    def all_cases(self):
        if self.over:
            return self.cases
        place, name = self.running or (self.name, "the whole")
        return [*self.cases, (place, name, 0.0, [("error", UNFINISHED, "")])]

    def write(self):
        cases = self.all_cases()
        suite = tree.Element("testsuite", {
            "name": clean(self.name), "tests": str(len(cases)), "hostname": clean(socket.gethostname()), "timestamp": self.stamp,
            "time": f"{time.monotonic() - self.began:.3f}",
            **{many: str(sum(any(kind == one for kind, _, _ in notes) for _, _, _, notes in cases))
               for one, many in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped"))}})
        properties = tree.SubElement(suite, "properties")
        for key, value in {"system": " ".join(os.uname()[i] for i in (0, 2, 4)), **self.properties}.items():
            tree.SubElement(properties, "property", {"name": clean(key), "value": clean(value)})
        for place, name, seconds, notes in cases:
            case = tree.SubElement(suite, "testcase", {"classname": clean(place), "name": clean(name), "time": f"{seconds:.3f}"})
            for kind, message, text in notes:
                tree.SubElement(case, kind, {"message": clean(message)}).text = clean(text)
        # Renamed into place: whoever reads it finds it whole.
        new = self.path.with_suffix(".new")
        tree.ElementTree(suite).write(new, encoding="utf-8", xml_declaration=True)
        new.replace(self.path)


def read(path):
    """(name of the suite, its properties, {(classname, name): [(kind, message)…]}); passed is an empty list."""
    suite = tree.parse(path).getroot()
    cases = {}
    for case in suite.findall("testcase"):
        notes = cases.setdefault((case.get("classname"), case.get("name")), [])
        notes += [(note.tag, note.get("message", "")) for note in case if note.tag in ("failure", "error", "skipped")]
    return suite.get("name"), {p.get("name"): p.get("value") for p in suite.iter("property")}, cases


def place_of(test):
    """A test's (classname, name). What fails around a class comes as `setUpClass (module.Class)`."""
    around = re.fullmatch(r"(\w+) \((.*)\)", test.id())
    if around:
        return around.group(2).removeprefix("__main__."), around.group(1)
    place, _, name = test.id().removeprefix("__main__.").rpartition(".")
    return place, name


class Result(unittest.TestResult):
    """Says each test when it is over, counts, and writes it down in a Suite if there is one."""

    def __init__(self, suite=None, failfast=False):
        super().__init__()
        self.failfast = failfast
        self.suite = suite
        self.passed = 0
        self.began, self.current, self.notes = 0.0, None, []

    def bad(self):
        return len(self.failures) + len(self.errors)

    def counts(self):
        return f"{self.passed} {self.bad()} {len(self.skipped)}"

    def startTest(self, test):
        super().startTest(test)
        self.began, self.current, self.notes = time.monotonic(), test, []
        if self.suite:
            self.suite.start(*place_of(test))

    def stopTest(self, test):
        super().stopTest(test)
        if self.suite:
            self.suite.add(*place_of(test), time.monotonic() - self.began, self.notes)
        self.current = None

    def _note(self, test, kind, message, text=""):
        if self.current is not None:
            self.notes.append((kind, message, text))
        elif self.suite:
            self.suite.add(*place_of(test), 0.0, [(kind, message, text)])

    def _say(self, word, test, text=""):
        took = time.monotonic() - self.began if self.current is not None else 0
        print(f"{word:6} {took:6.1f} s  {test.id().removeprefix('__main__.')}{': ' + text if text else ''}", flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1
        self._say("ok", test)

    def _bad(self, test, kind, error):
        self._say("FAILED", test)
        lines = self._exc_info_to_string(error, test).rstrip().splitlines()
        print("\n".join("    " + line for line in lines[-30:]), flush=True)
        of = f"{test.id().rpartition(' ')[2]} " if test is not self.current and self.current is not None else ""
        message = str(error[1]).strip().split("\n", 1)[0]
        self._note(test, kind, f"{of}{error[0].__name__}: {message}", "\n".join(lines))

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._bad(test, "failure", err)

    def addError(self, test, err):
        super().addError(test, err)
        self._bad(test, "error", err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._bad(subtest, "failure" if issubclass(err[0], test.failureException) else "error", err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._say("skip", test, reason)
        self._note(test, "skipped", reason)


def tests_of(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests_of(item)
        else:
            yield item
