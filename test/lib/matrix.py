#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""matrix.py [RESULTS]: compares the table of test/node/matrix.md with the tests that say which of its rows they show.

A test of test/node says so by @rows of the harness. Without RESULTS, no test runs: every row A1 to A24 must be in the table, every
declared row too, a cell that says `seen` or `in part: …` needs a test that is not skipped for that driver, and one that begins with
`–` may have none. With RESULTS, a directory of JUnit files that test/node/run left: of the cells for which a scenario there has a
test, all those tests must have passed.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import junit

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRIVERS = {"clh": "Cloud Hypervisor", "qemu": "QEMU"}
MUST = [f"A{n}" for n in range(1, 25)]
ROW = re.compile(r"\|\s*([A-Z]\d+)\s*\|(.*)\|([^|]*)\|([^|]*)\|")
CLAIM = re.compile(r"seen|in part: .+")


def table_of(text):
    """[(row, {driver: cell})] of the lines that are rows of the matrix."""
    found = []
    for line in text.splitlines():
        match = ROW.fullmatch(line.strip())
        if match:
            found.append((match.group(1), dict(zip(DRIVERS, (match.group(3).strip(), match.group(4).strip())))))
    return found


def declared():
    """What each test of the node's scenarios says of itself, for both drivers (test/node/scenarios/run --rows)."""
    found = []
    for driver in DRIVERS:
        text = subprocess.run([ROOT / "test/node/scenarios/run", "--rows", driver], stdout=subprocess.PIPE, check=True,
                              env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1")).stdout
        found += json.loads(text)
    return found


def witnesses(tests):
    """{(row, driver): [(scenario, classname, name)…]}: the tests that show a cell."""
    found = {}
    for test in tests:
        if test["skip"]:
            continue
        for row, driver in test["rows"]:
            cell = (row, driver or test["scenario"].split("-", 1)[0])
            found.setdefault(cell, []).append((test["scenario"], test["place"], test["name"]))
    return found


def check_static(text, tests):
    """What is wrong with the table as it stands: a list of sentences."""
    table, shown, wrong = table_of(text), witnesses(tests), []
    names = [row for row, _ in table]
    wrong += [f"{row} is twice in the table" for row in sorted(set(names)) if names.count(row) > 1]
    wrong += [f"{row} is not in the table" for row in MUST if row not in names]
    wrong += [f"{row} is not in the table, but {test['place']}.{test['name']} says that it shows it"
              for test in tests for row, _ in test["rows"] if row not in names and row not in MUST]
    for row, cells in table:
        for driver, cell in cells.items():
            known = (row, driver) in shown
            if CLAIM.fullmatch(cell) and not known:
                wrong.append(f"{row}, {DRIVERS[driver]}: the table says `{cell}`, but no test that runs with it shows that")
            elif cell.startswith("–") and known:
                wrong.append(f"{row}, {DRIVERS[driver]}: the table says `{cell}`, but {'.'.join(shown[row, driver][0][1:])} shows it")
            elif not CLAIM.fullmatch(cell) and not cell.startswith("–"):
                wrong.append(f"{row}, {DRIVERS[driver]}: `{cell}` is neither `seen`, `in part: …` nor `– …`")
    return wrong


def check_results(text, tests, suites):
    """(cells judged, what of them is not true) by the suites, as junit.read gives them, of scenarios that ran."""
    shown, wrong, judged = witnesses(tests), [], 0
    ran = {}
    for name, properties, cases in suites:
        if "skipped" not in properties:
            ran.setdefault(name, {}).update(cases)
    for row, cells in table_of(text):
        for driver, cell in cells.items():
            here = [w for w in shown.get((row, driver), []) if w[0] in ran]
            if not CLAIM.fullmatch(cell) or not here:
                continue
            judged += 1
            for scenario, place, name in here:
                notes = ran[scenario].get((place, name))
                if notes != []:
                    why = "did not run" if notes is None else f"{notes[0][0]}: {notes[0][1]}"
                    wrong.append(f"{row}, {DRIVERS[driver]} is not true: {scenario} {place}.{name}: {why}")
    return judged, wrong


def main(argv):
    text = (ROOT / "test/node/matrix.md").read_text()
    tests = declared()
    wrong = check_static(text, tests)
    if argv:
        files = sorted(p for driver in DRIVERS for p in pathlib.Path(argv[0]).glob(f"{driver}-*.xml"))
        judged, untrue = check_results(text, tests, [junit.read(p) for p in files])
        said = f"matrix: {judged} cells judged by this run, all true"
        wrong += untrue
    else:
        cells = [cell for _, pair in table_of(text) for cell in pair.values()]
        said = f"matrix: {len(cells) // 2} rows, {sum(bool(CLAIM.fullmatch(c)) for c in cells)} cells that tests show"
    print("\n".join(wrong) if wrong else said)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
