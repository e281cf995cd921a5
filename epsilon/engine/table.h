// Products of any kind, looked up: the table's column of a weight holds its products with every activation.
#pragma once
#include "products.h"

//: Outputs, places of the reduction and rows that are worked on together; their products and sums stay in the cache.
constexpr int OUTPUTS = 32, DEEP = 4;
constexpr int64_t MOST_ROWS = 1024;
constexpr int CODES = 256;

// Writes lines of a group of an image as codes + 128, padded with code 0: channels apart by `channel` bytes, pixels by `pixel`.
static inline void copy_codes(const Job &job, const int8_t *image, int64_t first, int64_t lines, int64_t columns, int64_t channel,
                              int64_t pixel, uint8_t *to) {
    for (int64_t line = 0; line < lines; line++) {
        const int64_t y = first + line - job.padding_y;
        for (int64_t column = 0; column < columns; column++) {
            const int64_t x = column - job.padding_x;
            uint8_t *at = to + (line * columns + column) * pixel;
            const bool inside = y >= 0 && y < job.height && x >= 0 && x < job.width;
            const int8_t *from = image + (y * job.width + x) * job.groups * job.channels;
            for (int64_t c = 0; c < job.channels; c++) at[c * channel] = inside ? (uint8_t)(from[c] + 128) : 128;
        }
    }
}

// Writes an 8x8 block transposed; strides in values.
static inline void transpose_block(const int16_t *const *from, int64_t first, int16_t *to, int64_t stride) {
    __m128i a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = _mm_loadu_si128((const __m128i *)(from[i] + first));
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        a[4 * i] = _mm_unpacklo_epi32(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm_unpackhi_epi32(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm_unpacklo_epi32(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm_unpackhi_epi32(b[4 * i + 1], b[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        _mm_storeu_si128((__m128i *)(to + 2 * i * stride), _mm_unpacklo_epi64(a[i], a[i + 4]));
        _mm_storeu_si128((__m128i *)(to + (2 * i + 1) * stride), _mm_unpackhi_epi64(a[i], a[i + 4]));
    }
}

// Writes, for a place of the reduction and every activation from `low` to `high`, the products with OUTPUTS weights.
static inline void spread_products(const Job &job, const uint8_t *weights, int low, int high, int16_t *to) {
    for (int n = 0; n < OUTPUTS; n += 8) {
        const int16_t *columns[8];
        for (int i = 0; i < 8; i++) columns[i] = job.maps + weights[n + i] * CODES;
        for (int code = low & ~7; code <= high; code += 8) transpose_block(columns, code, to + code * OUTPUTS + n, OUTPUTS);
    }
}

// Adds to each row's sums the products of `deep` activations with OUTPUTS weights.
template <int DEPTH>
static inline void add_products(const uint8_t *const *rows, int64_t count, int64_t offset, const int16_t *products, int32_t *sums) {
    typedef int16_t Half __attribute__((vector_size(VECTOR_BYTES / 2)));
    constexpr int VECTORS = OUTPUTS / LANES;
    for (int64_t row = 0; row < count; row++, sums += OUTPUTS) {
        Words total[VECTORS];
        for (int v = 0; v < VECTORS; v++) total[v] = load<Words>(sums + v * LANES);
        const uint8_t *codes = rows[row] + offset;
#pragma GCC unroll 8
        for (int k = 0; k < DEPTH; k++) {
            const int16_t *from = products + (k * CODES + codes[k]) * OUTPUTS;
            for (int v = 0; v < VECTORS; v++) total[v] += __builtin_convertvector(load<Half>(from + v * LANES), Words);
        }
        for (int v = 0; v < VECTORS; v++) store(sums + v * LANES, total[v]);
    }
}

// Weights: uint8 codes + 128 (groups, panels, kernel_y * kernel_x * channels, OUTPUTS); `maps`: int16 (256 weights, 256 activations).
static int convolve_table(const Job &job) {
    const int64_t columns = job.width + 2 * job.padding_x, line = columns * job.channels, run = (int64_t)job.kernel_x * job.channels;
    const int64_t panels = (job.outputs + OUTPUTS - 1) / OUTPUTS, reduced = job.kernel_y * run;
    const int64_t band = std::min<int64_t>(job.out_height, std::max<int64_t>(1, MOST_ROWS / job.out_width));
    const int64_t across = (job.out_height + band - 1) / band, rows_of_one = band * job.out_width;
    int64_t images = across > 1 ? 1 : std::max<int64_t>(1, std::min<int64_t>(job.batch, MOST_ROWS / rows_of_one));
    // Few, large parts: every part spreads the products anew. But each thread gets one where it can.
    while (images > 1 && (job.batch + images - 1) / images * job.groups * panels < job.threads) images = (images + 1) / 2;
    const int64_t blocks = (job.batch + images - 1) / images * across;
    const int64_t lines = (band - 1) * job.stride_y + job.kernel_y, most = images * rows_of_one;
    const int64_t code_bytes = up(images * lines * line, 64), product_bytes = DEEP * CODES * OUTPUTS * 2;
    const int64_t sum_bytes = up(most * OUTPUTS * 4, 64), pointer_bytes = most * sizeof(void *);

    return share(job.threads, blocks * job.groups * panels, code_bytes + product_bytes + sum_bytes + 2 * pointer_bytes,
                 [&](int64_t item, char *scratch) {
        auto *products = (int16_t *)scratch;
        auto *sums = (int32_t *)(scratch += product_bytes);
        auto **rows = (const uint8_t **)(scratch += sum_bytes);
        auto **results = (int32_t **)(scratch += pointer_bytes);
        auto *codes = (uint8_t *)(scratch += pointer_bytes);
        const int64_t block = item / (job.groups * panels), group = item / panels % job.groups, panel = item % panels;
        const int64_t image = block / across * images, y = block % across * band;
        const int64_t here = std::min<int64_t>(images, job.batch - image), high = std::min<int64_t>(band, job.out_height - y);
        const int64_t needed = (high - 1) * job.stride_y + job.kernel_y;
        int64_t count = 0;
        uint8_t least = 255, greatest = 0;
        for (int64_t i = 0; i < here; i++) {
            const int8_t *from = job.activations + (image + i) * job.height * job.width * job.groups * job.channels;
            uint8_t *to = codes + i * lines * line;
            copy_codes(job, from + group * job.channels, y * job.stride_y, needed, columns, 1, job.channels, to);
            for (int64_t k = 0; k < needed * line; k++) least = std::min(least, to[k]), greatest = std::max(greatest, to[k]);
            for (int64_t oy = 0; oy < high; oy++)
                for (int64_t ox = 0; ox < job.out_width; ox++, count++) {
                    rows[count] = to + oy * job.stride_y * line + ox * job.stride_x * job.channels;
                    const int64_t pixel = ((image + i) * job.out_height + y + oy) * job.out_width + ox;
                    results[count] = job.sums + (pixel * job.groups + group) * job.outputs + panel * OUTPUTS;
                }
        }
        for (int64_t k = 0; k < count * OUTPUTS; k++) sums[k] = job.start;
        const uint8_t *weights = (const uint8_t *)job.weights + (group * panels + panel) * reduced * OUTPUTS;
        for (int64_t ky = 0; ky < job.kernel_y; ky++)
            for (int64_t k = 0, deep; k < run; k += deep, weights += deep * OUTPUTS) {
                deep = std::min<int64_t>(DEEP, run - k);
                for (int64_t place = 0; place < deep; place++)
                    spread_products(job, weights + place * OUTPUTS, least, greatest, products + place * CODES * OUTPUTS);
                const int64_t offset = ky * line + k;
                if (deep == DEEP) add_products<DEEP>(rows, count, offset, products, sums);
                else
                    for (int64_t place = 0; place < deep; place++)
                        add_products<1>(rows, count, offset + place, products + place * CODES * OUTPUTS, sums);
            }
        const size_t bytes = std::min<int64_t>(OUTPUTS, job.outputs - panel * OUTPUTS) * sizeof(int32_t);
        for (int64_t row = 0; row < count; row++) memcpy(results[row], sums + row * OUTPUTS, bytes);
    });
}

// The same for groups with few outputs. Weights: uint8 codes + 128 (groups, outputs, channels, kernel_y, kernel_x).
static int convolve_table_sparse(const Job &job) {
    const int64_t columns = job.width + 2 * job.padding_x, lines = job.height + 2 * job.padding_y;
    const int64_t reduced = (int64_t)job.channels * job.kernel_y * job.kernel_x;
    std::vector<int64_t> taps;
    for (int c = 0; c < job.channels; c++)
        for (int ky = 0; ky < job.kernel_y; ky++)
            for (int kx = 0; kx < job.kernel_x; kx++) taps.push_back((c * lines + ky) * columns + kx);
    const int64_t code_bytes = up(job.channels * lines * columns, 64);

    return share(job.threads, job.batch, code_bytes + reduced * sizeof(void *), [&](int64_t i, char *scratch) {
        auto **products = (const int16_t **)scratch;
        auto *codes = (uint8_t *)(scratch + reduced * sizeof(void *));
        for (int group = 0; group < job.groups; group++) {
            const int8_t *from = job.activations + i * job.height * job.width * job.groups * job.channels + group * job.channels;
            copy_codes(job, from, 0, lines, columns, lines * columns, 1, codes);
            for (int n = 0; n < job.outputs; n++) {
                const int64_t output = (int64_t)group * job.outputs + n;
                for (int64_t k = 0; k < reduced; k++)
                    products[k] = job.maps + ((const uint8_t *)job.weights)[output * reduced + k] * CODES;
                for (int64_t pixel = 0; pixel < (int64_t)job.out_height * job.out_width; pixel++) {
                    const uint8_t *corner =
                        codes + pixel / job.out_width * job.stride_y * columns + pixel % job.out_width * job.stride_x;
                    int32_t total = job.start;
                    for (int64_t k = 0; k < reduced; k++) total += products[k][corner[taps[k]]];
                    job.sums[(i * job.out_height * job.out_width + pixel) * job.groups * job.outputs + output] = total;
                }
            }
        }
    });
}
