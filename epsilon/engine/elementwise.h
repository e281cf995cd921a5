// Bias and requantisation: clamp((sum + bias) * multiplier + 2**(shift - 1) >> shift, low, high); and residual addition:
// clamp(a * multiplier[0] + b * multiplier[1] + offset >> shift, low, high).
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

#if VECTOR_BYTES > 16
typedef int64_t Longs __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t UnsignedLongs __attribute__((vector_size(VECTOR_BYTES)));

// The same for the even lanes of sums and multipliers.
static inline Longs requantized_even(Whole sum, Whole multiplier, const uint64_t *offset, const uint64_t *shift, Longs low, Longs high) {
    const UnsignedLongs places = load<UnsignedLongs>(shift), top = TOP - UnsignedLongs{};
    const UnsignedLongs product = (UnsignedLongs)INTEL(mul_epi32)(sum, multiplier);
    const Longs code = (Longs)((product + load<UnsignedLongs>(offset)) >> places) - (Longs)(top >> places);
    const Longs floor = code < low ? low : code;
    return floor > high ? high : floor;
}
#endif

// The same for neighbouring channels, as many as vectors hold; returns how many that were. `offset` and `shift` are those of the even
// channels of a vector, then those of the odd ones.
static inline int64_t requantize_channels(const RequantizationJob &job, const int32_t *sums, const uint64_t *offset,
                                          const uint64_t *shift, int8_t *codes) {
    int64_t c = 0;
#if VECTOR_BYTES > 16
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    const Longs low = job.low - Longs{}, high = job.high - Longs{};
    for (; c + LANES <= job.channels; c += LANES) {
        const Whole sum = (Whole)(load<Words>(sums + c) + load<Words>(job.bias + c)), factor = (Whole)load<Words>(job.multiplier + c);
        const Longs even = requantized_even(sum, factor, offset + c, shift + c, low, high);
        const Longs odd = requantized_even(INTEL(srli_epi64)(sum, 32), INTEL(srli_epi64)(factor, 32), offset + c + LANES / 2,
                                           shift + c + LANES / 2, low, high);
        store(codes + c, __builtin_convertvector((Words)((even & 0xFFFFFFFFLL) | (odd << 32)), Bytes));
    }
#else
    (void)job, (void)sums, (void)offset, (void)shift, (void)codes;
#endif
    return c;
}

static int requantize(const RequantizationJob &job) {
    std::vector<uint64_t> offset(job.channels), apart_offset(job.channels), apart_shift(job.channels);
    for (int64_t c = 0; c < job.channels; c++) offset[c] = TOP + (uint64_t{1} << (job.shift[c] - 1));
    for (int64_t c = 0; c < job.channels / LANES * LANES; c++) {
        const int64_t place = c / LANES * LANES + c % 2 * (LANES / 2) + c % LANES / 2;
        apart_offset[place] = offset[c], apart_shift[place] = job.shift[c];
    }
    const int64_t size = job.channels * job.inner, rows = std::max<int64_t>(1, 16384 / size);
    return share(job.threads, (job.outer + rows - 1) / rows, 0, [&](int64_t item, char *) {
        for (int64_t row = item * rows; row < std::min(job.outer, (item + 1) * rows); row++) {
            const int32_t *sums = job.sums + row * size;
            int8_t *codes = job.codes + row * size;
            int64_t c = job.inner == 1 ? requantize_channels(job, sums, apart_offset.data(), apart_shift.data(), codes) : 0;
            for (; c < job.channels; c++) {
                const int32_t bias = job.bias[c], multiplier = job.multiplier[c];
                const uint64_t half = offset[c], shift = job.shift[c];
                for (int64_t i = c * job.inner; i < (c + 1) * job.inner; i++)
                    codes[i] = requantized(sums[i], bias, multiplier, half, shift, job.low, job.high);
            }
        }
    });
}

// Mirrored by `_Addition` in native.py.
struct AdditionJob {
    const int8_t *first, *second;
    int8_t *codes;
    int64_t count, first_multiplier, second_multiplier, offset;
    int32_t shift, low, high, threads;
};

static int add(const AdditionJob &job) {
    const int64_t rows = 16384, low = job.low, high = job.high;
    return share(job.threads, (job.count + rows - 1) / rows, 0, [&](int64_t item, char *) {
        for (int64_t i = item * rows; i < std::min(job.count, (item + 1) * rows); i++) {
            const int64_t sum = job.first[i] * job.first_multiplier + job.second[i] * job.second_multiplier + job.offset;
            job.codes[i] = (int8_t)std::min(std::max(sum >> job.shift, low), high);
        }
    });
}
