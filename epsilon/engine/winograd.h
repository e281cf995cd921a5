// 3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3) in integers: 36 products for 16 outputs instead of 144.
//
// Ref: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, pp. 4013-4021.
// The rows of the kernel's transformation are multiplied by SCALES, which leaves integers, and the outputs' transformation makes up
// for it to 24 in each direction; so what comes out is 576 times the result, modulo 2**32. 576 = 9 * 64: 9 has an inverse modulo
// 2**32, and a shift divides by 64, exactly while the result fits 26 bits. No sum on the way has to fit anything.
#pragma once
#include "products.h"

constexpr int TILE = 4, EDGE = TILE + 2, POINTS = EDGE * EDGE;
constexpr int32_t INVERSE_OF_9 = 0x38E38E39;
//: Tiles that pay for loading the weights again, and bytes between what would otherwise fall into the same set of the cache.
constexpr int64_t LEAST_TILES = 24, APART = 192;

// One direction of the activations' transformation (row i of the paper's B^T, times d).
static inline void transform(const Shorts d[EDGE], Shorts to[EDGE]) {
    const Shorts even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
    const Shorts near = d[4] - d[2], far = 2 * (d[3] - d[1]);
    to[0] = 4 * d[0] - 5 * d[2] + d[4];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = near + far;
    to[4] = near - far;
    to[5] = 4 * d[1] - 5 * d[3] + d[5];
}

// One direction of the outputs' transformation (A^T), the points weighted by 24 / SCALES = 6, 4, 4, 1, 1, 24.
static inline void finish(const Words m[EDGE], Words to[TILE]) {
    const Words sum = 4 * (m[1] + m[2]), difference = 4 * (m[1] - m[2]), far_sum = m[3] + m[4], far_difference = 2 * (m[3] - m[4]);
    to[0] = 6 * m[0] + sum + far_sum;
    to[1] = difference + far_difference;
    to[2] = sum + 4 * far_sum;
    to[3] = difference + 4 * far_difference + 24 * m[5];
}

// Writes the transformed values of a tile, `apart` from each other, for all of its depth.
static inline void transform_tile(const int16_t *from, int64_t line, int64_t depth, int64_t apart, int16_t *to) {
    for (int64_t k = 0; k < depth; k += 2 * LANES) {
        Shorts part[EDGE][EDGE], column[EDGE];
        for (int i = 0; i < EDGE; i++) {
            Shorts d[EDGE];
            for (int j = 0; j < EDGE; j++) d[j] = load<Shorts>(from + i * line + j * depth + k);
            transform(d, part[i]);
        }
        for (int j = 0; j < EDGE; j++) {
            Shorts d[EDGE];
            for (int i = 0; i < EDGE; i++) d[i] = part[i][j];
            transform(d, column);
            for (int i = 0; i < EDGE; i++) store(to + (i * EDGE + j) * apart + k, column[i]);
        }
    }
}

// Writes the outputs of a tile, those inside the image, from its sums, which are `apart` from each other.
static inline void finish_tile(const int32_t *from, int64_t apart, int valid, int32_t *to, int64_t outputs, int64_t width, int high,
                               int wide) {
    for (int n = 0; n < valid; n += LANES) {
        Words part[EDGE][TILE], column[TILE];
        for (int i = 0; i < EDGE; i++) {
            Words m[EDGE];
            for (int j = 0; j < EDGE; j++) m[j] = load<Words>(from + (i * EDGE + j) * apart + n);
            finish(m, part[i]);
        }
        const size_t bytes = std::min(LANES, valid - n) * sizeof(int32_t);
        for (int j = 0; j < wide; j++) {
            Words m[EDGE];
            for (int i = 0; i < EDGE; i++) m[i] = part[i][j];
            finish(m, column);
            for (int i = 0; i < high; i++) {
                const Words result = (column[i] * INVERSE_OF_9) >> 6;
                int32_t *at = to + (i * width + j) * outputs + n;
                if (bytes == sizeof(Words)) store(at, result);
                else memcpy(at, &result, bytes);
            }
        }
    }
}

// Weights: int16 (panels, POINTS, pairs of depth, PANEL, 2), zeros beyond the last; one group; depth a multiple of a vector.
static int convolve_winograd(const Job &job) {
    const int64_t across = (job.out_width + TILE - 1) / TILE, down = (job.out_height + TILE - 1) / TILE;
    const int64_t columns = TILE * across + 2, line = columns * job.depth;
    const int64_t panels = (job.outputs + PANEL - 1) / PANEL;
    const Parts parts(job, across, down, across * POINTS * (job.depth * 2 + PANEL * 4), LEAST_TILES);
    const int64_t lines = TILE * parts.band + 2, most = parts.images * parts.band * across;
    const int64_t apart = most * job.depth + APART / 2, sums_apart = most * PANEL + APART / 4;
    const int64_t mapped_bytes = up(lines * line * 2, 64), transformed_bytes = up(POINTS * apart * 2, 64);
    const int64_t summed_bytes = up(POINTS * sums_apart * 4, 64), pointer_bytes = POINTS * most * sizeof(void *);

    return share(job.threads, parts.count, mapped_bytes + transformed_bytes + summed_bytes + 2 * pointer_bytes,
                 [&](int64_t item, char *scratch) {
        auto *mapped = (int16_t *)scratch;
        auto *transformed = (int16_t *)(scratch += mapped_bytes);
        auto *summed = (int32_t *)(scratch += transformed_bytes);
        auto **rows = (const int16_t **)(scratch += summed_bytes);
        auto **sums = (int32_t **)(scratch + pointer_bytes);
        const int64_t image = item / parts.across * parts.images, ty = item % parts.across * parts.band;
        const int64_t images = std::min<int64_t>(parts.images, job.batch - image), band = std::min(parts.band, down - ty);
        const int64_t tiles = images * band * across;
        for (int64_t i = 0; i < images; i++) {
            const int8_t *from = job.activations + (image + i) * job.height * job.width * job.channels;
            map_lines(job, from, TILE * ty, TILE * band + 2, columns, mapped);
            for (int64_t tile = 0; tile < band * across; tile++)
                transform_tile(mapped + TILE * (tile / across * line + tile % across * job.depth), line, job.depth, apart,
                               transformed + (i * band * across + tile) * job.depth);
        }
        for (int64_t point = 0; point < POINTS; point++)
            for (int64_t tile = 0; tile < tiles; tile++) {
                rows[point * tiles + tile] = transformed + point * apart + tile * job.depth;
                sums[point * tiles + tile] = summed + point * sums_apart + tile * PANEL;
            }
        for (int64_t panel = 0; panel < panels; panel++) {
            for (int64_t point = 0; point < POINTS; point++) {
                const auto *weights = (const int16_t *)job.weights + (panel * POINTS + point) * job.depth * PANEL;
                sum_all_rows(rows + point * tiles, tiles, 0, 1, job.depth / 2, weights, 0, sums + point * tiles, PANEL);
            }
            const int valid = (int)std::min<int64_t>(PANEL, job.outputs - panel * PANEL);
            for (int64_t tile = 0; tile < tiles; tile++) {
                const int64_t i = image + tile / (band * across);
                const int64_t y = TILE * (ty + tile / across % band), x = TILE * (tile % across);
                finish_tile(summed + tile * PANEL, sums_apart, valid,
                            job.sums + ((i * job.out_height + y) * job.out_width + x) * job.outputs + panel * PANEL, job.outputs,
                            job.out_width, (int)std::min<int64_t>(TILE, job.out_height - y),
                            (int)std::min<int64_t>(TILE, job.out_width - x));
            }
        }
    });
}
