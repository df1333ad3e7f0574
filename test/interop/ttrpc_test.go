// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	service    = "crivisor.test.Peer"
	messageMax = 4 << 20
)

// ---- their client, our server ------------------------------------------------------------------------------------

// ourServer starts ttrpc_peer and connects to it.
func ourServer(t *testing.T) *ttrpc.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command(peer, "serve", path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("ttrpc_peer: %v\n%s", err, stderr.String())
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("ttrpc_peer did not get ready: %q %v", line, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { client.Close() })
	return client
}

func ctx(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return c
}

func call(t *testing.T, client *ttrpc.Client, method string, data []byte) ([]byte, error) {
	t.Helper()
	resp := &transfer.Data{}
	err := client.Call(ctx(t, 30*time.Second), service, method, &transfer.Data{Data: data}, resp)
	return resp.Data, err
}

func TestTheirClientUnary(t *testing.T) {
	client := ourServer(t)
	for _, text := range []string{"hello", "", strings.Repeat("x", 100000)} {
		if got, err := call(t, client, "Echo", []byte(text)); err != nil || string(got) != text {
			t.Errorf("Echo of %d bytes: %d bytes, %v", len(text), len(got), err)
		}
	}
}

func TestTheirClientGetsStatus(t *testing.T) {
	client := ourServer(t)
	_, err := call(t, client, "Fail", nil)
	if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "told to fail" {
		t.Errorf("Fail: %v", err)
	}
	if _, err = call(t, client, "None", nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
	err = client.Call(ctx(t, time.Minute), "no.Service", "Echo", &transfer.Data{}, &transfer.Data{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown service: %v", err)
	}
}

func TestTheirClientTimesOut(t *testing.T) {
	client := ourServer(t)
	err := client.Call(ctx(t, 200*time.Millisecond), service, "Hang", &transfer.Data{}, &transfer.Data{})
	if !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("Hang: %v", err)
	}
	if got, err := call(t, client, "Echo", []byte("still there")); err != nil || string(got) != "still there" {
		t.Errorf("after a timeout: %v", err)
	}
}

func TestTheirClientCancels(t *testing.T) {
	client := ourServer(t)
	c, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Call(c, service, "Hang", &transfer.Data{}, &transfer.Data{}) }()
	time.Sleep(20 * time.Millisecond)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	if _, err := call(t, client, "Echo", []byte("x")); err != nil {
		t.Errorf("after a cancel: %v", err)
	}
}

func TestTheirClientAtTheLimit(t *testing.T) {
	client := ourServer(t)
	if got, err := call(t, client, "Echo", make([]byte, messageMax-64)); err != nil || len(got) != messageMax-64 {
		t.Errorf("just below 4 MiB: %d bytes, %v", len(got), err)
	}
	if _, err := call(t, client, "Big", []byte(strconv.Itoa(messageMax))); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("answer beyond 4 MiB: %v", err)
	}
	if _, err := call(t, client, "Echo", []byte("x")); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestTheirClientThousandCallsAtOnce(t *testing.T) {
	client := ourServer(t)
	var wg sync.WaitGroup
	for i := 0; i < 1000; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			want := fmt.Sprint(i)
			if got, err := call(t, client, "Reverse", []byte(want)); err != nil || string(got) != want {
				t.Errorf("call %s: %q %v", want, got, err)
			}
		}()
	}
	wg.Wait()
}

func open(t *testing.T, client *ttrpc.Client, method string, in, out bool, req interface{}) ttrpc.ClientStream {
	t.Helper()
	s, err := client.NewStream(ctx(t, 30*time.Second), &ttrpc.StreamDesc{StreamingClient: in, StreamingServer: out}, service,
		method, req)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheirClientStreams(t *testing.T) {
	client := ourServer(t)
	s := open(t, client, "Stream", true, true, nil)
	for i := 0; i < 100; i++ {
		text := fmt.Sprint(i)
		if i%10 == 0 {
			text = ""
		}
		if err := s.SendMsg(&transfer.Data{Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
		got := &transfer.Data{}
		if err := s.RecvMsg(got); err != nil || string(got.Data) != text {
			t.Fatalf("message %d: %q %v", i, got.Data, err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&transfer.Data{}); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestTheirClientServerStream(t *testing.T) {
	s := open(t, ourServer(t), "Count", false, true, &transfer.Data{Data: []byte("50")})
	for i := 0; i < 50; i++ {
		got := &transfer.Data{}
		if err := s.RecvMsg(got); err != nil || string(got.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d: %q %v", i, got.Data, err)
		}
	}
	if err := s.RecvMsg(&transfer.Data{}); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

func TestTheirClientClientStream(t *testing.T) {
	s := open(t, ourServer(t), "Sum", true, false, nil)
	for i := 0; i < 10; i++ {
		if err := s.SendMsg(&transfer.Data{Data: []byte("1234567")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	got := &transfer.Data{}
	if err := s.RecvMsg(got); err != nil || string(got.Data) != "70" {
		t.Errorf("sum: %q %v", got.Data, err)
	}
}

func TestTheirClientUnknownStream(t *testing.T) {
	s := open(t, ourServer(t), "NoStream", true, true, nil)
	if err := s.RecvMsg(&transfer.Data{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown stream: %v", err)
	}
}

// ---- their server, our client ------------------------------------------------------------------------------------

func unary(f func(context.Context, []byte) ([]byte, error)) ttrpc.Method {
	return func(c context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		req := &transfer.Data{}
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		out, err := f(c, req.Data)
		if err != nil {
			return nil, err
		}
		return &transfer.Data{Data: out}, nil
	}
}

type held struct {
	sync.Mutex
	waiting []chan struct{}
}

// reverse holds calls until a thousand have come and lets the last go first.
func (h *held) reverse(_ context.Context, in []byte) ([]byte, error) {
	mine := make(chan struct{})
	h.Lock()
	h.waiting = append(h.waiting, mine)
	if len(h.waiting) == 1000 {
		for i := len(h.waiting) - 1; i >= 0; i-- {
			close(h.waiting[i])
		}
	}
	h.Unlock()
	<-mine
	return in, nil
}

func theirService() *ttrpc.ServiceDesc {
	h := &held{}
	return &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"Echo": unary(func(_ context.Context, in []byte) ([]byte, error) { return in, nil }),
			"Fail": unary(func(context.Context, []byte) ([]byte, error) {
				return nil, status.Error(codes.FailedPrecondition, "told to fail")
			}),
			"Hang": unary(func(c context.Context, _ []byte) ([]byte, error) {
				<-c.Done()
				return nil, c.Err()
			}),
			"Big": unary(func(_ context.Context, in []byte) ([]byte, error) {
				n, err := strconv.Atoi(string(in))
				return make([]byte, n), err
			}),
			"Reverse": unary(h.reverse),
		},
		Streams: map[string]ttrpc.Stream{
			"Stream": {StreamingClient: true, StreamingServer: true,
				Handler: func(_ context.Context, s ttrpc.StreamServer) (interface{}, error) {
					for {
						m := &transfer.Data{}
						if err := s.RecvMsg(m); err != nil {
							if err == io.EOF {
								err = nil
							}
							return nil, err
						}
						if err := s.SendMsg(m); err != nil {
							return nil, err
						}
					}
				}},
			"Count": {StreamingServer: true,
				Handler: func(_ context.Context, s ttrpc.StreamServer) (interface{}, error) {
					m := &transfer.Data{}
					if err := s.RecvMsg(m); err != nil {
						return nil, err
					}
					n, err := strconv.Atoi(string(m.Data))
					for i := 0; i < n && err == nil; i++ {
						err = s.SendMsg(&transfer.Data{Data: []byte(fmt.Sprint(i))})
					}
					return nil, err
				}},
			"Sum": {StreamingClient: true,
				Handler: func(_ context.Context, s ttrpc.StreamServer) (interface{}, error) {
					total := 0
					for {
						m := &transfer.Data{}
						err := s.RecvMsg(m)
						if err == io.EOF {
							return &transfer.Data{Data: []byte(fmt.Sprint(total))}, nil
						}
						if err != nil {
							return nil, err
						}
						total += len(m.Data)
					}
				}},
		},
	}
}

func TestOurClientAgainstTheirServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	server.RegisterService(service, theirService())
	c, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); server.Close() })
	go server.Serve(c, l)

	var stderr strings.Builder
	cmd := exec.Command(peer, "call", path)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	seen := map[string]bool{}
	for _, line := range strings.Split(string(out), "\n") {
		seen[strings.TrimPrefix(line, "ok ")] = true
	}
	for _, name := range []string{"unary", "unary-empty", "status", "unimplemented", "timeout", "cancel", "4-mib",
		"4-mib-refused-here", "4-mib-answer", "1000-at-once", "stream", "stream-half-close", "server-stream",
		"client-stream", "stream-unimplemented"} {
		t.Run(name, func(t *testing.T) {
			if !seen[name] {
				t.Errorf("did not pass: %s", stderr.String())
			}
		})
	}
	if err != nil {
		t.Errorf("ttrpc_peer: %v\n%s", err, stderr.String())
	}
}
