// A small storage driver: a volume is a folder of the node that it runs on. It shows all that a node asks of a driver of the
// Container Storage Interface: registration, staging, publishing to pods, growing, and telling what a volume holds.
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
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

var (
	name   = flag.String("name", "folders.example.io", "the driver's name")
	node   = flag.String("node", "", "what the driver calls this node")
	data   = flag.String("data", "", "the folder of the volumes' folders")
	socket = flag.String("socket", "", "the driver's own socket")
	plugin = flag.String("registry", "", "the folder in which the node looks for drivers")
)

// A size where nothing says another.
const defaultSize = 1 << 30

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer
	// Calls are few and change the same folders: one at a time.
	lock sync.Mutex
}

func main() {
	flag.Parse()
	if err := os.MkdirAll(*data, 0o755); err != nil {
		log.Fatal(err)
	}
	d := &driver{}
	own := listen(*socket)
	registry := listen(filepath.Join(*plugin, *name+"-reg.sock"))
	server := grpc.NewServer(grpc.UnaryInterceptor(d.note))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterNodeServer(server, d)
	door := grpc.NewServer()
	registration.RegisterRegistrationServer(door, d)
	go func() { log.Fatal(door.Serve(registry)) }()
	log.Fatal(server.Serve(own))
}

func listen(path string) net.Listener {
	// One that an earlier run left behind would be in the way.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

// note writes down what was asked, one line each: a record of the driver's own for whoever wonders.
func (d *driver) note(ctx context.Context, request any, info *grpc.UnaryServerInfo, call grpc.UnaryHandler) (any, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	answer, err := call(ctx, request)
	text, _ := json.Marshal(request)
	log.Printf("%s %s %v", filepath.Base(info.FullMethod), text, err)
	return answer, err
}

// Registration: the node asks who this is and says how it went.

func (d *driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: *name, Endpoint: *socket, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (d *driver) NotifyRegistrationStatus(
	_ context.Context, said *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	if said.PluginRegistered {
		log.Print("registered")
	} else {
		log.Printf("not registered: %s", said.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// Node service.

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	segments := map[string]string{*name + "/node": *node}
	return &csi.NodeGetInfoResponse{
		NodeId: *node, MaxVolumesPerNode: 32, AccessibleTopology: &csi.Topology{Segments: segments},
	}, nil
}

func (d *driver) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
	} {
		rpc := &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: kind}}
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{Type: rpc})
	}
	return answer, nil
}

func (d *driver) NodeStageVolume(
	_ context.Context, request *csi.NodeStageVolumeRequest,
) (*csi.NodeStageVolumeResponse, error) {
	if request.VolumeCapability.GetMount() == nil {
		return nil, status.Error(codes.InvalidArgument, "volumes are folders")
	}
	if key, wanted := request.VolumeContext["key"]; wanted && request.Secrets["key"] != key {
		return nil, status.Error(codes.PermissionDenied, "the key does not fit")
	}
	folder := filepath.Join(*data, request.VolumeId)
	if _, err := os.Stat(folder); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %s does not exist", request.VolumeId)
	}
	return &csi.NodeStageVolumeResponse{}, bind(folder, request.StagingTargetPath, false)
}

func (d *driver) NodeUnstageVolume(
	_ context.Context, request *csi.NodeUnstageVolumeRequest,
) (*csi.NodeUnstageVolumeResponse, error) {
	return &csi.NodeUnstageVolumeResponse{}, unbind(request.StagingTargetPath)
}

func (d *driver) NodePublishVolume(
	_ context.Context, request *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	from := request.StagingTargetPath
	if request.VolumeContext["csi.storage.k8s.io/ephemeral"] == "true" {
		// It begins with the pod, and says whose it is.
		from = filepath.Join(*data, request.VolumeId)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return nil, err
		}
		whose := fmt.Sprintf("%s/%s\n", request.VolumeContext["csi.storage.k8s.io/pod.namespace"],
			request.VolumeContext["csi.storage.k8s.io/pod.name"])
		if err := os.WriteFile(filepath.Join(from, "pod"), []byte(whose), 0o644); err != nil {
			return nil, err
		}
	} else if from == "" {
		return nil, status.Error(codes.FailedPrecondition, "the volume was not staged")
	}
	return &csi.NodePublishVolumeResponse{}, bind(from, request.TargetPath, request.Readonly)
}

func (d *driver) NodeUnpublishVolume(
	_ context.Context, request *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := unbind(request.TargetPath); err != nil {
		return nil, err
	}
	folder := filepath.Join(*data, request.VolumeId)
	if _, err := os.Stat(filepath.Join(folder, "pod")); err == nil {
		// It ends with the pod.
		return &csi.NodeUnpublishVolumeResponse{}, os.RemoveAll(folder)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (d *driver) NodeExpandVolume(
	_ context.Context, request *csi.NodeExpandVolumeRequest,
) (*csi.NodeExpandVolumeResponse, error) {
	size := request.CapacityRange.GetRequiredBytes()
	text := fmt.Sprint(size)
	if err := os.WriteFile(filepath.Join(*data, request.VolumeId+".size"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, nil
}

func (d *driver) NodeGetVolumeStats(
	_ context.Context, request *csi.NodeGetVolumeStatsRequest,
) (*csi.NodeGetVolumeStatsResponse, error) {
	total := int64(defaultSize)
	if text, err := os.ReadFile(filepath.Join(*data, request.VolumeId+".size")); err == nil {
		if _, err := fmt.Sscan(string(text), &total); err != nil {
			return nil, err
		}
	}
	var used, files int64
	err := filepath.WalkDir(request.VolumePath, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() {
			used, files = used+info.Size(), files+1
		}
		return err
	})
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: total, Used: used, Available: total - used},
		{Unit: csi.VolumeUsage_INODES, Total: files + 1000, Used: files, Available: 1000},
	}}, nil
}
