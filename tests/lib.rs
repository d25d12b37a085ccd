//! Tests of the whole system. [`sim`] runs it in one thread on a virtual clock, with everything going wrong that can.

pub mod sim;
