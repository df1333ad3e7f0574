// SPDX-License-Identifier: Apache-2.0

// Package guest drives the real agent, in a VM, with containerd's own clients: ttrpc, Task, Streaming.
//
// It boots a VM with vmmctl from the build directory in CRV_BUILD (default: build-dev or build at the top of the tree; what
// is missing in it is built). With CRV_AGENT_SOCKET (the hybrid vsock socket of a VM that runs already) and CRV_AGENT_SHARE
// (the directory that this VM has as its share) it uses that one. Needs root. It never skips: without a VM it fails.
package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/runtime/task/v2"
	streaming "github.com/containerd/containerd/api/services/streaming/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	root        = "../../.."
	port        = 1024
	guestShare  = "/run/kuasar/state"
	processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"
)

var vm struct{ socket, share string }

// ---- the VM ------------------------------------------------------------------------------------------------------

func buildDir() (string, error) {
	if dir := os.Getenv("CRV_BUILD"); dir != "" {
		return filepath.Abs(dir)
	}
	for _, dir := range []string{"build-dev", "build"} {
		if _, err := os.Stat(filepath.Join(root, dir, "CMakeCache.txt")); err == nil {
			return filepath.Abs(filepath.Join(root, dir))
		}
	}
	return "", errors.New("no build directory: configure one (cmake --preset dev) or name it in CRV_BUILD")
}

// boot starts a VM and returns what stops it.
func boot() (func(), error) {
	build, err := buildDir()
	if err != nil {
		return nil, err
	}
	for _, target := range []string{"vmmctl", "crivisor-spawn", "guest"} {
		// Go runs packages at the same time; two builds in one directory must not.
		out, err := exec.Command("flock", build, "cmake", "--build", build, "--target", target).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("building %s: %v\n%s", target, err, out)
		}
	}
	dir, err := os.MkdirTemp("", "crv") // short: sockets live below
	if err != nil {
		return nil, err
	}
	run := filepath.Join(dir, "r")
	vm.share = filepath.Join(dir, "s")
	vm.socket = filepath.Join(run, "task.vsock")
	for _, d := range []string{run, vm.share} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(filepath.Join(build, "vmmctl"), "boot", "--kernel", filepath.Join(build, "guest/vmlinux"), "--image",
		filepath.Join(build, "guest/guest.img"), "--run-dir", run, "--shared", vm.share)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		cmd.Process.Signal(syscall.SIGTERM)
		io.Copy(io.Discard, stdout)
		cmd.Wait()
		os.RemoveAll(dir)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		fmt.Println("vmmctl:", lines.Text())
		if strings.Contains(lines.Text(), "port 1024 answers") {
			return stop, nil
		}
	}
	console, _ := os.ReadFile(filepath.Join(run, "console.log"))
	stop()
	return nil, fmt.Errorf("the VM did not come up; its console:\n%s", console)
}

func TestMain(m *testing.M) {
	vm.socket, vm.share = os.Getenv("CRV_AGENT_SOCKET"), os.Getenv("CRV_AGENT_SHARE")
	stop := func() {}
	if vm.socket == "" || vm.share == "" {
		var err error
		if stop, err = boot(); err != nil {
			fmt.Fprintln(os.Stderr, "guest:", err)
			os.Exit(1)
		}
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

// dial makes a connection by the hybrid vsock protocol.
func dial(t *testing.T) *ttrpc.Client {
	t.Helper()
	conn, err := net.Dial("unix", vm.socket)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "CONNECT %d\n", port)
	answer := make([]byte, 0, 32)
	for one := make([]byte, 1); !strings.HasSuffix(string(answer), "\n"); answer = append(answer, one...) {
		if _, err := conn.Read(one); err != nil {
			t.Fatalf("hybrid vsock: %q %v", answer, err)
		}
	}
	if !strings.HasPrefix(string(answer), "OK ") {
		t.Fatalf("hybrid vsock: %q", answer)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { client.Close() })
	return client
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

// ---- containers --------------------------------------------------------------------------------------------------

type object = map[string]any

func process(args ...string) object {
	return object{
		"user": object{"uid": 0, "gid": 0}, "args": args, "env": []string{"PATH=/bin"}, "cwd": "/",
	}
}

// bundle puts a busybox root and a config.json into the share.
func bundle(t *testing.T, id string, args ...string) {
	t.Helper()
	dir := filepath.Join(vm.share, id)
	for _, d := range []string{"bin", "proc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "sleep", "echo", "head", "wc"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "rootfs/bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	config, err := json.Marshal(object{
		"ociVersion": "1.0.2", "process": process(args...), "root": object{"path": "rootfs"},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
		},
		"linux": object{
			"cgroupsPath": "/crivisor/" + id,
			"namespaces":  []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644); err != nil {
		t.Fatal(err)
	}
}

type container struct {
	*testing.T
	id     string
	client *ttrpc.Client
	task   task.TaskService
}

// create makes a container whose streams are named for the Streaming service.
func create(t *testing.T, id string, stdin bool, args ...string) *container {
	t.Helper()
	bundle(t, id, args...)
	client := dial(t)
	c := &container{T: t, id: id, client: client, task: task.NewTaskClient(client)}
	req := &task.CreateTaskRequest{ID: id, Bundle: guestShare + "/" + id, Stdout: c.name("", "stdout"),
		Stderr: c.name("", "stderr")}
	if stdin {
		req.Stdin = c.name("", "stdin")
	}
	if _, err := c.task.Create(ctx(t), req); err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(c.remove)
	return c
}

// remove is the end of a container, whatever has become of it.
func (c *container) remove() {
	within, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c.task.Kill(within, &task.KillRequest{ID: c.id, Signal: 9, All: true})
	c.task.Wait(within, &task.WaitRequest{ID: c.id})
	c.task.Delete(within, &task.DeleteRequest{ID: c.id})
}

func (c *container) name(exec, stream string) string { return c.id + "/" + exec + "/" + stream }

func (c *container) start(exec string) {
	c.Helper()
	if _, err := c.task.Start(ctx(c.T), &task.StartRequest{ID: c.id, ExecID: exec}); err != nil {
		c.Fatalf("Start: %v", err)
	}
}

func (c *container) wait(exec string) uint32 {
	c.Helper()
	resp, err := c.task.Wait(ctx(c.T), &task.WaitRequest{ID: c.id, ExecID: exec})
	if err != nil {
		c.Fatalf("Wait: %v", err)
	}
	if resp.ExitedAt == nil || !resp.ExitedAt.IsValid() {
		c.Errorf("Wait: exited_at %v", resp.ExitedAt)
	}
	return resp.ExitStatus
}

// stream opens one on a connection of its own; it is ready when this returns.
func (c *container) stream(exec, which string) streaming.TTRPCStreaming_StreamClient {
	c.Helper()
	s, err := streaming.NewTTRPCStreamingClient(dial(c.T)).Stream(ctx(c.T))
	if err != nil {
		c.Fatal(err)
	}
	send(c.T, s, &streaming.StreamInit{ID: c.name(exec, which)})
	if _, err := s.Recv(); err != nil {
		c.Fatalf("stream %s: %v", which, err)
	}
	return s
}

func send(t *testing.T, s streaming.TTRPCStreaming_StreamClient, m proto.Message) {
	t.Helper()
	data, err := proto.Marshal(m)
	if err == nil {
		err = s.Send(&anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: data})
	}
	if err != nil {
		t.Fatalf("Send: %v", err)
	}
}

// receive returns everything that comes until the end of the stream.
func receive(t *testing.T, s streaming.TTRPCStreaming_StreamClient) string {
	t.Helper()
	var out strings.Builder
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Errorf("Recv: %v", err)
			return out.String()
		}
		data := &transfer.Data{}
		if !strings.HasSuffix(m.TypeUrl, "containerd.types.transfer.Data") {
			continue
		}
		if err := proto.Unmarshal(m.Value, data); err != nil {
			t.Errorf("Data: %v", err)
		}
		out.Write(data.Data)
	}
}

// ---- tests -------------------------------------------------------------------------------------------------------

// The agent serves the standard services on port 1024.
func TestA22CheckIsAnswered(t *testing.T) {
	client := dial(t)
	if err := client.Call(ctx(t), "grpc.SandboxService", "Check", &streaming.StreamInit{}, &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownThingsHaveTheRightCode(t *testing.T) {
	client := dial(t)
	err := client.Call(ctx(t), "grpc.SandboxService", "Nothing", &emptypb.Empty{}, &emptypb.Empty{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
	_, err = task.NewTaskClient(client).State(ctx(t), &task.StateRequest{ID: "nobody"})
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("unknown container: %v", err)
	}
	_, err = task.NewTaskClient(client).Create(ctx(t), &task.CreateTaskRequest{ID: "../x", Bundle: guestShare + "/../x"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("bad id: %v", err)
	}
	_, err = task.NewTaskClient(client).Create(ctx(t), &task.CreateTaskRequest{ID: "none", Bundle: guestShare + "/none"})
	if err == nil {
		t.Error("a container without a bundle was made")
	}
}

func TestTaskLifeCycle(t *testing.T) {
	c := create(t, "life", false, "/bin/sh", "-c", "echo out; echo err >&2; exit 3")
	state := func() *task.StateResponse {
		s, err := c.task.State(ctx(t), &task.StateRequest{ID: c.id})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := state(); s.Status != tasktypes.Status_CREATED || s.Pid == 0 || s.Bundle != guestShare+"/life" {
		t.Errorf("after Create: %v", s)
	}
	out, errs := c.stream("", "stdout"), c.stream("", "stderr")
	c.start("")
	if got := receive(t, out); got != "out\n" {
		t.Errorf("stdout: %q", got)
	}
	if got := receive(t, errs); got != "err\n" {
		t.Errorf("stderr: %q", got)
	}
	for i := 0; i < 2; i++ { // Wait can be asked again
		if code := c.wait(""); code != 3 {
			t.Errorf("exit code %d", code)
		}
	}
	if s := state(); s.Status != tasktypes.Status_STOPPED || s.ExitStatus != 3 {
		t.Errorf("after the exit: %v", s)
	}
	d, err := c.task.Delete(ctx(t), &task.DeleteRequest{ID: c.id})
	if err != nil || d.ExitStatus != 3 {
		t.Errorf("Delete: %v %v", d, err)
	}
	if _, err := c.task.State(ctx(t), &task.StateRequest{ID: c.id}); status.Code(err) != codes.NotFound {
		t.Errorf("after Delete: %v", err)
	}
}

func TestStreamingStdinToStdout(t *testing.T) {
	c := create(t, "pipe", true, "/bin/cat")
	in, out, errs := c.stream("", "stdin"), c.stream("", "stdout"), c.stream("", "stderr")
	c.start("")
	text := strings.Repeat("0123456789abcdef", 16384) // 256 KiB: more than any buffer on the way
	go func() {
		for i := 0; i < len(text); i += 8192 {
			send(t, in, &transfer.Data{Data: []byte(text[i : i+8192])})
		}
		in.CloseSend()
	}()
	if got := receive(t, out); got != text {
		t.Errorf("%d bytes came back, want %d, equal: %v", len(got), len(text), got == text)
	}
	if got := receive(t, errs); got != "" {
		t.Errorf("stderr: %q", got)
	}
	if code := c.wait(""); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestExecInARunningContainer(t *testing.T) {
	c := create(t, "exec", false, "/bin/sleep", "1000")
	c.start("")
	spec, _ := json.Marshal(process("/bin/sh", "-c", "echo from exec; exit 7"))
	_, err := c.task.Exec(ctx(t), &task.ExecProcessRequest{ID: c.id, ExecID: "e1", Stdout: c.name("e1", "stdout"),
		Spec: &anypb.Any{TypeUrl: processType, Value: spec}})
	if err != nil {
		t.Fatal(err)
	}
	out := c.stream("e1", "stdout")
	c.start("e1")
	if got := receive(t, out); got != "from exec\n" {
		t.Errorf("stdout: %q", got)
	}
	if code := c.wait("e1"); code != 7 {
		t.Errorf("exit code %d", code)
	}
	if d, err := c.task.Delete(ctx(t), &task.DeleteRequest{ID: c.id, ExecID: "e1"}); err != nil || d.ExitStatus != 7 {
		t.Errorf("Delete: %v %v", d, err)
	}
	pids, err := c.task.Pids(ctx(t), &task.PidsRequest{ID: c.id})
	if err != nil || len(pids.Processes) != 1 {
		t.Errorf("Pids: %v %v", pids, err)
	}
}

func TestKillIsExit137(t *testing.T) {
	c := create(t, "kill", false, "/bin/sleep", "1000")
	c.start("")
	if _, err := c.task.Kill(ctx(t), &task.KillRequest{ID: c.id, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if code := c.wait(""); code != 137 {
		t.Errorf("exit code %d", code)
	}
}

func TestEventsTellOfAnExit(t *testing.T) {
	c := create(t, "event", false, "/bin/sh", "-c", "exit 5")
	client := dial(t)
	found := make(chan *events.TaskExit, 1)
	go func() {
		for {
			e := &types.Envelope{}
			if err := client.Call(ctx(t), "grpc.SandboxService", "GetEvents", &emptypb.Empty{}, e); err != nil {
				return
			}
			exit := &events.TaskExit{}
			if e.Topic == "/tasks/exit" && proto.Unmarshal(e.Event.GetValue(), exit) == nil && exit.ContainerID == c.id {
				found <- exit
				return
			}
		}
	}()
	c.start("")
	select {
	case e := <-found:
		if e.ExitStatus != 5 || e.Pid == 0 {
			t.Errorf("event: %v", e)
		}
	case <-time.After(30 * time.Second):
		t.Error("no event")
	}
}

func TestAHundredWaitsOnOneConnectionHoldUpNobody(t *testing.T) {
	c := create(t, "waits", false, "/bin/sleep", "1000")
	c.start("")
	var wg sync.WaitGroup
	for i := 0; i < 100; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if code := c.wait(""); code != 137 {
				t.Errorf("exit code %d", code)
			}
		}()
	}
	for i := 0; i < 100; i++ {
		if _, err := c.task.State(ctx(t), &task.StateRequest{ID: c.id}); err != nil {
			t.Fatal(err)
		}
	}
	// The first process of a PID namespace takes no SIGTERM without a handler: busybox sleep is not it for its execs.
	spec, _ := json.Marshal(process("/bin/sleep", "1000"))
	if _, err := c.task.Exec(ctx(t), &task.ExecProcessRequest{ID: c.id, ExecID: "x",
		Spec: &anypb.Any{TypeUrl: processType, Value: spec}}); err != nil {
		t.Fatal(err)
	}
	c.start("x")
	if _, err := c.task.Kill(ctx(t), &task.KillRequest{ID: c.id, ExecID: "x", Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if code := c.wait("x"); code != 143 {
		t.Errorf("exec's exit code %d", code)
	}
	if _, err := c.task.Kill(ctx(t), &task.KillRequest{ID: c.id, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func TestPauseAndResume(t *testing.T) {
	c := create(t, "pause", false, "/bin/sleep", "1000")
	c.start("")
	if _, err := c.task.Pause(ctx(t), &task.PauseRequest{ID: c.id}); err != nil {
		t.Fatal(err)
	}
	if s, err := c.task.State(ctx(t), &task.StateRequest{ID: c.id}); err != nil || s.Status != tasktypes.Status_PAUSED {
		t.Errorf("paused: %v %v", s, err)
	}
	if _, err := c.task.Resume(ctx(t), &task.ResumeRequest{ID: c.id}); err != nil {
		t.Fatal(err)
	}
	if s, err := c.task.State(ctx(t), &task.StateRequest{ID: c.id}); err != nil || s.Status != tasktypes.Status_RUNNING {
		t.Errorf("resumed: %v %v", s, err)
	}
}
