"""The node agent against kubelet's own device manager, and what the agent takes.

`python scripts/verify_node_agent.py DEVICE_MANAGER AGENT`, as root: DEVICE_MANAGER is built of scripts/device_manager/main.go, AGENT is the example
`agent` of wharf-node. Both get a /var/lib/kubelet of their own. Registration, allocation with the agent's preference, an XID, recovery, a
device manager that starts again and an agent that ends are checked; exit code 1 when one of them is not as it should be.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

GPUS = 8
RESOURCE = "nvidia.com/gpu"
SOON = 60
IDLE_SECONDS = 60


class Manager:
    """A device manager with the folder in place of /var/lib/kubelet."""

    def __init__(self, program, folder):
        script = f"mkdir -p /var/lib/kubelet && mount --bind {folder} /var/lib/kubelet && exec {program}"
        pipe = subprocess.PIPE
        command = ["unshare", "--mount", "sh", "-c", script]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def until(self, what, capacity, allocatable):
        wanted = (str(capacity), str(allocatable))
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            known = self.ask("capacity")
            if (known["capacity"].get(RESOURCE), known["allocatable"].get(RESOURCE)) == wanted:
                print(f"{what}: {capacity} GPUs, {allocatable} allocatable", flush=True)
                return
            time.sleep(0.1)
        sys.exit(f"{what}: wanted {wanted}, found {known}")

    def kill(self):
        self.process.kill()
        self.process.wait()


def agent(program, folder):
    process = subprocess.Popen([program, folder, str(GPUS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, process.stdout.readline().strip()


def xid(folder, gpu, number):
    """Through the file that stands for the driver."""
    path = pathlib.Path(folder) / "nvml.json"
    machine = json.loads(path.read_text())
    machine["events"].append({"sequence": 1, "gpu": machine["gpus"][gpu]["uuid"], "kind": 8, "data": number})
    new = path.with_suffix(".new")
    new.write_text(json.dumps(machine))
    new.rename(path)


def processor_seconds(process):
    tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident_megabytes(process):
    pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(process, address):
    time.sleep(5)
    before = processor_seconds(process)
    time.sleep(IDLE_SECONDS)
    share = (processor_seconds(process) - before) / IDLE_SECONDS * 100
    times = []
    for _ in range(20):
        # The agent answers scrapes that come together from one look.
        time.sleep(0.6)
        start = time.monotonic()
        size = len(urllib.request.urlopen(f"http://{address}/metrics").read())
        times.append((time.monotonic() - start) * 1000)
    print(f"idle: {share:.2f}% of a core; {resident_megabytes(process):.0f} MB")
    print(f"a scrape of {size} bytes: {statistics.median(times):.1f} ms (median of {len(times)})")


def main():
    program, binary = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/device-plugins")
        manager = Manager(program, folder)
        process, _ = agent(binary, folder)
        try:
            manager.until("registered", GPUS, GPUS)
            one = manager.ask(f"allocate one {RESOURCE} 1")["env"]["NVIDIA_VISIBLE_DEVICES"].split(",")
            four = manager.ask(f"allocate four {RESOURCE} 4")["env"]["NVIDIA_VISIBLE_DEVICES"].split(",")
            places = [int(uuid[4:12], 16) for uuid in four]
            print(f"one pod got {one}, another GPUs {places}")
            if len(one) != 1 or places != [4, 5, 6, 7]:
                sys.exit("the four that are left at one CPU should go together")
            print("too many:", manager.ask(f"allocate many {RESOURCE} 4")["refused"])
            xid(folder, 7, 69)
            manager.until("after an XID", GPUS, GPUS - 1)
            manager.until("after probation", GPUS, GPUS)
            manager.kill()
            manager = Manager(program, folder)
            manager.until("after the device manager's restart", GPUS, GPUS)
            process.terminate()
            process.wait()
            manager.until("after the agent's end", GPUS, 0)
            process, address = agent(binary, folder)
            manager.until("with another agent", GPUS, GPUS)
            measure(process, address)
        finally:
            process.kill()
            manager.kill()


if __name__ == "__main__":
    main()
