// Decides how a GPU's threads take turns on one thread of the CPU, so that kernels run as they are written: blocks one after the other,
// the threads of a block as fibers that give way at barriers and where a warp acts together.
//
// Everything that leaves a real GPU's behaviour open is an error here: a thread that ends while others wait, lanes of a warp that wait
// for different things. Threads run in an order that a seed decides: what lacks a barrier depends on it.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(8) uint2 {
    u32 x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct Index {
    u32 x, y, z;
};

#define DEVICE static inline
#define DEVICE_APART static inline
#define DEVICE_MEMBER static inline
#define KERNEL(threads) static void
// One block runs at a time on a thread of the CPU.
#define SHARED static thread_local

namespace emulated {

// What a warp waits for together, so that lanes that wait for different things are found out.
enum class Wait { Nothing, Block, Warp, Shuffle, Mma };

struct Message {
    u32 word[16];
};

struct Copy {
    void *to;
    const void *from;
    bool wanted;
};

// A fiber that is thread `index` of one block after the other.
struct Thread {
    jmp_buf place;
    bool made = false;
    std::vector<char> stack;
    u32 index = 0;
    bool ended = false;
    Wait wait = Wait::Nothing;
    // Counts of barriers passed, to tell the one that others wait at.
    u64 block_barriers = 0, warp_meetings = 0;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;

    void begin() {
        ended = false;
        wait = Wait::Nothing;
        block_barriers = warp_meetings = 0;
        groups.clear();
        open.clear();
    }
};

struct Warp {
    // Two of each, taken in turns: who is late still reads the one while who is early writes the other.
    Message message[2][32];
    u32 arrived = 0;
    u64 meetings = 0;
    Wait wait = Wait::Nothing;
};

struct Block {
    Index index, grid, size;
    std::vector<Thread *> threads;
    std::vector<Warp> warps;
    u32 arrived = 0;
    u64 barriers = 0;
    jmp_buf scheduler;
    Thread *running = nullptr;
    std::function<void()> body;
    char *error = nullptr;
    unsigned long error_len = 0;
    bool failed = false;

    void fail(const char *what) {
        if (!failed) snprintf(error, error_len, "%s in block (%u, %u, %u), thread %u", what, index.x, index.y, index.z, running ? running->index : 0);
        failed = true;
    }
};

extern thread_local Block *block;

// Back to the scheduler, until it is this thread's turn again.
inline void give_way() {
    if (_setjmp(block->running->place) == 0) _longjmp(block->scheduler, 1);
}

inline void meet_block() {
    Thread &me = *block->running;
    u64 mine = me.block_barriers++;
    if (++block->arrived == block->threads.size()) {
        block->arrived = 0;
        block->barriers++;
        return;
    }
    me.wait = Wait::Block;
    while (block->barriers <= mine) give_way();
    me.wait = Wait::Nothing;
}

// Leaves a message for the warp and gives those of all lanes, once all are there for the same thing.
inline const Message *meet_warp(Wait wait, const Message &message) {
    Thread &me = *block->running;
    Warp &warp = block->warps[me.index / 32];
    u64 mine = me.warp_meetings++;
    if (warp.arrived == 0) warp.wait = wait;
    if (warp.wait != wait) block->fail("lanes of a warp wait for different things");
    warp.message[mine % 2][me.index % 32] = message;
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.meetings++;
    } else {
        me.wait = wait;
        while (warp.meetings <= mine) give_way();
        me.wait = Wait::Nothing;
    }
    return warp.message[mine % 2];
}

} // namespace emulated

#define blockIdx (emulated::block->index)
#define gridDim (emulated::block->grid)
#define blockDim (emulated::block->size)

DEVICE u32 thread() { return emulated::block->running->index; }
DEVICE u32 lane() { return thread() % 32; }
DEVICE u32 warp() { return thread() / 32; }
DEVICE void block_barrier() { emulated::meet_block(); }
DEVICE void warp_barrier() { emulated::meet_warp(emulated::Wait::Warp, {}); }

DEVICE u32 bits_of(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}
DEVICE float float_of(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

DEVICE float shuffle_xor(float value, u32 mask) {
    return float_of(emulated::meet_warp(emulated::Wait::Shuffle, {{bits_of(value)}})[lane() ^ mask].word[0]);
}

DEVICE float from_half(u16 bits) {
    u32 sign = (u32)(bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp((float)fraction, -24);
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}
// As `cvt.rn.f16.f32` after bringing the value into the range of half precision.
DEVICE u16 half_from(float value) {
    if (value != value) return 0x7fff;
    u16 sign = value < 0.0f || bits_of(value) >> 31 ? 0x8000 : 0;
    float size = std::fmin(std::fabs(value), 65504.0f);
    if (size < std::ldexp(1.0f, -14)) return sign | (u16)std::nearbyint(std::ldexp(size, 24));
    int exponent = std::ilogb(size);
    u32 fraction = (u32)std::nearbyint(std::ldexp(size, 10 - exponent));
    return sign | (u16)(((u32)(exponent + 15) << 10) + fraction - 1024);
}
DEVICE float from_brain(u16 bits) { return float_of((u32)bits << 16); }
DEVICE u16 brain_from(float value) {
    u32 bits = bits_of(value);
    if (value != value) return 0x7fff;
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

DEVICE u32 half2_sub(u32 a, u32 b) {
    u16 low = half_from(from_half((u16)a) - from_half((u16)b));
    u16 high = half_from(from_half((u16)(a >> 16)) - from_half((u16)(b >> 16)));
    return (u32)low | (u32)high << 16;
}
DEVICE u32 bytes_of(u32 a, u32 b, u32 selector) {
    u64 both = (u64)b << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; i++) result |= (u32)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}

template <float (*WIDEN)(u16)> DEVICE void emulated_mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const emulated::Message *all = emulated::meet_warp(emulated::Wait::Mma, {{a[0], a[1], a[2], a[3], b0, b1}});
    u32 g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        u32 column = 2 * t + (u32)i % 2, lower = (u32)i / 2;
        float sum = 0.0f;
        for (u32 k = 0; k < 16; k++) {
            const u32 *row = all[4 * g + k % 8 / 2].word, *from = all[4 * column + k % 8 / 2].word;
            u32 left = row[lower + 2 * (k / 8)], right = from[4 + k / 8];
            sum += WIDEN((u16)(left >> 16 * (k % 2))) * WIDEN((u16)(right >> 16 * (k % 2)));
        }
        d[i] += sum;
    }
}
DEVICE void mma_half(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emulated_mma<from_half>(d, a, b0, b1); }
DEVICE void mma_brain(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emulated_mma<from_brain>(d, a, b0, b1); }

template <class T> DEVICE T read_once(const T *from) { return *from; }

// Copies arrive when they are waited for, and not before.
DEVICE void copy_aside(uint4 *shared, const uint4 *from, bool wanted) { emulated::block->running->open.push_back({shared, from, wanted}); }
DEVICE void copies_close() {
    auto &me = *emulated::block->running;
    me.groups.push_back(std::move(me.open));
    me.open.clear();
}
template <int LATER> DEVICE void copies_wait() {
    auto &groups = emulated::block->running->groups;
    while (groups.size() > (size_t)LATER) {
        for (const auto &copy : groups.front()) {
            if (copy.wanted) memcpy(copy.to, copy.from, 16);
            else memset(copy.to, 0, 16);
        }
        groups.erase(groups.begin());
    }
}

DEVICE float power_of_2(float x) { return std::exp2(x); }
