// Convolutions (a linear layer is one of a 1x1 image) as products of rows that lie in the padded image itself: nothing is unfolded.
#pragma once
#include "products.h"

// Weights: int16 (groups, panels, kernel_y, pairs of (kernel_x, depth), PANEL, 2), zeros beyond the last.
static int convolve_direct(const Job &job) {
    const int64_t columns = job.width + 2 * job.padding_x, line = columns * job.depth;
    const int64_t pairs = ((int64_t)job.kernel_x * job.depth + 1) / 2;
    const int64_t panels = (job.outputs + PANEL - 1) / PANEL, panel_size = job.kernel_y * pairs * 2 * PANEL;
    const Parts parts(job, job.out_width, job.out_height, line * job.stride_y * 2);
    const int64_t lines = (parts.band - 1) * job.stride_y + job.kernel_y;
    const int64_t most = parts.images * parts.band * job.out_width;
    const int64_t mapped_bytes = up(parts.images * lines * line * 2 + 64, 64), pointer_bytes = most * sizeof(void *);

    return share(job.threads, parts.count, mapped_bytes + 2 * pointer_bytes, [&](int64_t item, char *scratch) {
        auto *mapped = (int16_t *)scratch;
        auto **rows = (const int16_t **)(scratch + mapped_bytes);
        auto **sums = (int32_t **)(scratch + mapped_bytes + pointer_bytes);
        const int64_t image = item / parts.across * parts.images, y = item % parts.across * parts.band;
        const int64_t images = std::min<int64_t>(parts.images, job.batch - image);
        const int64_t band = std::min<int64_t>(parts.band, job.out_height - y);
        const int64_t needed = (band - 1) * job.stride_y + job.kernel_y;
        for (int group = 0; group < job.groups; group++) {
            int64_t count = 0;
            for (int64_t i = 0; i < images; i++) {
                const int8_t *from = job.activations + (image + i) * job.height * job.width * job.groups * job.channels;
                int16_t *to = mapped + i * lines * line;
                map_lines(job, from + group * job.channels, y * job.stride_y, needed, columns, to);
                for (int64_t oy = 0; oy < band; oy++)
                    for (int64_t ox = 0; ox < job.out_width; ox++, count++) {
                        rows[count] = to + oy * job.stride_y * line + ox * job.stride_x * job.depth;
                        const int64_t pixel = ((image + i) * job.out_height + y + oy) * job.out_width + ox;
                        sums[count] = job.sums + pixel * job.groups * job.outputs + group * job.outputs;
                    }
            }
            for (int64_t panel = 0; panel < panels; panel++) {
                const auto *weights = (const int16_t *)job.weights + (group * panels + panel) * panel_size;
                sum_all_rows(rows, count, line, job.kernel_y, pairs, weights, job.start, sums, (int)(job.outputs - panel * PANEL));
                for (int64_t row = 0; row < count; row++) sums[row] += PANEL;
            }
        }
    });
}
