//! The stages and the guest without a zkVM: the guest's C is compiled for the host, and what takes a proof's place proves nothing.

mod guest;
mod native;
mod session;
mod stages;

use push0_rollup::block::Witness;
use push0_rollup::tool::chain::Chain;
use push0_rollup::tool::random;

/// The third block of a chain of sixteen accounts.
fn block(transfers: u32) -> Witness {
    let mut chain = Chain::start("demo", 1, random::accounts(16, random::DEFAULT_BALANCE)).unwrap();
    random::blocks(&mut chain, 7, 3, transfers).unwrap().remove(2)
}
