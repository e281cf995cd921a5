// Products of any kind, looked up: the table's column of a weight holds its products with every activation.
#pragma once
#include "products.h"

//: Outputs, places of the reduction and rows that are worked on together; their products and sums stay in the cache.
constexpr int OUTPUTS = 32, DEEP = 4;
constexpr int64_t MOST_ROWS = 1024;
constexpr int CODES = 256;

// Pieces of a batch that are worked on at once: `images` whole images, or `band` lines of one; about `most` results of an output.
// Few, large ones: every piece spreads the products anew. But each thread gets one where it can, `others` items to a piece.
struct Pieces {
    int64_t images, band, across, count;

    Pieces(const Job &job, int64_t most, int64_t others) {
        band = std::min<int64_t>(job.out_height, std::max<int64_t>(1, most / job.out_width));
        across = (job.out_height + band - 1) / band;
        images = across > 1 ? 1 : std::max<int64_t>(1, std::min<int64_t>(job.batch, most / (band * job.out_width)));
        while (images > 1 && (job.batch + images - 1) / images * others < job.threads) images = (images + 1) / 2;
        count = (job.batch + images - 1) / images * across;
    }
};

// One of them: `images` from `image` on, and of each the results' lines from `y` on.
struct Piece {
    int64_t image, images, y, lines;

    Piece(const Job &job, const Pieces &pieces, int64_t which)
        : image(which / pieces.across * pieces.images), images(std::min<int64_t>(pieces.images, job.batch - image)),
          y(which % pieces.across * pieces.band), lines(std::min<int64_t>(pieces.band, job.out_height - y)) {}

    // Lines of the padded image that they need.
    int64_t needed(const Job &job) const { return (lines - 1) * job.stride_y + job.kernel_y; }
};

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

// Writes an 8x8 block of int16 transposed, its rows `stride` values apart.
static inline void transpose_block(__m128i *a, int16_t *to, int64_t stride) {
    __m128i b[8];
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
        for (int code = low & ~7; code <= high; code += 8) {
            __m128i block[8];
            for (int i = 0; i < 8; i++) block[i] = load<__m128i>(columns[i] + code);
            transpose_block(block, to + code * OUTPUTS + n, OUTPUTS);
        }
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
    const Pieces pieces(job, MOST_ROWS, job.groups * panels);
    const int64_t lines = (pieces.band - 1) * job.stride_y + job.kernel_y, most = pieces.images * pieces.band * job.out_width;
    const int64_t code_bytes = up(pieces.images * lines * line, 64), product_bytes = DEEP * CODES * OUTPUTS * 2;
    const int64_t sum_bytes = up(most * OUTPUTS * 4, 64), pointer_bytes = most * sizeof(void *);

    return share(job.threads, pieces.count * job.groups * panels, code_bytes + product_bytes + sum_bytes + 2 * pointer_bytes,
                 [&](int64_t item, char *scratch) {
        auto *products = (int16_t *)scratch;
        auto *sums = (int32_t *)(scratch += product_bytes);
        auto **rows = (const uint8_t **)(scratch += sum_bytes);
        auto **results = (int32_t **)(scratch += pointer_bytes);
        auto *codes = (uint8_t *)(scratch += pointer_bytes);
        const int64_t group = item / panels % job.groups, panel = item % panels;
        const Piece piece(job, pieces, item / (job.groups * panels));
        const int64_t needed = piece.needed(job);
        int64_t count = 0;
        uint8_t least = 255, greatest = 0;
        for (int64_t i = 0; i < piece.images; i++) {
            const int8_t *from = job.activations + (piece.image + i) * job.height * job.width * job.groups * job.channels;
            uint8_t *to = codes + i * lines * line;
            copy_codes(job, from + group * job.channels, piece.y * job.stride_y, needed, columns, to);
            for (int64_t k = 0; k < needed * line; k++) least = std::min(least, to[k]), greatest = std::max(greatest, to[k]);
            for (int64_t oy = 0; oy < piece.lines; oy++)
                for (int64_t ox = 0; ox < job.out_width; ox++, count++) {
                    rows[count] = to + oy * job.stride_y * line + ox * job.stride_x * job.channels;
                    const int64_t pixel = ((piece.image + i) * job.out_height + piece.y + oy) * job.out_width + ox;
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
