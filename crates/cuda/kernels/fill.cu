// Fills memory, for what tests and measurements need of a device.
#include "machine.cuh"

KERNEL(256) wharf_fill(u32 *to, int n, u32 value) {
    for (int i = (int)(blockIdx.x * 256 + thread()); i < n; i += (int)gridDim.x * 256) to[i] = value;
}
