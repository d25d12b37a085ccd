//! Ranges: consecutive blocks of a chain, proven by one proof.
//!
//! A range is to blocks what a block is to segments. Its proof says the same five things (`statement`), only that its
//! commitments are over blocks: the range's begins where its first block's does, and each block is hashed in with
//! everything that its own proof says. Two neighbours meet in the root and in that commitment, so any tree of joins over
//! the same blocks in the same order says the same, and none over others does.

use crate::block::Header;
use crate::codec::{DecodeError, Reader, Write};
use crate::poseidon::{Digest, Domain, hash_pair, hash_words};
use crate::statement::Statement;

const HEADER_MAGIC: &[u8; 8] = b"p0rrang1";
const SEGMENT_MAGIC: &[u8; 8] = b"p0rrseg1";

/// Bytes of a block after the first, in a range's header.
const STEP_BYTES: usize = 32 + 32 + 4;

/// What a range's proof says once `block`, which this block's own proof says, has been put behind `before`.
pub fn extend(before: Digest, block: &Statement) -> Statement {
    let commitments = hash_pair(Domain::Block, block.commitment_before, block.commitment_after);
    let roots = hash_pair(Domain::Block, block.root_before, block.root_after);
    let both = hash_pair(Domain::Block, commitments, roots);
    let digest = hash_words(Domain::Block, both, [block.count, 0, 0, 0]);
    let commitment_after = hash_pair(Domain::Range, before, digest);
    Statement { commitment_before: before, commitment_after, ..block.clone() }
}

/// The headers of consecutive blocks, at least one: what a range's proof is checked against.
///
/// Layout: magic `p0rrang1` (8), the first block's header with its length (2), then the other blocks as a list: count
/// (4) and for each state root after (32), transfer commitment (32) and count (4). What is not written follows from
/// the block before: chain, number, parent hash, state root before. So a range's header cannot skip, repeat or swap
/// blocks; one that was changed ends in a block of another hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    headers: Vec<Header>,
}

/// Why blocks are no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotARange {
    #[error("a range has at least one block")]
    Empty,
    #[error("block {right} of {right_chain} does not follow block {left} of {left_chain}: {why}")]
    Broken { left: u64, left_chain: String, right: u64, right_chain: String, why: &'static str },
}

impl Range {
    pub fn new(headers: Vec<Header>) -> Result<Self, NotARange> {
        if headers.is_empty() {
            return Err(NotARange::Empty);
        }
        for pair in headers.windows(2) {
            if let Some(why) = break_between(&pair[0], &pair[1]) {
                let [(left, left_chain), (right, right_chain)] =
                    [&pair[0], &pair[1]].map(|header| (header.number, header.chain.clone()));
                return Err(NotARange::Broken { left, left_chain, right, right_chain, why });
            }
        }
        Ok(Self { headers })
    }

    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    pub fn first(&self) -> &Header {
        &self.headers[0]
    }

    pub fn last(&self) -> &Header {
        &self.headers[self.headers.len() - 1]
    }

    /// What the proof of each block says within the range.
    pub fn links(&self) -> Vec<Statement> {
        let mut commitment = self.first().start();
        let link = |header| {
            let link = extend(commitment, &Statement::of_block(header));
            commitment = link.commitment_after;
            link
        };
        self.headers.iter().map(link).collect()
    }

    /// What a proof of the range must say.
    pub fn statement(&self) -> Statement {
        let links = self.links();
        links.into_iter().reduce(|left, right| left.join(&right)).expect("a range has at least one block")
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = HEADER_MAGIC.to_vec();
        put_header(&mut out, self.first());
        out.put_list(&self.headers[1..], |out, header| {
            out.put_digest(&header.state_after);
            out.put_digest(&header.commitment);
            out.put_u32(header.count);
        });
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, HEADER_MAGIC, "range header")?;
        let mut last = read_header(&mut reader)?;
        let mut headers = vec![last.clone()];
        headers.extend(reader.list(STEP_BYTES, |reader| {
            let number = last.number.checked_add(1);
            last = Header {
                chain: last.chain.clone(),
                number: number.ok_or(DecodeError::Value("a block's number is too large"))?,
                parent_hash: last.hash(),
                state_before: last.state_after,
                state_after: reader.digest()?,
                commitment: reader.digest()?,
                count: reader.u32()?,
            };
            Ok(last.clone())
        })?);
        reader.finish()?;
        Ok(Self { headers })
    }
}

/// Why the right block does not follow the left one, if it does not.
fn break_between(left: &Header, right: &Header) -> Option<&'static str> {
    if left.chain != right.chain {
        return Some("they are of two chains");
    }
    if left.number.checked_add(1) != Some(right.number) {
        return Some("their numbers are not consecutive");
    }
    if left.hash() != right.parent_hash {
        return Some("its parent hash is another");
    }
    (left.state_after != right.state_before).then_some("it begins with another state root")
}

/// One block of a range: the input of one range lift.
///
/// Layout: magic `p0rrseg1` (8), what the lift will say (136), the block's header with its length (2), its proof file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSegment {
    pub statement: Statement,
    pub header: Header,
    /// A proof file, not yet looked at.
    pub proof: Vec<u8>,
}

impl RangeSegment {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = SEGMENT_MAGIC.to_vec();
        self.statement.put(&mut out);
        put_header(&mut out, &self.header);
        out.put(&self.proof);
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, SEGMENT_MAGIC, "range segment")?;
        let statement = Statement::read(&mut reader)?;
        let header = read_header(&mut reader)?;
        Ok(Self { statement, header, proof: reader.rest().to_vec() })
    }
}

fn put_header(out: &mut Vec<u8>, header: &Header) {
    let bytes = header.to_bytes();
    out.put_u16(bytes.len() as u16);
    out.put(&bytes);
}

fn read_header(reader: &mut Reader<'_>) -> Result<Header, DecodeError> {
    let length = reader.u16()?;
    Header::from_bytes(reader.take(length.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::chain::Chain;
    use crate::tool::random;

    fn headers(seed: u64, chain: &str) -> Vec<Header> {
        let mut chain = Chain::start(chain, 5, random::accounts(4, 1_000)).unwrap();
        random::blocks(&mut chain, seed, 6, 2).unwrap().into_iter().map(|witness| witness.header).collect()
    }

    #[test]
    fn a_range_survives_its_encoding_and_grows_by_68_bytes_a_block() {
        let headers = headers(1, "demo");
        let one = Range::new(headers[..1].to_vec()).unwrap();
        let all = Range::new(headers.clone()).unwrap();
        assert_eq!(all.to_bytes().len(), one.to_bytes().len() + 5 * STEP_BYTES);
        for range in [one, all] {
            assert_eq!(Range::from_bytes(&range.to_bytes()).as_ref(), Ok(&range));
        }
    }

    #[test]
    fn any_byte_of_a_range_header_changes_the_last_hash_or_is_refused() {
        let range = Range::new(headers(1, "demo")).unwrap();
        let bytes = range.to_bytes();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let hash = Range::from_bytes(&changed).map(|range| range.last().hash());
            assert_ne!(hash, Ok(range.last().hash()), "byte {at}");
        }
        assert!(Range::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(Range::from_bytes(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn blocks_that_do_not_follow_each_other_are_no_range() {
        let all = headers(1, "demo");
        let other = headers(2, "demo");
        let foreign = headers(1, "demo2");
        let pick = |places: &[usize]| places.iter().map(|at| all[*at].clone()).collect::<Vec<_>>();
        let mut root = pick(&[0, 1]);
        root[1].state_before = root[0].state_before;
        assert_ne!(all[0].state_before, all[0].state_after);
        for (headers, why) in [
            (vec![], "at least one"),
            (pick(&[0, 2]), "not consecutive"),
            (pick(&[1, 0]), "not consecutive"),
            (pick(&[0, 0]), "not consecutive"),
            (vec![all[0].clone(), other[1].clone()], "parent hash"),
            (vec![all[0].clone(), foreign[1].clone()], "two chains"),
            (root, "another state root"),
        ] {
            let error = Range::new(headers).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    /// Whatever is cut where: the links meet, and together they say the same.
    #[test]
    fn the_statement_does_not_depend_on_the_shape_of_the_tree_but_on_the_order() {
        let range = Range::new(headers(1, "demo")).unwrap();
        let links = range.links();
        assert!(links.windows(2).all(|pair| pair[0].meets(&pair[1])));
        let join = |part: &[Statement]| part.iter().cloned().reduce(|left, right| left.join(&right)).unwrap();
        for cut in 1..links.len() {
            assert_eq!(join(&links[..cut]).join(&join(&links[cut..])), range.statement());
        }
        assert!(!links[0].meets(&links[2]) && !links[1].meets(&links[0]) && !links[0].meets(&links[0]));
        let part = |count: usize| Range::new(range.headers()[..count].to_vec()).unwrap().statement();
        assert_eq!(part(3).commitment_before, part(4).commitment_before);
        assert_ne!(part(3).commitment_after, part(4).commitment_after);
    }

    /// A block's own proof says five things; each of them is in the range's commitment.
    #[test]
    fn every_part_of_a_blocks_statement_is_bound() {
        let block = Statement::of_block(&headers(1, "demo")[0]);
        let bound = |block: &Statement| extend(Digest::default(), block).commitment_after;
        let other = Digest([plonky2::field::types::Field::TWO; 4]);
        let changes: [fn(&mut Statement, Digest); 5] = [
            |block, other| block.root_before = other,
            |block, other| block.root_after = other,
            |block, other| block.commitment_before = other,
            |block, other| block.commitment_after = other,
            |block, _| block.count += 1,
        ];
        for change in changes {
            let mut changed = block.clone();
            change(&mut changed, other);
            assert_ne!(bound(&changed), bound(&block));
        }
        let swapped = Statement { root_before: block.root_after, root_after: block.root_before, ..block.clone() };
        assert_ne!(bound(&swapped), bound(&block));
        assert_ne!(extend(other, &block).commitment_after, bound(&block));
    }
}
