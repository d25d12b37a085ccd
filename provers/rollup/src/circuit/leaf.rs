//! The leaf circuit: k transfers, one after another, from one state root to another.
//!
//! For each step: the sender's account is on the running root; its key hashes to its owner (unless the step is
//! padding); amount, what the sender keeps and what the receiver gets are below 2^62; the sender's leaf is replaced;
//! the receiver's account is on the root *that* gives; its leaf is replaced; the transfer is chained to the
//! commitment. Both updates of an account use the same index bits and siblings for old and new path, and those bits
//! are of the number that enters the commitment.

use anyhow::Result;
use plonky2::field::types::Field;
use plonky2::iop::target::{BoolTarget, Target};
use plonky2::iop::witness::{PartialWitness, WitnessWrite};
use plonky2::plonk::circuit_data::{CircuitConfig, CircuitData};
use plonky2::plonk::proof::ProofWithPublicInputs;

use crate::poseidon::{Builder, C, D, Digest, DigestTarget, Domain, F, hash_circuit};
use crate::segment::Segment;
use crate::state::{Account, DEPTH, Path, RANGE_BITS, Step};

/// The targets of one account and its path.
struct AccountTargets {
    owner: DigestTarget,
    balance: Target,
    nonce: Target,
    path: [DigestTarget; DEPTH],
}

struct StepTargets {
    real: BoolTarget,
    from: Target,
    to: Target,
    amount: Target,
    key: DigestTarget,
    sender: AccountTargets,
    receiver: AccountTargets,
}

/// A leaf circuit with its proving key.
pub struct LeafCircuit {
    pub data: CircuitData<F, C, D>,
    root: DigestTarget,
    commitment: DigestTarget,
    steps: Vec<StepTargets>,
}

impl LeafCircuit {
    /// Builds the circuit for `size` transfers.
    pub fn build(size: u16) -> Self {
        Self::build_with_range(size, RANGE_BITS)
    }

    /// As [`build`](Self::build), with another width of the range checks: only for showing what goes wrong above 62.
    pub(crate) fn build_with_range(size: u16, range_bits: usize) -> Self {
        let mut builder = Builder::new(CircuitConfig::standard_recursion_config());
        let root = digest_target(&mut builder);
        let commitment = digest_target(&mut builder);
        builder.register_public_inputs(&root);
        builder.register_public_inputs(&commitment);

        let mut steps = Vec::with_capacity(size.into());
        let (mut running_root, mut running_commitment, mut count) = (root, commitment, builder.zero());
        for _ in 0..size {
            let step = step_targets(&mut builder);
            (running_root, running_commitment) =
                constrain_step(&mut builder, &step, running_root, running_commitment, range_bits);
            count = builder.add(count, step.real.target);
            steps.push(step);
        }
        builder.register_public_inputs(&running_root);
        builder.register_public_inputs(&running_commitment);
        builder.register_public_input(count);
        Self { data: builder.build::<C>(), root, commitment, steps }
    }

    /// How many transfers it takes.
    pub fn size(&self) -> usize {
        self.steps.len()
    }

    /// Proves a segment of this size. An error means that the segment does not satisfy the circuit.
    pub fn prove(&self, segment: &Segment) -> Result<ProofWithPublicInputs<F, C, D>> {
        let Segment { statement, steps } = segment;
        anyhow::ensure!(
            steps.len() == self.size(),
            "the segment has {} steps, the circuit {}",
            steps.len(),
            self.size()
        );
        let mut witness = PartialWitness::new();
        set_digest(&mut witness, self.root, statement.root_before)?;
        set_digest(&mut witness, self.commitment, statement.commitment_before)?;
        for (targets, step) in self.steps.iter().zip(steps) {
            set_step(&mut witness, targets, step)?;
        }
        let proof = super::prove(&self.data, witness)?;
        anyhow::ensure!(
            proof.public_inputs == statement.to_public_inputs(),
            "the segment's steps do not give what the segment states"
        );
        Ok(proof)
    }
}

fn digest_target(builder: &mut Builder) -> DigestTarget {
    builder.add_virtual_target_arr()
}

fn account_targets(builder: &mut Builder) -> AccountTargets {
    AccountTargets {
        owner: digest_target(builder),
        balance: builder.add_virtual_target(),
        nonce: builder.add_virtual_target(),
        path: std::array::from_fn(|_| digest_target(builder)),
    }
}

fn step_targets(builder: &mut Builder) -> StepTargets {
    StepTargets {
        real: builder.add_virtual_bool_target_safe(),
        from: builder.add_virtual_target(),
        to: builder.add_virtual_target(),
        amount: builder.add_virtual_target(),
        key: digest_target(builder),
        sender: account_targets(builder),
        receiver: account_targets(builder),
    }
}

/// Adds one step's constraints; returns root and commitment after it.
fn constrain_step(
    builder: &mut Builder,
    step: &StepTargets,
    root: DigestTarget,
    commitment: DigestTarget,
    range_bits: usize,
) -> (DigestTarget, DigestTarget) {
    let no_swap = builder._false();
    let zero = builder.zero();
    let real = step.real.target;
    let StepTargets { sender, receiver, amount, .. } = step;

    // Authorisation: real · (H(key) − owner) = 0.
    let owner = hash_circuit(builder, Domain::Owner, step.key, [zero; 4], no_swap);
    for (hashed, owner) in owner.into_iter().zip(sender.owner) {
        let difference = builder.sub(hashed, owner);
        let product = builder.mul(real, difference);
        builder.connect(product, zero);
    }
    // Padding moves nothing: amount = real · amount.
    let effective = builder.mul(real, *amount);
    builder.connect(effective, *amount);

    // Old balances are below 2^62 (genesis and every step before saw to it), so one field element each is enough:
    // a negative difference is at least p − 2^62 + 1, which is no 62-bit number.
    let keeps = builder.sub(sender.balance, *amount);
    let gets = builder.add(receiver.balance, *amount);
    for value in [*amount, keeps, gets] {
        builder.range_check(value, range_bits);
    }

    let next_nonce = builder.add(sender.nonce, real);
    let from_bits = builder.split_le(step.from, DEPTH);
    let to_bits = builder.split_le(step.to, DEPTH);
    let root = replace_leaf(builder, sender, &from_bits, root, keeps, next_nonce);
    let root = replace_leaf(builder, receiver, &to_bits, root, gets, receiver.nonce);

    let words = [step.from, step.to, *amount, sender.nonce];
    let chained = hash_circuit(builder, Domain::Commitment, commitment, words, no_swap);
    let commitment = std::array::from_fn(|i| builder.select(step.real, chained[i], commitment[i]));
    (root, commitment)
}

/// Constrains that the account lies under `root` at `bits`; returns the root with its new balance and nonce there.
fn replace_leaf(
    builder: &mut Builder,
    account: &AccountTargets,
    bits: &[BoolTarget],
    root: DigestTarget,
    balance: Target,
    nonce: Target,
) -> DigestTarget {
    let mut ends = [(account.balance, account.nonce), (balance, nonce)].map(|(balance, nonce)| {
        let (zero, no_swap) = (builder.zero(), builder._false());
        hash_circuit(builder, Domain::Leaf, account.owner, [balance, nonce, zero, zero], no_swap)
    });
    for (bit, sibling) in bits.iter().zip(account.path) {
        ends = ends.map(|digest| hash_circuit(builder, Domain::Node, digest, sibling, *bit));
    }
    let [old, new] = ends;
    for (computed, expected) in old.into_iter().zip(root) {
        builder.connect(computed, expected);
    }
    new
}

fn set_digest(witness: &mut PartialWitness<F>, targets: DigestTarget, digest: Digest) -> Result<()> {
    witness.set_target_arr(&targets, &digest.0)
}

fn set_account(
    witness: &mut PartialWitness<F>,
    targets: &AccountTargets,
    account: &Account,
    path: &Path,
) -> Result<()> {
    set_digest(witness, targets.owner, account.owner)?;
    witness.set_target(targets.balance, F::from_noncanonical_u64(account.balance))?;
    witness.set_target(targets.nonce, F::from_noncanonical_u64(account.nonce))?;
    targets.path.iter().zip(path).try_for_each(|(targets, sibling)| set_digest(witness, *targets, *sibling))
}

fn set_step(witness: &mut PartialWitness<F>, targets: &StepTargets, step: &Step) -> Result<()> {
    let transfer = &step.payment.transfer;
    witness.set_bool_target(targets.real, step.real)?;
    witness.set_target(targets.from, F::from_canonical_u32(transfer.from))?;
    witness.set_target(targets.to, F::from_canonical_u32(transfer.to))?;
    witness.set_target(targets.amount, F::from_noncanonical_u64(transfer.amount))?;
    set_digest(witness, targets.key, step.payment.key)?;
    set_account(witness, &targets.sender, &step.sender, &step.sender_path)?;
    set_account(witness, &targets.receiver, &step.receiver, &step.receiver_path)
}
