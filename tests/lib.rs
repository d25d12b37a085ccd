//! Tests of the whole system. [`sim`] runs it in one thread on a virtual clock, with everything going wrong that can; [`model`] goes through
//! everything that can happen to a small one; [`chaos`] runs its processes and kills them; [`emulated`] drives its functions and workers by
//! hand, on an emulator of AWS; [`hostile`] gives everything that reads what others wrote what nobody should have written. [`calls`]: what the roles
//! of an installation called there. [`transitions`]:
//! which states met which events in all that. [`pipelines`]: what they prove blocks with.

#[cfg(feature = "aws")]
pub mod calls;
pub mod chaos;
#[cfg(feature = "aws")]
pub mod emulated;
pub mod hostile;
pub mod model;
pub mod pipelines;
pub mod sim;
pub mod transitions;
