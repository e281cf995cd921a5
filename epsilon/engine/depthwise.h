// Convolutions with one channel and one output per group: channel beside channel in a vector, two taps of the kernel at a time.
#pragma once
#include "products.h"

// Adds up one pixel of 2 * LANES channels over pairs of taps; writes `valid` of them.
static inline void sum_taps(const int16_t *corner, const int64_t *taps, int64_t pairs, const int16_t *weights, int64_t apart,
                            int32_t *sums, int64_t valid) {
    Words first = {}, last = {};
    for (int64_t pair = 0; pair < pairs; pair++, weights += apart) {
        const Shorts a = load<Shorts>(corner + taps[2 * pair]), b = load<Shorts>(corner + taps[2 * pair + 1]);
        first = multiply_add(first, first_pairs(a, b), load<Words>(weights));
        last = multiply_add(last, last_pairs(a, b), load<Words>(weights + 2 * LANES));
    }
    int32_t ordered[2 * LANES];
    for (int part = 0; part < VECTOR_BYTES / 16; part++) {
        memcpy(ordered + 8 * part, (const char *)&first + 16 * part, 16);
        memcpy(ordered + 8 * part + 4, (const char *)&last + 16 * part, 16);
    }
    if (valid >= 2 * LANES) memcpy(sums, ordered, sizeof ordered);
    else memcpy(sums, ordered, valid * sizeof *sums);
}

// Weights: int16 (pairs of (kernel_y, kernel_x, terms), blocks of 2 * LANES channels, 2, VECTOR_BYTES / 16, 4, 2): in the order of
// first_pairs and last_pairs; zeros beyond the last.
static int convolve_depthwise(const Job &job) {
    // All channels of a term lie together here, as if they were those of one group.
    Job whole = job;
    whole.channels = job.groups, whole.groups = 1;
    const int64_t channels = job.groups, columns = job.width + 2 * job.padding_x, line = columns * job.depth;
    const int64_t blocks = (channels + 2 * LANES - 1) / (2 * LANES);
    const Parts parts(job, job.out_width, job.out_height, line * job.stride_y * 2);
    const int64_t lines = (parts.band - 1) * job.stride_y + job.kernel_y;
    std::vector<int64_t> taps;
    for (int ky = 0; ky < job.kernel_y; ky++)
        for (int kx = 0; kx < job.kernel_x; kx++)
            for (int term = 0; term < job.terms; term++) taps.push_back(ky * line + kx * job.depth + term * channels);
    if (taps.size() % 2) taps.push_back(taps.back());

    return share(job.threads, parts.count, (lines * line + 2 * LANES) * 2, [&](int64_t item, char *scratch) {
        auto *mapped = (int16_t *)scratch;
        const int64_t image = item / parts.across * parts.images, y = item % parts.across * parts.band;
        const int64_t band = std::min<int64_t>(parts.band, job.out_height - y);
        for (int64_t i = image; i < std::min<int64_t>(image + parts.images, job.batch); i++) {
            map_lines(whole, job.activations + i * job.height * job.width * channels, y * job.stride_y,
                      (band - 1) * job.stride_y + job.kernel_y, columns, mapped);
            for (int64_t pixel = 0; pixel < band * job.out_width; pixel++) {
                const int64_t oy = pixel / job.out_width, ox = pixel % job.out_width;
                const int16_t *corner = mapped + oy * job.stride_y * line + ox * job.stride_x * job.depth;
                int32_t *sums = job.sums + ((i * job.out_height + y) * job.out_width + pixel) * channels;
                for (int64_t block = 0; block < blocks; block++)
                    sum_taps(corner + block * 2 * LANES, taps.data(), taps.size() / 2,
                             (const int16_t *)job.weights + block * 4 * LANES, blocks * 4 * LANES, sums + block * 2 * LANES,
                             channels - block * 2 * LANES);
            }
        }
    });
}
