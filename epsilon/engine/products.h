// Activations spread out as int16, and the product of their rows with a panel of weights.
#pragma once
#include "job.h"
#include "vectors.h"

// Writes the mapped values of pixels: for each the terms, for each term the channels of a group, then zeros up to the depth.
static inline void map_pixels(const Job &job, const int8_t *from, int64_t pixels, int16_t *to) {
    const int64_t step = (int64_t)job.groups * job.channels;
    int64_t run = job.channels;
    if (job.terms == 1 && job.groups == 1 && job.depth == job.channels) run *= pixels, pixels = 1;
    for (int64_t pixel = 0; pixel < pixels; pixel++, from += step, to += job.depth) {
        for (int term = 0; term < job.terms; term++) {
            int16_t *mapped = to + term * run;
            const int mask = job.masks[term];
            if (mask >= 0) {
                for (int64_t c = 0; c < run; c++) mapped[c] = (int8_t)(from[c] & mask);
            } else {
                const int16_t *map = job.maps + 256 * term + 128;
                for (int64_t c = 0; c < run; c++) mapped[c] = map[from[c]];
            }
        }
        for (int64_t k = job.terms * run; k < job.depth; k++) to[k] = 0;
    }
}

// Writes lines of a group of an image, padded (code 0 goes through the maps as well) and `columns` wide.
static inline void map_lines(const Job &job, const int8_t *image, int64_t first, int64_t lines, int64_t columns, int16_t *to) {
    std::vector<int16_t> edge(job.depth, 0);
    bool zero = true;
    for (int term = 0; term < job.terms; term++)
        for (int c = 0; c < job.channels; c++) {
            edge[term * job.channels + c] = job.maps[256 * term + 128];
            zero = zero && !edge[term * job.channels + c];
        }
    auto pad = [&](int16_t *at, int64_t pixels) {
        if (zero) memset(at, 0, pixels * job.depth * sizeof *at);
        else
            for (int64_t pixel = 0; pixel < pixels; pixel++) memcpy(at + pixel * job.depth, edge.data(), job.depth * sizeof *at);
    };
    const int64_t inside = std::min<int64_t>(job.width, columns - job.padding_x);
    for (int64_t line = 0; line < lines; line++, to += columns * job.depth) {
        const int64_t y = first + line - job.padding_y;
        if (y < 0 || y >= job.height) {
            pad(to, columns);
            continue;
        }
        pad(to, job.padding_x);
        map_pixels(job, image + y * job.width * job.groups * job.channels, inside, to + job.padding_x * job.depth);
        pad(to + (job.padding_x + inside) * job.depth, columns - job.padding_x - inside);
    }
}

// Sums of R rows over `segments` runs of int16 pairs, `stride` values apart in the rows and adjacent in the weights.
template <int R>
static inline void sum_rows(const int16_t *const *rows, int64_t stride, int segments, int64_t pairs, const int16_t *weights,
                            int32_t start, int32_t *const *sums, int valid) {
    Words total[R][2];
    for (int r = 0; r < R; r++) total[r][0] = total[r][1] = start - Words{};
    for (int segment = 0; segment < segments; segment++) {
        const int16_t *at[R];
        for (int r = 0; r < R; r++) at[r] = rows[r] + segment * stride;
        for (int64_t pair = 0; pair < pairs; pair++, weights += 2 * PANEL) {
            const Words left = load<Words>(weights), right = load<Words>(weights + PANEL);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const Words both = repeated(at[r] + 2 * pair);
                total[r][0] = multiply_add(total[r][0], both, left);
                total[r][1] = multiply_add(total[r][1], both, right);
            }
        }
    }
    for (int r = 0; r < R; r++) {
        if (valid >= PANEL) {
            store(sums[r], total[r][0]);
            store(sums[r] + LANES, total[r][1]);
        } else {
            memcpy(sums[r], total[r], valid * sizeof(int32_t));
        }
    }
}

// The same for any number of rows.
static inline void sum_all_rows(const int16_t *const *rows, int64_t count, int64_t stride, int segments, int64_t pairs,
                                const int16_t *weights, int32_t start, int32_t *const *sums, int valid) {
    int64_t row = 0;
    for (; row + ROWS <= count; row += ROWS) sum_rows<ROWS>(rows + row, stride, segments, pairs, weights, start, sums + row, valid);
    switch (count - row) {
#define REST(R) \
    case R: \
        sum_rows<R>(rows + row, stride, segments, pairs, weights, start, sums + row, valid); \
        break;
        REST(1) REST(2) REST(3) REST(4) REST(5)
#if ROWS > 6
        REST(6) REST(7)
#endif
#undef REST
    }
}
