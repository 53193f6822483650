// Decides how attention is computed: a block takes the rows of a tile (queries of one KV head) over a split of the positions, page by
// page with a running maximum (Milakov and Gimelshein 2018; FlashAttention-2, Dao 2023); splits meet in `wharf_merge`
// (flash-decoding, Dao et al. 2023).
//
// A page's scores are a product of 16 rows with 16 keys in two halves of 8. Half j has in column n the position 4 (n / 2) + 2 j + n % 2:
// so lane 4 g + t gets positions 4 t to 4 t + 3 of its rows, and these are what it multiplies with 4 neighbours of a value's row next.
#include "activations.cuh"
#include "pages.cuh"

#define ATTEND_WARPS 4
#define ROWS 16
#define MINUS_INFINITY (-3.0e38f)
#define LOG2_E 1.4426950408889634f

// What a pass knows of a tile: query positions `first_position` on, in rows `first_row` on; `count` of them. `table` is where its block
// numbers begin.
struct Tile {
    int first_row, count, first_position, table;
};

// Rows g and g + 8 of what a lane has: sums, maxima, and its columns of the output.
template <int DIM> struct Running {
    float max[2], sum[2];
    float out[DIM / 8][4];
};

template <int DIM> DEVICE void merge_into(Running<DIM> &a, const Running<DIM> &b) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float max = fmaxf(a.max[r], b.max[r]);
        float of_a = power_of_2(a.max[r] - max), of_b = power_of_2(b.max[r] - max);
        a.sum[r] = a.sum[r] * of_a + b.sum[r] * of_b;
        a.max[r] = max;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            for (int c = 0; c < 2; c++) a.out[n][2 * r + c] = a.out[n][2 * r + c] * of_a + b.out[n][2 * r + c] * of_b;
    }
}

// What every lane of a warp has, for another warp.
template <int DIM> struct Handed {
    float value[4 + DIM / 2][32];
};

template <int DIM> DEVICE void hand(Handed<DIM> &to, const Running<DIM> &from) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        to.value[r][lane()] = from.max[r];
        to.value[2 + r][lane()] = from.sum[r];
    }
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
        for (int c = 0; c < 4; c++) to.value[4 + 4 * n + c][lane()] = from.out[n][c];
}

template <int DIM> DEVICE void take(Running<DIM> &to, const Handed<DIM> &from) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        to.max[r] = from.value[r][lane()];
        to.sum[r] = from.value[2 + r][lane()];
    }
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
        for (int c = 0; c < 4; c++) to.out[n][c] = from.value[4 + 4 * n + c][lane()];
}

// What a lane multiplies of a row of `DIM` elements: two pairs for each step of 16. Any order does that queries and keys share, so a lane
// takes 8 neighbours for two steps.
template <int DIM> DEVICE void read_dims(u32 (&to)[DIM / 16][2], const u16 *row) {
#pragma unroll
    for (int c = 0; c < DIM / 32; c++) {
        uint4 v = *(const uint4 *)(row + c * 32 + lane() % 4 * 8);
        to[2 * c][0] = v.x, to[2 * c][1] = v.y, to[2 * c + 1][0] = v.z, to[2 * c + 1][1] = v.w;
    }
}

// Which rows a block computes: positions of a tile for up to 16 of the query heads that share a KV head. Row r is position r / `heads` of
// the tile and head `first_head + r % heads`.
struct Rows {
    Tile tile;
    int kv, heads, first_head, count;
};

DEVICE Rows rows_of(const Tile *tiles, int group) {
    Rows rows;
    int parts = (group + ROWS - 1) / ROWS;
    int part = (int)blockIdx.y % parts;
    rows.tile = tiles[blockIdx.x];
    rows.kv = (int)blockIdx.y / parts;
    rows.heads = group - part * ROWS < ROWS ? group - part * ROWS : ROWS;
    rows.first_head = rows.kv * group + part * ROWS;
    rows.count = rows.tile.count * rows.heads;
    return rows;
}

// Adds one page to what a warp has. `page` is its place in the sequence.
template <int DIM>
DEVICE void attend_page(Running<DIM> &running, const u32 (&q)[2][DIM / 16][2], const u16 *keys, int page, const Rows &rows, int window, float softcap) {
    u32 g = lane() / 4, t = lane() % 4;
    float score[2][4] = {};
    for (int j = 0; j < 2; j++) {
        u32 k[DIM / 16][2];
        read_dims<DIM>(k, keys + (4 * (g / 2) + 2 * j + g % 2) * DIM);
#pragma unroll
        for (int c = 0; c < DIM / 16; c++) {
            u32 a[4] = {q[0][c][0], q[1][c][0], q[0][c][1], q[1][c][1]};
            mma_half(score[j], a, k[c][0], k[c][1]);
        }
    }
    u32 a[4];
    float shrink[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = (int)g + 8 * r;
        int newest = row < rows.count ? rows.tile.first_position + row / rows.heads : -1;
        int oldest = window > 0 ? newest - window + 1 : 0;
        float max = running.max[r];
        bool seen[4];
        float value[4];
        for (int i = 0; i < 4; i++) {
            int position = page * PAGE + 4 * (int)t + i;
            value[i] = score[i / 2][2 * r + i % 2];
            if (softcap > 0.0f) value[i] = softcap * tanhf(value[i] / softcap);
            value[i] *= LOG2_E;
            seen[i] = position <= newest && position >= oldest;
            if (seen[i]) max = fmaxf(max, value[i]);
        }
        max = fmaxf(max, shuffle_xor(max, 1));
        max = fmaxf(max, shuffle_xor(max, 2));
        shrink[r] = power_of_2(running.max[r] - max);
        running.max[r] = max;
        float sum = 0.0f;
        for (int i = 0; i < 4; i++) {
            value[i] = seen[i] ? power_of_2(value[i] - max) : 0.0f;
            sum += value[i];
        }
        running.sum[r] = running.sum[r] * shrink[r] + sum;
        a[r] = pack(half_from(value[0]), half_from(value[1]));
        a[2 + r] = pack(half_from(value[2]), half_from(value[3]));
    }
    const u16 *values = keys + PAGE * DIM;
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
        uint2 v = *(const uint2 *)(values + (8 * n + (int)g) * PAGE + 4 * t);
        for (int c = 0; c < 4; c++) running.out[n][c] *= shrink[c / 2];
        mma_half(running.out[n], a, v.x, v.y);
    }
}

template <int DIM>
DEVICE void attend(const u16 *q_rows, const u16 *pages, const Tile *tiles, const int *tables, u16 *out, float *partials, int group,
                   int kv_heads, int head_dim, int window, float softcap, int split_pages, int width, int kind) {
    SHARED Handed<DIM> handed[2];
    Rows rows = rows_of(tiles, group);
    if (rows.tile.count == 0) return; // A tile that only fills up the batch.
    u32 g = lane() / 4, t = lane() % 4;
    u32 q[2][DIM / 16][2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = (int)g + 8 * r;
        // Rows that do not exist compute with what row 0 reads, and nobody reads them.
        if (row >= rows.count) row = 0;
        u64 at = (u64)(rows.tile.first_row + row / rows.heads) * (u64)(kv_heads * group) + (u64)(rows.first_head + row % rows.heads);
        read_dims<DIM>(q[r], q_rows + at * DIM);
    }
    Running<DIM> running = {};
    running.max[0] = running.max[1] = MINUS_INFINITY;
    int first = window > 0 && rows.tile.first_position >= window ? (rows.tile.first_position - window + 1) / PAGE : 0;
    int end = (rows.tile.first_position + rows.tile.count - 1) / PAGE + 1;
    first += (int)blockIdx.z * split_pages;
    if (end > first + split_pages) end = first + split_pages;
    for (int page = first + (int)warp(); page < end; page += ATTEND_WARPS) {
        int block = tables[rows.tile.table + page];
        attend_page<DIM>(running, q, pages + page_of(block, rows.kv, kv_heads, DIM), page, rows, window, softcap);
    }
    // Lanes of a row have added up their own positions.
#pragma unroll
    for (int r = 0; r < 2; r++) {
        running.sum[r] += shuffle_xor(running.sum[r], 1);
        running.sum[r] += shuffle_xor(running.sum[r], 2);
    }
    for (u32 warps = ATTEND_WARPS / 2; warps > 0; warps /= 2) {
        if (warp() >= warps && warp() < 2 * warps) hand<DIM>(handed[warp() - warps], running);
        block_barrier();
        if (warp() < warps) {
            Running<DIM> other;
            take<DIM>(other, handed[warp()]);
            merge_into<DIM>(running, other);
        }
        block_barrier();
    }
    if (warp() != 0) return;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = (int)g + 8 * r;
        if (row >= rows.count) continue;
        if (gridDim.z > 1) {
            u64 at = (((u64)blockIdx.x * gridDim.y + blockIdx.y) * gridDim.z + blockIdx.z) * ROWS + (u64)row;
            float *to = partials + at * (DIM + 2);
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
                for (int c = 0; c < 2; c++) to[8 * n + 2 * (int)t + c] = running.out[n][2 * r + c];
            if (t == 0) to[DIM] = running.max[r], to[DIM + 1] = running.sum[r];
        } else {
            u16 *to = out + (u64)(rows.tile.first_row + row / rows.heads) * (u64)width;
            int head = rows.first_head + row % rows.heads;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
                for (int c = 0; c < 2; c++) {
                    int dim = 8 * n + 2 * (int)t + c;
                    if (dim < head_dim) to[place(head * head_dim + dim)] = narrow(kind, running.out[n][2 * r + c] / running.sum[r]);
                }
        }
    }
}

// Heads of `head_dim` elements lie in `DIM`. Grid: tiles, KV heads (times the parts of a group of more than 16), splits. `out` has rows of `width`, as a product reads them, and is
// written where there is one split; else `partials` are: for each block and row `DIM` sums, their maximum in powers of 2, their weight.
#define ATTEND(DIM)                                                                                                                      \
    KERNEL(32 * ATTEND_WARPS)                                                                                                            \
    wharf_attend_##DIM(const u16 *q, const u16 *pages, const Tile *tiles, const int *tables, u16 *out, float *partials, int group,       \
                       int kv_heads, int head_dim, int window, float softcap, int split_pages, int width, int kind) {                               \
        attend<DIM>(q, pages, tiles, tables, out, partials, group, kv_heads, head_dim, window, softcap, split_pages, width, kind);                 \
    }

ATTEND(32)
ATTEND(64)
ATTEND(96)
ATTEND(128)
ATTEND(192)
ATTEND(256)

// Brings the splits of a tile together, in their order; `stride` is `DIM` of the kernel that has left them. Grid: as of `wharf_attend`, without splits.
KERNEL(128)
wharf_merge(const float *partials, const Tile *tiles, u16 *out, int group, int splits, int head_dim, int stride, int width, int kind) {
    Rows rows = rows_of(tiles, group);
    const float *from = partials + ((u64)blockIdx.x * gridDim.y + blockIdx.y) * (u64)(splits * ROWS * (stride + 2));
    for (int i = (int)thread(); i < rows.count * head_dim; i += 128) {
        int row = i / head_dim, dim = i % head_dim;
        float max = MINUS_INFINITY, sum = 0.0f, value = 0.0f;
        for (int split = 0; split < splits; split++) {
            const float *part = from + (split * ROWS + row) * (stride + 2);
            float higher = fmaxf(max, part[stride]);
            float before = power_of_2(max - higher), now = power_of_2(part[stride] - higher);
            value = value * before + part[dim] * now;
            sum = sum * before + part[stride + 1] * now;
            max = higher;
        }
        u16 *to = out + (u64)(rows.tile.first_row + row / rows.heads) * (u64)width;
        to[place((rows.first_head + row % rows.heads) * head_dim + dim)] = narrow(kind, value / sum);
    }
}
