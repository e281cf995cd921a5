// A weighted layer and a batch for it, and how the work is shared by threads.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

// Mirrored by `_Job` in native.py. Activations (batch, height, width, groups * channels) and sums (batch, out_height, out_width,
// groups * outputs) have their channels last.
struct Job {
    const int8_t *activations;
    const void *weights;
    int32_t *sums;
    const int16_t *maps;     // (terms, 256): what becomes of an activation in a term; for a table (256 weights, 256 activations)
    const int32_t *masks;    // (terms): the same as a bit mask, or -1
    int32_t batch, height, width, channels, groups, outputs;
    int32_t kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x, out_height, out_width;
    int32_t terms, depth;    // depth: int16 values of a pixel, at least terms * channels
    int32_t start;           // what every sum starts from
    int32_t threads;
};

constexpr int OUT_OF_MEMORY = 1;
//: Bytes that a thread works on at a time, so that they stay in its cache; and rows that pay for loading the weights again.
constexpr int64_t CACHE_BYTES = 256 * 1024;
constexpr int64_t LEAST_ROWS = 96;

static inline int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Parts of a batch: `images` whole images, or `band` rows of one.
struct Parts {
    int64_t images, band, across, count;

    // rows: of the product, in a line of an image; lines: of an image; bytes: of a line.
    Parts(const Job &job, int64_t rows, int64_t lines, int64_t bytes, int64_t least = LEAST_ROWS) {
        const int64_t share = std::max<int64_t>(1, (job.batch + job.threads - 1) / job.threads);
        const int64_t wanted = std::max({int64_t{1}, (least + rows - 1) / rows, CACHE_BYTES / bytes});
        band = std::min(lines, wanted);
        if (band < lines) band = (lines + (lines + band - 1) / band - 1) / ((lines + band - 1) / band);
        images = band < lines ? 1 : std::min(share, std::max<int64_t>(1, wanted / lines));
        across = (lines + band - 1) / band;
        count = (job.batch + images - 1) / images * across;
    }
};

// Calls work(item, scratch) for every item, each once, on several threads.
template <class Work> static int share(int threads, int64_t items, int64_t scratch_bytes, Work work) {
    threads = (int)std::max<int64_t>(1, std::min<int64_t>(threads, items));
    scratch_bytes = up(scratch_bytes, 4096) + 4096;
    char *scratch = (char *)aligned_alloc(4096, scratch_bytes * threads);
    if (!scratch) return OUT_OF_MEMORY;
    std::atomic<int64_t> next{0};
    auto loop = [&](int thread) {
        for (int64_t item; (item = next++) < items;) work(item, scratch + scratch_bytes * thread);
    };
    std::vector<std::thread> others;
    try {
        for (int thread = 1; thread < threads; thread++) others.emplace_back(loop, thread);
    } catch (const std::system_error &) {
        // No more threads: those that there are do the work.
    }
    loop(0);
    for (auto &other : others) other.join();
    free(scratch);
    return 0;
}
