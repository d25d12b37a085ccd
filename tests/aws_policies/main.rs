//! Deadlines, hedging, several provers a block and batches on an emulator's queues, table and buckets: `scripts/with-emulators` has one.

mod batches;
mod deadlines;
mod hedging;
mod provers;
