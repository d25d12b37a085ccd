//! What the roles of an installation call, and may: `scripts/with-emulators` has the emulator. Every test here and in the other `aws_*` holds what
//! was called to the lists of `infra/check`; these do what the others do not come to, and ask the emulator what it makes of the policies.

mod policies;
mod rarely;
