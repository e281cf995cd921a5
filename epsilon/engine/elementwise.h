// Bias and requantisation: clamp((sum + bias) * multiplier + 2**(shift - 1) >> shift, low, high).
#pragma once
#include "job.h"
#include "vectors.h"

// Mirrored by `_Requantization` in native.py. Sums are (outer, channels, inner); everything per channel has an entry per channel.
struct RequantizationJob {
    const int32_t *sums, *bias, *multiplier;
    const int64_t *shift;
    int8_t *codes;
    int64_t outer, channels, inner;
    int32_t low, high, threads;
};

constexpr uint64_t TOP = uint64_t{1} << 62;

// TOP is a multiple of 2**shift and makes the product positive, so that a logical shift rounds it down: vectors have no other.
static inline int8_t requantized(int32_t sum, int32_t bias, int32_t multiplier, uint64_t offset, uint64_t shift, int64_t low,
                                 int64_t high) {
    const int64_t product = (int64_t)(int32_t)((uint32_t)sum + (uint32_t)bias) * multiplier;
    const int64_t code = (int64_t)(((uint64_t)product + offset) >> shift) - (int64_t)(TOP >> shift);
    return (int8_t)std::min(std::max(code, low), high);
}

// The same for neighbouring channels, as many as vectors hold; returns how many that were.
static inline int64_t requantize_channels(const RequantizationJob &job, const int32_t *sums, const uint64_t *offset, int8_t *codes) {
    int64_t c = 0;
#if VECTOR_BYTES > 16
    typedef int64_t Long __attribute__((vector_size(VECTOR_BYTES)));
    typedef uint64_t UnsignedLong __attribute__((vector_size(VECTOR_BYTES)));
    typedef int32_t Half __attribute__((vector_size(VECTOR_BYTES / 2)));
    constexpr int TOGETHER = VECTOR_BYTES / 8;
    const Long low = job.low - Long{}, high = job.high - Long{};
    const UnsignedLong top = TOP - UnsignedLong{};
    for (; c + TOGETHER <= job.channels; c += TOGETHER) {
        const Long sum = __builtin_convertvector(load<Half>(sums + c) + load<Half>(job.bias + c), Long);
        const Long factor = __builtin_convertvector(load<Half>(job.multiplier + c), Long);
        const UnsignedLong product = (UnsignedLong)INTEL(mul_epi32)((Whole)sum, (Whole)factor);
        const UnsignedLong shift = load<UnsignedLong>(job.shift + c);
        Long code = (Long)((product + load<UnsignedLong>(offset + c)) >> shift) - (Long)(top >> shift);
        code = code < low ? low : code;
        code = code > high ? high : code;
        const Half narrow = __builtin_convertvector(code, Half);
        for (int i = 0; i < TOGETHER; i++) codes[c + i] = (int8_t)narrow[i];
    }
#else
    (void)sums, (void)offset, (void)codes;
#endif
    return c;
}

static int requantize(const RequantizationJob &job) {
    std::vector<uint64_t> offset(job.channels);
    for (int64_t c = 0; c < job.channels; c++) offset[c] = TOP + (uint64_t{1} << (job.shift[c] - 1));
    const int64_t size = job.channels * job.inner, rows = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, size));
    return share(job.threads, (job.outer + rows - 1) / rows, 0, [&](int64_t item, char *) {
        for (int64_t row = item * rows; row < std::min(job.outer, (item + 1) * rows); row++) {
            const int32_t *__restrict sums = job.sums + row * size;
            int8_t *__restrict codes = job.codes + row * size;
            const int32_t *__restrict bias = job.bias, *__restrict multiplier = job.multiplier;
            const uint64_t *__restrict shift = (const uint64_t *)job.shift, *__restrict offsets = offset.data();
            const int64_t low = job.low, high = job.high;
            if (job.inner == 1) {
                for (int64_t c = requantize_channels(job, sums, offsets, codes); c < job.channels; c++)
                    codes[c] = requantized(sums[c], bias[c], multiplier[c], offsets[c], shift[c], low, high);
                continue;
            }
            for (int64_t c = 0; c < job.channels; c++) {
                const int32_t added = bias[c], factor = multiplier[c];
                const uint64_t places = shift[c], half = offsets[c];
                for (int64_t i = c * job.inner; i < (c + 1) * job.inner; i++)
                    codes[i] = requantized(sums[i], added, factor, half, places, low, high);
            }
        }
    });
}
