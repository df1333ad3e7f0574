// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	events "github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	streaming "github.com/containerd/containerd/api/services/streaming/v1"
	types "github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	transfer "github.com/containerd/containerd/api/types/transfer"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ours compiles .proto files of the tree, named from its top, with protoc.
func ours(t *testing.T, files ...string) *protoregistry.Files {
	t.Helper()
	out := filepath.Join(t.TempDir(), "set.pb")
	args := append([]string{"--include_imports", "--descriptor_set_out=" + out, "-I", root, "-I", filepath.Join(root, "api")},
		files...)
	if msg, err := exec.Command("protoc", args...).CombinedOutput(); err != nil {
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
	reg, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

func names[D protoreflect.Descriptor](n int, get func(int) D) []string {
	var out []string
	for i := 0; i < n; i++ {
		out = append(out, string(get(i).Name()))
	}
	sort.Strings(out)
	return out
}

// sameNames reports names that only one side has.
func sameNames(t *testing.T, where, what string, got, want []string) {
	t.Helper()
	have := map[string]bool{}
	for _, n := range got {
		have[n] = true
	}
	for _, n := range want {
		if !have[n] {
			t.Errorf("%s: %s %s is missing", where, what, n)
		}
		delete(have, n)
	}
	for n := range have {
		t.Errorf("%s: %s %s exists only here", where, what, n)
	}
}

func compareField(t *testing.T, got, want protoreflect.FieldDescriptor) {
	t.Helper()
	at := string(want.FullName())
	if got.Number() != want.Number() {
		t.Errorf("%s: number %d, want %d", at, got.Number(), want.Number())
	}
	if got.Kind() != want.Kind() {
		t.Errorf("%s: type %v, want %v", at, got.Kind(), want.Kind())
	}
	if got.Cardinality() != want.Cardinality() || got.IsList() != want.IsList() || got.IsMap() != want.IsMap() {
		t.Errorf("%s: label differs", at)
	}
	if got.JSONName() != want.JSONName() {
		t.Errorf("%s: JSON name %s, want %s", at, got.JSONName(), want.JSONName())
	}
	if got.IsPacked() != want.IsPacked() || got.HasPresence() != want.HasPresence() {
		t.Errorf("%s: packing or presence differs", at)
	}
	if (got.ContainingOneof() == nil) != (want.ContainingOneof() == nil) {
		t.Errorf("%s: oneof differs", at)
	}
	if want.Message() != nil && (got.Message() == nil || got.Message().FullName() != want.Message().FullName()) {
		t.Errorf("%s: message type differs from %s", at, want.Message().FullName())
	}
	if want.Enum() != nil && (got.Enum() == nil || got.Enum().FullName() != want.Enum().FullName()) {
		t.Errorf("%s: enum type differs from %s", at, want.Enum().FullName())
	}
	deprecated := func(f protoreflect.FieldDescriptor) bool {
		o, _ := f.Options().(*descriptorpb.FieldOptions)
		return o.GetDeprecated()
	}
	if deprecated(got) != deprecated(want) {
		t.Errorf("%s: deprecated %v, want %v", at, deprecated(got), deprecated(want))
	}
}

func compareEnum(t *testing.T, got, want protoreflect.EnumDescriptor) {
	t.Helper()
	at := string(want.FullName())
	sameNames(t, at, "value", names(got.Values().Len(), got.Values().Get), names(want.Values().Len(), want.Values().Get))
	for i := 0; i < want.Values().Len(); i++ {
		w := want.Values().Get(i)
		if g := got.Values().ByName(w.Name()); g != nil && g.Number() != w.Number() {
			t.Errorf("%s.%s: %d, want %d", at, w.Name(), g.Number(), w.Number())
		}
	}
}

func compareEnums(t *testing.T, where string, got, want protoreflect.EnumDescriptors) {
	t.Helper()
	sameNames(t, where, "enum", names(got.Len(), got.Get), names(want.Len(), want.Get))
	for i := 0; i < want.Len(); i++ {
		if g := got.ByName(want.Get(i).Name()); g != nil {
			compareEnum(t, g, want.Get(i))
		}
	}
}

func compareMessage(t *testing.T, got, want protoreflect.MessageDescriptor) {
	t.Helper()
	at := string(want.FullName())
	sameNames(t, at, "field", names(got.Fields().Len(), got.Fields().Get), names(want.Fields().Len(), want.Fields().Get))
	for i := 0; i < want.Fields().Len(); i++ {
		if g := got.Fields().ByName(want.Fields().Get(i).Name()); g != nil {
			compareField(t, g, want.Fields().Get(i))
		}
	}
	compareEnums(t, at, got.Enums(), want.Enums())
	compareMessages(t, at, got.Messages(), want.Messages())
}

func compareMessages(t *testing.T, where string, got, want protoreflect.MessageDescriptors) {
	t.Helper()
	sameNames(t, where, "message", names(got.Len(), got.Get), names(want.Len(), want.Get))
	for i := 0; i < want.Len(); i++ {
		if g := got.ByName(want.Get(i).Name()); g != nil {
			compareMessage(t, g, want.Get(i))
		}
	}
}

func compareServices(t *testing.T, where string, got, want protoreflect.ServiceDescriptors) int {
	t.Helper()
	methods := 0
	sameNames(t, where, "service", names(got.Len(), got.Get), names(want.Len(), want.Get))
	for i := 0; i < want.Len(); i++ {
		w := want.Get(i)
		g := got.ByName(w.Name())
		if g == nil {
			continue
		}
		if g.FullName() != w.FullName() {
			t.Errorf("service %s, want %s", g.FullName(), w.FullName())
		}
		sameNames(t, string(w.FullName()), "method", names(g.Methods().Len(), g.Methods().Get),
			names(w.Methods().Len(), w.Methods().Get))
		for k := 0; k < w.Methods().Len(); k++ {
			wm := w.Methods().Get(k)
			gm := g.Methods().ByName(wm.Name())
			methods++
			if gm == nil {
				continue
			}
			if gm.Input().FullName() != wm.Input().FullName() || gm.Output().FullName() != wm.Output().FullName() {
				t.Errorf("%s: request or response type differs", wm.FullName())
			}
			if gm.IsStreamingClient() != wm.IsStreamingClient() || gm.IsStreamingServer() != wm.IsStreamingServer() {
				t.Errorf("%s: streaming differs", wm.FullName())
			}
		}
	}
	return methods
}

// The whole of CRI v1: nothing missing, nothing of our own, no number or type that differs.
func TestCRIDescriptorEqualsThePublishedOne(t *testing.T) {
	want := (&cri.VersionRequest{}).ProtoReflect().Descriptor().ParentFile()
	got, err := ours(t, "api/cri/runtime.proto").FindFileByPath("api/cri/runtime.proto")
	if err != nil {
		t.Fatal(err)
	}
	if got.Package() != want.Package() || got.Syntax() != want.Syntax() {
		t.Errorf("package %s, want %s", got.Package(), want.Package())
	}
	compareMessages(t, "runtime.v1", got.Messages(), want.Messages())
	compareEnums(t, "runtime.v1", got.Enums(), want.Enums())
	if n := compareServices(t, "runtime.v1", got.Services(), want.Services()); n != 41 {
		t.Errorf("%d RPCs, want 41", n)
	}
}

// The guest's services that have a published form: every message of ours is theirs.
func TestGuestDescriptorsEqualContainerds(t *testing.T) {
	reg := ours(t, "api/agent/task.proto", "api/agent/streaming.proto", "api/agent/events.proto",
		"api/agent/transfer.proto", "api/agent/envelope.proto")
	file := func(m proto.Message) protoreflect.FileDescriptor { return m.ProtoReflect().Descriptor().ParentFile() }

	got, err := reg.FindFileByPath("api/agent/task.proto")
	if err != nil {
		t.Fatal(err)
	}
	want := file(&task.CreateTaskRequest{})
	compareMessages(t, "containerd.task.v2", got.Messages(), want.Messages())
	if n := compareServices(t, "containerd.task.v2", got.Services(), want.Services()); n != 17 {
		t.Errorf("%d methods of Task, want 17", n)
	}

	got, err = reg.FindFileByPath("api/agent/streaming.proto")
	if err != nil {
		t.Fatal(err)
	}
	want = file(&streaming.StreamInit{})
	compareMessages(t, "streaming", got.Messages(), want.Messages())
	compareServices(t, "streaming", got.Services(), want.Services())

	got, err = reg.FindFileByPath("api/agent/process.proto")
	if err != nil {
		t.Fatal(err)
	}
	want = file(&tasktypes.Process{})
	compareMessages(t, "containerd.v1.types", got.Messages(), want.Messages())
	compareEnums(t, "containerd.v1.types", got.Enums(), want.Enums())

	got, err = reg.FindFileByPath("api/agent/events.proto")
	if err != nil {
		t.Fatal(err)
	}
	compareMessages(t, "containerd.events", got.Messages(), file(&events.TaskExit{}).Messages())

	for ourName, m := range map[protoreflect.FullName]proto.Message{
		"containerd.types.Mount":                       &types.Mount{},
		"containerd.types.transfer.Data":               &transfer.Data{},
		"containerd.types.transfer.WindowUpdate":       &transfer.WindowUpdate{},
		"containerd.services.events.ttrpc.v1.Envelope": &types.Envelope{},
	} {
		d, err := reg.FindDescriptorByName(ourName)
		if err != nil {
			t.Error(err)
			continue
		}
		compareMessage(t, d.(protoreflect.MessageDescriptor), m.ProtoReflect().Descriptor())
	}
}
