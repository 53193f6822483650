// All kernels, as one unit to compile.
#include "attend.cu"
#include "fill.cu"
#include "matmul.cu"
#include "norm.cu"
#include "rotate.cu"
