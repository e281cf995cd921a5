// Vectors of the instruction set that this is compiled for: int16 pairs are multiplied and added into int32 lanes.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512BW__)
#define VECTOR_BYTES 64
#define ROWS 8
#define INTEL(name) _mm512_##name
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define ROWS 6
#define INTEL(name) _mm256_##name
#else
#define VECTOR_BYTES 16
#define ROWS 6
#define INTEL(name) _mm_##name
#endif

typedef int16_t Shorts __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t Words __attribute__((vector_size(VECTOR_BYTES)));
typedef long long Whole __attribute__((vector_size(VECTOR_BYTES), may_alias));

constexpr int LANES = VECTOR_BYTES / 4;
//: Outputs computed together: two vectors. ROWS of the product are, as many as the registers hold.
constexpr int PANEL = 2 * LANES;

template <class Vector> static inline Vector load(const void *from) {
    Vector value;
    memcpy(&value, from, sizeof value);
    return value;
}

template <class Vector> static inline void store(void *to, Vector value) { memcpy(to, &value, sizeof value); }

// All lanes: the same pair of int16.
static inline Words repeated(const int16_t *pair) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return (Words)INTEL(set1_epi32)(both);
}

// sum + a0 * b0 + a1 * b1 in every lane, modulo 2**32; no operand can make it saturate.
static inline Words multiply_add(Words sum, Words a, Words b) {
#if defined(__AVX512VNNI__)
    return (Words)_mm512_dpwssd_epi32((Whole)sum, (Whole)a, (Whole)b);
#else
    return sum + (Words)INTEL(madd_epi16)((Whole)a, (Whole)b);
#endif
}

// The values of a and b side by side: in every 16 bytes the first four of both, or the last four.
static inline Words first_pairs(Shorts a, Shorts b) { return (Words)INTEL(unpacklo_epi16)((Whole)a, (Whole)b); }
static inline Words last_pairs(Shorts a, Shorts b) { return (Words)INTEL(unpackhi_epi16)((Whole)a, (Whole)b); }
