// Decides how rows are normalised: before a product (into 16 bits), and after one where the architecture has such norms.
#include "activations.cuh"

#define NORM_THREADS 256

// Sum of all threads' values, in every thread. `room` has a place for each warp.
DEVICE float block_sum(float value, float *room) {
    value = warp_sum(value);
    if (lane() == 0) room[warp()] = value;
    block_barrier();
    value = warp_sum(lane() < NORM_THREADS / 32 ? room[lane()] : 0.0f);
    block_barrier();
    return value;
}

// 1 / sqrt(mean of squares + eps) of a row.
DEVICE float root_mean_square(const float *x, int width, float eps, float *room) {
    float squares = 0.0f;
    for (int k = (int)thread(); k < width; k += NORM_THREADS) squares += x[k] * x[k];
    return 1.0f / sqrtf(block_sum(squares, room) / (float)width + eps);
}

// out[i] = norm(x[rows[i]]) * weight as a product reads it, `padded` wide with zeros behind `width`. A block a row; `rows` null: row i.
KERNEL(NORM_THREADS) wharf_norm(const float *x, const int *rows, const float *weight, u16 *out, int width, int padded, float eps, int kind) {
    SHARED float room[32];
    int index = (int)blockIdx.x;
    x += (u64)(rows ? rows[index] : index) * (u64)width;
    out += (u64)index * (u64)padded;
    float scale = root_mean_square(x, width, eps, room);
    for (int k = (int)thread(); k < padded; k += NORM_THREADS)
        out[place(k)] = k < width ? narrow(kind, x[k] * scale * weight[k]) : (u16)0;
}

// x += norm(branch) * weight, or x += branch where `weight` is null. A block a row.
KERNEL(NORM_THREADS) wharf_branch(float *x, const float *branch, const float *weight, int width, float eps) {
    SHARED float room[32];
    x += (u64)blockIdx.x * (u64)width;
    branch += (u64)blockIdx.x * (u64)width;
    float scale = weight ? root_mean_square(branch, width, eps, room) : 1.0f;
    for (int k = (int)thread(); k < width; k += NORM_THREADS) x[k] += branch[k] * scale * (weight ? weight[k] : 1.0f);
}

// logits = cap tanh(scale logits / cap), without the cap where it is 0.
KERNEL(NORM_THREADS) wharf_logits(float *logits, int len, float scale, float cap) {
    for (int i = (int)(blockIdx.x * NORM_THREADS + thread()); i < len; i += (int)gridDim.x * NORM_THREADS) {
        float value = logits[i] * scale;
        logits[i] = cap > 0.0f ? cap * tanhf(value / cap) : value;
    }
}
