//! The range lift: a block's proof becomes a link of a range.
//!
//! It verifies the proof with the block lift's or the block join's key, whichever a bit says; both are constants of the
//! circuit, and so is the key that the proof must carry: what is left to a block's verifier for lack of knowing the
//! join's key is settled here. The block's commitments are replaced by the range's, which takes in all that the
//! block's proof says. The result has the shape of a lift, so ranges are joined by the same circuit as segments, built
//! over another key.

use anyhow::Result;
use plonky2::iop::target::BoolTarget;
use plonky2::iop::witness::{PartialWitness, WitnessWrite};
use plonky2::plonk::circuit_data::{CircuitData, VerifierCircuitTarget, VerifierOnlyCircuitData};
use plonky2::plonk::proof::ProofWithPublicInputsTarget;

use super::recursion::{Key, Proof, build_shaped, builder, key_targets};
use crate::poseidon::{Builder, C, D, Digest, DigestTarget, Domain, F, hash_circuit};
use crate::statement::STATEMENT_LEN;

/// A range lift circuit with its proving key.
pub struct RangeLiftCircuit {
    pub data: CircuitData<F, C, D>,
    block: ProofWithPublicInputsTarget<D>,
    is_join: BoolTarget,
    before: DigestTarget,
    carried: VerifierCircuitTarget,
}

impl RangeLiftCircuit {
    /// Takes the proofs of blocks that these two make; the shape is theirs.
    pub fn build(lift_key: &Key, join_key: &Key) -> Self {
        let shape = &lift_key.common;
        let mut builder = builder();
        let block = builder.add_virtual_proof_with_pis(shape);
        let is_join = builder.add_virtual_bool_target_safe();
        let lift = builder.constant_verifier_data::<C>(&lift_key.verifier_only);
        let join = builder.constant_verifier_data::<C>(&join_key.verifier_only);
        for (carried, join) in block.public_inputs[STATEMENT_LEN..].iter().zip(key_targets(&join)) {
            builder.connect(*carried, join);
        }
        let key = builder.select_verifier_data(is_join, &join, &lift);
        builder.verify_proof::<C>(&block, &key, shape);

        let before: DigestTarget = builder.add_virtual_target_arr();
        let statement = &block.public_inputs[..STATEMENT_LEN];
        let after = extend(&mut builder, before, statement);
        builder.register_public_inputs(&statement[..4]);
        builder.register_public_inputs(&before);
        builder.register_public_inputs(&statement[8..12]);
        builder.register_public_inputs(&after);
        builder.register_public_input(statement[16]);
        // As in a lift: the range join that takes this, or the verifier, compares it with the range join's key.
        let carried = builder.add_verifier_data_public_inputs();
        Self { data: build_shaped(builder, shape), block, is_join, before, carried }
    }

    /// Proves that `block`, a join or else a lift, follows in a range whose commitment is `before` up to it.
    pub fn prove(
        &self,
        (block, is_join): (&Proof, bool),
        before: Digest,
        range_join_key: &VerifierOnlyCircuitData<C, D>,
    ) -> Result<Proof> {
        let mut witness = PartialWitness::new();
        witness.set_proof_with_pis_target(&self.block, block)?;
        witness.set_bool_target(self.is_join, is_join)?;
        witness.set_target_arr(&self.before, &before.0)?;
        witness.set_verifier_data_target(&self.carried, range_join_key)?;
        super::prove(&self.data, witness)
    }
}

/// The circuit's `range::extend`: five rows.
fn extend(builder: &mut Builder, before: DigestTarget, statement: &[plonky2::iop::target::Target]) -> DigestTarget {
    let (no_swap, zero) = (builder._false(), builder.zero());
    let part = |at: usize| std::array::from_fn(|i| statement[at + i]);
    let mut hash = |domain, left, right| hash_circuit(builder, domain, left, right, no_swap);
    let commitments = hash(Domain::Block, part(4), part(12));
    let roots = hash(Domain::Block, part(0), part(8));
    let both = hash(Domain::Block, commitments, roots);
    let block = hash(Domain::Block, both, [statement[16], zero, zero, zero]);
    hash(Domain::Range, before, block)
}
