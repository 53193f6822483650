// Fills and copies memory, for what tests and measurements need of a device.
#include "machine.cuh"

KERNEL(256) wharf_fill(u32 *to, int n, u32 value) {
    for (int i = (int)(blockIdx.x * 256 + thread()); i < n; i += (int)gridDim.x * 256) to[i] = value;
}

// `n` pieces of 16 bytes, fewer than 2^30. Four are on their way at a time: what a copy reaches is taken for what the memory can do.
KERNEL(256) wharf_copy(const uint4 *from, uint4 *to, int n) {
    int step = (int)gridDim.x * 256, i = (int)(blockIdx.x * 256 + thread());
    for (; i < n - 3 * step; i += 4 * step) {
        uint4 piece[4];
#pragma unroll
        for (int j = 0; j < 4; j++) piece[j] = read_once(from + i + j * step);
#pragma unroll
        for (int j = 0; j < 4; j++) to[i + j * step] = piece[j];
    }
    for (; i < n; i += step) to[i] = read_once(from + i);
}
