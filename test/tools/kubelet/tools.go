// SPDX-License-Identifier: Apache-2.0
//go:build tools

// Package tools names what this module pins, so that `go mod tidy` keeps it.
package tools

import _ "k8s.io/kubernetes/cmd/kubelet"
