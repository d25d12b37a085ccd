/* What the guest's files share. Sizes are in bytes; numbers in blocks are big-endian, words of memory little-endian. */
#ifndef GUEST_H
#define GUEST_H

#include <stddef.h>
#include <stdint.h>

/* Why the guest refuses a block: its exit code, which the prover turns into words (provers/zkvm/src/guest.rs). */
enum refusal {
  MALFORMED = 1,    /* the input is not what the prover writes */
  OUT_OF_RANGE = 2, /* a place, amount, nonce, balance or field element is too large */
  COUNT = 3,        /* the header counts other transfers */
  COMMITMENT = 4,   /* the header commits to other transfers */
  NO_ACCOUNT = 5,   /* a transfer names an account that the witness lacks, or accounts are out of order */
  KEY = 6,          /* a key is not the sender's */
  NONCE = 7,        /* a nonce is not the sender's */
  OVERDRAFT = 8,    /* a sender has less than it sends */
  ROOT_BEFORE = 9,  /* the accounts are not those of the state root before */
  ROOT_AFTER = 10,  /* the accounts afterwards are not those of the state root after */
};

/* Ends the execution without a proof. */
_Noreturn void refuse(enum refusal why);

static inline void check(int holds, enum refusal why) {
  if (!holds) refuse(why);
}

/* platform.c: the zkVM's system calls. */
size_t host_read(uint8_t *to, size_t capacity);
void commit(const uint8_t *journal, size_t length);
_Noreturn void halt(uint32_t exit_code, const uint32_t output[8]);
void sha256(uint8_t digest[32], const uint8_t *data, size_t length);

/* poseidon.c: the rollup's hash (docs/rollup.md, "State"), over the field of 2^64 - 2^32 + 1. */
typedef struct { uint64_t at[4]; } digest;

enum domain { OWNER = 1, LEAF = 2, NODE = 3, COMMIT = 4, START = 5 };

#define FIELD_ORDER 0xffffffff00000001ull

digest hash(enum domain domain, const uint64_t left[4], const uint64_t right[4]);
int same(const digest *a, const digest *b);

/* Takes values off the front of the input. */
typedef struct { const uint8_t *at, *end; } reader;

const uint8_t *take(reader *from, size_t length);
uint32_t take_u32(reader *from);
uint64_t take_u64(reader *from);
digest take_digest(reader *from);

/* state.c: the transfers applied to the accounts, between the two state roots. */
typedef struct { uint32_t from, to; uint64_t amount, nonce; } transfer;

void check_state(reader *input, const uint8_t *transfers, uint32_t count, const digest *before, const digest *after);
transfer read_transfer(const uint8_t *bytes);

#define TRANSFER_BYTES 24
#define TREE_DEPTH 20
#define RANGE_LIMIT (1ull << 62)

#endif
