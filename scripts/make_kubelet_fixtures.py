"""Writes crates/node/tests/node/wire.json: messages of kubelet's APIs as protobuf's own library encodes them.

Needs the packages protobuf and grpcio-tools, and k8s.io/kubelet's `pkg/apis` (v1.36 was used):
`python scripts/make_kubelet_fixtures.py PATH/TO/pkg/apis`.
"""

import json
import pathlib
import sys
import tempfile

from grpc_tools import protoc

FILES = {"device_plugin": "deviceplugin/v1beta1/api.proto", "pod_resources": "podresources/v1/api.proto"}


def module(apis, name, folder):
    """Both files are called api.proto, so each is compiled under a name of its own."""
    (folder / f"{name}.proto").write_text((apis / FILES[name]).read_text())
    protoc.main(["protoc", f"-I{folder}", f"--python_out={folder}", str(folder / f"{name}.proto")])
    return __import__(f"{name}_pb2")


def main():
    apis = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        plugin = module(apis, "device_plugin", pathlib.Path(folder))
        pods = module(apis, "pod_resources", pathlib.Path(folder))
    options = plugin.DevicePluginOptions(pre_start_required=True, get_preferred_allocation_available=True)
    messages = {
        "register": plugin.RegisterRequest(
            version="v1beta1", endpoint="wharf-gpu.sock", resource_name="nvidia.com/gpu", options=options
        ),
        "list": plugin.ListAndWatchResponse(
            devices=[
                plugin.Device(
                    ID="GPU-0", health="Healthy", topology=plugin.TopologyInfo(nodes=[plugin.NUMANode(ID=1)])
                ),
                plugin.Device(ID="GPU-1", health="Unhealthy"),
            ]
        ),
        "prefer": plugin.PreferredAllocationRequest(
            container_requests=[
                plugin.ContainerPreferredAllocationRequest(
                    available_deviceIDs=["a", "b"], must_include_deviceIDs=["b"], allocation_size=2
                )
            ]
        ),
        "preferred": plugin.PreferredAllocationResponse(
            container_responses=[plugin.ContainerPreferredAllocationResponse(deviceIDs=["b", "a"])]
        ),
        "allocate": plugin.AllocateRequest(
            container_requests=[plugin.ContainerAllocateRequest(devices_ids=["a", "b"])]
        ),
        "allocated": plugin.AllocateResponse(
            container_responses=[
                plugin.ContainerAllocateResponse(
                    envs={"NVIDIA_VISIBLE_DEVICES": "a"},
                    mounts=[plugin.Mount(container_path="/c", host_path="/h", read_only=True)],
                    devices=[plugin.DeviceSpec(container_path="/dev/c", host_path="/dev/h", permissions="rw")],
                    annotations={"cdi.k8s.io/x": "y"},
                    cdi_devices=[plugin.CDIDevice(name="nvidia.com/gpu=a")],
                )
            ]
        ),
        "pre_start": plugin.PreStartContainerRequest(devices_ids=["a"]),
        "pods": pods.ListPodResourcesResponse(
            pod_resources=[
                pods.PodResources(
                    name="p",
                    namespace="n",
                    containers=[
                        pods.ContainerResources(
                            name="c",
                            devices=[
                                pods.ContainerDevices(
                                    resource_name="nvidia.com/gpu",
                                    device_ids=["a"],
                                    topology=pods.TopologyInfo(nodes=[pods.NUMANode(ID=1)]),
                                )
                            ],
                            cpu_ids=[1, 2],
                            memory=[pods.ContainerMemory(memory_type="memory", size=5)],
                        )
                    ],
                )
            ]
        ),
    }
    path = pathlib.Path(__file__).parent.parent / "crates/node/tests/node/wire.json"
    encoded = {name: message.SerializeToString(deterministic=True).hex() for name, message in messages.items()}
    path.write_text(json.dumps(encoded, indent=2) + "\n")


if __name__ == "__main__":
    main()
