// Decides how activations lie in memory between two matrix products: 16 bits each, in the order that a warp multiplies them in.
#pragma once
#include "machine.cuh"

// What a product reads: half precision, or bfloat16 for weights whose range half precision does not have.
enum Kind { HALF = 0, BRAIN = 1 };

DEVICE u16 narrow(int kind, float value) { return kind == BRAIN ? brain_from(value) : half_from(value); }

// Where element `k` of a row stands. In each 32, lane t of four reads 8 neighbours in one load: elements 4 t to 4 t + 3, which it
// multiplies in the first step of 16, and 16 + 4 t to 16 + 4 t + 3 for the second. Weights lie in the same order.
DEVICE int place(int k) {
    int within = k % 32, half = within / 16, quad = within % 16;
    return k - within + quad / 4 * 8 + half * 4 + quad % 4;
}
