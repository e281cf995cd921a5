// What every generated simulation needs. LANES is the number of bits of a vector: 512, 256, 128 or 64.
// Before this: enum { VECTORS, BITS, LINES, INSTANCES }, enum { WINDOWS, WINDOW, MOST_VECTORS }. After it: settle, edge, init, refresh,
// disturb, nets_of.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if LANES == 64
typedef uint64_t V;
#define NONE ((V)0)
#else
typedef uint64_t V __attribute__((vector_size(LANES / 8)));
#define NONE (V{})
#endif
#define HUGE_PAGE ((size_t)2 << 20)
#define ALL (~NONE)
#define MASK(bit) (NONE - (uint64_t)(bit))
#define STUCK(value, net) ((((value) & ~sa0[net])) | sa1[net])
#define ENABLED(guard) ((guard) < 0 || b[guard])

#define MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#if defined(__AVX512F__) && LANES == 512
#define LOOKUP(x, y, z, table) ((V)_mm512_ternarylogic_epi64((__m512i)(x), (__m512i)(y), (__m512i)(z), table))
#endif

typedef unsigned __int128 History;

struct Simulation {
    void *block;
    size_t mapped;
    V *s;  // in the block, aligned
    uint8_t *b;
    V **stuck;          // for each instance its masks (stuck at 0, then stuck at 1, one of each per net), or null
    int32_t *position;  // of each delay line
    History *history;   // of each delay line: whether its source may have changed before the last edge (bit 0), the one before, ..
    int32_t *where;     // of each window: the place that is seen in it
};

// Eight bytes, the first of them lowest.
[[maybe_unused]] static inline uint64_t word(const uint8_t *bytes) {
    uint64_t value;
    memcpy(&value, bytes, 8);
    return value;
}

static void settle(Simulation *);
static void edge(Simulation *);
static void init(Simulation *);
static void refresh(Simulation *, int);
static void disturb(Simulation *);  // all state may have changed
static int nets_of(int);

// A copy of whole vectors: a word of a memory or of a register is too short for the string instructions that memcpy takes for it.
static inline void move(V *__restrict to, const V *__restrict from, size_t count) {
#pragma GCC unroll 8
    for (size_t i = 0; i < count; ++i) to[i] = from[i];
}

// A place, or what is seen in a window.
[[maybe_unused]] static inline V *at(const Simulation *sim, int32_t place) {
    return sim->s + (place < WINDOW ? place : sim->where[(place - WINDOW) / MOST_VECTORS] + place % MOST_VECTORS);
}

[[maybe_unused]] static void copies(Simulation *sim, const int32_t (*t)[4], int count) {
    const uint8_t *const b = sim->b;
    for (int i = 0; i < count; ++i)
        if (ENABLED(t[i][0])) move(sim->s + t[i][1], at(sim, t[i][2]), t[i][3]);
}

// Columns: guard, target, source, count, reset, flag of the source, flag of the target, whether the last edge has cleared it. Without
// a guard, nothing is done while the source does not change.
[[maybe_unused]] static void registers(Simulation *sim, const int32_t (*t)[8], int count) {
    V *const s = sim->s;
    uint8_t *const b = sim->b;
    for (int i = 0; i < count; ++i) {
        const bool clear = t[i][4] >= 0 && b[t[i][4]], take = t[i][0] < 0 ? b[t[i][5]] | b[t[i][7]] : b[t[i][0]];
        if (clear) memset((void *)(s + t[i][1]), 0, t[i][3] * sizeof(V));
        else if (take) move(s + t[i][1], at(sim, t[i][2]), t[i][3]);
        b[t[i][6]] = clear || take;
        b[t[i][7]] = clear;
    }
}

// A word of a memory; beyond its end there are zeros.
[[maybe_unused]] static void fetch(V *s, int target, int start, int width, uint32_t depth, uint32_t address) {
    if (address < depth) move(s + target, s + start + (size_t)address * width, width);
    else memset((void *)(s + target), 0, width * sizeof(V));
}

// Bring a word nearer that is soon to be fetched or written: a deep memory is not in the caches of a core.
// (A call of its own would have no effect that the compiler knows of, and be dropped.)
[[maybe_unused, gnu::always_inline]] static inline void approach(const V *s, int start, int width, uint32_t depth, uint32_t address) {
    if (address >= depth) return;
    const char *const word = (const char *)(s + start + (size_t)address * width);
    for (size_t at = 0; at < width * sizeof(V); at += 64) __builtin_prefetch(word + at, 1, 2);
}

[[maybe_unused]] static void fetch_bits(uint8_t *b, int target, int start, int width, uint32_t depth, uint32_t address) {
    if (address < depth) memcpy(b + target, b + start + (size_t)address * width, width);
    else memset(b + target, 0, width);
}

[[maybe_unused]] static inline uint8_t read_bit(const uint8_t *memory, int width, uint32_t depth, int bit, uint32_t address) {
    return address < depth ? memory[(size_t)address * width + bit] : 0;
}

// Delay lines are rings: at an edge nothing moves, but the newest stage takes the place of the oldest. Columns: number, reset, source,
// width, ring, stages, how many of the first and of the last stages the reset clears, flag of the source, whether the last edge has
// cleared stages, the first and the end of its windows. Columns of those: number, stage, flag of the stage.
[[maybe_unused]] static inline void turn(Simulation *sim, const int32_t *t, const int32_t (*windows)[3]) {
    for (int32_t i = t[10]; i < t[11]; ++i) {
        const int32_t place = sim->position[t[0]] - 1 - windows[i][1];
        sim->where[windows[i][0]] = t[4] + (place < 0 ? place + t[5] : place) * t[3];
    }
}

[[maybe_unused]] static void rings(Simulation *sim, const int32_t (*table)[12], int count, const int32_t (*windows)[3]) {
    uint8_t *const b = sim->b;
    for (int k = 0; k < count; ++k) {
        const int32_t *const t = table[k], stages = t[5];
        const bool clear = t[1] >= 0 && b[t[1]];
        History &history = sim->history[t[0]];
        history = clear ? ~(History)0 : history << 1 | b[t[8]] | b[t[9]];
        b[t[9]] = clear;
        for (int32_t i = t[10]; i < t[11]; ++i) b[windows[i][2]] = history >> windows[i][1] & 1;
        // While all stages are equal to the source, nothing is done.
        if (!(history << (8 * (int)sizeof(History) - stages))) continue;
        V *const ring = sim->s + t[4];
        int32_t &position = sim->position[t[0]];
        move(ring + (size_t)position * t[3], at(sim, t[2]), t[3]);
        if (++position == stages) position = 0;
        if (clear)
            for (int32_t stage = 0; stage < stages; ++stage)
                if (stage < t[6] || stage >= stages - t[7])
                    memset((void *)(ring + (size_t)((position + stages - 1 - stage) % stages) * t[3]), 0, t[3] * sizeof(V));
        turn(sim, t, windows);
    }
}

// Those of scalars keep all but their last stage in a ring. Columns: number, reset, target, source, width, ring, stages, how many of the
// first and of the last stages the reset clears.
[[maybe_unused]] static void delay_bits(Simulation *sim, const int32_t (*table)[9], int count) {
    uint8_t *const b = sim->b;
    for (int k = 0; k < count; ++k) {
        const int32_t *const t = table[k], bytes = t[4], depth = t[6] - 1;
        int32_t &position = sim->position[t[0]];
        uint8_t *const ring = b + t[5], *const place = ring + position * bytes;
        memcpy(b + t[2], place, bytes);
        memcpy(place, b + t[3], bytes);
        if (++position == depth) position = 0;
        if (t[1] < 0 || !b[t[1]]) continue;
        for (int32_t stage = 0; stage < depth; ++stage)
            if (stage < t[7] || stage > depth - t[8]) memset(ring + (position + depth - 1 - stage) % depth * bytes, 0, bytes);
        if (t[8] || t[7] > depth) memset(b + t[2], 0, bytes);
    }
}

extern "C" {

void lanes_delete(Simulation *sim) {
    if (!sim) return;
    if (sim->block) munmap(sim->block, sim->mapped);
    free(sim->b);
    if (sim->stuck)
        for (int i = 0; i < INSTANCES; ++i) free(sim->stuck[i]);
    free(sim->stuck);
    free(sim->position);
    free(sim->history);
    free(sim->where);
    free(sim);
}

// Returns null when there is not enough memory.
Simulation *lanes_new() {
    Simulation *sim = (Simulation *)calloc(1, sizeof(Simulation));
    if (!sim) return nullptr;
    // Fresh pages are zero and cost nothing until they are used: most of a deep accumulator memory never is.
    const size_t size = (VECTORS * sizeof(V) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    sim->block = mmap(nullptr, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sim->block == MAP_FAILED) sim->block = nullptr;
    sim->s = (V *)(((uintptr_t)sim->block + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    sim->mapped = size + HUGE_PAGE;
#ifdef MADV_HUGEPAGE
    if (sim->block) madvise(sim->s, size, MADV_HUGEPAGE);
#endif
    sim->b = (uint8_t *)calloc(BITS + sizeof(uint64_t), 1);  // of which words may be read
    sim->stuck = (V **)calloc(INSTANCES + 1, sizeof(V *));
    sim->position = (int32_t *)calloc(LINES, sizeof(int32_t));
    sim->history = (History *)calloc(LINES, sizeof(History));
    sim->where = (int32_t *)calloc(WINDOWS, sizeof(int32_t));
    if (!sim->block || !sim->b || !sim->stuck || !sim->position || !sim->history || !sim->where) {
        lanes_delete(sim);
        return nullptr;
    }
    init(sim);
    return sim;
}

int lanes_width() { return LANES; }
void *lanes_vectors(Simulation *sim) { return sim->s; }
uint8_t *lanes_bits(Simulation *sim) { return sim->b; }
void lanes_settle(Simulation *sim) { settle(sim); }
void lanes_edge(Simulation *sim) { edge(sim); }

void lanes_unstick(Simulation *sim) {
    for (int i = 0; i < INSTANCES; ++i) {
        free(sim->stuck[i]);
        sim->stuck[i] = nullptr;
        refresh(sim, i);
    }
    disturb(sim);
}

// Add a stuck net; refresh with lanes_refresh once all are there. Returns 0, or 1 without memory or such a net.
int lanes_stick(Simulation *sim, int instance, int net, int lane, int value) {
    const int nets = nets_of(instance);
    if (net >= nets) return 1;
    V *&masks = sim->stuck[instance];
    if (!masks) {
        masks = (V *)aligned_alloc(sizeof(V) < 8 ? 8 : sizeof(V), 2 * nets * sizeof(V));
        if (!masks) return 1;
        memset((void *)masks, 0, 2 * nets * sizeof(V));
    }
    uint64_t *const word = (uint64_t *)(masks + net + (value ? nets : 0));
    word[lane / 64] |= (uint64_t)1 << lane % 64;
    return 0;
}

void lanes_refresh(Simulation *sim) {
    for (int i = 0; i < INSTANCES; ++i) refresh(sim, i);
    disturb(sim);
}
}
