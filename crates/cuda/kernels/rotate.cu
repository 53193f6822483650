// Decides what becomes of a row of Q, K and V between its product and attention: norm over heads, rotation, scale; then Q waits in half
// precision and K and V are in their pages.
#include "pages.cuh"

#define ROTATE_THREADS 128
#define MOST_HEAD_DIM 256


// Q, K or V of one head, by one warp. A lane has every 32nd element.
DEVICE void read_head(float (&value)[MOST_HEAD_DIM / 32], const float *from, const float *norm, int head_dim, float eps) {
    float squares = 0.0f;
    for (int i = 0; i < MOST_HEAD_DIM / 32; i++) {
        int dim = i * 32 + (int)lane();
        value[i] = dim < head_dim ? from[dim] : 0.0f;
        squares += value[i] * value[i];
    }
    if (!norm) return;
    float scale = 1.0f / sqrtf(warp_sum(squares) / (float)head_dim + eps);
    for (int i = 0; i < MOST_HEAD_DIM / 32; i++) {
        int dim = i * 32 + (int)lane();
        if (dim < head_dim) value[i] = value[i] * scale * norm[dim];
    }
}

// Rotates the head's leading `2 pairs` elements. Element i goes with i + pairs, or 2 i with 2 i + 1 where `interleaved`.
DEVICE void rotate_head(float (&value)[MOST_HEAD_DIM / 32], float *room, const float *cos, const float *sin, int pairs, int interleaved) {
    for (int i = 0; i < MOST_HEAD_DIM / 32; i++) room[i * 32 + (int)lane()] = value[i];
    warp_barrier();
    for (int i = 0; i < MOST_HEAD_DIM / 32; i++) {
        int dim = i * 32 + (int)lane();
        if (dim >= 2 * pairs) continue;
        int pair = interleaved ? dim / 2 : dim % pairs;
        bool second = interleaved ? dim % 2 == 1 : dim >= pairs;
        int other = interleaved ? (dim ^ 1) : (second ? dim - pairs : dim + pairs);
        value[i] = second ? room[other] * sin[pair] + value[i] * cos[pair] : value[i] * cos[pair] - room[other] * sin[pair];
    }
    warp_barrier();
}

// A block a row of `qkv` (with bias already added), `[q heads, k heads, v heads]`. `slots[row]` is block * 16 + position in it. `cos` and
// `sin` are `(rows, pairs)`. Norms are null where there are none. Heads that leave have `stride` elements, zeros behind their own.
KERNEL(ROTATE_THREADS)
wharf_rotate(const float *qkv, const int *slots, const float *cos, const float *sin, const float *q_norm, const float *k_norm, u16 *q_out,
             u16 *pages, int heads, int kv_heads, int head_dim, int stride, int pairs, int interleaved, float eps, float scale) {
    SHARED float rooms[ROTATE_THREADS / 32][MOST_HEAD_DIM];
    float *room = rooms[warp()];
    u64 row = blockIdx.x;
    qkv += row * (u64)((heads + 2 * kv_heads) * head_dim);
    q_out += row * (u64)(heads * stride);
    cos += row * (u64)pairs;
    sin += row * (u64)pairs;
    int block = slots[row] / PAGE, slot = slots[row] % PAGE;
    if (slots[row] < 0) return; // A row that only fills up the batch.
    for (int head = (int)warp(); head < heads + 2 * kv_heads; head += ROTATE_THREADS / 32) {
        bool is_q = head < heads, is_k = !is_q && head < heads + kv_heads;
        float value[MOST_HEAD_DIM / 32];
        read_head(value, qkv + head * head_dim, is_q ? q_norm : is_k ? k_norm : nullptr, head_dim, eps);
        if (is_q || is_k) rotate_head(value, room, cos, sin, pairs, interleaved);
        int kv = is_q ? 0 : is_k ? head - heads : head - heads - kv_heads;
        u16 *keys = pages + page_of(block, kv, kv_heads, stride);
        u16 *values = keys + PAGE * stride;
        for (int i = 0; i < MOST_HEAD_DIM / 32; i++) {
            int dim = i * 32 + (int)lane();
            if (dim >= stride) continue;
            if (is_q) q_out[head * stride + dim] = half_from(value[i] * scale);
            else if (is_k) keys[slot * stride + dim] = half_from(value[i]);
            else values[dim * PAGE + slot] = half_from(value[i]);
        }
    }
}
