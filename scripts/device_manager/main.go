// Kubelet's device manager, alone: registration, device plugins, allocation. For scripts/verify_node_agent.py.
//
// Build it within a checkout of Kubernetes (1.36), as cmd/device-manager. It answers lines on standard input: "capacity", and
// "allocate POD RESOURCE COUNT".
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
)

type ready struct{}

func (ready) AddSource(string) {}
func (ready) AllReady() bool   { return true }

func main() {
	manager, err := devicemanager.NewManagerImpl(nil, topologymanager.NewFakeManager())
	if err != nil {
		panic(err)
	}
	var pods []*v1.Pod
	active := func() []*v1.Pod { return pods }
	err = manager.Start(klog.TODO(), active, ready{}, containermap.NewContainerMap(), sets.New[string]())
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "capacity":
			capacity, allocatable, _ := manager.GetCapacity()
			say(map[string]any{"capacity": capacity, "allocatable": allocatable})
		case "allocate":
			count, _ := strconv.ParseInt(words[3], 10, 64)
			pod := podOf(words[1], words[2], count)
			container := &pod.Spec.Containers[0]
			if err := manager.Allocate(pod, container); err != nil {
				say(map[string]any{"refused": err.Error()})
				continue
			}
			pods = append(pods, pod)
			options, err := manager.GetDeviceRunContainerOptions(context.Background(), pod, container)
			if err != nil {
				panic(err)
			}
			env := map[string]string{}
			for _, variable := range options.Envs {
				env[variable.Name] = variable.Value
			}
			say(map[string]any{"env": env})
		}
	}
}

func podOf(name, kind string, count int64) *v1.Pod {
	list := v1.ResourceList{v1.ResourceName(kind): *resource.NewQuantity(count, resource.DecimalSI)}
	resources := v1.ResourceRequirements{Limits: list, Requests: list}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "main", Resources: resources}}},
	}
}

func say(what any) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
