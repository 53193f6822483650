// Decides how `out = x W^T` is computed: with tensor cores for one token as for many, since even 8 tokens cost less than reading a weight.
//
// Few tokens: the warps of a block share a tile of rows and split its columns, so that memory is kept busy whatever the shape. Many: a
// block has 128 rows and 128 tokens, whose activations pass through shared memory.
#include "weights.cuh"

// What happens to a product.
enum Epilogue {
    SET = 0,       // out = product + bias
    ADD = 1,       // out += product + bias
    GATED_SILU = 2, // activation(rows g) * rows g + 8 of each tile, 16 bits as `kind` says, as the next product reads it
    GATED_GELU_TANH = 3,
    GATED_GELU_ERF = 4,
};

struct Output {
    void *to;          // (tokens, width)
    const float *bias; // (rows), or null
    int rows, width;   // rows of the matrix, or outputs where it is gated; elements between rows of `to`
    int epilogue, kind;
};

DEVICE_APART float activate(int epilogue, float x) {
    if (epilogue == GATED_SILU) return x / (1.0f + expf(-x));
    if (epilogue == GATED_GELU_TANH) return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
}

// Rows g and g + 8 of `tile` for one token.
DEVICE void store(const Output &o, int tile, int g, int token, float top, float bottom) {
    if (o.epilogue >= GATED_SILU) {
        int row = 8 * tile + g;
        if (row < o.rows) ((u16 *)o.to)[(u64)token * (u64)o.width + (u64)place(row)] = narrow(o.kind, activate(o.epilogue, top) * bottom);
        return;
    }
    float *out = (float *)o.to + (u64)token * (u64)o.width;
    for (int half = 0; half < 2; half++) {
        int row = 16 * tile + g + 8 * half;
        if (row >= o.rows) continue;
        float value = (half ? bottom : top) + (o.bias ? o.bias[row] : 0.0f);
        out[row] = o.epilogue == ADD ? out[row] + value : value;
    }
}

#define FEW_WARPS 8

// Grid: tiles of rows, groups of 8 * `TOKEN_TILES` tokens. `x` is (tokens, 32 chunks).
template <class F, int TOKEN_TILES> DEVICE void multiply_few(const Matrix &m, const u16 *x, int tokens, const Output &o) {
    SHARED float room[FEW_WARPS][TOKEN_TILES][4][32];
    int tile = (int)blockIdx.x, first_token = (int)blockIdx.y * 8 * TOKEN_TILES;
    u32 g = lane() / 4, t = lane() % 4;
    const uint4 *from[TOKEN_TILES];
    for (int j = 0; j < TOKEN_TILES; j++) {
        int token = first_token + 8 * j + (int)g;
        // Tokens that do not exist compute with what the last one reads, and nobody reads them.
        if (token >= tokens) token = tokens - 1;
        from[j] = (const uint4 *)(x + (u64)token * (u64)(m.chunks * CHUNK)) + t;
    }
    float sum[TOKEN_TILES][4] = {};
    // Some chunks are asked for before the first is multiplied: a small matrix has too few warps to keep memory busy otherwise.
    constexpr int AHEAD = TOKEN_TILES <= 2 ? 4 : 2;
    for (int first = (int)warp(); first < m.chunks; first += AHEAD * FEW_WARPS) {
        Fragment w[AHEAD];
        Scales<F> scales[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int chunk = first + i * FEW_WARPS;
            if (chunk < m.chunks) w[i] = F::read(m, tile, chunk), scales[i] = read_scales<F>(m, tile, chunk);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int chunk = first + i * FEW_WARPS;
            if (chunk >= m.chunks) break;
#pragma unroll
            for (int j = 0; j < TOKEN_TILES; j++) multiply_chunk<F>(sum[j], w[i], scales[i], from[j][4 * chunk]);
        }
    }
#pragma unroll
    for (int j = 0; j < TOKEN_TILES; j++)
        for (int i = 0; i < 4; i++) room[warp()][j][i][lane()] = sum[j][i];
    block_barrier();
    // A thread adds up rows g and g + 8 of one token: places i and i + 2 of what warps have left.
    for (int at = (int)thread(); at < TOKEN_TILES * 64; at += 32 * FEW_WARPS) {
        int j = at / 64, i = at / 32 % 2, from_lane = at % 32;
        float top = 0.0f, bottom = 0.0f;
        for (int w = 0; w < FEW_WARPS; w++) {
            top += room[w][j][i][from_lane];
            bottom += room[w][j][i + 2][from_lane];
        }
        int token = first_token + 8 * j + 2 * (from_lane % 4) + i;
        if (token < tokens) store(o, tile, from_lane / 4, token, top, bottom);
    }
}

#define MANY_STAGES 4
#define MANY_TOKENS 128
#define MANY_TILES 8
#define WARP_TILES 2
#define WARP_TOKENS 8

// Grid: groups of 128 rows, of 128 tokens. Warps are 4 (rows) times 2 (tokens).
template <class F> DEVICE void multiply_many(const Matrix &m, const u16 *x, int tokens, const Output &o) {
    // Eight tokens' pieces of a chunk follow each other: a warp reads them without two lanes meeting in a bank.
    SHARED uint4 room[MANY_STAGES][MANY_TOKENS * 4];
    int tiles = ((o.epilogue >= GATED_SILU ? 2 * o.rows : o.rows) + 15) / 16;
    int first_token = (int)blockIdx.y * MANY_TOKENS;
    int first_tile = (int)blockIdx.x * MANY_TILES + (int)(warp() / 2) * WARP_TILES;
    u32 g = lane() / 4, t = lane() % 4;
    const uint4 *rows = (const uint4 *)x;
    auto bring = [&](int chunk) {
        for (int at = (int)thread(); at < MANY_TOKENS * 4; at += 256) {
            int token = first_token + at / 4;
            bool wanted = token < tokens && chunk < m.chunks;
            const uint4 *from = wanted ? rows + ((u64)token * (u64)m.chunks + (u64)chunk) * 4 + at % 4 : rows;
            copy_aside(&room[chunk % MANY_STAGES][at], from, wanted);
        }
        copies_close();
    };
    for (int chunk = 0; chunk < MANY_STAGES - 1; chunk++) bring(chunk);
    float sum[WARP_TILES][WARP_TOKENS][4] = {};
    for (int chunk = 0; chunk < m.chunks; chunk++) {
        Fragment w[WARP_TILES];
        Scales<F> scales[WARP_TILES];
#pragma unroll
        for (int i = 0; i < WARP_TILES; i++) {
            // Tiles that do not exist compute with the last one, and nobody reads them.
            int tile = first_tile + i < tiles ? first_tile + i : tiles - 1;
            w[i] = F::read(m, tile, chunk);
            scales[i] = read_scales<F>(m, tile, chunk);
        }
        copies_wait<MANY_STAGES - 2>();
        block_barrier();
        // The stage of the chunk before is free: all have passed the barrier behind it.
        bring(chunk + MANY_STAGES - 1);
        const uint4 *stage = room[chunk % MANY_STAGES] + (warp() % 2) * WARP_TOKENS * 32;
#pragma unroll
        for (int j = 0; j < WARP_TOKENS; j++) {
            uint4 piece = stage[j * 32 + (int)(g * 4 + t)];
#pragma unroll
            for (int i = 0; i < WARP_TILES; i++) multiply_chunk<F>(sum[i][j], w[i], scales[i], piece);
        }
    }
    copies_wait<0>();
    // Unrolled, here as everywhere that sums are indexed: they shall stay in registers.
#pragma unroll
    for (int i = 0; i < WARP_TILES; i++) {
        if (first_tile + i >= tiles) continue;
#pragma unroll
        for (int j = 0; j < WARP_TOKENS; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                int token = first_token + (int)(warp() % 2) * WARP_TOKENS * 8 + 8 * j + 2 * (int)t + c;
                if (token < tokens) store(o, first_tile + i, (int)g, token, sum[i][j][c], sum[i][j][c + 2]);
            }
    }
}

#define MATMUL(NAME, COUNT, BODY, ...)                                                                                                   \
    KERNEL(256)                                                                                                                          \
    wharf_matmul_##NAME##_##COUNT(const u8 *codes, const u32 *scales, int chunks, const u16 *x, int tokens, void *to, const float *bias,  \
                                  int rows, int width, int epilogue, int kind) {                                                         \
        BODY<__VA_ARGS__>(Matrix{codes, scales, chunks}, x, tokens, Output{to, bias, rows, width, epilogue, kind});                      \
    }

#define FORMAT(NAME, ...)                                                                                                                \
    MATMUL(NAME, 8, multiply_few, __VA_ARGS__, 1)                                                                                        \
    MATMUL(NAME, 16, multiply_few, __VA_ARGS__, 2)                                                                                       \
    MATMUL(NAME, 32, multiply_few, __VA_ARGS__, 4)                                                                                       \
    MATMUL(NAME, 64, multiply_few, __VA_ARGS__, 8)                                                                                       \
    MATMUL(NAME, many, multiply_many, __VA_ARGS__)

FORMAT(half, Floats<HALF>)
FORMAT(brain, Floats<BRAIN>)
FORMAT(bytes, Bytes<1, false>)
FORMAT(bytes_affine, Bytes<1, true>)
FORMAT(bytes_16, Bytes<2, false>)
FORMAT(nibbles, Nibbles<1, false>)
FORMAT(nibbles_affine, Nibbles<1, true>)
FORMAT(nibbles_16, Nibbles<2, false>)
FORMAT(nibbles_16_affine, Nibbles<2, true>)
