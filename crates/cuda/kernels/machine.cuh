// Decides what kernels are written in: the few things that a GPU does and C++ does not say. No header of CUDA's is needed.
//
// On the device these are built-in functions and PTX (PTX ISA 8.x, sections named at each). Tests compile the same kernels for the
// CPU, where `machine_emulated.hpp` says the same with threads that take turns.
#pragma once

#ifdef WHARF_EMULATED
#include "machine_emulated.hpp"
#else

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
// Not copied to where it is called: large, and called rarely.
#define DEVICE_APART static __device__ __noinline__
#define DEVICE_MEMBER static __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define SHARED __shared__

DEVICE u32 thread() { return threadIdx.x; }
DEVICE u32 lane() { return threadIdx.x % 32; }
DEVICE u32 warp() { return threadIdx.x / 32; }

// All threads of the block.
DEVICE void block_barrier() { __syncthreads(); }
// All threads of the warp; orders what they have written to shared memory.
DEVICE void warp_barrier() { __syncwarp(); }
// The value of lane `lane() ^ mask`.
DEVICE float shuffle_xor(float value, u32 mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// 9.7.9.22, cvt: to the nearest, ties to even; too large for half precision becomes its largest value.
DEVICE u16 half_from(float value) {
    u16 bits;
    asm("{ .reg .f32 t; min.f32 t, %1, 0f477FE000; max.f32 t, t, 0fC77FE000; cvt.rn.f16.f32 %0, t; }" : "=h"(bits) : "f"(value));
    return bits;
}
DEVICE float from_half(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
DEVICE u16 brain_from(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
DEVICE float from_brain(u16 bits) { return __uint_as_float((u32)bits << 16); }

// Both halves of a word: 9.7.4, half-precision instructions.
DEVICE u32 half2_sub(u32 a, u32 b) {
    u32 difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
    return difference;
}
// Byte `i` of the result is byte `selector >> 4 i & 7` of `b:a`: 9.7.8.7, prmt.
DEVICE u32 bytes_of(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }

// `d += a b` for a 16 x 16 matrix of a warp and one of 16 x 8, in single precision: 9.7.14.5.8, mma.m16n8k16. Lane `4 g + t` holds of
// `a` rows g (0, 2) and g + 8 (1, 3) in columns 2 t and 2 t + 1 (0, 1) and 8 on (2, 3); of `b` those rows (0, 1) in column g; of `d`
// rows g (0, 1) and g + 8 (2, 3) in columns 2 t and 2 t + 1.
DEVICE void mma_half(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEVICE void mma_brain(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// What is read once and by nobody else shall not push out of the cache what is read again: 9.7.9.8, ld.global.nc.
DEVICE uint4 read_once(const uint4 *from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}
DEVICE uint2 read_once(const uint2 *from) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
    return v;
}

// Copies 16 bytes to shared memory on the side, or writes zeros: 9.7.9.25, cp.async.
DEVICE void copy_aside(uint4 *shared, const uint4 *from, bool wanted) {
    u32 to = (u32)__cvta_generic_to_shared(shared);
    u32 bytes = wanted ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// Closes a group of such copies.
DEVICE void copies_close() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `LATER` of this thread's groups are under way.
template <int LATER> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory"); }

DEVICE float power_of_2(float x) { return exp2f(x); }

#endif

DEVICE u32 pack(u16 low, u16 high) { return (u32)low | (u32)high << 16; }

// Sum and maximum over a warp, in every lane.
DEVICE float warp_sum(float value) {
    for (u32 mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}
