// Drives the Verilated accelerator: whole programs per call, one beat of every stream per clock cycle.
//
// ports.h (generated with each build) defines TDATA_BYTES for the streams, HAVE_FAULTS and VM_TRACE.

#include <cstdint>
#include <cstring>
#include <memory>

#include "Vtop.h"
#include "ports.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

enum Input { COMMANDS, WEIGHTS, ACTIVATIONS, FAULTS, INPUTS };
enum Output { RESULTS, READBACK, SIGNATURES, OUTPUTS };
enum Status { OK = 0, TIMEOUT = 1, OVERFLOW = 2, LEFTOVER = 3 };

// Mirrored by sim/verilated.py. Pauses are probabilities in 1/65536 that a stream rests in a cycle in which it could move.
struct Job {
    const uint8_t* input[INPUTS];
    uint64_t input_beats[INPUTS];
    uint64_t input_taken[INPUTS];    // written: beats that crossed, all images
    uint8_t* output[OUTPUTS];
    uint64_t output_capacity[OUTPUTS];
    uint64_t output_beats[OUTPUTS];  // written
    uint64_t images;                 // repetitions; every stream but ACTIVATIONS starts over for each
    uint64_t max_cycles;             // for each image
    uint64_t busy_cycles;            // written: the accelerator's own counter, all images
    uint64_t clock_cycles;           // written
    uint32_t input_pause[INPUTS];
    uint32_t output_pause[OUTPUTS];
    uint64_t seed;
};

namespace {

struct Model {
    VerilatedContext context;
    Vtop top{&context};
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> trace;
#endif
    uint64_t time = 0;

    void half_cycle(int clk) {
        top.clk = clk;
        top.eval();
#if VM_TRACE
        if (trace) trace->dump(time);
#endif
        ++time;
    }
};

struct Random {
    uint64_t state;
    // True with probability pause / 65536 (xorshift64*).
    bool pauses(uint32_t pause) {
        if (!pause) return false;
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return ((state * 0x2545F4914F6CDD1DULL) >> 48) < pause;
    }
};

template <typename Port>
void put(Port& port, const uint8_t* beat, size_t bytes) {
    std::memcpy(static_cast<void*>(&port), beat, bytes);
}

template <typename Port>
void get(const Port& port, uint8_t* beat, size_t bytes) {
    std::memcpy(beat, static_cast<const void*>(&port), bytes);
}

}  // namespace

extern "C" {

void* epsilon_new() { return new Model; }

void epsilon_delete(void* handle) {
    auto* model = static_cast<Model*>(handle);
    model->top.final();
#if VM_TRACE
    if (model->trace) model->trace->close();
#endif
    delete model;
}

int epsilon_trace(void* handle, const char* path) {
#if VM_TRACE
    auto* model = static_cast<Model*>(handle);
    model->context.traceEverOn(true);
    model->trace = std::make_unique<VerilatedVcdC>();
    model->top.trace(model->trace.get(), 99);
    model->trace->open(path);
    return model->trace->isOpen() ? 0 : 1;
#else
    (void)handle;
    (void)path;
    return 1;
#endif
}

void epsilon_reset(void* handle) {
    auto* model = static_cast<Model*>(handle);
    auto& top = model->top;
    top.rst = 1;
    top.commands_tvalid = top.weights_tvalid = top.activations_tvalid = 0;
    top.results_tready = top.readback_tready = top.signatures_tready = 0;
#if HAVE_FAULTS
    top.faults_tvalid = 0;
#endif
    for (int cycle = 0; cycle < 2; ++cycle) {
        model->half_cycle(0);
        model->half_cycle(1);
    }
    top.rst = 0;
}

int epsilon_run(void* handle, Job* job) {
    auto* model = static_cast<Model*>(handle);
    auto& top = model->top;
    Random random{job->seed | 1};
    uint64_t next[INPUTS] = {};
    bool offered[INPUTS] = {};
    int status = OK;
    top.results_tready = top.readback_tready = top.signatures_tready = 1;

    for (uint64_t image = 0; image < job->images && status == OK; ++image) {
        const uint64_t activations_end = (image + 1) * job->input_beats[ACTIVATIONS];
        const uint64_t end[INPUTS] = {job->input_beats[COMMANDS], job->input_beats[WEIGHTS], activations_end,
                                      job->input_beats[FAULTS]};
        next[COMMANDS] = next[WEIGHTS] = next[FAULTS] = 0;
        const uint32_t started = top.cycles;
        for (uint64_t cycle = 0;; ++cycle) {
            if (cycle == job->max_cycles) {
                status = TIMEOUT;
                break;
            }
            // A stream keeps offering what it has offered; only a new beat may be held back.
#define OFFER(INDEX, PORT)                                                                                \
    if (!offered[INDEX] && next[INDEX] < end[INDEX] && !random.pauses(job->input_pause[INDEX])) {           \
        put(top.PORT##_tdata, job->input[INDEX] + next[INDEX] * PORT##_BYTES, PORT##_BYTES);                \
        offered[INDEX] = true;                                                                              \
    }                                                                                                       \
    top.PORT##_tvalid = offered[INDEX];
            OFFER(COMMANDS, commands)
            OFFER(WEIGHTS, weights)
            OFFER(ACTIVATIONS, activations)
#if HAVE_FAULTS
            OFFER(FAULTS, faults)
#endif
            top.results_tready = !random.pauses(job->output_pause[RESULTS]);
            top.readback_tready = !random.pauses(job->output_pause[READBACK]);
            top.signatures_tready = !random.pauses(job->output_pause[SIGNATURES]);
            model->half_cycle(0);

            bool pending = false;
#define ACCEPT(INDEX, PORT)                             \
    if (offered[INDEX] && top.PORT##_tready) {          \
        offered[INDEX] = false;                         \
        ++next[INDEX];                                  \
        ++job->input_taken[INDEX];                      \
    }                                                   \
    pending |= next[INDEX] < end[INDEX];
            ACCEPT(COMMANDS, commands)
            ACCEPT(WEIGHTS, weights)
            ACCEPT(ACTIVATIONS, activations)
#if HAVE_FAULTS
            ACCEPT(FAULTS, faults)
#endif
#define TAKE(INDEX, PORT)                                                                                   \
    if (top.PORT##_tvalid && top.PORT##_tready) {                                                           \
        if (job->output_beats[INDEX] == job->output_capacity[INDEX]) {                                      \
            status = OVERFLOW;                                                                              \
        } else {                                                                                            \
            get(top.PORT##_tdata, job->output[INDEX] + job->output_beats[INDEX]++ * PORT##_BYTES, PORT##_BYTES); \
        }                                                                                                   \
    }
            TAKE(RESULTS, results)
            TAKE(READBACK, readback)
            TAKE(SIGNATURES, signatures)
            const bool busy = top.busy;
            if (!busy) {
                if (!pending) break;
                if (next[COMMANDS] == end[COMMANDS]) {
                    status = LEFTOVER;  // data without a command that would ever take it
                    break;
                }
            }
            model->half_cycle(1);
            ++job->clock_cycles;
            if (status != OK) break;
        }
        job->busy_cycles += static_cast<uint32_t>(top.cycles - started);
    }
    return status;
}
}
