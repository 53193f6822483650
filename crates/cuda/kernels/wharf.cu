// All kernels in one translation unit, which is compiled for each GPU (`cargo xtask cuda-kernels`).
// Nothing else is included: no header of CUDA's exists where this is compiled.
#include "fill.cu"
