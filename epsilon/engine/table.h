// Products of any kind, looked up: the table's column of a weight holds its products with every activation.
#pragma once
#include "products.h"

//: Outputs, places of the reduction and rows that are worked on together; their products and sums stay in the cache.
constexpr int OUTPUTS = 32, DEEP = 4;
constexpr int64_t MOST_ROWS = 1024;
constexpr int CODES = 256;

// Writes lines of a group of an image as codes + 128, padded with code 0.
static inline void copy_codes(const Job &job, const int8_t *image, int64_t first, int64_t lines, int64_t columns, uint8_t *to) {
    memset(to, 128, lines * columns * job.channels);
    for (int64_t line = 0; line < lines; line++) {
        const int64_t y = first + line - job.padding_y;
        if (y < 0 || y >= job.height) continue;
        const int64_t inside = std::min<int64_t>(job.width, columns - job.padding_x);
        for (int64_t x = 0; x < inside; x++) {
            const int8_t *from = image + (y * job.width + x) * job.groups * job.channels;
            uint8_t *at = to + (line * columns + job.padding_x + x) * job.channels;
            for (int64_t c = 0; c < job.channels; c++) at[c] = (uint8_t)(from[c] + 128);
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

// Adds to each row's sums the products of DEPTH activations with OUTPUTS weights, two activations at a time. The sums are in the
// order of first_pairs and last_pairs.
template <int DEPTH>
static inline void add_products(const uint8_t *const *rows, int64_t count, int64_t offset, const int16_t *products, int32_t *sums) {
    constexpr int VECTORS = OUTPUTS / (2 * LANES);
    const int16_t one[2] = {1, 1};
    const Words ones = repeated(one);
    for (int64_t row = 0; row < count; row++, sums += OUTPUTS) {
        Words total[VECTORS][2];
        for (int v = 0; v < VECTORS; v++)
            for (int half = 0; half < 2; half++) total[v][half] = load<Words>(sums + (2 * v + half) * LANES);
        const uint8_t *codes = rows[row] + offset;
#pragma GCC unroll 4
        for (int k = 0; k < DEPTH; k += 2) {
            const int16_t *from = products + (k * CODES + codes[k]) * OUTPUTS;
            const int16_t *next = k + 1 < DEPTH ? products + ((k + 1) * CODES + codes[k + 1]) * OUTPUTS : nullptr;
            for (int v = 0; v < VECTORS; v++) {
                const Shorts a = load<Shorts>(from + 2 * v * LANES), b = next ? load<Shorts>(next + 2 * v * LANES) : Shorts{};
                total[v][0] = multiply_add(total[v][0], first_pairs(a, b), ones);
                total[v][1] = multiply_add(total[v][1], last_pairs(a, b), ones);
            }
        }
        for (int v = 0; v < VECTORS; v++)
            for (int half = 0; half < 2; half++) store(sums + (2 * v + half) * LANES, total[v][half]);
    }
}

// Writes a row's sums in the order of the outputs.
static inline void order_sums(const int32_t *from, int32_t *to) {
    for (int v = 0; v < OUTPUTS; v += 2 * LANES, from += 2 * LANES)
        for (int part = 0; part < VECTOR_BYTES / 16; part++, to += 8) {
            memcpy(to, from + 4 * part, 16);
            memcpy(to + 4, from + LANES + 4 * part, 16);
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
            copy_codes(job, from + group * job.channels, y * job.stride_y, needed, columns, to);
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
        for (int64_t row = 0; row < count; row++) {
            int32_t ordered[OUTPUTS];
            order_sums(sums + row * OUTPUTS, ordered);
            memcpy(results[row], ordered, bytes);
        }
    });
}

// Adds to a line of sums the products of TAPS weights with the codes that each meets, pixels `step` apart.
template <int TAPS>
static inline void add_line(const int16_t *const *products, const uint8_t *const *codes, int64_t pixels, int64_t step, int32_t *sums) {
    // Copies, which the stores cannot change: pointers to bytes may point anywhere.
    const int16_t *product[TAPS];
    const uint8_t *code[TAPS];
    for (int k = 0; k < TAPS; k++) product[k] = products[k], code[k] = codes[k];
    for (int64_t x = 0; x < pixels; x++) {
        int32_t total = 0;
        for (int k = 0; k < TAPS; k++) total += product[k][code[k][x * step]];
        sums[x] += total;
    }
}

// The same for groups with few outputs. Weights: uint8 codes + 128 (groups, outputs, channels, kernel_y, kernel_x).
static int convolve_table_sparse(const Job &job) {
    const int64_t columns = job.width + 2 * job.padding_x, plane = (job.height + 2 * job.padding_y) * columns;
    const int64_t channels = (int64_t)job.groups * job.channels, reduced = (int64_t)job.channels * job.kernel_y * job.kernel_x;
    const int64_t outputs = (int64_t)job.groups * job.outputs, pointer_bytes = reduced * sizeof(void *);
    const int64_t sum_bytes = up(job.out_width * 4, 64);

    return share(job.threads, job.batch, sum_bytes + 2 * pointer_bytes + channels * plane, [&](int64_t i, char *scratch) {
        auto *sums = (int32_t *)scratch;
        auto **products = (const int16_t **)(scratch += sum_bytes);
        auto **met = (const uint8_t **)(scratch += pointer_bytes);
        auto *codes = (uint8_t *)(scratch + pointer_bytes);
        memset(codes, 128, channels * plane);
        const int8_t *from = job.activations + i * job.height * job.width * channels;
        for (int64_t y = 0; y < job.height; y++)
            for (int64_t x = 0; x < job.width; x++, from += channels) {
                uint8_t *at = codes + (y + job.padding_y) * columns + job.padding_x + x;
                for (int64_t c = 0; c < channels; c++) at[c * plane] = (uint8_t)(from[c] + 128);
            }
        for (int64_t output = 0; output < outputs; output++) {
            const uint8_t *weights = (const uint8_t *)job.weights + output * reduced;
            for (int64_t k = 0; k < reduced; k++) products[k] = job.maps + weights[k] * CODES;
            const uint8_t *first = codes + output / job.outputs * job.channels * plane;
            for (int64_t oy = 0; oy < job.out_height; oy++) {
                const uint8_t **tap = met;
                for (int c = 0; c < job.channels; c++)
                    for (int ky = 0; ky < job.kernel_y; ky++)
                        for (int kx = 0; kx < job.kernel_x; kx++)
                            *tap++ = first + c * plane + (oy * job.stride_y + ky) * columns + kx;
                for (int64_t ox = 0; ox < job.out_width; ox++) sums[ox] = job.start;
                int64_t k = 0;
                for (; k + 3 <= reduced; k += 3) add_line<3>(products + k, met + k, job.out_width, job.stride_x, sums);
                for (; k < reduced; k++) add_line<1>(products + k, met + k, job.out_width, job.stride_x, sums);
                int32_t *to = job.sums + (i * job.out_height + oy) * job.out_width * outputs + output;
                for (int64_t ox = 0; ox < job.out_width; ox++) to[ox * outputs] = sums[ox];
            }
        }
    });
}
