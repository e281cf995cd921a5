// The entries of the library; each returns 0, or OUT_OF_MEMORY.
#include "depthwise.h"
#include "direct.h"
#include "elementwise.h"
#include "table.h"
#include "table_sparse.h"
#include "winograd.h"

extern "C" {
int32_t epsilon_vector_bytes() { return VECTOR_BYTES; }
int32_t epsilon_direct(const Job *job) { return convolve_direct(*job); }
int32_t epsilon_depthwise(const Job *job) { return convolve_depthwise(*job); }
int32_t epsilon_winograd(const Job *job) { return convolve_winograd(*job); }
int32_t epsilon_table(const Job *job) { return convolve_table(*job); }
int32_t epsilon_table_sparse(const Job *job) { return convolve_table_sparse(*job); }
int32_t epsilon_requantize(const RequantizationJob *job) { return requantize(*job); }
int32_t epsilon_add(const AdditionJob *job) { return add(*job); }
}
