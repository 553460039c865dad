// A small device plugin: its devices are the files of a folder. It shows all that a node asks of a device plugin: registration
// (again whenever the node's agent begins anew), the list of devices and their health, giving them to containers, a preference
// among them, and making them ready.
//
// A file that is empty, or says anything but "broken", is a healthy device.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

var (
	resource = flag.String("resource", "devices.example.io/file", "what the devices are called")
	data     = flag.String("data", "", "the folder whose files are the devices")
	folder   = flag.String("plugins", "", "the folder in which the node has its socket for device plugins")
)

// How often the folder, and the node's socket, are looked at.
const lookEvery = 200 * time.Millisecond

type plugin struct {
	api.UnimplementedDevicePluginServer
}

func main() {
	flag.Parse()
	for {
		if err := serve(); err != nil {
			log.Print(err)
		}
		time.Sleep(lookEvery)
	}
}

// serve registers with the node, and is there until the node's socket is another one or this one's is gone.
func serve() error {
	name := strings.NewReplacer("/", "-", ".", "-").Replace(*resource) + ".sock"
	own, registry := filepath.Join(*folder, name), filepath.Join(*folder, "kubelet.sock")
	before, err := os.Stat(registry)
	if err != nil {
		return err
	}
	if err := os.Remove(own); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", own)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(note))
	defer server.Stop()
	api.RegisterDevicePluginServer(server, &plugin{})
	go func() { _ = server.Serve(listener) }()
	if err := register(registry, name); err != nil {
		return err
	}
	for {
		time.Sleep(lookEvery)
		now, err := os.Stat(registry)
		if err != nil {
			return err
		}
		if _, err := os.Stat(own); err != nil || !os.SameFile(before, now) || now.ModTime() != before.ModTime() {
			return errors.New("the node has begun anew")
		}
	}
}

func register(registry, name string) error {
	connection, err := grpc.NewClient("unix://"+registry, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: name, ResourceName: *resource, Options: options()}
	_, err = api.NewRegistrationClient(connection).Register(context.Background(), request)
	return err
}

func options() *api.DevicePluginOptions {
	return &api.DevicePluginOptions{PreStartRequired: true, GetPreferredAllocationAvailable: true}
}

// note writes down what was asked, one line each: a record of the plugin's own for whoever wonders.
func note(ctx context.Context, request any, info *grpc.UnaryServerInfo, call grpc.UnaryHandler) (any, error) {
	answer, err := call(ctx, request)
	text, _ := json.Marshal(request)
	log.Printf("%s %s: %v", filepath.Base(info.FullMethod), text, err)
	return answer, err
}

func (*plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return options(), nil
}

// ListAndWatch tells of the devices, and again whenever they are others.
func (*plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	told := "nothing yet"
	for {
		devices, err := list()
		if err != nil {
			return err
		}
		text, _ := json.Marshal(devices)
		if string(text) != told {
			if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
			told = string(text)
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

func list() ([]*api.Device, error) {
	entries, err := os.ReadDir(*data)
	if err != nil {
		return nil, err
	}
	devices := []*api.Device{}
	for _, entry := range entries {
		health := api.Healthy
		if text, err := os.ReadFile(filepath.Join(*data, entry.Name())); err != nil || strings.HasPrefix(string(text), "broken") {
			health = api.Unhealthy
		}
		devices = append(devices, &api.Device{ID: entry.Name(), Health: health})
	}
	return devices, nil
}

// GetPreferredAllocation prefers the last ones by name.
func (*plugin) GetPreferredAllocation(_ context.Context, request *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	answer := &api.PreferredAllocationResponse{}
	for _, container := range request.ContainerRequests {
		chosen := append([]string{}, container.MustIncludeDeviceIDs...)
		available := append([]string{}, container.AvailableDeviceIDs...)
		sort.Sort(sort.Reverse(sort.StringSlice(available)))
		for _, id := range available {
			if len(chosen) < int(container.AllocationSize) && !contains(chosen, id) {
				chosen = append(chosen, id)
			}
		}
		answer.ContainerResponses = append(answer.ContainerResponses, &api.ContainerPreferredAllocationResponse{DeviceIDs: chosen})
	}
	return answer, nil
}

func contains(list []string, wanted string) bool {
	for _, item := range list {
		if item == wanted {
			return true
		}
	}
	return false
}

// Allocate tells what a container needs: the files, a device of the machine, and a variable that names them.
func (*plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	answer := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		ids := append([]string{}, container.DevicesIds...)
		sort.Strings(ids)
		granted := &api.ContainerAllocateResponse{
			Envs:        map[string]string{"FILES": strings.Join(ids, ",")},
			Annotations: map[string]string{"devices.example.io/files": strings.Join(ids, ",")},
			Devices:     []*api.DeviceSpec{{HostPath: "/dev/zero", ContainerPath: "/dev/nought", Permissions: "r"}},
		}
		for _, id := range ids {
			path := filepath.Join(*data, id)
			if text, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(text), "refused") {
				return nil, fmt.Errorf("%s is not to be had", id)
			}
			granted.Mounts = append(granted.Mounts, &api.Mount{HostPath: path, ContainerPath: "/files/" + id, ReadOnly: true})
		}
		answer.ContainerResponses = append(answer.ContainerResponses, granted)
	}
	return answer, nil
}

// PreStartContainer makes devices ready: there is nothing to be done to a file.
func (*plugin) PreStartContainer(context.Context, *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	return &api.PreStartContainerResponse{}, nil
}
