/*
 * A payments block (docs/rollup.md) checked in the zkVM. docs/risc0.md says what the proof then shows.
 *
 * Input: what to check (1 byte: 1 the transfers, 2 the state as well), the header's length (4) and bytes, the count of transfers (4) and
 * those (24 bytes each: from 4, to 4, amount 8, nonce 8). For the state there follow a key for each transfer (32), the count of accounts
 * (4) and those (52 each), and the siblings up to the end (37 each), as in a witness.
 *
 * Journal: magic `p0rzjrn1` (8), what was checked (1), SHA-256 of the header (32), count of transfers (4), SHA-256 of the transfers (32).
 */
#include "guest.h"

enum { CHECK_TRANSFERS = 1, CHECK_STATE = 2 };
enum { MOST_INPUT = 1 << 20, NAME_LIMIT = 32, JOURNAL_BYTES = 77 };

static uint8_t input[MOST_INPUT];

const uint8_t *take(reader *from, size_t length) {
  check((size_t)(from->end - from->at) >= length, MALFORMED);
  const uint8_t *taken = from->at;
  from->at += length;
  return taken;
}

static uint32_t u32(const uint8_t *bytes) {
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static uint64_t u64(const uint8_t *bytes) { return (uint64_t)u32(bytes) << 32 | u32(bytes + 4); }

uint32_t take_u32(reader *from) { return u32(take(from, 4)); }

uint64_t take_u64(reader *from) { return u64(take(from, 8)); }

digest take_digest(reader *from) {
  digest out;
  for (int at = 0; at < 4; at++) {
    out.at[at] = take_u64(from);
    check(out.at[at] < FIELD_ORDER, OUT_OF_RANGE);
  }
  return out;
}

transfer read_transfer(const uint8_t *bytes) {
  transfer out = {u32(bytes), u32(bytes + 4), u64(bytes + 8), u64(bytes + 16)};
  return out;
}

static void put(uint8_t **to, const void *bytes, size_t length) {
  const uint8_t *from = bytes;
  while (length--) *(*to)++ = *from++;
}

/* The commitment that a block's first transfer is chained to: it binds chain, number and parent. */
static digest start(const uint8_t *chain, size_t length, const uint8_t *number, const uint8_t *parent) {
  static const char TAG[] = "push0-rollup/start/1";
  static uint8_t text[sizeof TAG - 1 + 1 + NAME_LIMIT + 8 + 32];
  uint8_t *end = text, sha[32], size = (uint8_t)length;
  put(&end, TAG, sizeof TAG - 1);
  put(&end, &size, 1);
  put(&end, chain, length);
  put(&end, number, 8);
  put(&end, parent, 32);
  sha256(sha, text, end - text);
  uint64_t words[8];
  for (int at = 0; at < 8; at++) words[at] = u32(sha + 4 * at);
  return hash(START, words, words + 4);
}

int guest_main(void) {
  reader in = {input, input + host_read(input, sizeof input)};
  uint8_t what = *take(&in, 1);
  check(what == CHECK_TRANSFERS || what == CHECK_STATE, MALFORMED);

  size_t header_length = take_u32(&in);
  const uint8_t *header_bytes = take(&in, header_length);
  reader header = {header_bytes, header_bytes + header_length};
  check(take_u64(&header) == 0x7030726865616431ull /* p0rhead1 */, MALFORMED);
  size_t name_length = *take(&header, 1);
  check(name_length >= 1 && name_length <= NAME_LIMIT, MALFORMED);
  const uint8_t *name = take(&header, name_length);
  const uint8_t *number = take(&header, 8);
  const uint8_t *parent = take(&header, 32);
  digest before = take_digest(&header), after = take_digest(&header), promised = take_digest(&header);
  uint32_t promised_count = take_u32(&header);
  check(header.at == header.end, MALFORMED);

  uint32_t count = take_u32(&in);
  check(count == promised_count, COUNT);
  check((size_t)(in.end - in.at) / TRANSFER_BYTES >= count, MALFORMED);
  const uint8_t *transfers = take(&in, count * TRANSFER_BYTES);
  digest commitment = start(name, name_length, number, parent);
  for (uint32_t at = 0; at < count; at++) {
    transfer next = read_transfer(transfers + at * TRANSFER_BYTES);
    check(next.from < 1u << TREE_DEPTH && next.to < 1u << TREE_DEPTH, OUT_OF_RANGE);
    check(next.amount < RANGE_LIMIT && next.nonce < RANGE_LIMIT, OUT_OF_RANGE);
    const uint64_t words[4] = {next.from, next.to, next.amount, next.nonce};
    commitment = hash(COMMIT, commitment.at, words);
  }
  check(same(&commitment, &promised), COMMITMENT);

  if (what == CHECK_STATE) check_state(&in, transfers, count, &before, &after);
  else check(in.at == in.end, MALFORMED);

  static uint8_t journal[JOURNAL_BYTES];
  uint8_t *end = journal;
  put(&end, "p0rzjrn1", 8);
  put(&end, &what, 1);
  sha256(end, header_bytes, header_length);
  end += 32;
  const uint8_t big_endian[4] = {(uint8_t)(count >> 24), (uint8_t)(count >> 16), (uint8_t)(count >> 8), (uint8_t)count};
  put(&end, big_endian, 4);
  sha256(end, transfers, (size_t)count * TRANSFER_BYTES);
  commit(journal, sizeof journal);
  return 0;
}
