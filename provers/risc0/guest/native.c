/*
 * The guest as a program of the host, for tests (provers/zkvm/src/tests.rs): the block on stdin, the journal on stdout, a refusal as exit
 * code. It stands in platform.c's place and is no part of guest.elf.
 */
#include <stdio.h>
#include <stdlib.h>

#include "guest.h"

size_t host_read(uint8_t *to, size_t capacity) { return fread(to, 1, capacity, stdin); }

void commit(const uint8_t *journal, size_t length) {
  if (fwrite(journal, 1, length, stdout) != length || fflush(stdout)) abort();
}

_Noreturn void refuse(enum refusal why) { exit(why); }

int guest_main(void);

int main(void) { return guest_main(); }

/* SHA-256 (FIPS 180-4), which the zkVM has an accelerator for. */
static const uint32_t ROUND[64] = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
  0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
  0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
  0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
  0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
  0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t word, int by) { return word >> by | word << (32 - by); }

static void sha_block(uint32_t state[8], const uint8_t *bytes) {
  uint32_t word[64], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
  for (int at = 0; at < 16; at++, bytes += 4)
    word[at] = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
  for (int at = 16; at < 64; at++) {
    uint32_t low = rotate(word[at - 15], 7) ^ rotate(word[at - 15], 18) ^ word[at - 15] >> 3;
    uint32_t high = rotate(word[at - 2], 17) ^ rotate(word[at - 2], 19) ^ word[at - 2] >> 10;
    word[at] = word[at - 16] + low + word[at - 7] + high;
  }
  for (int at = 0; at < 64; at++) {
    uint32_t one = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[at] + word[at];
    uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void sha256(uint8_t out[32], const uint8_t *data, size_t length) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t last[128] = {0};
  size_t left = length % 64, padded = left < 56 ? 64 : 128;
  for (size_t at = 0; at + 64 <= length; at += 64) sha_block(state, data + at);
  for (size_t at = 0; at < left; at++) last[at] = data[length - left + at];
  last[left] = 0x80;
  for (int at = 0; at < 8; at++) last[padded - 1 - at] = (uint8_t)((uint64_t)length * 8 >> (8 * at));
  for (size_t at = 0; at < padded; at += 64) sha_block(state, last + at);
  for (int at = 0; at < 32; at++) out[at] = (uint8_t)(state[at / 4] >> (24 - 8 * (at % 4)));
}
