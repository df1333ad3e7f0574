# SPDX-License-Identifier: Apache-2.0
"""The include check finds what it is there to find: one planted fault of each kind, and none in what is allowed."""

import importlib.machinery
import importlib.util
import pathlib
import tempfile
import unittest

LIB = pathlib.Path(__file__).resolve().parent
LOADER = importlib.machinery.SourceFileLoader("check_includes", str(LIB / "check-includes"))
check_includes = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_includes", LOADER))
LOADER.exec_module(check_includes)


def errors_of(**files):
    """What the check says of a tree with these files; a name's "__" is a "/", and its last "_" the dot."""
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name).resolve()
        for key, include in files.items():
            path = root / (".".join(key.replace("__", "/").rsplit("_", 1)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#include "{include}"\n' if include else "")
        return check_includes.check(root)[0]


class Includes(unittest.TestCase):
    def test_lower_floor_is_allowed(self):
        self.assertEqual(errors_of(cri__pods__pod_c="cri/core/loop.h", cri__core__loop_c="base/err.h"), [])

    def test_upward_include_is_found(self):
        self.assertEqual(errors_of(cri__core__loop_c="cri/pods/pod.h"),
                         ["cri/core/loop.c:1: cri/pods/ is not below cri/core/"])

    def test_same_floor_is_found(self):
        self.assertEqual(errors_of(cri__agent__agent_c="cri/network/cni.h"),
                         ["cri/agent/agent.c:1: cri/agent/ and cri/network/ are on the same floor"])

    def test_internal_header_of_another_room_is_found(self):
        self.assertEqual(errors_of(cri__pods__pod_c="cri/store/store_internal.h"),
                         ["cri/pods/pod.c:1: cri/store/store_internal.h is private to cri/store/"])

    def test_internal_header_of_its_own_room_is_allowed(self):
        self.assertEqual(errors_of(cri__store__store_c="cri/store/store_internal.h"), [])

    def test_room_in_a_room_is_its_own(self):
        self.assertEqual(errors_of(cri__image__pull_c="cri/image/oci/manifest.h"), [])
        self.assertEqual(errors_of(cri__pods__pod_c="cri/image/oci/manifest.h"),
                         ["cri/pods/pod.c:1: cri/image/oci/ is private to cri/image/"])

    def test_include_by_relative_name_is_found(self):
        self.assertEqual(errors_of(cri__core__loop_c="../pods/pod.h", cri__pods__pod_h=""),
                         ["cri/core/loop.c:1: cri/pods/ is not below cri/core/"])

    def test_file_outside_every_room_is_found(self):
        self.assertEqual(errors_of(cri__stray_c="cri/core/loop.h"), ["cri/stray.c:1: cri/stray.c is in no room"])

    def test_another_folder_is_found(self):
        self.assertEqual(errors_of(guest__init_c="vmm/vmm.h"), ["guest/init.c:1: guest/ may not include vmm/vmm.h"])

    def test_internal_header_of_another_folder_is_found(self):
        self.assertEqual(errors_of(cri__pods__pod_c="vmm/driver_internal.h"),
                         ["cri/pods/pod.c:1: vmm/driver_internal.h is private to vmm/"])

    def test_the_tree_itself_has_no_fault(self):
        self.assertEqual(check_includes.check(check_includes.pathlib.Path(LIB).parents[1])[0], [])


if __name__ == "__main__":
    unittest.main()
