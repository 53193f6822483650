// Fills words of memory.

/// to: (n) words. Any grid.
extern "C" __global__ void wharf_fill(unsigned *to, int n, unsigned value) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) to[i] = value;
}
