//! Tests of the whole system. [`sim`] runs it in one thread on a virtual clock, with everything going wrong that can; [`chaos`] runs its
//! processes and kills them.

pub mod chaos;
pub mod sim;
