/* Poseidon over Goldilocks, width 12, 4 + 22 + 4 rounds, with the constants of the rollup's circuits (poseidon_constants.h). */
#include "guest.h"
#include "poseidon_constants.h"

enum { WIDTH = 12, FULL = 4, PARTIAL = 22, ROUNDS = 2 * FULL + PARTIAL };

/* 2^64 mod the field's order. */
#define EPSILON 0xffffffffull

/* high * 2^64 + low, as some number below 2^64 that is the same in the field. */
static inline uint64_t reduce(uint64_t low, uint64_t high) {
  uint64_t top = high >> 32;
  uint64_t a = low - top;
  if (low < top) a -= EPSILON;
  uint64_t b = ((uint64_t)(uint32_t)high << 32) - (uint32_t)high;
  uint64_t sum = a + b;
  if (sum < b) sum += EPSILON;
  return sum;
}

static inline uint64_t multiply(uint64_t x, uint64_t y) {
  uint32_t x0 = (uint32_t)x, x1 = (uint32_t)(x >> 32), y0 = (uint32_t)y, y1 = (uint32_t)(y >> 32);
  uint64_t low = (uint64_t)x0 * y0;
  uint64_t middle = (uint64_t)x0 * y1 + (low >> 32);
  uint64_t other = (uint64_t)x1 * y0 + (uint32_t)middle;
  uint64_t high = (uint64_t)x1 * y1 + (middle >> 32) + (other >> 32);
  return reduce((other << 32) | (uint32_t)low, high);
}

static uint64_t seventh_power(uint64_t x) {
  uint64_t square = multiply(x, x);
  return multiply(multiply(square, square), multiply(square, x));
}

/*
 * One limb of the product with the matrix, which is circulant but for 8 more at its top left: a cyclic correlation of length 12,
 * taken as a cyclic and a negacyclic one of length 6. Limbs are below 2^22 and the matrix's rows sum up to 264 at most, so twice a
 * result is below 2^32, and all intermediate values may wrap.
 */
static void multiply_limb(const uint32_t in[WIDTH], uint32_t out[WIDTH]) {
  static const int32_t C[WIDTH] = MDS_CIRCULANT;
  uint32_t sum[6], difference[6];
#pragma GCC unroll 6
  for (int at = 0; at < 6; at++) {
    sum[at] = in[at] + in[at + 6];
    difference[at] = in[at] - in[at + 6];
  }
#pragma GCC unroll 6
  for (int row = 0; row < 6; row++) {
    uint32_t plus = 0, minus = 0;
#pragma GCC unroll 6
    for (int at = 0; at < 6; at++) {
      plus += sum[(row + at) % 6] * (uint32_t)(C[at] + C[at + 6]);
      uint32_t term = difference[(row + at) % 6] * (uint32_t)(C[at] - C[at + 6]);
      minus += row + at < 6 ? term : -term;
    }
    out[row] = (plus + minus) >> 1;
    out[row + 6] = (plus - minus) >> 1;
  }
}

/* The product with the matrix, and the constants of the next round on top. */
static void mix(uint64_t state[WIDTH], const uint64_t *constants) {
  uint32_t in[3][WIDTH], out[3][WIDTH];
  for (int at = 0; at < WIDTH; at++) {
    uint32_t low = (uint32_t)state[at], high = (uint32_t)(state[at] >> 32);
    in[0][at] = low & 0x3fffff;
    in[1][at] = ((low >> 22) | (high << 10)) & 0x3fffff;
    in[2][at] = high >> 12;
  }
  for (int limb = 0; limb < 3; limb++) {
    multiply_limb(in[limb], out[limb]);
    out[limb][0] += in[limb][0] * MDS_TOP_LEFT;
  }
  for (int at = 0; at < WIDTH; at++) {
    /* Below 2^53, so that nothing is carried; the third limb goes on from bit 44. */
    uint64_t lower = out[0][at] + ((uint64_t)out[1][at] << 22);
    uint64_t low = lower + ((uint64_t)out[2][at] << 44);
    uint64_t high = (out[2][at] >> 20) + (low < lower);
    uint64_t more = low + constants[at];
    state[at] = reduce(more, high + (more < low));
  }
}

static void permute(uint64_t state[WIDTH]) {
  static const uint64_t CONSTANTS[ROUNDS + 1][WIDTH] = ROUND_CONSTANTS;
  for (int at = 0; at < WIDTH; at++) {
    uint64_t sum = state[at] + CONSTANTS[0][at];
    state[at] = reduce(sum, sum < CONSTANTS[0][at]);
  }
  for (int round = 0; round < ROUNDS; round++) {
    int boxes = round < FULL || round >= FULL + PARTIAL ? WIDTH : 1;
    for (int at = 0; at < boxes; at++) state[at] = seventh_power(state[at]);
    mix(state, CONSTANTS[round + 1]);
  }
}

digest hash(enum domain domain, const uint64_t left[4], const uint64_t right[4]) {
  uint64_t state[WIDTH] = {left[0], left[1], left[2], left[3], right[0], right[1], right[2], right[3], domain, 0, 0, 0};
  permute(state);
  digest out;
  for (int at = 0; at < 4; at++) out.at[at] = state[at] >= FIELD_ORDER ? state[at] - FIELD_ORDER : state[at];
  return out;
}

int same(const digest *a, const digest *b) {
  return a->at[0] == b->at[0] && a->at[1] == b->at[1] && a->at[2] == b->at[2] && a->at[3] == b->at[3];
}
