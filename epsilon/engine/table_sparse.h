// Products of any kind, looked up, where groups have few outputs. Neighbouring activations meet the taps of a row of the kernel one
// after another, so a look-up takes the products of one activation with TAPS of them at once, and the sums move past them: with
// every step by one result.
#pragma once
#include "table.h"

constexpr int TAPS = 4;
typedef int32_t Taps __attribute__((vector_size(TAPS * 4)));
//: Outputs that are worked on together, results of each, and runs of taps: the runs' products stay in the fastest cache.
constexpr int64_t FEW = 16, MOST_RESULTS = 2048;
constexpr int RUNS = 3;

// Taps of a kernel's row that a look-up finds together, a stride apart: the places of the first one's weight and of the code that it
// meets.
struct Run {
    int64_t weight, code;
    int taps;
};

// The kernel as runs of up to `most` taps, in lines of `columns` of planes.
static std::vector<Run> runs_of(const Job &job, int most, int64_t plane, int64_t columns) {
    std::vector<Run> runs;
    for (int64_t row = 0; row < (int64_t)job.channels * job.kernel_y; row++)
        for (int x = 0; x < job.kernel_x; x++) {
            if (x % (most * job.stride_x) >= job.stride_x) continue;
            const int64_t line = row / job.kernel_y * plane + row % job.kernel_y * columns;
            const int rest = (job.kernel_x - x + job.stride_x - 1) / job.stride_x;
            runs.push_back({row * job.kernel_x + x, line + x, std::min(most, rest)});
        }
    return runs;
}

// What lies in the planes of a piece: 2 * (code + 128), from the least to the greatest.
struct Range {
    int16_t least = 2 * CODES, greatest = 0;
};

static inline void transpose_words(__m128i *a) {
    const __m128i b0 = _mm_unpacklo_epi32(a[0], a[1]), b1 = _mm_unpackhi_epi32(a[0], a[1]);
    const __m128i b2 = _mm_unpacklo_epi32(a[2], a[3]), b3 = _mm_unpackhi_epi32(a[2], a[3]);
    a[0] = _mm_unpacklo_epi64(b0, b2), a[1] = _mm_unpackhi_epi64(b0, b2);
    a[2] = _mm_unpacklo_epi64(b1, b3), a[3] = _mm_unpackhi_epi64(b1, b3);
}

// Writes for the activations in a range the products with a run's weights, the last of `most` taps first; zeros for those that it
// lacks.
static inline void spread_run(const Job &job, const uint8_t *weights, int taps, int most, const Range &range, Taps *to) {
    static const int16_t none[CODES] = {};
    const int16_t *columns[TAPS] = {none, none, none, none};
    for (int tap = 0; tap < taps; tap++) columns[most - 1 - tap] = job.maps + weights[tap * job.stride_x] * CODES;
    for (int code = range.least / 2 & ~3; code <= range.greatest / 2; code += 4) {
        __m128i block[TAPS];
        for (int tap = 0; tap < TAPS; tap++) {
            const __m128i four = _mm_loadl_epi64((const __m128i *)(columns[tap] + code));
            block[tap] = _mm_srai_epi32(_mm_unpacklo_epi16(four, four), 16);
        }
        transpose_words(block);
        for (int i = 0; i < 4; i++) store(to + code + i, block[i]);
    }
}

// Writes lines of some channels of an image as planes of 2 * (code + 128), padded and filled to their ends with code 0.
static inline void spread_codes(const Job &job, const int8_t *image, int64_t channels, int64_t first, int64_t lines, int64_t columns,
                                int64_t plane, Range &range, uint16_t *to) {
    const int64_t step = (int64_t)job.groups * job.channels;
    const __m128i sign = _mm_set1_epi8((char)128);
    for (int64_t c = 0; c < channels; c += 8, image += 8, to += 8 * plane) {
        const int64_t bytes = std::min<int64_t>(8, channels - c);
        for (int64_t line = 0; line < lines; line++) {
            const int64_t y = first + line - job.padding_y;
            const bool inside = y >= 0 && y < job.height;
            // What the last block writes beyond the line is written over with the next.
            for (int64_t column = 0; column < columns; column += 8) {
                __m128i block[8];
                for (int i = 0; i < 8; i++) {
                    const int64_t x = column + i - job.padding_x;
                    int64_t eight = 0;
                    if (inside && x >= 0 && x < job.width) {
                        const int8_t *from = image + (y * job.width + x) * step;
                        if (bytes == 8) memcpy(&eight, from, 8);
                        else memcpy(&eight, from, bytes);
                    }
                    const __m128i codes = _mm_xor_si128(_mm_cvtsi64_si128(eight), sign);
                    block[i] = _mm_slli_epi16(_mm_unpacklo_epi8(codes, __m128i{}), 1);
                }
                transpose_block(block, (int16_t *)to + line * columns + column, plane);
            }
        }
        for (int i = 0; i < 8; i++) std::fill(to + i * plane + lines * columns, to + (i + 1) * plane, CODES);
        for (int64_t i = 0; i < 8 * plane; i++) {
            range.least = std::min(range.least, (int16_t)to[i]);
            range.greatest = std::max(range.greatest, (int16_t)to[i]);
        }
    }
}

// The products of a code, times 2, with the weight of a column or of a run.
static inline void look_up(const char *products, uint64_t code, int32_t &found) { found = load<int16_t>(products + code); }
static inline void look_up(const char *products, uint64_t code, Taps &found) { found = load<Taps>(products + 8 * code); }
static inline int32_t next_result(int32_t) { return 0; }
static inline Taps next_result(Taps total) { return (Taps)_mm_srli_si128((__m128i)total, 4); }
static inline int32_t this_result(int32_t total) { return total; }
static inline int32_t this_result(Taps total) { return total[0]; }

// Adds to a line of sums the products of COUNT columns or runs with the codes that each meets, pixels `step` apart. A run's sum is
// complete when `lead` more pixels have gone past.
template <class Sum, int COUNT>
static inline void add_line(const char *const *products, const uint16_t *const *codes, int64_t lead, int64_t pixels, int64_t step,
                            int32_t *sums) {
    // Copies, which the stores cannot change: pointers to bytes may point anywhere.
    const char *product[COUNT];
    const uint16_t *code[COUNT];
    for (int k = 0; k < COUNT; k++) product[k] = products[k], code[k] = codes[k];
    Sum total = {};
    int64_t x = 0;
    auto advance = [&] {
        Sum found[COUNT];
        for (int k = 0; k < COUNT; k++) look_up(product[k], code[k][x], found[k]);
        total = next_result(total);
        for (int k = 1; k < COUNT; k++) found[0] += found[k];
        total += found[0];
        x += step;
    };
    for (int64_t i = 0; i < lead; i++) advance();
    for (int64_t i = 0; i < pixels; i++) {
        advance();
        sums[i] += this_result(total);
    }
}

// Writes sums, of each output `apart` from the next, with the outputs last.
static inline void write_sums(const int32_t *from, int64_t apart, int64_t pixels, int64_t outputs, int32_t *to, int64_t step) {
    for (int64_t pixel = 0; pixel < pixels; pixel += 4)
        for (int64_t n = 0; n < outputs; n += 4) {
            __m128i block[4];
            for (int i = 0; i < 4; i++) block[i] = load<__m128i>(from + (n + i) * apart + pixel);
            transpose_words(block);
            int32_t *at = to + pixel * step + n;
            const int64_t high = std::min<int64_t>(4, pixels - pixel), wide = std::min<int64_t>(4, outputs - n);
            if (high == 4 && wide == 4)
                for (int i = 0; i < 4; i++) store(at + i * step, block[i]);
            else
                for (int i = 0; i < high; i++) memcpy(at + i * step, block + i, wide * sizeof *at);
        }
}

// Adds up the sums of an output over all runs of a piece.
template <class Sum>
static inline void add_runs(const Job &job, const Piece &piece, const std::vector<Run> &runs, const uint8_t *weights,
                            const uint16_t *codes, const Range &range, int64_t image, int64_t columns, int taps, char *spread,
                            int32_t *sums) {
    const int64_t stride = job.stride_x;
    for (size_t first = 0, count; first < runs.size(); first += count) {
        count = runs.size() - first >= RUNS ? RUNS : 1;
        const char *products[RUNS];
        const uint16_t *met[RUNS];
        for (size_t k = 0; k < count; k++) {
            const Run &run = runs[first + k];
            if (taps > 1) {
                spread_run(job, weights + run.weight, run.taps, taps, range, (Taps *)spread + k * CODES);
                products[k] = spread + k * CODES * sizeof(Taps);
            } else {
                products[k] = (const char *)(job.maps + weights[run.weight] * CODES);
            }
        }
        for (int64_t i = 0; i < piece.images; i++)
            for (int64_t y = 0; y < piece.lines; y++) {
                for (size_t k = 0; k < count; k++) met[k] = codes + i * image + runs[first + k].code + y * job.stride_y * columns;
                int32_t *to = sums + (i * piece.lines + y) * job.out_width;
                if (count == RUNS) add_line<Sum, RUNS>(products, met, taps - 1, job.out_width, stride, to);
                else add_line<Sum, 1>(products, met, taps - 1, job.out_width, stride, to);
            }
    }
}

// Weights: uint8 codes + 128 (groups, outputs, channels, kernel_y, kernel_x); `maps` as for `convolve_table`.
static int convolve_table_sparse(const Job &job) {
    const int64_t columns = job.width + 2 * job.padding_x, reduced = (int64_t)job.channels * job.kernel_y * job.kernel_x;
    const int64_t together = std::min<int64_t>(job.groups, std::max<int64_t>(1, FEW / job.outputs));
    const int64_t across = (job.groups + together - 1) / together;
    const Pieces pieces(job, MOST_RESULTS, across);
    const int64_t lines = (pieces.band - 1) * job.stride_y + job.kernel_y, most = pieces.images * pieces.band * job.out_width;
    // Runs whose last taps are missing look beyond the last pixel, and blocks are written beyond it.
    const int64_t plane = lines * columns + std::max(8, TAPS * job.stride_x), image = up(together * job.channels, 8) * plane;
    // A line of the cache more, or all outputs could fall into the same set of it.
    const int64_t apart = up(most, 4) + 16;
    const int64_t code_bytes = up(pieces.images * image * 2, 64), sum_bytes = up(together * job.outputs, 4) * apart * 4;

    return share(job.threads, pieces.count * across, RUNS * CODES * sizeof(Taps) + sum_bytes + code_bytes,
                 [&](int64_t item, char *spread) {
        auto *sums = (int32_t *)(spread + RUNS * CODES * sizeof(Taps));
        auto *codes = (uint16_t *)((char *)sums + sum_bytes);
        const Piece piece(job, pieces, item / across);
        const int64_t group = item % across * together, groups = std::min(together, job.groups - group);
        const int64_t step = (int64_t)job.groups * job.channels, results = piece.images * piece.lines * job.out_width;
        Range range;
        for (int64_t i = 0; i < piece.images; i++) {
            const int8_t *from = job.activations + (piece.image + i) * job.height * job.width * step + group * job.channels;
            spread_codes(job, from, groups * job.channels, piece.y * job.stride_y, piece.needed(job), columns, plane, range,
                         codes + i * image);
        }
        // Spreading pays where there are more results than activations.
        const bool spreading = job.kernel_x > job.stride_x && results > (range.greatest - range.least) / 2;
        const int taps = spreading ? std::min<int>(TAPS, (job.kernel_x + job.stride_x - 1) / job.stride_x) : 1;
        const std::vector<Run> runs = runs_of(job, taps, plane, columns);
        for (int64_t output = 0; output < groups * job.outputs; output++) {
            const uint8_t *weights = (const uint8_t *)job.weights + (group * job.outputs + output) * reduced;
            const uint16_t *first = codes + output / job.outputs * job.channels * plane;
            int32_t *to = sums + output * apart;
            std::fill(to, to + results, job.start);
            if (spreading) add_runs<Taps>(job, piece, runs, weights, first, range, image, columns, taps, spread, to);
            else add_runs<int32_t>(job, piece, runs, weights, first, range, image, columns, taps, spread, to);
        }
        const int64_t outputs = (int64_t)job.groups * job.outputs, pixel = (piece.image * job.out_height + piece.y) * job.out_width;
        write_sums(sums, apart, results, groups * job.outputs, job.sums + pixel * outputs + group * job.outputs, outputs);
    });
}
