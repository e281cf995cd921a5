// Between bytes of lanes and vectors of bits: 64 x 64 bit blocks, one in every 64-bit element of a vector at the same time.

namespace {

constexpr int GROUPS = LANES / 64;

inline void swap_bits(V &low, V &high, int shift, uint64_t mask) {
    const V different = ((low >> shift) ^ high) & mask;
    high ^= different;
    low ^= different << shift;
}

// Transpose the 64 x 64 bits that the elements of the same number of 64 vectors hold; row and column 0 are the lowest.
void transpose(V *rows) {
    for (int i = 0; i < 8; ++i) {
        V r[8];
        for (int k = 0; k < 8; ++k) r[k] = rows[i + 8 * k];
        for (int k = 0; k < 4; ++k) swap_bits(r[k], r[k + 4], 32, 0x00000000FFFFFFFFULL);
        for (int k = 0; k < 8; k += 4)
            for (int m = 0; m < 2; ++m) swap_bits(r[k + m], r[k + m + 2], 16, 0x0000FFFF0000FFFFULL);
        for (int k = 0; k < 8; k += 2) swap_bits(r[k], r[k + 1], 8, 0x00FF00FF00FF00FFULL);
        for (int k = 0; k < 8; ++k) rows[i + 8 * k] = r[k];
    }
    for (int i = 0; i < 64; i += 8) {
        V r[8];
        for (int k = 0; k < 8; ++k) r[k] = rows[i + k];
        for (int k = 0; k < 4; ++k) swap_bits(r[k], r[k + 4], 4, 0x0F0F0F0F0F0F0F0FULL);
        for (int k = 0; k < 8; k += 4)
            for (int m = 0; m < 2; ++m) swap_bits(r[k + m], r[k + m + 2], 2, 0x3333333333333333ULL);
        for (int k = 0; k < 8; k += 2) swap_bits(r[k], r[k + 1], 1, 0x5555555555555555ULL);
        for (int k = 0; k < 8; ++k) rows[i + k] = r[k];
    }
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
        transpose(rows);
        memcpy((void *)(out + 8 * from), rows, 8 * count * sizeof(V));
    }
}

// The inverse.
void from_lanes(const V *in, int bytes, uint64_t lanes, uint8_t *data, int64_t lane_stride) {
    for (int from = 0; from < bytes; from += 8) {
        const int count = bytes - from < 8 ? bytes - from : 8;
        V rows[64];
        if (count < 8) memset((void *)rows, 0, sizeof rows);
        memcpy((void *)rows, in + 8 * from, 8 * count * sizeof(V));
        transpose(rows);
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
