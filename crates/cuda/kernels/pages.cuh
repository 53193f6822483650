// Decides where keys and values of 16 positions lie: `[block][kv head][keys, values]` in the memory of a layer, half precision.
//
// Keys are `[position][dim]` and values `[dim][position]`: each is contiguous along what its matrix product adds up.
#pragma once
#include "machine.cuh"

#define PAGE 16

// Elements before the keys of a head; its values follow `PAGE * head_dim` on.
DEVICE u64 page_of(int block, int head, int kv_heads, int head_dim) {
    return ((u64)block * (u64)kv_heads + (u64)head) * (u64)(2 * PAGE * head_dim);
}
