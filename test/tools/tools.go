// SPDX-License-Identifier: Apache-2.0
//go:build tools

// Package tools names what this module pins, so that `go mod tidy` keeps it.
package tools

import (
	_ "github.com/containerd/containerd/api/runtime/task/v2"
	_ "github.com/containerd/containerd/api/services/streaming/v1"
	_ "github.com/containerd/ttrpc"
	_ "k8s.io/cri-api/pkg/apis/runtime/v1"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	_ "sigs.k8s.io/cri-tools/cmd/critest"
)
