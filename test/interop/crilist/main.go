// SPDX-License-Identifier: Apache-2.0

// crilist asks a CRI server for its lists by the streaming calls, for which crictl has no command, and prints the ids of
// each as JSON. `crilist SOCKET update-pod|update-container ID RESOURCES` sends a LinuxContainerResources, as JSON, of which crictl
// has only some fields for containers and none for pods. `crilist SOCKET pod-cidr CIDR` is UpdateRuntimeConfig.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// drain takes all messages of a stream up to its end.
func drain[M any](stream interface{ Recv() (*M, error) }, err error, each func(*M)) error {
	for err == nil {
		var message *M
		if message, err = stream.Recv(); err == nil {
			each(message)
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

func lists(ctx context.Context, conn *grpc.ClientConn) (map[string][]string, error) {
	runtime, images := cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	ids := map[string][]string{"pods": {}, "containers": {}, "images": {}, "containerStats": {}, "podStats": {}, "podMetrics": {}}
	add := func(list, id string) { ids[list] = append(ids[list], id) }

	pods, err := runtime.StreamPodSandboxes(ctx, &cri.StreamPodSandboxesRequest{})
	if err = drain(pods, err, func(m *cri.StreamPodSandboxesResponse) {
		for _, item := range m.PodSandboxes {
			add("pods", item.Id)
		}
	}); err != nil {
		return nil, fmt.Errorf("StreamPodSandboxes: %w", err)
	}
	containers, err := runtime.StreamContainers(ctx, &cri.StreamContainersRequest{})
	if err = drain(containers, err, func(m *cri.StreamContainersResponse) {
		for _, item := range m.Containers {
			add("containers", item.Id)
		}
	}); err != nil {
		return nil, fmt.Errorf("StreamContainers: %w", err)
	}
	all, err := images.StreamImages(ctx, &cri.StreamImagesRequest{})
	if err = drain(all, err, func(m *cri.StreamImagesResponse) {
		for _, item := range m.Images {
			add("images", item.Id)
		}
	}); err != nil {
		return nil, fmt.Errorf("StreamImages: %w", err)
	}
	stats, err := runtime.StreamContainerStats(ctx, &cri.StreamContainerStatsRequest{})
	if err = drain(stats, err, func(m *cri.StreamContainerStatsResponse) {
		for _, item := range m.ContainerStats {
			add("containerStats", item.Attributes.Id)
		}
	}); err != nil {
		return nil, fmt.Errorf("StreamContainerStats: %w", err)
	}
	podStats, err := runtime.StreamPodSandboxStats(ctx, &cri.StreamPodSandboxStatsRequest{})
	if err = drain(podStats, err, func(m *cri.StreamPodSandboxStatsResponse) {
		for _, item := range m.PodSandboxStats {
			add("podStats", item.Attributes.Id)
		}
	}); err != nil {
		return nil, fmt.Errorf("StreamPodSandboxStats: %w", err)
	}
	metrics, err := runtime.StreamPodSandboxMetrics(ctx, &cri.StreamPodSandboxMetricsRequest{})
	if err = drain(metrics, err, func(m *cri.StreamPodSandboxMetricsResponse) {
		for _, item := range m.PodSandboxMetrics {
			add("podMetrics", item.PodSandboxId)
		}
	}); err != nil {
		return nil, fmt.Errorf("StreamPodSandboxMetrics: %w", err)
	}
	return ids, nil
}

// update sends the resources, JSON with the field names of the protocol, to the pod or container.
func update(ctx context.Context, conn *grpc.ClientConn, what, id, text string) error {
	resources := &cri.LinuxContainerResources{}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(resources); err != nil {
		return err
	}
	client := cri.NewRuntimeServiceClient(conn)
	var err error
	if what == "update-pod" {
		_, err = client.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{
			PodSandboxId: id, Resources: resources})
	} else {
		_, err = client.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: resources})
	}
	return err
}

func run(args []string) error {
	if len(args) != 2 && !(len(args) == 4 && args[2] == "pod-cidr") &&
		!(len(args) == 5 && (args[2] == "update-pod" || args[2] == "update-container")) {
		return fmt.Errorf("usage: crilist SOCKET [update-pod|update-container ID RESOURCES | pod-cidr CIDR]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	if len(args) == 4 {
		_, err = cri.NewRuntimeServiceClient(conn).UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{
			RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: args[3]}}})
		return err
	}
	if len(args) == 5 {
		return update(ctx, conn, args[2], args[3], args[4])
	}
	ids, err := lists(ctx, conn)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(ids)
}

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "crilist:", err)
		os.Exit(1)
	}
}
