// Stands here until the kernels have an emulator: knows one kernel, `wharf_fill`.
#include <cstdio>
#include <cstring>

extern "C" int wharf_emulate_known(const char *kernel) { return std::strcmp(kernel, "wharf_fill") == 0; }

extern "C" int wharf_emulate(const char *kernel, const unsigned *, const unsigned *, unsigned, void **params, unsigned long long,
                             char *error, unsigned long error_len) {
    if (!wharf_emulate_known(kernel)) {
        std::snprintf(error, error_len, "there is no kernel %s", kernel);
        return 1;
    }
    volatile unsigned *to = *static_cast<unsigned **>(params[0]);
    int n = *static_cast<int *>(params[1]);
    unsigned value = *static_cast<unsigned *>(params[2]);
    for (int i = 0; i < n; i++) to[i] = value;
    return 0;
}
