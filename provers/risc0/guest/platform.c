/* The zkVM's system calls (ABI of risc0-zkvm-platform 2.2.3, through the v1compat kernel), and SHA-256 on its accelerator. */
#include "guest.h"

enum { ECALL_HALT = 0, ECALL_SOFTWARE = 2, ECALL_SHA = 3 };
enum { SYS_READ = 12, SYS_WRITE = 16 };
enum { STDIN = 0, JOURNAL = 3 };

#define STRING(x) #x
#define NAME(call) "risc0_zkvm_platform::syscall::nr::" STRING(call)

/* Freestanding C may still be compiled into calls of these. */
void *memcpy(void *restrict to, const void *restrict from, size_t length) {
  uint8_t *out = to;
  const uint8_t *in = from;
  while (length--) *out++ = *in++;
  return to;
}

void *memset(void *to, int value, size_t length) {
  uint8_t *out = to;
  while (length--) *out++ = (uint8_t)value;
  return to;
}

size_t host_read(uint8_t *to, size_t capacity) {
  size_t read = 0;
  while (read < capacity) {
    /* The kernel reads as many bytes as a1 says, which is the buffer's size, in pieces of at most 1 KiB. */
    size_t piece = capacity - read < 1024 ? capacity - read : 1024;
    register uint32_t t0 __asm__("t0") = ECALL_SOFTWARE;
    register uint32_t t6 __asm__("t6") = SYS_READ;
    register uint32_t a0 __asm__("a0") = (uint32_t)(to + read);
    register uint32_t a1 __asm__("a1") = piece;
    register const char *a2 __asm__("a2") = NAME(SYS_READ);
    register uint32_t a3 __asm__("a3") = STDIN;
    register uint32_t a4 __asm__("a4") = piece;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(t0), "r"(t6), "r"(a2), "r"(a3), "r"(a4) : "memory");
    read += a0;
    if (a0 < piece) break;
  }
  return read;
}

static void host_write(uint32_t descriptor, const uint8_t *bytes, size_t length) {
  register uint32_t t0 __asm__("t0") = ECALL_SOFTWARE;
  register uint32_t t6 __asm__("t6") = SYS_WRITE;
  register uint32_t a0 __asm__("a0") = 0;
  register uint32_t a1 __asm__("a1") = 0;
  register const char *a2 __asm__("a2") = NAME(SYS_WRITE);
  register uint32_t a3 __asm__("a3") = descriptor;
  register const uint8_t *a4 __asm__("a4") = bytes;
  register uint32_t a5 __asm__("a5") = length;
  __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(t0), "r"(t6), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
}

_Noreturn void halt(uint32_t exit_code, const uint32_t output[8]) {
  register uint32_t t0 __asm__("t0") = ECALL_HALT;
  register uint32_t a0 __asm__("a0") = exit_code << 8;
  register const uint32_t *a1 __asm__("a1") = output;
  __asm__ volatile("ecall" : : "r"(t0), "r"(a0), "r"(a1) : "memory");
  __builtin_unreachable();
}

/* A state as the accelerator takes it: the bytes of the digest. */
static const uint32_t SHA_START[8] = {0x67e6096a, 0x85ae67bb, 0x72f36e3c, 0x3af54fa5, 0x7f520e51, 0x8c68059b, 0xabd9831f, 0x19cde05b};

static void sha_block(uint32_t state[8], const uint32_t block[16]) {
  register uint32_t t0 __asm__("t0") = ECALL_SHA;
  register uint32_t *a0 __asm__("a0") = state;
  register const uint32_t *a1 __asm__("a1") = state;
  register const uint32_t *a2 __asm__("a2") = block;
  register const uint32_t *a3 __asm__("a3") = block + 8;
  register uint32_t a4 __asm__("a4") = 1;
  __asm__ volatile("ecall" : "+r"(a0) : "r"(t0), "r"(a1), "r"(a2), "r"(a3), "r"(a4) : "memory");
}

void sha256(uint8_t out[32], const uint8_t *data, size_t length) {
  static uint32_t block[16]; /* words, since the accelerator wants them aligned */
  uint32_t state[8];
  uint8_t *bytes = (uint8_t *)block;
  memcpy(state, SHA_START, sizeof state);
  size_t left = length;
  for (; left >= 64; left -= 64, data += 64) {
    memcpy(bytes, data, 64);
    sha_block(state, block);
  }
  memcpy(bytes, data, left);
  bytes[left] = 0x80;
  for (size_t at = left + 1; at < 64; at++) bytes[at] = 0;
  if (left >= 56) {
    sha_block(state, block);
    memset(bytes, 0, 64);
  }
  uint64_t bits = (uint64_t)length * 8;
  for (int at = 0; at < 8; at++) bytes[63 - at] = (uint8_t)(bits >> (8 * at));
  sha_block(state, block);
  memcpy(out, state, 32);
}

/* Writes the journal and halts: what the execution says is then the digest of that journal, with no assumptions. */
void commit(const uint8_t *journal, size_t length) {
  static const char TAG[] = "risc0.Output";
  static uint8_t tagged[32 + 32 + 32 + 2];
  static uint32_t output[8];
  host_write(JOURNAL, journal, length);
  sha256(tagged, (const uint8_t *)TAG, sizeof TAG - 1);
  sha256(tagged + 32, journal, length);
  memset(tagged + 64, 0, 32);
  tagged[96] = 2; /* how many digests were hashed in, little-endian */
  tagged[97] = 0;
  sha256((uint8_t *)output, tagged, sizeof tagged);
  halt(0, output);
}

_Noreturn void refuse(enum refusal why) {
  static const uint32_t NOTHING[8];
  halt(why, NOTHING);
}

int guest_main(void);

__attribute__((naked, used, section(".text.start"))) void _start(void) {
  __asm__ volatile("li sp, 0x00200400\n\tj guest_main");
}
