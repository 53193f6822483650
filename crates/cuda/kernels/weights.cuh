// Decides how a matrix lies in device memory, so that a warp reads what it multiplies in whole lines and keeps it compressed until then.
//
// Tiles of 16 rows times chunks of 32 columns, `[tile][chunk]`. Lane 4 g + t has of rows g and g + 8 the elements that `place` puts
// at 8 t to 8 t + 7. Integers are shared out with scales of `[tile][chunk][sub-blocks][g]`, a half-precision pair for rows g and g + 8.
#pragma once
#include "activations.cuh"

#define CHUNK 32

// The weights that a lane multiplies in two steps of 16 columns: operand `a` of each.
struct Fragment {
    u32 a[2][4];
};

// Where a lane's weights of a matrix begin. `chunks` is columns / 32.
struct Matrix {
    const u8 *codes;
    const u32 *scales;
    int chunks;
};

// 16-bit floats: `[row half][lane]` of 8 each.
template <int KIND> struct Floats {
    static constexpr int kind = KIND;
    static constexpr int scale_words = 0;
    static constexpr bool affine = false;
    static constexpr int subs = 1;
    DEVICE_MEMBER Fragment read(const Matrix &m, int tile, int chunk) {
        const uint4 *from = (const uint4 *)m.codes + ((u64)tile * (u64)m.chunks + (u64)chunk) * 64 + lane();
        uint4 top = read_once(from), bottom = read_once(from + 32);
        return {{{top.x, bottom.x, top.y, bottom.y}, {top.z, bottom.z, top.w, bottom.w}}};
    }
};

// Integers of 8 bits: 8 of row g, 8 of row g + 8. Half precision of 1024 + u has u as its last bits.
DEVICE u32 low_bytes(u32 word) { return half2_sub(bytes_of(word, 0x64646464u, 0x4140), 0x64806480u); }
DEVICE u32 high_bytes(u32 word) { return half2_sub(bytes_of(word, 0x64646464u, 0x4342), 0x64806480u); }

template <int SUBS, bool AFFINE> struct Bytes {
    static constexpr int kind = HALF;
    static constexpr int subs = SUBS;
    static constexpr bool affine = AFFINE;
    static constexpr int scale_words = 8 * SUBS * (AFFINE ? 2 : 1);
    DEVICE_MEMBER Fragment read(const Matrix &m, int tile, int chunk) {
        uint4 w = read_once((const uint4 *)m.codes + ((u64)tile * (u64)m.chunks + (u64)chunk) * 32 + lane());
        u32 g0 = w.x ^ 0x80808080u, g1 = w.y ^ 0x80808080u, h0 = w.z ^ 0x80808080u, h1 = w.w ^ 0x80808080u;
        return {{{low_bytes(g0), low_bytes(h0), high_bytes(g0), high_bytes(h0)},
                 {low_bytes(g1), low_bytes(h1), high_bytes(g1), high_bytes(h1)}}};
    }
};

// Integers of 4 bits: a word of row g, one of row g + 8. Elements 2 i are at bits 4 i, elements 2 i + 1 at bits 16 + 4 i. Without minima
// the weight is the code less 8.
template <int SUBS, bool AFFINE> struct Nibbles {
    static constexpr int kind = HALF;
    static constexpr int subs = SUBS;
    static constexpr bool affine = AFFINE;
    static constexpr int scale_words = 8 * SUBS * (AFFINE ? 2 : 1);
    DEVICE_MEMBER u32 pair(u32 word, int i) {
        return half2_sub((word >> 4 * i & 0x000f000fu) | 0x64006400u, AFFINE ? 0x64006400u : 0x64086408u);
    }
    DEVICE_MEMBER Fragment read(const Matrix &m, int tile, int chunk) {
        uint2 w = read_once((const uint2 *)m.codes + ((u64)tile * (u64)m.chunks + (u64)chunk) * 32 + lane());
        return {{{pair(w.x, 0), pair(w.y, 0), pair(w.x, 1), pair(w.y, 1)}, {pair(w.x, 2), pair(w.y, 2), pair(w.x, 3), pair(w.y, 3)}}};
    }
};

// Scales (and minima) of rows g and g + 8 for each sub-block of a chunk.
template <class F> struct Scales {
    u32 scale[F::subs], min[F::subs];
};

template <class F> DEVICE Scales<F> read_scales(const Matrix &m, int tile, int chunk) {
    Scales<F> scales = {};
    if constexpr (F::scale_words > 0) {
        const u32 *from = m.scales + ((u64)tile * (u64)m.chunks + (u64)chunk) * F::scale_words + lane() / 4;
        for (int sub = 0; sub < F::subs; sub++) {
            scales.scale[sub] = from[8 * sub];
            if constexpr (F::affine) scales.min[sub] = from[8 * (F::subs + sub)];
        }
    }
    return scales;
}

template <int KIND> DEVICE void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (KIND == BRAIN) mma_brain(d, a, b0, b1);
    else mma_half(d, a, b0, b1);
}

// `sum += weights of a chunk * x` for 16 rows and 8 tokens; `x` is what the lane has of token g.
template <class F> DEVICE void multiply_chunk(float (&sum)[4], const Fragment &w, const Scales<F> &scales, uint4 x) {
    u32 pairs[2][2] = {{x.x, x.y}, {x.z, x.w}};
    if constexpr (F::scale_words == 0) {
        for (int step = 0; step < 2; step++) multiply<F::kind>(sum, w.a[step], pairs[step][0], pairs[step][1]);
    } else {
        const u32 ones[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
        for (int sub = 0; sub < F::subs; sub++) {
            float part[4] = {}, total[4] = {};
            for (int step = sub * 2 / F::subs; step < (sub + 1) * 2 / F::subs; step++) {
                multiply<F::kind>(part, w.a[step], pairs[step][0], pairs[step][1]);
                if constexpr (F::affine) multiply<F::kind>(total, ones, pairs[step][0], pairs[step][1]);
            }
            for (int i = 0; i < 4; i++) {
                u16 scale = (u16)(i < 2 ? scales.scale[sub] : scales.scale[sub] >> 16);
                sum[i] += from_half(scale) * part[i];
                if constexpr (F::affine) {
                    u16 min = (u16)(i < 2 ? scales.min[sub] : scales.min[sub] >> 16);
                    sum[i] += from_half(min) * total[i];
                }
            }
        }
    }
}
