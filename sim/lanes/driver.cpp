// Drives a generated accelerator: a whole program per call, one beat of every stream per clock cycle, as sim/harness.cpp does.
//
// The generator defines PLACE_<port>; CHANGED_<port>, the flag to set when an input changes; BYTES_<stream> of a beat; HAVE_FAULTS.

#include "transpose.h"

namespace {

enum Input { COMMANDS, WEIGHTS, ACTIVATIONS, FAULTS, INPUTS };
enum Output { RESULTS, READBACK, SIGNATURES, OUTPUTS };
enum Status { OK = 0, TIMEOUT = 1, OVERFLOW = 2, LEFTOVER = 3 };

// Mirrored by sim/lanes/model.py. Strides in bytes; a lane stride of 0 gives all lanes the same beats. Pauses in 1/65536.
struct Job {
    const uint8_t *input[INPUTS];
    int64_t input_lane_stride[INPUTS];
    int64_t input_beat_stride[INPUTS];
    uint64_t input_beats[INPUTS];
    uint64_t input_taken[INPUTS];    // written: beats that crossed
    uint8_t *output[OUTPUTS];
    int64_t output_lane_stride[OUTPUTS];
    uint64_t output_capacity[OUTPUTS];
    uint64_t output_beats[OUTPUTS];  // written
    uint64_t lanes;                  // of this simulation that are in use
    uint64_t max_cycles;
    uint64_t busy_cycles;            // written: the accelerator's own counter
    uint64_t clock_cycles;           // written
    uint32_t input_pause[INPUTS];
    uint32_t output_pause[OUTPUTS];
    uint64_t seed;
    uint8_t *trace;                  // null, or a record of the outputs in every cycle of these lanes
    uint64_t trace_cycles;
};

struct Random {
    uint64_t state;
    bool pauses(uint32_t pause) {
        if (!pause) return false;
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return ((state * 0x2545F4914F6CDD1DULL) >> 48) < pause;
    }
};

void put_bits(uint8_t *b, const uint8_t *beat, int bytes) {
    for (int i = 0; i < bytes; ++i)
        for (int k = 0; k < 8; ++k) b[8 * i + k] = beat[i] >> k & 1;
}

uint32_t word_of(const uint8_t *b, int width) {
    uint32_t word = 0;
    for (int k = 0; k < width; ++k) word |= (uint32_t)b[k] << k;
    return word;
}

// The beats of an input stream, a few ahead of time when the lanes differ: transposing many at once reads memory in longer runs.
struct Source {
    enum { AHEAD = 16 };
    const uint8_t *data;
    int64_t lane_stride, beat_stride;
    uint64_t lanes, end, ready_from = 0, ready_to = 0;
    int bytes;
    V *ahead = nullptr;

    ~Source() { free(ahead); }

    // How many of what lies so far apart share a line of the memory; a stride may be 0, where all are the same, or negative.
    static uint64_t per_line(int64_t stride) { return stride > 0 && stride < 64 ? 64 / stride : 1; }

    void put(V *port, uint64_t beat) {
        if (!lane_stride) {
            const uint8_t *const bits = data + beat * beat_stride;
            for (int i = 0; i < bytes; ++i)
                for (int k = 0; k < 8; ++k) port[8 * i + k] = MASK(bits[i] >> k & 1);
            return;
        }
        const size_t size = (size_t)bytes * 8;
        if (beat >= ready_to) {
            if (!ahead) ahead = (V *)aligned_alloc(64, (AHEAD * size * sizeof(V) + 63) / 64 * 64);
            ready_from = beat;
            ready_to = beat + AHEAD < end ? beat + AHEAD : end;
            for (uint64_t next = ready_from; next < ready_to; ++next)
                to_lanes(data + next * beat_stride, lane_stride, bytes, lanes, ahead + (next - ready_from) * size);
        }
        if (beat + AHEAD < end && beat % per_line(beat_stride) == 0) {
            // What will be transposed after this: of each line of the memory once.
            const uint8_t *const later = data + (beat + AHEAD) * beat_stride;
            for (uint64_t lane = 0; lane < lanes; lane += per_line(lane_stride)) __builtin_prefetch(later + lane * lane_stride, 0, 2);
        }
        move(port, ahead + (beat - ready_from) * size, size);
    }
};

// The beats of an output stream. They leave a few at a time: each lane's are far from the others', and memory is written in longer runs.
struct Sink {
    enum { TOGETHER = 16 };
    uint8_t *data;
    int64_t lane_stride;
    uint64_t lanes, count = 0;
    int bytes;
    uint8_t *kept = nullptr;  // [beat][lane][byte]

    ~Sink() { free(kept); }

    void put(const V *port) {
        if (!kept) kept = (uint8_t *)malloc(TOGETHER * lanes * bytes);
        from_lanes(port, bytes, lanes, kept + count++ * lanes * bytes, bytes);
        if (count == TOGETHER) flush();
    }

    // A call of memcpy would take longer than so few bytes.
    void copy(uint8_t *to, const uint8_t *from) const {
        int at = 0;
        for (; at + 16 <= bytes; at += 16) memcpy(to + at, from + at, 16);
        for (; at < bytes; ++at) to[at] = from[at];
    }

    void flush() {
        for (uint64_t lane = 0; lane < lanes; ++lane) {
            uint8_t *const target = data + (int64_t)lane * lane_stride;
            for (uint64_t beat = 0; beat < count; ++beat) copy(target + beat * bytes, kept + (beat * lanes + lane) * bytes);
        }
        data += count * bytes;
        count = 0;
    }
};

}  // namespace

extern "C" {

void epsilon_reset(Simulation *sim) {
    uint8_t *const b = sim->b;
    b[PLACE_rst] = 1;
    b[PLACE_commands_tvalid] = b[PLACE_weights_tvalid] = b[PLACE_activations_tvalid] = 0;
    b[PLACE_results_tready] = b[PLACE_readback_tready] = b[PLACE_signatures_tready] = 0;
#if HAVE_FAULTS
    b[PLACE_faults_tvalid] = 0;
#endif
    for (int cycle = 0; cycle < 2; ++cycle) {
        settle(sim);
        edge(sim);
    }
    b[PLACE_rst] = 0;
    settle(sim);
}

int epsilon_run(Simulation *sim, Job *job) {
    uint8_t *const b = sim->b;
    V *const s = sim->s;
    Random random{job->seed | 1};
    uint64_t next[INPUTS] = {};
    bool offered[INPUTS] = {};
    int status = OK;
    Source sources[INPUTS];
    const int bytes[INPUTS] = {BYTES_commands, BYTES_weights, BYTES_activations, BYTES_faults};
    for (int i = 0; i < INPUTS; ++i) {
        sources[i].data = job->input[i];
        sources[i].lane_stride = job->input_lane_stride[i];
        sources[i].beat_stride = job->input_beat_stride[i];
        sources[i].lanes = job->lanes;
        sources[i].end = job->input_beats[i];
        sources[i].bytes = bytes[i];
    }
    Sink sinks[OUTPUTS];
    const int sizes[OUTPUTS] = {BYTES_results, BYTES_readback, BYTES_signatures};
    for (int i = 0; i < OUTPUTS; ++i) {
        sinks[i].data = job->output[i];
        sinks[i].lane_stride = job->output_lane_stride[i];
        sinks[i].lanes = job->lanes;
        sinks[i].bytes = sizes[i];
    }
    const uint32_t started = word_of(b + PLACE_cycles, 32);
    for (uint64_t cycle = 0;; ++cycle) {
        if (cycle == job->max_cycles) {
            status = TIMEOUT;
            break;
        }
        // A stream keeps offering what it has offered; only a new beat may be held back.
#define OFFER(INDEX, PORT, PUT)                                                                         \
    if (!offered[INDEX] && next[INDEX] < job->input_beats[INDEX] && !random.pauses(job->input_pause[INDEX])) { \
        PUT;                                                                                            \
        offered[INDEX] = true;                                                                          \
    }                                                                                                   \
    b[PLACE_##PORT##_tvalid] = offered[INDEX];
        OFFER(COMMANDS, commands,
              put_bits(b + PLACE_commands_tdata, job->input[COMMANDS] + next[COMMANDS] * job->input_beat_stride[COMMANDS], BYTES_commands))
#define PUT(INDEX, PORT)                                    \
    sources[INDEX].put(s + PLACE_##PORT##_tdata, next[INDEX]); \
    b[CHANGED_##PORT##_tdata] = 1
        OFFER(WEIGHTS, weights, PUT(WEIGHTS, weights))
        OFFER(ACTIVATIONS, activations, PUT(ACTIVATIONS, activations))
#if HAVE_FAULTS
        OFFER(FAULTS, faults, PUT(FAULTS, faults))
#endif
        b[PLACE_results_tready] = !random.pauses(job->output_pause[RESULTS]);
        b[PLACE_readback_tready] = !random.pauses(job->output_pause[READBACK]);
        b[PLACE_signatures_tready] = !random.pauses(job->output_pause[SIGNATURES]);
        settle(sim);

        bool pending = false;
#define ACCEPT(INDEX, PORT)                           \
    if (offered[INDEX] && b[PLACE_##PORT##_tready]) { \
        offered[INDEX] = false;                       \
        ++next[INDEX];                                \
        ++job->input_taken[INDEX];                    \
    }                                                 \
    pending |= next[INDEX] < job->input_beats[INDEX];
        ACCEPT(COMMANDS, commands)
        ACCEPT(WEIGHTS, weights)
        ACCEPT(ACTIVATIONS, activations)
#if HAVE_FAULTS
        ACCEPT(FAULTS, faults)
#endif
#define TAKE(INDEX, PORT)                                                                                  \
    if (b[PLACE_##PORT##_tvalid] && b[PLACE_##PORT##_tready]) {                                            \
        if (job->output_beats[INDEX] == job->output_capacity[INDEX]) {                                     \
            status = OVERFLOW;                                                                             \
        } else {                                                                                           \
            ++job->output_beats[INDEX];                                                                    \
            sinks[INDEX].put(s + PLACE_##PORT##_tdata);                                                    \
        }                                                                                                  \
    }
        TAKE(RESULTS, results)
        TAKE(READBACK, readback)
        TAKE(SIGNATURES, signatures)
        if (cycle < job->trace_cycles) {
            // For each lane: flags and cycles, then the data of every output, valid or not.
            const int size = 8 + BYTES_results + BYTES_readback + BYTES_signatures;
            uint8_t *record = job->trace + cycle * job->lanes * size;
            const uint32_t cycles = word_of(b + PLACE_cycles, 32);
            uint32_t flags = b[PLACE_busy] | b[PLACE_commands_tready] << 1 | b[PLACE_weights_tready] << 2 |
                             b[PLACE_activations_tready] << 3 | b[PLACE_results_tvalid] << 5 | b[PLACE_readback_tvalid] << 6 |
                             b[PLACE_signatures_tvalid] << 7;
#if HAVE_FAULTS
            flags |= b[PLACE_faults_tready] << 4;
#endif
            for (uint64_t lane = 0; lane < job->lanes; ++lane) {
                memcpy(record + lane * size, &flags, 4);
                memcpy(record + lane * size + 4, &cycles, 4);
            }
            from_lanes(s + PLACE_results_tdata, BYTES_results, job->lanes, record + 8, size);
            from_lanes(s + PLACE_readback_tdata, BYTES_readback, job->lanes, record + 8 + BYTES_results, size);
            from_lanes(s + PLACE_signatures_tdata, BYTES_signatures, job->lanes, record + 8 + BYTES_results + BYTES_readback, size);
        }
        if (!b[PLACE_busy]) {
            if (!pending) break;
            if (next[COMMANDS] == job->input_beats[COMMANDS]) {
                status = LEFTOVER;  // data without a command that would ever take it
                break;
            }
        }
        edge(sim);
        b[CHANGED_weights_tdata] = b[CHANGED_activations_tdata] = 0;
#if HAVE_FAULTS
        b[CHANGED_faults_tdata] = 0;
#endif
        ++job->clock_cycles;
        if (status != OK) break;
    }
    for (Sink &sink : sinks) sink.flush();
    job->busy_cycles += (uint32_t)(word_of(b + PLACE_cycles, 32) - started);
    return status;
}
}
