//! Cutting a block into segments of k transfers: the input of one leaf proof each.

use plonky2::field::types::Field;

use crate::block::{BadWitness, Witness, put_account, put_payment, read_account, read_payment, same};
use crate::codec::{DecodeError, Reader, Write};
use crate::poseidon::{Digest, F};
use crate::state::{DEPTH, Path, Step};
use crate::statement::Statement;

const MAGIC: &[u8; 8] = b"p0rsegm1";

/// Bytes of a step: real 1, payment 56, two accounts (48) and two paths (640).
const STEP_BYTES: usize = 1 + 56 + 2 * (48 + DEPTH * 32);

/// How many transfers a segment can hold; each size has its own circuits and keys.
pub const SIZES: [u16; 3] = [8, 16, 32];

/// The size where nothing else is asked for.
pub const DEFAULT_SIZE: u16 = 8;

/// Consecutive transfers and what the leaf circuit needs to see them happen. **It holds the senders' keys.**
///
/// Layout: magic `p0rsegm1` (8), its statement (136), then the steps as a list: count (4) and for each real (1),
/// payment (56), sender (48), sender's path (640), receiver (48), receiver's path (640). The number of steps is k.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What its proof will say.
    pub statement: Statement,
    /// k steps, the last of them padding where the block ends.
    pub steps: Vec<Step>,
}

/// Executes a block against its witness and cuts it into segments of `size` transfers, at least one.
///
/// Everything the header says is compared with what execution gives.
pub fn cut(witness: &Witness, size: u16) -> Result<Vec<Segment>, BadWitness> {
    let header = &witness.header;
    same("count", header.count as usize, witness.payments.len())?;
    let mut state = witness.state()?;
    let mut segments: Vec<Segment> = Vec::new();
    let mut commitment = header.start();
    let mut root = header.state_before;
    for at in 0..witness.payments.len().div_ceil(size.into()).max(1) {
        let first = at * usize::from(size);
        let payments = &witness.payments[first..witness.payments.len().min(first + usize::from(size))];
        let mut steps = Vec::with_capacity(size.into());
        let mut statement = Statement {
            root_before: root,
            commitment_before: commitment,
            root_after: root,
            commitment_after: commitment,
            count: payments.len() as u64,
        };
        for (offset, payment) in payments.iter().enumerate() {
            let step = state.apply(payment).map_err(|why| BadWitness::Transfer { at: first + offset, why })?;
            steps.push(step);
            commitment = payment.transfer.commit(commitment);
        }
        while steps.len() < size.into() {
            steps.push(state.padding().map_err(BadWitness::State)?);
        }
        root = state.root().map_err(BadWitness::State)?;
        statement.root_after = root;
        statement.commitment_after = commitment;
        segments.push(Segment { statement, steps });
    }
    same("state root after", header.state_after, root)?;
    same("transfer commitment", header.commitment, commitment)?;
    Ok(segments)
}

impl Segment {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        self.statement.put(&mut out);
        out.put_list(&self.steps, |out, step| {
            out.put_u8(step.real.into());
            put_payment(out, &step.payment);
            for (account, path) in [(&step.sender, &step.sender_path), (&step.receiver, &step.receiver_path)] {
                put_account(out, account);
                path.iter().for_each(|sibling| out.put_digest(sibling));
            }
        });
        out
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, MAGIC, "segment")?;
        let statement = Statement::read(&mut reader)?;
        let steps = reader.list(STEP_BYTES, |reader| {
            let real = match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(DecodeError::Value("a flag is neither 0 nor 1")),
            };
            let payment = read_payment(reader)?;
            let (sender, sender_path) = (read_account(reader)?, read_path(reader)?);
            let (receiver, receiver_path) = (read_account(reader)?, read_path(reader)?);
            Ok(Step { real, payment, sender, sender_path, receiver, receiver_path })
        })?;
        reader.finish()?;
        Ok(Self { statement, steps })
    }
}

fn read_path(reader: &mut Reader<'_>) -> Result<Path, DecodeError> {
    let mut path = [Digest([F::ZERO; 4]); DEPTH];
    for sibling in &mut path {
        *sibling = reader.digest()?;
    }
    Ok(path)
}
