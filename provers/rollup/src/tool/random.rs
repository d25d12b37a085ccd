//! Random blocks from a seed: the same seed always gives the same files.

use anyhow::{Result, ensure};

use crate::block::Witness;
use crate::tool::chain::{Chain, GenesisAccount};

/// What a fresh account holds: 1,000 ETH in gwei.
pub const DEFAULT_BALANCE: u64 = 1_000_000_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014): eight lines, so that the files depend on no crate's version.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Accounts `account-0`, `account-1`, … with the same balance each.
pub fn accounts(count: u32, balance: u64) -> Vec<GenesisAccount> {
    (0..count).map(|n| GenesisAccount { name: format!("account-{n}"), balance }).collect()
}

/// Makes `blocks` blocks of `transfers` transfers each, up to 1 ETH at a time, between the chain's accounts.
pub fn blocks(chain: &mut Chain, seed: u64, blocks: u32, transfers: u32) -> Result<Vec<Witness>> {
    let mut random = SplitMix(seed);
    let count = chain.genesis().accounts.len() as u64;
    let mut balances: Vec<u64> = chain.genesis().accounts.iter().map(|account| account.balance).collect();
    ensure!(balances.iter().any(|balance| *balance > 0) || transfers == 0, "no account has anything to send");
    let mut made = Vec::new();
    for _ in 0..blocks {
        let mut block = Vec::with_capacity(transfers as usize);
        while block.len() < transfers as usize {
            let (from, to) = (random.below(count) as u32, random.below(count) as u32);
            let most = balances[from as usize].min(1_000_000_000);
            if most == 0 {
                continue;
            }
            let amount = 1 + random.below(most);
            balances[from as usize] -= amount;
            balances[to as usize] += amount;
            block.push((from, to, amount));
        }
        made.push(chain.block(&block)?);
    }
    Ok(made)
}
