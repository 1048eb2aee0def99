// The kernels for CPUs: matmuls on int4, int8 and bfloat16 weights, attention over the paged cache, and the small
// steps between them. Plain C interface, no dependency but OpenMP; `build.py` compiles it, `native.py` calls it.
//
// Three vector widths from one source: AVX-512 with VNNI, AVX2 (with AVX-VNNI when there), and whatever the compiler
// makes of 16 lanes elsewhere. They differ in speed only: the order of every floating-point operation is the same, so
// quantised matmuls agree bit for bit between them, and each row's result is independent of the rows beside it.
//
// Most functions above the interface run inside a team: every thread of a parallel region calls them, the work is
// shared out between them, and they return when all of it is done. So a whole layer is one region.
//
// Quantised matmul. Weights lie in tiles of 32 outputs, one copy for every number of rows:
//   int4  [O/32][I/8][32 outputs][4 bytes]  byte j: input j in the low nibble, input 4 + j in the high one
//   int8  [O/32][I/4][32 outputs][4 bytes]  byte j: input j
// unsigned (value + 8 or + 128), so a vector register holds the same four inputs of 16 outputs, and one instruction
// (VPDPBUSD) multiplies them by four broadcast inputs: no horizontal sums. Tiles are read once, front to back.
// Inputs become int8, one scale per group of inputs; a product over a group is an exact integer, the groups are
// summed in float32 in order. The unsigned offset is repaid by starting a group's sum at -offset * sum(inputs).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

// --------------------------------------------------------------------------------------------------- vectors

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define PHI4_AVX512 1
constexpr int kLanes = 16;
constexpr const char* kName = "avx512vnni";
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PHI4_AVX2 1
constexpr int kLanes = 8;
#if defined(__AVXVNNI__)
constexpr const char* kName = "avx2vnni";
#else
constexpr const char* kName = "avx2";
#endif
#else
constexpr int kLanes = 16;
constexpr const char* kName = "portable";
#endif

typedef float vf __attribute__((vector_size(4 * kLanes)));
typedef int32_t vi __attribute__((vector_size(4 * kLanes)));
typedef uint32_t vu __attribute__((vector_size(4 * kLanes)));
typedef uint16_t vh __attribute__((vector_size(2 * kLanes)));
typedef int8_t vb __attribute__((vector_size(kLanes)));

#define INLINE inline __attribute__((always_inline))

template <class V, class T>
INLINE V load(const T* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class V, class T>
INLINE void save(T* to, V v) {
    std::memcpy(to, &v, sizeof v);
}
INLINE vf spread(float x) { return x - vf{}; }
INLINE vi spread(int32_t x) { return x + vi{}; }
INLINE vi spread4(const int8_t* four) {  // the same four bytes in every lane
    int32_t x;
    std::memcpy(&x, four, 4);
    return spread(x);
}
INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }

#if defined(PHI4_AVX512)
INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vi to_int(vf v) { return (vi)_mm512_cvtps_epi32((__m512)v); }
INLINE vf max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf half_to_float(vh v) { return (vf)_mm512_cvtph_ps((__m256i)v); }
INLINE vu widen(vh v) { return (vu)_mm512_cvtepu16_epi32((__m256i)v); }
INLINE vi widen(vb v) { return (vi)_mm512_cvtepi8_epi32((__m128i)v); }
INLINE vi dot4(vi sum, vi w, vi x) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x); }
INLINE vi dot8(vi sum, vi w, vi x) { return dot4(sum, w, x); }
constexpr int kOffset8 = 128;
#elif defined(PHI4_AVX2)
INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vi to_int(vf v) { return (vi)_mm256_cvtps_epi32((__m256)v); }
INLINE vf max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf half_to_float(vh v) { return (vf)_mm256_cvtph_ps((__m128i)v); }
INLINE vu widen(vh v) { return (vu)_mm256_cvtepu16_epi32((__m128i)v); }
INLINE vi widen(vb v) {
    int64_t eight;
    std::memcpy(&eight, &v, 8);
    return (vi)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(eight));
}
#if defined(__AVXVNNI__)
INLINE vi dot4(vi sum, vi w, vi x) { return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x); }
INLINE vi dot8(vi sum, vi w, vi x) { return dot4(sum, w, x); }
constexpr int kOffset8 = 128;
#else
INLINE vi pairs_of(__m256i pairs) { return (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
INLINE vi dot4(vi sum, vi w, vi x) { return sum + pairs_of(_mm256_maddubs_epi16((__m256i)w, (__m256i)x)); }
// Two products of bytes can exceed 16 bits; |w| <= 128 times |x| <= 127 twice cannot.
INLINE vi dot8(vi sum, vi w, vi x) {
    __m256i value = _mm256_xor_si256((__m256i)w, _mm256_set1_epi8((char)0x80));
    return sum + pairs_of(_mm256_maddubs_epi16(_mm256_abs_epi8(value), _mm256_sign_epi8((__m256i)x, value)));
}
constexpr int kOffset8 = 0;
#endif
#else
INLINE vf fma(vf a, vf b, vf c) {
    vf out;
    for (int i = 0; i < kLanes; i++) out[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return out;
}
INLINE vi to_int(vf v) {
    vi out;
    for (int i = 0; i < kLanes; i++) out[i] = (int32_t)__builtin_rintf(v[i]);
    return out;
}
INLINE vf max(vf a, vf b) { return a > b ? a : b; }
INLINE vu widen(vh v) { return __builtin_convertvector(v, vu); }
INLINE vi widen(vb v) { return __builtin_convertvector(v, vi); }
INLINE vf half_to_float(vh v) {
    vf out;
    for (int i = 0; i < kLanes; i++) {
        uint16_t bits = v[i];
        _Float16 half;
        std::memcpy(&half, &bits, 2);
        out[i] = (float)half;
    }
    return out;
}
INLINE vi dot4(vi sum, vi w, vi x) {
    for (int shift = 0; shift < 32; shift += 8) sum += ((w >> shift) & 255) * ((x << (24 - shift)) >> 24);
    return sum;
}
INLINE vi dot8(vi sum, vi w, vi x) { return dot4(sum, w, x); }
constexpr int kOffset8 = 128;
#endif

// Keeps a loaded vector in its register: the compiler would rather load it again for each use.
INLINE void hold(vf& v) {
#if defined(PHI4_AVX512)
    asm("" : "+v"(v));
#elif defined(PHI4_AVX2)
    asm("" : "+x"(v));
#else
    (void)v;
#endif
}
INLINE vf abs(vf v) { return (vf)((vi)v & 0x7fffffff); }
INLINE float largest(vf v) {
    float out = v[0];
    for (int i = 1; i < kLanes; i++) out = std::max(out, v[i]);
    return out;
}
INLINE float total(vf v) {  // in halves, so that every width of vector sums up the same way per lane count
    float lane[kLanes];
    save(lane, v);
    for (int half = kLanes / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}
INLINE int32_t total(vi v) {
    int32_t out = 0;
    for (int i = 0; i < kLanes; i++) out += v[i];
    return out;
}

// e^x by 2^n times a polynomial of the rest (Cephes' expf); 0 below -87, and no more than e^88.
INLINE vf exponential(vf x) {
    vf floor = spread(-87.0f), kept = -max(-max(x, floor), spread(-88.0f));
    vi n = to_int(kept * 1.44269504088896341f);
    vf nf = to_float(n);
    vf r = fma(nf, spread(-0.693359375f), kept);
    r = fma(nf, spread(2.12194440e-4f), r);
    vf p = fma(spread(1.9875691500e-4f), r, spread(1.3981999507e-3f));
    p = fma(p, r, spread(8.3334519073e-3f));
    p = fma(p, r, spread(4.1665795894e-2f));
    p = fma(p, r, spread(1.6666665459e-1f));
    p = fma(p, r, spread(5.0000001201e-1f));
    p = fma(p, r * r, r + 1.0f);
    vf out = p * (vf)((n + 127) << 23);
    return (vf)((vi)out & (x >= floor));
}

// ------------------------------------------------------------------------------------------ numbers in memory

enum Type : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kInt8 = 3 };

INLINE vf read(const float* p) { return load<vf>(p); }
INLINE vf read_bf16(const uint16_t* p) { return (vf)(widen(load<vh>(p)) << 16); }
template <int TYPE>
INLINE vf read(const void* p, int64_t at) {
    if constexpr (TYPE == kFloat32) return read((const float*)p + at);
    if constexpr (TYPE == kBFloat16) return read_bf16((const uint16_t*)p + at);
    if constexpr (TYPE == kFloat16) return half_to_float(load<vh>((const uint16_t*)p + at));
    if constexpr (TYPE == kInt8) return to_float(widen(load<vb>((const int8_t*)p + at)));
}
INLINE vf read(const void* p, int64_t at, int32_t type) {
    return type == kFloat32 ? read<kFloat32>(p, at) : type == kBFloat16 ? read<kBFloat16>(p, at)
                                                                        : read<kFloat16>(p, at);
}
INLINE vh to_bf16(vf v) {  // to nearest, ties to even
    vu bits = (vu)v;
    vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    vu nan = (bits >> 16) | 0x40u;
    return __builtin_convertvector((vu)(v == v ? (vi)rounded : (vi)nan), vh);
}
INLINE vh to_half(vf v) {  // to nearest, ties to even; overflow to infinity
#if defined(PHI4_AVX512)
    return (vh)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(PHI4_AVX2)
    return (vh)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    vh out;
    for (int i = 0; i < kLanes; i++) {
        _Float16 half = (_Float16)v[i];
        uint16_t bits;
        std::memcpy(&bits, &half, 2);
        out[i] = bits;
    }
    return out;
#endif
}
INLINE void write(void* p, int64_t at, int32_t type, vf v) {
    if (type == kFloat32)
        save((float*)p + at, v);
    else
        save((uint16_t*)p + at, type == kBFloat16 ? to_bf16(v) : to_half(v));
}

template <class T>
T* scratch(int which, size_t count) {  // grows, stays with the thread that calls
    static thread_local std::vector<T> buffers[4];
    if (buffers[which].size() < count) buffers[which].resize(count);
    return buffers[which].data();
}

// --------------------------------------------------------------------------------------------------- layers

// A quantised matrix, with what may come before it (RMSNorm of its inputs) and after it (silu(gate) * up).
struct Layer {
    const uint8_t* words;  // tiles
    const void* scales;    // [O/32][groups or 1][32]
    const void* gain;      // [inputs] of the norm, or null
    int64_t outputs, inputs;
    int32_t bits, group;                // group: inputs that share a scale of the inputs
    int32_t scale_type, scale_per_row;  // 1: one scale per output for all groups
    int32_t gain_type, gated;           // gated: the first half of the outputs is the gate of the second
    float eps;
};

struct Input {
    const void* x;  // [rows, inputs]
    int32_t type;
};

struct Output {
    void* y;               // [rows, outputs], or half of them when gated
    const void* residual;  // added to the result, or null
    int32_t type;
    int64_t width;
};

struct Rows {        // the quantised inputs
    int8_t* value;   // [rows, stride]
    float* scale;    // [rows, groups]
    int32_t* start;  // [rows, groups]: -offset * sum(value)
    int64_t stride;
};

// Room for quantised inputs, in the scratch memory of the calling thread. Rows start a cache line further each, so
// that those of a wide matrix do not all fall on the same lines of the cache.
Rows rows_for(const Layer& w, int64_t rows) {
    const int64_t groups = w.inputs / w.group, stride = w.inputs + 64;
    return {scratch<int8_t>(0, rows * stride), scratch<float>(0, rows * groups), scratch<int32_t>(0, rows * groups),
            stride};
}

INLINE vf silu(vf x) { return x / (1.0f + exponential(-x)); }

INLINE float rms_factor(const void* x, int64_t at, int64_t size, int32_t type, float eps) {
    vf sum{};
    for (int64_t i = 0; i < size; i += kLanes) {
        vf v = read(x, at + i, type);
        sum = fma(v, v, sum);
    }
    return 1.0f / std::sqrt(total(sum) / (float)size + eps);
}

void quantize_group(const Layer& w, const Input& in, const Rows& to, int64_t row, int64_t group, float factor) {
    const int64_t size = w.group, first = group * size, at = row * w.inputs + first;
    int8_t* value = to.value + row * to.stride + first;
    vf v[128 / kLanes], peak{};
    for (int i = 0; i < size / kLanes; i++) {
        v[i] = read(in.x, at + i * kLanes, in.type);
        if (w.gain) v[i] = read(w.gain, first + i * kLanes, w.gain_type) * (v[i] * factor);
        peak = max(peak, abs(v[i]));
    }
    const float most = largest(peak), inverse = most > 0 ? 127.0f / most : 0.0f;
    vi sum{};
    for (int i = 0; i < size / kLanes; i++) {
        vi q = to_int(v[i] * inverse);
        sum += q;
        save(value + i * kLanes, __builtin_convertvector(q, vb));
    }
    const int64_t entry = row * (w.inputs / size) + group;
    to.scale[entry] = most / 127.0f;
    to.start[entry] = -(w.bits == 4 ? 8 : kOffset8) * total(sum);
}

// ------------------------------------------------------------------------------------------ quantised matmul

constexpr int kTile = 32;
constexpr int kVectors = 2;                      // vectors of outputs in a block
constexpr int kPart = kVectors * kLanes;         // outputs of a block: a tile, or half of one
constexpr int kMostRows = kLanes == 16 ? 8 : 4;  // rows of a block: what the registers hold
constexpr int64_t kAhead = 4096;                 // bytes of weights asked for in advance
constexpr int64_t kRowsBytes = 512 * 1024;       // inputs that stay in the second-level cache
constexpr int64_t kFewInputs = 16 * 1024;        // inputs that every thread quantises for itself

// `ROWS` rows times `kPart` outputs over all inputs, to y[ROWS][kPart].
template <int BITS, int ROWS>
void block(const Layer& w, const Rows& x, int64_t row, int64_t tile, int part, float* y) {
    constexpr int kSlice = BITS == 4 ? 8 : 4;  // inputs in 4 bytes
    const int64_t inputs = w.inputs, size = w.group, groups = inputs / size;
    const uint8_t* words = w.words + tile * (inputs / kSlice) * kTile * 4 + part * kPart * 4;
    const int64_t scales = tile * (w.scale_per_row ? 1 : groups) * kTile + part * kPart;
    const int8_t* value = x.value + row * x.stride;
    vf sum[ROWS][kVectors] = {};
    for (int64_t g = 0; g < groups; g++) {
        vi acc[ROWS][kVectors];
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; v++) acc[r][v] = spread(x.start[(row + r) * groups + g]);
#pragma GCC unroll 2
        for (int64_t k = 0; k < size; k += kSlice) {
            vi low[kVectors], high[kVectors];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; v++) {
                __builtin_prefetch(words + v * kLanes * 4 + kAhead, 0, 2);
                vi both = load<vi>(words + v * kLanes * 4);
                low[v] = BITS == 4 ? both & 0x0f0f0f0f : both;
                high[v] = (both >> 4) & 0x0f0f0f0f;
            }
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                vi first = spread4(value + r * x.stride + k);
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; v++)
                    acc[r][v] = BITS == 4 ? dot4(acc[r][v], low[v], first) : dot8(acc[r][v], low[v], first);
                if constexpr (BITS == 4) {
                    vi second = spread4(value + r * x.stride + k + 4);
#pragma GCC unroll 4
                    for (int v = 0; v < kVectors; v++) acc[r][v] = dot4(acc[r][v], high[v], second);
                }
            }
            words += kTile * 4;
        }
        value += size;
        vf scale[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++)
            scale[v] = read(w.scales, scales + (w.scale_per_row ? 0 : g * kTile) + v * kLanes, w.scale_type);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            vf of_row = spread(x.scale[(row + r) * groups + g]);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; v++) sum[r][v] = fma(to_float(acc[r][v]) * scale[v], of_row, sum[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) save(y + r * kPart + v * kLanes, sum[r][v]);
}

template <int BITS, int ROWS = kMostRows>
INLINE void block_of(int64_t rows, const Layer& w, const Rows& x, int64_t row, int64_t tile, int part, float* y) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) return block<BITS, ROWS>(w, x, row, tile, part, y);
        block_of<BITS, ROWS - 1>(rows, w, x, row, tile, part, y);
    }
}

INLINE float read_one(const void* p, int64_t at, int32_t type) {
    if (type == kFloat32) return ((const float*)p)[at];
    uint32_t bits = (uint32_t)((const uint16_t*)p)[at] << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// One row of a block to its place; the last outputs of a matrix one by one.
INLINE void finish(const Output& out, int64_t row, int64_t first, const float* y) {
    const int64_t at = row * out.width + first, left = out.width - first;
    for (int v = 0; v < kVectors; v++) {
        vf result = read(y + v * kLanes);
        const int64_t begin = v * kLanes;
        if (left >= begin + kLanes) {
            if (out.residual) result += read(out.residual, at + begin, out.type);
            write(out.y, at + begin, out.type, result);
            continue;
        }
        for (int64_t i = begin; i < left; i++) {
            vf one = spread(y[i] + (out.residual ? read_one(out.residual, at + i, out.type) : 0.0f));
            if (out.type == kFloat32)
                ((float*)out.y)[at + i] = one[0];
            else
                ((uint16_t*)out.y)[at + i] = to_bf16(one)[0];
        }
    }
}

// `rows` rows of one block to their places, y[rows][kPart] (when gated: y is the gate of `other`).
INLINE void finish(const Layer& w, const Output& out, int64_t row, int64_t rows, int64_t first, float* y,
                   const float* other) {
    for (int64_t i = 0; w.gated && i < rows * kPart; i += kLanes) save(y + i, read(other + i) * silu(read(y + i)));
    for (int64_t r = 0; r < rows; r++) finish(out, row + r, first, y + r * kPart);
}

// All rows first..last times one tile of outputs (when gated: and the tile of the same outputs of the other half).
template <int BITS>
void tile_times_rows(const Layer& w, const Rows& x, int64_t first, int64_t last, int64_t tile, const Output& out) {
    alignas(64) float y[kMostRows * kPart], other[kMostRows * kPart];
    for (int part = 0; part < kTile / kPart; part++)
        for (int64_t row = first; row < last; row += kMostRows) {
            const int64_t rows = std::min<int64_t>(kMostRows, last - row);
            block_of<BITS>(rows, w, x, row, tile, part, y);
            if (w.gated) block_of<BITS>(rows, w, x, row, tile + out.width / kTile, part, other);
            finish(w, out, row, rows, tile * kTile + part * kPart, y, other);
        }
}

// One matmul, carried out by a team. Made by the thread that starts the team, in whose scratch memory inputs meet.
struct Product {
    const Layer& w;
    Input in;
    Output out;
    int64_t rows;
    bool few;  // so few inputs that every thread quantises them for itself, sooner than threads meet
    Rows shared;
};

Product product(const Layer& w, Input in, int64_t rows, const void* residual, void* y, int32_t y_type) {
    const bool few = rows * w.inputs <= kFewInputs;
    const Output out{y, residual, y_type, w.gated ? w.outputs / 2 : w.outputs};
    return {w, in, out, rows, few, few ? Rows{} : rows_for(w, rows)};
}

void multiply(const Product& p, int32_t threads) {
    const Layer& w = p.w;
    const Rows x = p.few ? rows_for(w, p.rows) : p.shared;
    const int64_t inputs = w.inputs, groups = inputs / w.group, tiles = (p.out.width + kTile - 1) / kTile;
    const int64_t together = std::max<int64_t>(kMostRows, kRowsBytes / inputs / kMostRows * kMostRows);
    // A share of at least 64 KB, so that each thread reads long stretches; small enough to even out the threads.
    const int64_t share = std::max<int64_t>(1, std::min(65536 / (inputs * 4 * w.bits), tiles / (4 * threads)));
    const auto quantize_row = [&](int64_t row) {
        const float factor = w.gain ? rms_factor(p.in.x, row * inputs, inputs, p.in.type, w.eps) : 1.0f;
        for (int64_t g = 0; g < groups; g++) quantize_group(w, p.in, x, row, g, factor);
    };
    if (p.few) {
        for (int64_t row = 0; row < p.rows; row++) quantize_row(row);
    } else {
#pragma omp for
        for (int64_t row = 0; row < p.rows; row++) quantize_row(row);
    }
    for (int64_t first = 0; first < p.rows; first += together) {
        const int64_t last = std::min(p.rows, first + together);
#pragma omp for schedule(dynamic, share) nowait
        for (int64_t tile = 0; tile < tiles; tile++) {
            if (w.bits == 4)
                tile_times_rows<4>(w, x, first, last, tile, p.out);
            else
                tile_times_rows<8>(w, x, first, last, tile, p.out);
        }
    }
#pragma omp barrier
}

// ------------------------------------------------------------------------------------------------- attention

// Keys and values of one layer, [blocks][groups][32][channels]; scales [blocks][groups][32] when they are int8.
struct Cache {
    void *k, *v;
    float *k_scale, *v_scale;
    int64_t groups, channels;
    int32_t type;
};

constexpr int kBlock = 32;                     // positions of a block
constexpr int kChunk = 16;                     // blocks of a chunk: the unit of work, the same for every batch
constexpr int kHeads = 4;                      // query heads of a pass over a block
constexpr int kAbreast = kLanes / kHeads;      // positions scored together
constexpr int kScores = kBlock * kHeads;       // scores of a pass: [position][head]
constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Sums of 16 (8) vectors at once, by shuffles that stay within four lanes as long as they can.
#if defined(PHI4_AVX2)
#define LANES_OF(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE vf add_halves(vf a, vf b) {
    return LANES_OF(a, b, 0, 8, 1, 9, 4, 12, 5, 13) + LANES_OF(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
}
INLINE vf add_pairs(vf a, vf b) {
    return LANES_OF(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + LANES_OF(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
}
INLINE vf add_fours(vf a, vf b) {
    return LANES_OF(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + LANES_OF(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}
INLINE vf by_position(const float* p) {  // two numbers, each for four heads
    return vf{p[0], p[0], p[0], p[0], p[1], p[1], p[1], p[1]};
}
template <class F>
INLINE vf over_positions(vf v, F combine) {  // of each head, in every lane of the head
    return combine(v, LANES_OF(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
}
constexpr vi kPosition = {0, 0, 0, 0, 1, 1, 1, 1};
#else
#define LANES_OF(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
INLINE vf add_halves(vf a, vf b) {
    return LANES_OF(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
           LANES_OF(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
INLINE vf add_pairs(vf a, vf b) {
    return LANES_OF(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           LANES_OF(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
INLINE vf add_fours(vf a, vf b) {
    return LANES_OF(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           LANES_OF(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
INLINE vf by_position(const float* p) {  // four numbers, each for four heads
    return vf{p[0], p[0], p[0], p[0], p[1], p[1], p[1], p[1], p[2], p[2], p[2], p[2], p[3], p[3], p[3], p[3]};
}
template <class F>
INLINE vf over_positions(vf v, F combine) {  // of each head, in every lane of the head
    v = combine(v, LANES_OF(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    return combine(v, LANES_OF(v, v, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3));
}
constexpr vi kPosition = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
#endif
INLINE vf totals(const vf (&part)[kLanes]) {  // lane i: the sum of part[i]
    vf four[kAbreast];                        // of each position: its four heads, summed within four lanes
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; i++)
        four[i] = add_pairs(add_halves(part[4 * i], part[4 * i + 1]), add_halves(part[4 * i + 2], part[4 * i + 3]));
    if constexpr (kAbreast == 2) return add_fours(four[0], four[1]);
    return add_fours(add_fours(four[0], four[1]), add_fours(four[kAbreast - 2], four[kAbreast - 1]));
}

INLINE int64_t bytes_of(int32_t type) { return type == kFloat32 ? 4 : type == kInt8 ? 1 : 2; }
INLINE void prefetch(const char* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

// Where a pass over four heads stands: per head the largest score and the sum of weights (in every lane of the head),
// and the weighted values [4][channels].
struct Pass {
    float most[kLanes], sum[kLanes];
    float* acc;
};

// acc[4][channels] * decay + weights[32][4] times values[32][channels], for `VECTORS` vectors of channels.
// Meanwhile the keys of the next block, if any, are on their way: one row per position.
template <int TYPE, int VECTORS>
INLINE void mix_values(const float* weights, const void* v, int64_t at, int64_t channels, int valid, vf decay,
                       float* acc, const char* next_keys) {
    vf sum[kHeads][VECTORS];
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; h++)
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++) sum[h][i] = read(acc + h * channels + i * kLanes) * decay[h];
    const int64_t row_bytes = channels * bytes_of(TYPE);
    for (int p = 0; p < valid; p++) {
        if (next_keys) prefetch(next_keys + p * row_bytes, row_bytes);
        vf value[VECTORS];
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++) value[i] = read<TYPE>(v, at + p * channels + i * kLanes);
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; h++) {
            const vf weight = spread(weights[p * kHeads + h]);
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; i++) sum[h][i] = fma(weight, value[i], sum[h][i]);
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < kHeads; h++)
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++) save(acc + h * channels + i * kLanes, sum[h][i]);
}

// One block of 32 positions (the first `valid` count) and four heads with queries q[4][channels].
template <int TYPE>
INLINE void attend_block(const Cache& cache, const float* q, int64_t place, int valid, bool first,
                         const char* next_keys, Pass& pass) {
    const int64_t channels = cache.channels, at = place * channels, row_bytes = channels * bytes_of(TYPE);
    alignas(64) float score[kScores];
    vf top = read(pass.most);
    const vf before = top;
    for (int p = 0; p < valid; p += kAbreast) {
        if (first) prefetch((const char*)cache.v + (place + p) * row_bytes, kAbreast * row_bytes);
        vf part[kLanes] = {};
        for (int64_t c = 0; c < channels; c += kLanes) {
            vf key[kAbreast], query[kHeads];
#pragma GCC unroll 4
            for (int i = 0; i < kAbreast; i++) key[i] = read<TYPE>(cache.k, at + (p + i) * channels + c);
#pragma GCC unroll 4
            for (int i = 0; i < kHeads; i++) {
                query[i] = read(q + i * channels + c);
                hold(query[i]);
            }
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; i++) part[i] = fma(key[i / kHeads], query[i % kHeads], part[i]);
        }
        vf scores = totals(part);
        if (TYPE == kInt8) scores *= by_position(cache.k_scale + place + p);
        scores = kPosition + p < valid ? scores : spread(kNothing);
        top = max(top, scores);
        save(score + p * kHeads, scores);
    }
    top = over_positions(top, [](vf a, vf b) { return max(a, b); });
    vf weights{};
    for (int p = 0; p < valid; p += kAbreast) {
        vf weight = exponential(read(score + p * kHeads) - top);
        weights += weight;
        if (TYPE == kInt8) weight *= by_position(cache.v_scale + place + p);
        save(score + p * kHeads, weight);
    }
    const vf decay = exponential(before - top);
    weights = over_positions(weights, [](vf a, vf b) { return a + b; });
    save(pass.sum, fma(read(pass.sum), decay, weights));
    save(pass.most, top);
    int64_t c = 0;
    for (; kLanes == 16 && c + 4 * kLanes <= channels; c += 4 * kLanes, next_keys = nullptr)
        mix_values<TYPE, 4>(score, cache.v, at + c, channels, valid, decay, pass.acc + c, next_keys);
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes, next_keys = nullptr)
        mix_values<TYPE, 2>(score, cache.v, at + c, channels, valid, decay, pass.acc + c, next_keys);
    for (; c < channels; c += kLanes, next_keys = nullptr)
        mix_values<TYPE, 1>(score, cache.v, at + c, channels, valid, decay, pass.acc + c, next_keys);
}

// Online softmax over the `length` positions of one chunk for all query heads of one key-value head: `passes` of
// four heads, whose scaled queries are q[passes][4][channels].
template <int TYPE>
void attend_chunk(const Cache& cache, const float* q, Pass* pass, int64_t passes, const int32_t* table, int64_t group,
                  int64_t length) {
    const int64_t block_bytes = kBlock * cache.channels * bytes_of(TYPE);
    for (int64_t begin = 0; begin < length; begin += kBlock) {
        const int64_t block = table[begin / kBlock] * cache.groups + group;
        const int valid = (int)std::min<int64_t>(kBlock, length - begin);
        const char* next = nullptr;
        if (begin + kBlock < length)
            next = (const char*)cache.k + (table[begin / kBlock + 1] * cache.groups + group) * block_bytes;
        for (int64_t i = 0; i < passes; i++)
            attend_block<TYPE>(cache, q + i * kHeads * cache.channels, block * kBlock, valid, i == 0,
                               i == 0 ? next : nullptr, pass[i]);
    }
}

// The key (or value) of one head of one token to its slot: x[at .. at + channels].
void store_head(const Cache& cache, int64_t group, bool value, int64_t slot, const void* x, int64_t at, int32_t type) {
    void* to = value ? cache.v : cache.k;
    const int64_t place = (slot / kBlock * cache.groups + group) * kBlock + slot % kBlock;
    const int64_t channels = cache.channels, first = place * channels;
    float inverse = 0;
    if (cache.type == kInt8) {
        vf peak{};
        for (int64_t c = 0; c < channels; c += kLanes) peak = max(peak, abs(read(x, at + c, type)));
        const float most = largest(peak);
        inverse = most > 0 ? 127.0f / most : 0.0f;
        (value ? cache.v_scale : cache.k_scale)[place] = most / 127.0f;
    }
    for (int64_t c = 0; c < channels; c += kLanes) {
        const vf v = read(x, at + c, type);
        if (cache.type == kInt8)
            save((int8_t*)to + first + c, __builtin_convertvector(to_int(v * inverse), vb));
        else
            write(to, first + c, cache.type, v);
    }
}

// Turns channel i with i + half, in place.
INLINE void rotate(float* first, const float* cos, const float* sin, int64_t half) {
    float* second = first + half;
    for (int64_t i = 0; i < half; i++) {
        const float a = first[i], b = second[i];
        first[i] = a * cos[i] - b * sin[i];
        second[i] = b * cos[i + half] + a * sin[i + half];
    }
}

// The queries of one step, answered by a team. Sequences are cut into chunks of 512 positions, whatever else is in the
// batch; the chunks are merged in order.
struct Queries {
    const Cache& cache;
    const float* q;
    int64_t q_stride, rows, heads;
    const int32_t* table;
    int64_t table_stride;
    const int32_t* lengths;
    float scale;
    float* y;
    int64_t passes;  // over the query heads that share a key
    int64_t* first;  // of each row's tasks: (group, chunk)
    Pass* records;
    float* sums;
};

Queries prepare(const Cache& cache, const float* q, int64_t q_stride, int64_t rows, int64_t heads,
                const int32_t* table, int64_t table_stride, const int32_t* lengths, float scale, float* y) {
    const int64_t passes = (heads / cache.groups + kHeads - 1) / kHeads;
    int64_t* first = scratch<int64_t>(0, rows + 1);
    first[0] = 0;
    for (int64_t n = 0; n < rows; n++)
        first[n + 1] = first[n] + cache.groups * ((lengths[n] + kChunk * kBlock - 1) / (kChunk * kBlock));
    const int64_t records = first[rows] * passes;
    return {cache,   q,     q_stride, rows, heads,  table, table_stride,
            lengths, scale, y,        passes, first, scratch<Pass>(0, records),
            scratch<float>(1, records * kHeads * cache.channels)};
}

void attend(const Queries& of) {
    const Cache& cache = of.cache;
    const int64_t groups = cache.groups, channels = cache.channels, shared = of.heads / groups, passes = of.passes;
    const int64_t* first = of.first;
    float* scaled = scratch<float>(2, passes * kHeads * channels);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < first[of.rows]; task++) {
        const int64_t n = std::upper_bound(first, first + of.rows + 1, task) - first - 1;
        const int64_t chunks = (first[n + 1] - first[n]) / groups;
        const int64_t group = (task - first[n]) / chunks, chunk = (task - first[n]) % chunks;
        const int64_t length = std::min<int64_t>(kChunk * kBlock, of.lengths[n] - chunk * kChunk * kBlock);
        std::fill(scaled + shared * channels, scaled + passes * kHeads * channels, 0.0f);
        for (int64_t i = 0; i < shared * channels; i++)
            scaled[i] = of.q[n * of.q_stride + group * shared * channels + i] * of.scale;
        Pass* pass = of.records + task * passes;
        for (int64_t i = 0; i < passes; i++) {
            std::fill(pass[i].most, pass[i].most + kLanes, kNothing);
            std::fill(pass[i].sum, pass[i].sum + kLanes, 0.0f);
            pass[i].acc = of.sums + (task * passes + i) * kHeads * channels;
            std::fill(pass[i].acc, pass[i].acc + kHeads * channels, 0.0f);
        }
        const auto attend = cache.type == kFloat32    ? attend_chunk<kFloat32>
                            : cache.type == kBFloat16 ? attend_chunk<kBFloat16>
                            : cache.type == kFloat16  ? attend_chunk<kFloat16>
                                                      : attend_chunk<kInt8>;
        attend(cache, scaled, pass, passes, of.table + n * of.table_stride + chunk * kChunk, group, length);
    }
#pragma omp for
    for (int64_t at = 0; at < of.rows * of.heads; at++) {
        const int64_t n = at / of.heads, group = at % of.heads / shared, h = at % of.heads % shared;
        const int64_t chunks = (first[n + 1] - first[n]) / groups;
        const Pass* pass = of.records + (first[n] + group * chunks) * passes + h / kHeads;
        float most = kNothing, sum = 0, *to = of.y + at * channels;
        std::fill(to, to + channels, 0.0f);
        for (int64_t c = 0; c < chunks; c++) most = std::max(most, pass[c * passes].most[h % kHeads]);
        for (int64_t c = 0; c < chunks; c++) {
            const Pass& chunk = pass[c * passes];
            const float weight = exponential(spread(chunk.most[h % kHeads] - most))[0];
            const float* acc = chunk.acc + h % kHeads * channels;
            sum += weight * chunk.sum[h % kHeads];
            for (int64_t i = 0; i < channels; i++) to[i] += weight * acc[i];
        }
        for (int64_t i = 0; i < channels && chunks; i++) to[i] /= sum;
    }
}

// One layer of the network, and where the rows of a step that only decodes belong.
struct Block {
    const Layer *qkv, *o, *gate_up, *down;
    int64_t heads;
};
struct Step {
    const float *cos, *sin;  // [rows][turned]
    int64_t turned;          // channels of a head that are rotated
    const int64_t* slots;    // of each row in the cache
    const int32_t* table;    // [rows][table_stride]
    int64_t table_stride;
    const int32_t* lengths;
    float scale;
};

}  // namespace

extern "C" {

const char* phi4_name() { return kName; }

// Ask for large pages before the memory is first touched: a pass over the weights then misses the TLB less.
void phi4_advise(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    uintptr_t page = 4096, from = ((uintptr_t)memory + page - 1) / page * page;
    int64_t left = bytes - (int64_t)(from - (uintptr_t)memory);
    if (left > 0) madvise((void*)from, (size_t)left / page * page, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

// Reads memory and does next to nothing with it: the ceiling that a matmul of one row is measured against.
int32_t phi4_read(const uint8_t* memory, int64_t bytes, int32_t threads) {
    constexpr int64_t kStretch = 1 << 17;
    int32_t mixed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(^ : mixed)
    for (int64_t at = 0; at < bytes / kStretch; at++) {
        vi part[4] = {};
        const uint8_t* from = memory + at * kStretch;
        for (int64_t i = 0; i < kStretch; i += sizeof part)
            for (int v = 0; v < 4; v++) {
                __builtin_prefetch(from + i + v * sizeof(vi) + kAhead);
                part[v] ^= load<vi>(from + i + v * sizeof(vi));
            }
        mixed ^= total(part[0] ^ part[1] ^ part[2] ^ part[3]);
    }
    return mixed;
}

// From compressed-tensors' rows (unsigned, along the input, the first in the lowest bits) to tiles.
void phi4_pack(const uint8_t* rows, int64_t outputs, int64_t inputs, int32_t bits, uint8_t* words, int32_t threads) {
    const int64_t slice = bits == 4 ? 8 : 4, slices = inputs / slice, tiles = (outputs + kTile - 1) / kTile;
    const int64_t row_bytes = inputs * bits / 8;
#pragma omp parallel for num_threads(threads)
    for (int64_t tile = 0; tile < tiles; tile++)
        for (int64_t lane = 0; lane < kTile; lane++) {
            const int64_t output = tile * kTile + lane;
            for (int64_t s = 0; s < slices; s++) {
                uint8_t* to = words + ((tile * slices + s) * kTile + lane) * 4;
                const uint8_t* from = rows + output * row_bytes + s * 4;
                if (output >= outputs) {
                    std::memset(to, 0, 4);
                } else if (bits == 8) {
                    std::memcpy(to, from, 4);
                } else {
                    for (int j = 0; j < 4; j++) {
                        const int low = from[j / 2] >> 4 * (j % 2) & 15, high = from[2 + j / 2] >> 4 * (j % 2) & 15;
                        to[j] = (uint8_t)(low | high << 4);
                    }
                }
            }
        }
}

// y = after(before(x) times the matrix) + residual; x [rows, inputs]; x and y float32 or bfloat16.
void phi4_linear(const Layer* layer, const void* x, int32_t x_type, int64_t rows, const void* residual, void* y,
                 int32_t y_type, int32_t threads) {
    const Product p = product(*layer, {x, x_type}, rows, residual, y, y_type);
#pragma omp parallel num_threads(threads)
    multiply(p, threads);
}

// y = gain * (x / rms(x)), rounded twice in bfloat16, as the reference does.
void phi4_rms_norm(const void* x, int32_t type, int64_t rows, int64_t size, const void* gain, int32_t gain_type,
                   float eps, void* y, int32_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > 65536)
    for (int64_t row = 0; row < rows; row++) {
        const float factor = rms_factor(x, row * size, size, type, eps);
        for (int64_t i = 0; i < size; i += kLanes) {
            const int64_t at = row * size + i;
            write(y, at, type, read(x, at, type) * factor);
            vf by = read(gain, i, gain_type);
            if (type == kBFloat16) by = (vf)(widen(to_bf16(by)) << 16);
            write(y, at, type, by * read(y, at, type));
        }
    }
}

// Turns channel i with i + turned/2, for the first `turned` channels of each head, in place.
// x [tokens][heads][channels] with `stride` numbers from token to token; cos, sin [tokens][turned].
void phi4_rope(float* x, int64_t tokens, int64_t stride, int64_t heads, int64_t channels, const float* cos,
               const float* sin, int64_t turned, int32_t threads) {
#pragma omp parallel for num_threads(threads) if (tokens * stride > 65536)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++)
            rotate(x + t * stride + h * channels, cos + t * turned, sin + t * turned, turned / 2);
}

// Keys and values of tokens, [tokens][groups][channels] with a stride from token to token, to their slots.
void phi4_store(const Cache* cache, const void* k, int64_t k_stride, const void* v, int64_t v_stride, int32_t type,
                const int64_t* slots, int64_t tokens, int32_t threads) {
    const int64_t groups = cache->groups;
#pragma omp parallel for num_threads(threads) if (tokens * groups > 256)
    for (int64_t at = 0; at < tokens * groups; at++) {
        const int64_t t = at / groups, g = at % groups;
        store_head(*cache, g, false, slots[t], k, t * k_stride + g * cache->channels, type);
        store_head(*cache, g, true, slots[t], v, t * v_stride + g * cache->channels, type);
    }
}

// One query per row over the positions 0..length-1 of its sequence. q [rows][heads][channels] with a stride from row
// to row, table [rows][table_stride], y [rows][heads][channels].
void phi4_attention(const Cache* cache, const float* q, int64_t q_stride, int64_t rows, int64_t heads,
                    const int32_t* table, int64_t table_stride, const int32_t* lengths, float scale, float* y,
                    int32_t threads) {
    const Queries queries = prepare(*cache, q, q_stride, rows, heads, table, table_stride, lengths, scale, y);
#pragma omp parallel num_threads(threads)
    attend(queries);
}

// One layer of a step that only decodes, in place: x [rows][hidden] float32.
void phi4_decode(const Block* block, const Cache* cache, const Step* step, float* x, int64_t rows, int32_t threads) {
    const Block& b = *block;
    const int64_t channels = cache->channels, groups = cache->groups, heads = b.heads;
    const int64_t width = (heads + 2 * groups) * channels, hidden = heads * channels;
    float* qkv = scratch<float>(3, rows * (width + hidden + b.down->inputs));
    float *mixed = qkv + rows * width, *middle = mixed + rows * hidden;
    // Room for the largest first, so that none moves the scratch memory under another.
    for (const Layer* w : {b.qkv, b.o, b.gate_up, b.down}) rows_for(*w, rows);
    const Product read_in = product(*b.qkv, {x, kFloat32}, rows, nullptr, qkv, kFloat32);
    const Product read_out = product(*b.o, {mixed, kFloat32}, rows, x, x, kFloat32);
    const Product up = product(*b.gate_up, {x, kFloat32}, rows, nullptr, middle, kFloat32);
    const Product down = product(*b.down, {middle, kFloat32}, rows, x, x, kFloat32);
    const Queries queries =
        prepare(*cache, qkv, width, rows, heads, step->table, step->table_stride, step->lengths, step->scale, mixed);
#pragma omp parallel num_threads(threads)
    {
        multiply(read_in, threads);
#pragma omp for
        for (int64_t at = 0; at < rows * (heads + 2 * groups); at++) {
            const int64_t row = at / (heads + 2 * groups), head = at % (heads + 2 * groups);
            float* one = qkv + at * channels;
            const int64_t turned = step->turned;
            if (head < heads + groups) rotate(one, step->cos + row * turned, step->sin + row * turned, turned / 2);
            const int64_t group = (head - heads) % groups;
            if (head >= heads) store_head(*cache, group, head >= heads + groups, step->slots[row], one, 0, kFloat32);
        }
        attend(queries);
        multiply(read_out, threads);
        multiply(up, threads);
        multiply(down, threads);
    }
}

}  // extern "C"
