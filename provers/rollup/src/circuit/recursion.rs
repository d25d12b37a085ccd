//! The recursive circuits: *lift* brings a leaf proof into the common shape, *join* makes one proof of two. Ranges have a
//! lift of their own (`range`) and this same join over it.
//!
//! Lifts and joins have one shape (2^13 rows, [`STATEMENT_LEN`] public inputs and then a join's verifying key), so a
//! join's child may be either; a bit chooses which key it is verified with: the lift's, a constant of the circuit, or
//! the join's own, carried in the public inputs because a circuit cannot contain its own key. Every child must carry
//! the same key as the join does. What is left to the verifier is that the key carried is the *real* join's: hence
//! `verify_cyclic`, never `verify`, for a join (`docs/rollup.md`, soundness).

use anyhow::Result;
use plonky2::gates::noop::NoopGate;
use plonky2::iop::target::BoolTarget;
use plonky2::iop::witness::{PartialWitness, WitnessWrite};
use plonky2::plonk::circuit_data::{
    CircuitConfig, CircuitData, CommonCircuitData, VerifierCircuitData, VerifierCircuitTarget, VerifierOnlyCircuitData,
};
use plonky2::plonk::proof::{ProofWithPublicInputs, ProofWithPublicInputsTarget};

use crate::poseidon::{Builder, C, D, F};
use crate::statement::STATEMENT_LEN;

pub type Proof = ProofWithPublicInputs<F, C, D>;
pub type Key = VerifierCircuitData<F, C, D>;
type Common = CommonCircuitData<F, D>;

/// log2 of the rows of a lift and of a join.
const SHAPE_BITS: usize = 13;

pub(super) fn builder() -> Builder {
    Builder::new(CircuitConfig::standard_recursion_config())
}

/// Pads with empty rows until the circuit takes 2^[`SHAPE_BITS`].
fn pad(builder: &mut Builder) {
    while builder.num_gates() <= 1 << (SHAPE_BITS - 1) {
        builder.add_gate(NoopGate, vec![]);
    }
}

/// The shape that lifts and joins share.
///
/// Found by building: an empty circuit, one that verifies it, and one that verifies that, in 2^13 rows, is of the
/// same shape as any circuit that verifies proofs of *its* shape and fits in as many rows.
pub fn shape() -> Common {
    let mut inner = builder().build::<C>();
    for last in [false, true] {
        let mut builder = builder();
        let proof = builder.add_virtual_proof_with_pis(&inner.common);
        let key = builder.add_virtual_verifier_data(inner.common.config.fri_config.cap_height);
        builder.verify_proof::<C>(&proof, &key, &inner.common);
        if last {
            pad(&mut builder);
        }
        inner = builder.build::<C>();
    }
    let key_len = 4 + 4 * inner.common.config.fri_config.num_cap_elements();
    Common { num_public_inputs: STATEMENT_LEN + key_len, ..inner.common }
}

/// Builds a circuit of the shape, or says that it is not.
pub(super) fn build_shaped(mut builder: Builder, shape: &Common) -> CircuitData<F, C, D> {
    for gate in &shape.gates {
        builder.add_gate_to_gate_set(gate.clone());
    }
    pad(&mut builder);
    let data = builder.build::<C>();
    assert!(data.common == *shape, "a recursive circuit is not of the common shape: plonky2 has changed");
    data
}

/// A lift circuit with its proving key.
pub struct LiftCircuit {
    pub data: CircuitData<F, C, D>,
    leaf: ProofWithPublicInputsTarget<D>,
    carried: VerifierCircuitTarget,
}

impl LiftCircuit {
    pub fn build(leaf_key: &Key, shape: &Common) -> Self {
        let mut builder = builder();
        let leaf = builder.add_virtual_proof_with_pis(&leaf_key.common);
        let key = builder.constant_verifier_data::<C>(&leaf_key.verifier_only);
        builder.verify_proof::<C>(&leaf, &key, &leaf_key.common);
        builder.register_public_inputs(&leaf.public_inputs);
        // Unconstrained here; the join that takes this lift, or the verifier, compares it with the join's key.
        let carried = builder.add_verifier_data_public_inputs();
        Self { data: build_shaped(builder, shape), leaf, carried }
    }

    pub fn prove(&self, leaf: &Proof, join_key: &VerifierOnlyCircuitData<C, D>) -> Result<Proof> {
        let mut witness = PartialWitness::new();
        witness.set_proof_with_pis_target(&self.leaf, leaf)?;
        witness.set_verifier_data_target(&self.carried, join_key)?;
        super::prove(&self.data, witness)
    }
}

struct Child {
    proof: ProofWithPublicInputsTarget<D>,
    is_join: BoolTarget,
}

/// A join circuit with its proving key.
pub struct JoinCircuit {
    pub data: CircuitData<F, C, D>,
    children: [Child; 2],
    own: VerifierCircuitTarget,
}

impl JoinCircuit {
    /// Joins what this lift makes, and its own proofs. The shape is the lift's.
    pub fn build(lift_key: &Key) -> Self {
        let shape = &lift_key.common;
        let mut builder = builder();
        let children = [(); 2].map(|()| Child {
            proof: builder.add_virtual_proof_with_pis(shape),
            is_join: builder.add_virtual_bool_target_safe(),
        });
        let [left, right] = [&children[0], &children[1]].map(|child| &child.proof.public_inputs[..STATEMENT_LEN]);

        // The right begins where the left ends: root and commitment.
        for (end, begin) in left[8..16].iter().zip(&right[..8]) {
            builder.connect(*end, *begin);
        }
        let count = builder.add(left[16], right[16]);
        builder.register_public_inputs(&left[..8]);
        builder.register_public_inputs(&right[8..16]);
        builder.register_public_input(count);

        let own = builder.add_verifier_data_public_inputs();
        let lift = builder.constant_verifier_data::<C>(&lift_key.verifier_only);
        for child in &children {
            for (carried, own) in child.proof.public_inputs[STATEMENT_LEN..].iter().zip(key_targets(&own)) {
                builder.connect(*carried, own);
            }
            let key = builder.select_verifier_data(child.is_join, &own, &lift);
            builder.verify_proof::<C>(&child.proof, &key, shape);
        }
        Self { data: build_shaped(builder, shape), children, own }
    }

    /// Joins two adjacent proofs; each comes with whether it is a join (or a lift).
    pub fn prove(&self, children: [(&Proof, bool); 2]) -> Result<Proof> {
        self.prove_carrying(children, &self.data.verifier_only)
    }

    /// As [`prove`](Self::prove), but carrying any key: only a forger carries another than the join's.
    pub(crate) fn prove_carrying(
        &self,
        children: [(&Proof, bool); 2],
        own: &VerifierOnlyCircuitData<C, D>,
    ) -> Result<Proof> {
        let mut witness = PartialWitness::new();
        for (targets, (proof, is_join)) in self.children.iter().zip(children) {
            witness.set_proof_with_pis_target(&targets.proof, proof)?;
            witness.set_bool_target(targets.is_join, is_join)?;
        }
        witness.set_verifier_data_target(&self.own, own)?;
        super::prove(&self.data, witness)
    }
}

/// A circuit of the shape that constrains nothing: what a forger would build.
#[cfg(test)]
pub(crate) struct ForgedCircuit {
    pub(crate) data: CircuitData<F, C, D>,
    public_inputs: Vec<plonky2::iop::target::Target>,
    carried: VerifierCircuitTarget,
}

#[cfg(test)]
impl ForgedCircuit {
    pub(crate) fn build(shape: &Common) -> Self {
        let mut builder = builder();
        let public_inputs = builder.add_virtual_targets(STATEMENT_LEN);
        builder.register_public_inputs(&public_inputs);
        let carried = builder.add_verifier_data_public_inputs();
        Self { data: build_shaped(builder, shape), public_inputs, carried }
    }

    pub(crate) fn prove(&self, statement: &[F], carried: &VerifierOnlyCircuitData<C, D>) -> Proof {
        let mut witness = PartialWitness::new();
        witness.set_target_arr(&self.public_inputs, statement).unwrap();
        witness.set_verifier_data_target(&self.carried, carried).unwrap();
        self.data.prove(witness).unwrap()
    }
}

/// A key's targets in the order of the public inputs.
pub(super) fn key_targets(key: &VerifierCircuitTarget) -> impl Iterator<Item = plonky2::iop::target::Target> + '_ {
    let cap = key.constants_sigmas_cap.0.iter();
    key.circuit_digest.elements.into_iter().chain(cap.flat_map(|hash| hash.elements))
}
