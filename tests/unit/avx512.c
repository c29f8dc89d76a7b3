/* avx512.c - the kernels for AVX-512 where no AVX-512 is: its instructions by those of AVX2, a register of 512 bits as
 * two of 256. Then math.c's tests, with both mixtures of widths. Speed only such a machine can tell.
 */
#if !defined(__x86_64__)
#include <stdio.h>
int main(void) {
    printf("SKIP: AVX-512 is of x86-64\n0 passed, 0 failed\n");
    return 0;
}
#else
#define _GNU_SOURCE
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,amx-tile,amx-bf16"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,amx-tile,amx-bf16")
#endif
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#define target(features) unused /* the kernels' own, which name AVX-512 */

typedef struct {
    __m256 half[2];
} reg;
typedef struct {
    __m256i half[2];
} ireg;
#define __m512  reg
#define __m512i ireg

#define BOTH(type, name, arguments, of_half)                          \
    static inline type name arguments {                               \
        type r;                                                       \
        for (int i = 0; i < 2; i++) r.half[i] = of_half;              \
        return r;                                                     \
    }
BOTH(reg, reg_load, (const void *p), _mm256_loadu_ps((const float *)p + 8 * i))
BOTH(reg, reg_set1, (float f), _mm256_set1_ps(f))
BOTH(reg, reg_broadcast, (__m128 v), _mm256_set_m128(v, v))
BOTH(reg, reg_fma, (reg a, reg b, reg c), _mm256_fmadd_ps(a.half[i], b.half[i], c.half[i]))
BOTH(reg, reg_add, (reg a, reg b), _mm256_add_ps(a.half[i], b.half[i]))
BOTH(reg, reg_sub, (reg a, reg b), _mm256_sub_ps(a.half[i], b.half[i]))
BOTH(reg, reg_f16, (__m256i v), _mm256_cvtph_ps(i ? _mm256_extracti128_si256(v, 1) : _mm256_castsi256_si128(v)))
BOTH(reg, reg_floats, (ireg v), _mm256_castsi256_ps(v.half[i]))
BOTH(ireg, ireg_bits, (reg v), _mm256_castps_si256(v.half[i]))
BOTH(ireg, ireg_set1, (int n), _mm256_set1_epi32(n))
BOTH(ireg, ireg_and, (ireg a, ireg b), _mm256_and_si256(a.half[i], b.half[i]))
BOTH(ireg, ireg_widen, (__m256i v), _mm256_cvtepu16_epi32(i ? _mm256_extracti128_si256(v, 1) : _mm256_castsi256_si128(v)))
BOTH(ireg, ireg_left, (ireg v, int n), _mm256_slli_epi32(v.half[i], n))
BOTH(ireg, ireg_right, (ireg v, int n), _mm256_srli_epi32(v.half[i], n))

static inline void reg_store(void *p, reg v) { memcpy(p, &v, sizeof v); }
static inline reg reg_shuffle_blocks(reg a, reg b, int order) {
    float from[2][4][4], to[4][4];
    memcpy(from[0], &a, 64), memcpy(from[1], &b, 64);
    for (int i = 0; i < 4; i++) memcpy(to[i], from[i / 2][order >> 2 * i & 3], 16);
    return reg_load(to);
}
static inline reg reg_permute(reg v, int order) { /* within each block of four */
    float from[16], to[16];
    memcpy(from, &v, 64);
    for (int i = 0; i < 16; i++) to[i] = from[i / 4 * 4 + (order >> i % 4 * 2 & 3)];
    return reg_load(to);
}
static inline reg reg_pick(ireg index, reg v) {
    float from[16], to[16];
    int at[16];
    memcpy(from, &v, 64), memcpy(at, &index, 64);
    for (int i = 0; i < 16; i++) to[i] = from[at[i] & 15];
    return reg_load(to);
}
static inline ireg ireg_of_128(__m128i v) {
    ireg r = {{_mm256_setzero_si256(), _mm256_setzero_si256()}};
    memcpy(&r, &v, 16);
    return r;
}
static inline __m256i ireg_low16(ireg v) {
    int from[16];
    short to[16];
    memcpy(from, &v, 64);
    for (int i = 0; i < 16; i++) to[i] = (short)from[i];
    return _mm256_loadu_si256((const __m256i *)(const void *)to);
}
#undef _mm512_shuffle_f32x4
#undef _mm512_permute_ps
#undef _mm512_slli_epi32
#undef _mm512_srli_epi32
#define _mm512_loadu_ps         reg_load
#define _mm512_storeu_ps        reg_store
#define _mm512_set1_ps          reg_set1
#define _mm512_broadcast_f32x4  reg_broadcast
#define _mm512_fmadd_ps         reg_fma
#define _mm512_add_ps           reg_add
#define _mm512_sub_ps           reg_sub
#define _mm512_cvtph_ps         reg_f16
#define _mm512_castsi512_ps     reg_floats
#define _mm512_castps_si512     ireg_bits
#define _mm512_set1_epi32       ireg_set1
#define _mm512_and_si512        ireg_and
#define _mm512_cvtepu16_epi32   ireg_widen
#define _mm512_slli_epi32       ireg_left
#define _mm512_srli_epi32       ireg_right
#define _mm512_shuffle_f32x4    reg_shuffle_blocks
#define _mm512_permute_ps       reg_permute
#define _mm512_permutexvar_ps   reg_pick
#define _mm512_castsi128_si512  ireg_of_128
#define _mm512_cvtepi32_epi16   ireg_low16
#define _mm512_castps512_ps128(v) _mm256_castps256_ps128((v).half[0])

/* What math.c takes for the kernels of this processor */
#define SETS          "zen4", "avx512"
#define KERNELS(name) (strcmp(name, "zen4") == 0 ? &kernels_zen4 : &kernels_avx512)
#define UNSUPPORTED   (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
#define SUITE         "avx512"
#include "math.c"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
