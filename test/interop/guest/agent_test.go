// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Our own service, crivisor.agent.v1.Agent, through messages made from its .proto.

const agentService = "crivisor.agent.v1.Agent"

// agentMessages compiles agent.proto.
func agentMessages(t *testing.T) func(name string) *dynamicpb.Message {
	t.Helper()
	out := filepath.Join(t.TempDir(), "set.pb")
	cmd := exec.Command("protoc", "--include_imports", "--descriptor_set_out="+out, "-I", root, "-I",
		filepath.Join(root, "api"), "api/agent/agent.proto")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("protoc: %v\n%s", err, msg)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return func(name string) *dynamicpb.Message {
		d, err := files.FindDescriptorByName(protoreflect.FullName("crivisor.agent.v1." + name))
		if err != nil {
			t.Fatal(err)
		}
		return dynamicpb.NewMessage(d.(protoreflect.MessageDescriptor))
	}
}

type agent struct {
	*testing.T
	client  *ttrpc.Client
	message func(name string) *dynamicpb.Message
}

func newAgent(t *testing.T) *agent {
	return &agent{T: t, client: dial(t), message: agentMessages(t)}
}

// try makes the request from JSON, which keeps the tests readable.
func (a *agent) try(method, request string) (*dynamicpb.Message, error) {
	a.Helper()
	req, resp := a.message(method+"Request"), proto.Message(a.message("InfoRequest"))
	if method != "Ack" {
		resp = a.message(method + "Response")
	}
	if err := protojson.Unmarshal([]byte(request), req); err != nil {
		a.Fatal(err)
	}
	err := a.client.Call(ctx(a.T), agentService, method, req, resp)
	return resp.(*dynamicpb.Message), err
}

func (a *agent) call(method, format string, args ...any) *dynamicpb.Message {
	a.Helper()
	resp, err := a.try(method, fmt.Sprintf(format, args...))
	if err != nil {
		a.Fatalf("%s: %v", method, err)
	}
	return resp
}

func field(m protoreflect.Message, name string) protoreflect.Value {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

func TestAgentInfo(t *testing.T) {
	a := newAgent(t)
	first, second := a.call("Info", "{}"), a.call("Info", "{}")
	if id := field(first, "boot_id").String(); len(id) != 36 || id != field(second, "boot_id").String() {
		t.Errorf("boot_id %q", id)
	}
	if id := field(first, "instance_id").String(); len(id) != 32 || id != field(second, "instance_id").String() {
		t.Errorf("instance_id %q", id)
	}
	t.Logf("the agent's RSS is %d KiB", field(first, "rss").Uint()>>10)
	if v := field(first, "version").String(); v == "" {
		t.Error("no version")
	}
	if rss := field(first, "rss").Uint(); rss == 0 || rss > 4<<20 {
		t.Errorf("the agent's RSS is %d bytes, want at most 4 MiB", rss)
	}
}

// readLog reads from offset; the data by stream (1 stdout, 2 stderr), the offset behind it, and whether that was all.
func (a *agent) readLog(id string, offset uint64, waitMS int) (map[int][]byte, uint64, bool) {
	a.Helper()
	resp := a.call("ReadLog", `{"containerId": %q, "offset": %d, "waitMs": %d}`, id, offset, waitMS)
	out := map[int][]byte{}
	if got := field(resp, "offset").Uint(); got != offset {
		a.Fatalf("offset %d, want %d", got, offset)
	}
	records := field(resp, "records").List()
	for i := 0; i < records.Len(); i++ {
		record := records.Get(i).Message()
		stream := int(field(record, "stream").Enum())
		data := field(record, "data").Bytes()
		out[stream] = append(out[stream], data...)
		offset += uint64(len(data))
	}
	return out, offset, field(resp, "eof").Bool()
}

// createLogged makes a container whose output is read by ReadLog.
func createLogged(t *testing.T, id string, args ...string) *container {
	t.Helper()
	bundle(t, id, args...)
	client := dial(t)
	c := &container{T: t, id: id, client: client, task: task.NewTaskClient(client)}
	if _, err := c.task.Create(ctx(t), &task.CreateTaskRequest{ID: id, Bundle: guestShare + "/" + id}); err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(c.remove)
	return c
}

func TestReadLogIsRepeatableUntilAcknowledged(t *testing.T) {
	a := newAgent(t)
	c := createLogged(t, "log", "/bin/sh", "-c", "echo one; echo two >&2; echo three")
	c.start("")
	c.wait("")
	var stdout, stderr []byte
	offset := uint64(0)
	for eof := false; !eof; {
		out, next, end := a.readLog(c.id, offset, 1000)
		again, _, _ := a.readLog(c.id, offset, 0)
		if !bytes.HasPrefix(again[1], out[1]) || !bytes.HasPrefix(again[2], out[2]) {
			t.Errorf("read again: %v, before %v", again, out)
		}
		stdout, stderr = append(stdout, out[1]...), append(stderr, out[2]...)
		offset, eof = next, end
	}
	if string(stdout) != "one\nthree\n" || string(stderr) != "two\n" {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
	a.call("Ack", `{"containerId": %q, "offset": %d}`, c.id, offset)
	if _, _, eof := a.readLog(c.id, offset, 0); !eof {
		t.Error("no end after the acknowledgement")
	}
	if _, err := a.try("Ack", fmt.Sprintf(`{"containerId": %q, "offset": %d}`, c.id, offset+1)); err == nil {
		t.Error("an acknowledgement beyond the end was taken")
	}
	if _, err := a.try("ReadLog", `{"containerId": "nobody"}`); status.Code(err) != codes.NotFound {
		t.Errorf("unknown container: %v", err)
	}
}

func TestReadLogLosesNothingOfALot(t *testing.T) {
	a := newAgent(t)
	c := createLogged(t, "flood", "/bin/sh", "-c", "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done")
	c.start("")
	var got bytes.Buffer
	offset := uint64(0)
	for eof := false; !eof; {
		var out map[int][]byte
		out, offset, eof = a.readLog(c.id, offset, 1000)
		got.Write(out[1])
		a.call("Ack", `{"containerId": %q, "offset": %d}`, c.id, offset)
	}
	var want bytes.Buffer
	for i := 0; i < 60000; i++ {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes, want %d; equal up to %d", got.Len(), want.Len(), commonPrefix(got.Bytes(), want.Bytes()))
	}
	if code := c.wait(""); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func commonPrefix(a, b []byte) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// A process that nobody reads is held back, and no other is.
func TestReadLogHoldsBackOnlyTheOne(t *testing.T) {
	a := newAgent(t)
	stuck := createLogged(t, "stuck", "/bin/sh", "-c", "while :; do echo 0123456789abcdef0123456789abcdef; done")
	stuck.start("")
	quick := createLogged(t, "quick", "/bin/echo", "hello")
	quick.start("")
	if code := quick.wait(""); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if out, _, _ := a.readLog(quick.id, 0, 1000); string(out[1]) != "hello\n" {
		t.Errorf("output %v", out)
	}
}

func TestStatsOfContainerAndGuest(t *testing.T) {
	a := newAgent(t)
	c := createLogged(t, "stats", "/bin/sleep", "1000")
	c.start("")
	s := a.call("Stats", `{"containerId": "stats"}`)
	if field(s, "pids").Uint() != 1 || field(s, "memory_usage").Uint() == 0 || field(s, "timestamp_ns").Uint() == 0 {
		t.Errorf("container: %v", s)
	}
	if g := a.call("Stats", "{}"); field(g, "memory_usage").Uint() == 0 || field(g, "cpu_usage_ns").Uint() == 0 {
		t.Errorf("guest: %v", g)
	}
}

func TestDialReachesAPortInTheGuest(t *testing.T) {
	a := newAgent(t)
	c := createLogged(t, "dial", "/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/cat")
	c.start("")
	data := func(port uint32, text string) *dynamicpb.Message {
		m := a.message("DialData")
		fields := m.Descriptor().Fields()
		if port != 0 {
			m.Set(fields.ByName("port"), protoreflect.ValueOfUint32(port))
		}
		if text != "" {
			m.Set(fields.ByName("data"), protoreflect.ValueOfBytes([]byte(text)))
		}
		return m
	}
	var err error
	for try := 0; try < 50; try++ {
		var s ttrpc.ClientStream
		desc := &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}
		if s, err = a.client.NewStream(ctx(t), desc, agentService, "Dial", nil); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*dynamicpb.Message{data(7000, ""), data(0, "through the guest\n")} {
			if err = s.SendMsg(m); err != nil {
				t.Fatal(err)
			}
		}
		s.CloseSend() // half-close: cat ends, and its output still comes
		var got []byte
		for {
			m := a.message("DialData")
			if err = s.RecvMsg(m); err != nil {
				break
			}
			got = append(got, field(m, "data").Bytes()...)
		}
		if errors.Is(err, io.EOF) {
			if string(got) != "through the guest\n" {
				t.Errorf("came back: %q", got)
			}
			return
		}
		time.Sleep(100 * time.Millisecond) // nc does not listen yet
	}
	t.Errorf("Dial: %v", err)
}
