// Runs a kernel by its name: the list of kernels, and the scheduler of a block's threads.
#define WHARF_EMULATED
#include "wharf.cu"

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <utility>

namespace emulated {

thread_local Block *block = nullptr;

constexpr size_t STACK = 256 * 1024;

// Order of the threads of a block in a round: ascending for seed 0.
static void shuffle(std::vector<u32> &order, u64 &seed) {
    if (seed == 0) return;
    for (size_t i = order.size(); i > 1; i--) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(order[i - 1], order[(seed >> 33) % i]);
    }
}

// One block's body after the other: what it takes to make a fiber is paid once.
static void live() {
    for (;;) {
        block->body();
        block->running->ended = true;
        give_way();
    }
}

// Lets a thread run until it gives way. The first time its fiber is made; later switches cost no call of the system.
__attribute__((noinline)) static void resume(Thread &thread) {
    if (_setjmp(block->scheduler) != 0) return;
    if (thread.made) _longjmp(thread.place, 1);
    thread.made = true;
    thread.stack.resize(STACK);
    static thread_local ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = thread.stack.data();
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, live, 0);
    setcontext(&context);
}

// Runs all threads of a block until they have ended; false when they cannot.
static bool run_block(Block &b, u64 &seed) {
    block = &b;
    u32 count = (u32)b.threads.size();
    std::vector<u32> order(count);
    for (u32 i = 0; i < count; i++) {
        order[i] = i;
        b.threads[i]->begin();
    }
    for (Warp &warp : b.warps) warp.arrived = 0, warp.meetings = 0, warp.wait = Wait::Nothing;
    b.arrived = 0, b.barriers = 0;
    u32 ended = 0;
    while (ended < count && !b.failed) {
        bool moved = false;
        shuffle(order, seed);
        for (u32 i : order) {
            Thread &thread = *b.threads[i];
            if (thread.ended) continue;
            // A thread that still waits is not woken in vain.
            if (thread.wait == Wait::Block && b.barriers < thread.block_barriers) continue;
            if (thread.wait != Wait::Block && thread.wait != Wait::Nothing && b.warps[i / 32].meetings < thread.warp_meetings) continue;
            moved = true;
            b.running = &thread;
            resume(thread);
            if (thread.ended) ended++;
            if (b.failed) break;
        }
        if (!moved) b.fail("threads wait for others that have ended or wait elsewhere");
    }
    // Fibers that stand somewhere in the middle are made anew.
    if (b.failed)
        for (Thread *thread : b.threads) thread->made = false;
    block = nullptr;
    return !b.failed;
}

using Body = std::function<void()>;
using Maker = Body (*)(void **);

template <auto KERNEL_FUNCTION> struct Bound;
template <class... P, void (*FUNCTION)(P...)> struct Bound<FUNCTION> {
    template <size_t... I> static Body bind(void **params, std::index_sequence<I...>) {
        auto values = std::make_tuple(*(P *)params[I]...);
        return [values] { std::apply(FUNCTION, values); };
    }
    static Body make(void **params) { return bind(params, std::index_sequence_for<P...>{}); }
};

#define KERNEL_NAMED(NAME) {#NAME, Bound<NAME>::make},
#define MATMULS(FORMAT)                                                                                                                  \
    KERNEL_NAMED(wharf_matmul_##FORMAT##_8)                                                                                              \
    KERNEL_NAMED(wharf_matmul_##FORMAT##_16)                                                                                             \
    KERNEL_NAMED(wharf_matmul_##FORMAT##_32)                                                                                             \
    KERNEL_NAMED(wharf_matmul_##FORMAT##_64)                                                                                             \
    KERNEL_NAMED(wharf_matmul_##FORMAT##_many)
static const std::map<std::string, Maker> KERNELS = {
    // clang-format off
    KERNEL_NAMED(wharf_attend_32) KERNEL_NAMED(wharf_attend_64) KERNEL_NAMED(wharf_attend_96)
    KERNEL_NAMED(wharf_attend_128) KERNEL_NAMED(wharf_attend_192) KERNEL_NAMED(wharf_attend_256)
    KERNEL_NAMED(wharf_merge) KERNEL_NAMED(wharf_fill) KERNEL_NAMED(wharf_norm) KERNEL_NAMED(wharf_branch) KERNEL_NAMED(wharf_logits)
    KERNEL_NAMED(wharf_rotate) KERNEL_NAMED(wharf_copy)
    MATMULS(half) MATMULS(brain) MATMULS(bytes) MATMULS(bytes_affine) MATMULS(bytes_16)
    MATMULS(nibbles) MATMULS(nibbles_affine) MATMULS(nibbles_16) MATMULS(nibbles_16_affine)
    // clang-format on
};

static int refuse(char *error, unsigned long error_len, const std::string &why) {
    snprintf(error, error_len, "%s", why.c_str());
    return 1;
}

} // namespace emulated

extern "C" int wharf_emulate_known(const char *kernel) { return emulated::KERNELS.count(kernel) > 0; }

extern "C" int wharf_emulate(const char *kernel, const unsigned grid[3], const unsigned size[3], unsigned shared_bytes, void **params,
                             unsigned long long schedule, char *error, unsigned long error_len) {
    using namespace emulated;
    auto found = KERNELS.find(kernel);
    if (found == KERNELS.end()) return refuse(error, error_len, std::string("there is no kernel ") + kernel);
    if (shared_bytes > 0) return refuse(error, error_len, "no kernel takes shared memory at launch");
    if (size[1] != 1 || size[2] != 1 || size[0] == 0 || size[0] % 32 != 0 || size[0] > 1024)
        return refuse(error, error_len, "blocks have one dimension of whole warps, at most 1024 threads");
    static thread_local std::vector<std::unique_ptr<Thread>> fibers;
    while (fibers.size() < size[0]) {
        fibers.push_back(std::make_unique<Thread>());
        fibers.back()->index = (u32)fibers.size() - 1;
    }
    Block b;
    b.grid = {grid[0], grid[1], grid[2]};
    b.size = {size[0], 1, 1};
    for (u32 i = 0; i < size[0]; i++) b.threads.push_back(fibers[i].get());
    b.warps.resize(size[0] / 32);
    b.body = found->second(params);
    b.error = error;
    b.error_len = error_len;
    u64 seed = schedule;
    for (b.index.z = 0; b.index.z < grid[2]; b.index.z++)
        for (b.index.y = 0; b.index.y < grid[1]; b.index.y++)
            for (b.index.x = 0; b.index.x < grid[0]; b.index.x++)
                if (!run_block(b, seed)) return 1;
    return 0;
}
