// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"net"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v2"
)

// The last test: it ends the VM. (Go runs the files of a package in the order of their names.)
func TestShutdownAnswersOnceSyncedAndPowersOff(t *testing.T) {
	a := newAgent(t)
	c := createLogged(t, "last", "/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done")
	if _, err := c.task.Start(ctx(t), &task.StartRequest{ID: "last"}); err != nil {
		t.Fatal(err)
	}
	status := make(chan uint32, 1)
	go func() {
		if w, err := c.task.Wait(ctx(t), &task.WaitRequest{ID: "last"}); err == nil {
			status <- w.ExitStatus
		} else {
			status <- 0
		}
	}()
	time.Sleep(200 * time.Millisecond)
	begin := time.Now()
	m := a.call("Shutdown", `{"timeoutNs": "10000000000"}`)
	t.Logf("answered after %v", time.Since(begin))
	if !field(m, "synced").Bool() || !field(m, "unmounted").Bool() || field(m, "containers_left").Uint() != 0 {
		t.Errorf("Shutdown: %v", m)
	}
	if got := <-status; got != 137 {
		t.Errorf("exit status %d of the container, want 137", got)
	}
	// The VMM ends by itself, and its socket answers no longer.
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		conn, err := net.Dial("unix", vm.socket)
		if err != nil {
			break
		}
		conn.Close()
		if time.Now().After(end) {
			t.Fatal("the VM is still there 15 s after the answer")
		}
	}
	t.Logf("powered off after %v", time.Since(begin))
}
