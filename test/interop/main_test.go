// SPDX-License-Identifier: Apache-2.0

// Package interop puts crivisor's protocols beside the Go modules that define them: the descriptors of our .proto files,
// and our ttrpc at either end of a connection to containerd's.
//
// It needs protoc, and in CRV_BUILD a configured build directory (default: build-dev or build at the top of the tree), in
// which it builds ttrpc_peer.
package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const root = "../.."

var peer string

func buildDir() (string, error) {
	if dir := os.Getenv("CRV_BUILD"); dir != "" {
		return dir, nil
	}
	for _, dir := range []string{"build-dev", "build"} {
		if _, err := os.Stat(filepath.Join(root, dir, "CMakeCache.txt")); err == nil {
			return filepath.Join(root, dir), nil
		}
	}
	return "", fmt.Errorf("no build directory: configure one (cmake --preset dev) or name it in CRV_BUILD")
}

func TestMain(m *testing.M) {
	dir, err := buildDir()
	if err == nil {
		var out []byte
		// Go runs packages at the same time; two builds in one directory must not.
		out, err = exec.Command("flock", dir, "cmake", "--build", dir, "--target", "ttrpc_peer").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("building ttrpc_peer: %v\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
	peer = filepath.Join(dir, "ttrpc_peer")
	os.Exit(m.Run())
}
