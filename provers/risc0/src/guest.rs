//! The program that runs in the zkVM (`guest/`, in C): what it is known by. What it reads and states: `push0_zkvm::guest`.

use risc0_binfmt::ProgramBinary;
use risc0_zkos_v1compat::V1COMPAT_ELF;
use risc0_zkvm::Digest;

/// The guest as `guest/build.sh` built it.
pub const ELF: &[u8] = include_bytes!("../guest/guest.elf");

/// The guest and the kernel below it, in the form the executor takes.
pub fn program() -> Vec<u8> {
    ProgramBinary::new(ELF, V1COMPAT_ELF).encode()
}

/// What the program is known by: the digest of memory as it begins.
pub fn image_id() -> Digest {
    ProgramBinary::new(ELF, V1COMPAT_ELF).compute_image_id().expect("guest.elf is a program; a test looks at it")
}
