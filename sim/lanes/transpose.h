// Between bytes of lanes and vectors of bits: 64 x 64 bit blocks, one in every 64-bit element of a vector at the same time.

namespace {

constexpr int GROUPS = LANES / 64;

// One of the two halves of a transposition: of the 8 x 8 blocks among each other (STEP 8), or of the bits in each block (STEP 1).
template <int STEP>
inline void half(const V *in, V *out) {
    V r[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) r[k] = in[STEP * k];
#pragma GCC unroll 3
    for (int distance = 4; distance; distance /= 2) {
        const int shift = STEP * distance;
        const uint64_t low = ~(uint64_t)0 / (((uint64_t)1 << shift) + 1);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
            if (k & distance) continue;
            const V different = ((r[k] >> shift) ^ r[k + distance]) & low;
            r[k + distance] ^= different;
            r[k] ^= different << shift;
        }
    }
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) out[STEP * k] = r[k];
}

// Transpose the 64 x 64 bits that the elements of the same number of 64 vectors hold; row and column 0 are the lowest.
void transpose(const V *in, V *out) {
    V halfway[64];
    for (int i = 0; i < 8; ++i) half<8>(in + i, halfway + i);
    for (int i = 0; i < 8; ++i) half<1>(halfway + 8 * i, out + 8 * i);
}

inline uint64_t *elements(V *vector) { return reinterpret_cast<uint64_t *>(vector); }

// Spread the bytes of a beat of every lane, lane_stride apart, over 8 * bytes vectors. Lanes that are not in use get zeros.
void to_lanes(const uint8_t *data, int64_t lane_stride, int bytes, uint64_t lanes, V *out) {
    for (int from = 0; from < bytes; from += 8) {
        const int count = bytes - from < 8 ? bytes - from : 8;
        V rows[64];
        if (count == 8 && lanes == LANES) {
            for (int i = 0; i < 64; ++i)
                for (int g = 0; g < GROUPS; ++g) memcpy(elements(rows + i) + g, data + (64 * g + i) * lane_stride + from, 8);
        } else {
            memset((void *)rows, 0, sizeof rows);
            for (uint64_t lane = 0; lane < lanes; ++lane)
                memcpy(elements(rows + lane % 64) + lane / 64, data + (int64_t)lane * lane_stride + from, count);
        }
        if (count == 8) {
            transpose(rows, out + 8 * from);
        } else {
            transpose(rows, rows);
            memcpy((void *)(out + 8 * from), rows, 8 * count * sizeof(V));
        }
    }
}

// The inverse.
void from_lanes(const V *in, int bytes, uint64_t lanes, uint8_t *data, int64_t lane_stride) {
    for (int from = 0; from < bytes; from += 8) {
        const int count = bytes - from < 8 ? bytes - from : 8;
        V rows[64];
        if (count == 8) {
            transpose(in + 8 * from, rows);
        } else {
            memset((void *)rows, 0, sizeof rows);
            memcpy((void *)rows, in + 8 * from, 8 * count * sizeof(V));
            transpose(rows, rows);
        }
        if (count == 8 && lanes == LANES) {
            for (int i = 0; i < 64; ++i)
                for (int g = 0; g < GROUPS; ++g) memcpy(data + (64 * g + i) * lane_stride + from, elements(rows + i) + g, 8);
        } else {
            for (uint64_t lane = 0; lane < lanes; ++lane)
                memcpy(data + (int64_t)lane * lane_stride + from, elements(rows + lane % 64) + lane / 64, count);
        }
    }
}

}  // namespace
