/* The transfers applied to the accounts they touch, whose tree has the header's root before and its root after. */
#include "guest.h"

enum { MOST_ACCOUNTS = 2048 };

typedef struct { digest owner; uint64_t balance, nonce; } account;

/* A node of the tree, before and after. */
typedef struct { uint32_t place; digest before, after; } node;

static account accounts[MOST_ACCOUNTS];
static node nodes[MOST_ACCOUNTS];

static uint64_t in_range(uint64_t value) {
  check(value < RANGE_LIMIT, OUT_OF_RANGE);
  return value;
}

static digest leaf(const account *of) {
  const uint64_t words[4] = {of->balance, of->nonce, 0, 0};
  return hash(LEAF, of->owner.at, words);
}

static account *find(uint32_t place, uint32_t count) {
  uint32_t low = 0, high = count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (nodes[middle].place < place) low = middle + 1;
    else high = middle;
  }
  check(low < count && nodes[low].place == place, NO_ACCOUNT);
  return &accounts[low];
}

static void apply(const transfer *of, const digest *key, uint32_t count) {
  static const uint64_t NOTHING[4];
  account *sender = find(of->from, count), *receiver = find(of->to, count);
  digest owner = hash(OWNER, key->at, NOTHING);
  check(same(&owner, &sender->owner), KEY);
  check(of->nonce == sender->nonce, NONCE);
  check(of->amount <= sender->balance, OVERDRAFT);
  sender->balance -= of->amount;
  sender->nonce = in_range(sender->nonce + 1);
  receiver->balance = in_range(receiver->balance + of->amount);
}

static node parent(const node *left, const node *right) {
  node up = {.place = left->place >> 1, .before = hash(NODE, left->before.at, right->before.at)};
  int changed = !same(&left->before, &left->after) || !same(&right->before, &right->after);
  up.after = changed ? hash(NODE, left->after.at, right->after.at) : up.before;
  return up;
}

/* One level up, in place. A node without its neighbour takes the next of the siblings, which lie level by level, left to right. */
static uint32_t climb(uint32_t count, uint32_t level, reader *siblings) {
  uint32_t parents = 0;
  for (uint32_t at = 0; at < count;) {
    node self = nodes[at++];
    if (!(self.place & 1) && at < count && nodes[at].place == self.place + 1) {
      nodes[parents++] = parent(&self, &nodes[at++]);
      continue;
    }
    node other;
    check(*take(siblings, 1) == level, MALFORMED);
    other.place = take_u32(siblings);
    check(other.place == (self.place ^ 1), MALFORMED);
    other.before = other.after = take_digest(siblings);
    nodes[parents++] = self.place & 1 ? parent(&other, &self) : parent(&self, &other);
  }
  return parents;
}

void check_state(reader *input, const uint8_t *transfers, uint32_t count, const digest *before, const digest *after) {
  check((size_t)(input->end - input->at) / 32 >= count, MALFORMED);
  reader keys = {input->at, input->at + 32 * count};
  input->at = keys.end;
  uint32_t held = take_u32(input);
  check(held > 0 && held <= MOST_ACCOUNTS, MALFORMED);
  for (uint32_t at = 0; at < held; at++) {
    nodes[at].place = take_u32(input);
    check(nodes[at].place < 1u << TREE_DEPTH, OUT_OF_RANGE);
    check(at == 0 || nodes[at - 1].place < nodes[at].place, NO_ACCOUNT);
    accounts[at].owner = take_digest(input);
    accounts[at].balance = in_range(take_u64(input));
    accounts[at].nonce = in_range(take_u64(input));
    nodes[at].before = leaf(&accounts[at]);
  }
  for (uint32_t at = 0; at < count; at++) {
    transfer next = read_transfer(transfers + at * TRANSFER_BYTES);
    digest key = take_digest(&keys);
    apply(&next, &key, held);
  }
  for (uint32_t at = 0; at < held; at++) nodes[at].after = leaf(&accounts[at]);
  uint32_t left = held;
  for (uint32_t level = 0; level < TREE_DEPTH; level++) left = climb(left, level, input);
  check(left == 1 && input->at == input->end, MALFORMED);
  check(same(&nodes[0].before, before), ROOT_BEFORE);
  check(same(&nodes[0].after, after), ROOT_AFTER);
}
