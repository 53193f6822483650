"""Runs a command and prints how many seconds it took and the most memory that it had resident, in bytes. Linux.

`measure.py COMMAND [ARGUMENT]..`: what the command prints is shown only when it fails.
"""

import json
import resource
import subprocess
import sys
import time

started = time.perf_counter()
ran = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
seconds = time.perf_counter() - started
if ran.returncode != 0:
    sys.stderr.buffer.write(ran.stdout)
    sys.exit(f"{sys.argv[1]} ended with {ran.returncode}")
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
