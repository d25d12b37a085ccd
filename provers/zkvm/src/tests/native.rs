//! The guest as a program of the host (`provers/risc0/guest/native.c`), and a zkVM around it whose receipts are claims with a checksum:
//! whoever has the format can forge one, so this is for tests of what is around a zkVM, and of those alone.

use std::io::{Read as _, Write as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use push0_prover::{Failure, Hello, hello};
use sha2::{Digest as _, Sha256};

use crate::{Execution, Payload, Zkvm};

/// The compiled guest. Undefined behaviour is a crash there.
static GUEST: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../risc0/guest");
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("guest");
    let status = Command::new("cc")
        .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror"])
        .args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"])
        .arg("-o")
        .arg(&program)
        .args(["native.c", "main.c", "poseidon.c", "state.c"].map(|file| sources.join(file)))
        .status()
        .expect("a C compiler, cc: building push0 takes one, too");
    assert!(status.success(), "the guest does not compile");
    (directory, program)
});

/// Runs the guest: its exit code, `None` for a crash, and its journal.
pub(super) fn run(input: &[u8]) -> (Option<i32>, Vec<u8>) {
    let mut child = Command::new(&GUEST.1).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // A guest that takes no more than it holds closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input);
    let mut journal = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut journal).unwrap();
    (child.wait().unwrap().code(), journal)
}

/// Pieces `first` to `last` of `count` of a run of a program, which left a journal. It stands for segments and for receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub program: [u8; 32],
    pub input: [u8; 32],
    pub journal: [u8; 32],
    pub first: u32,
    pub last: u32,
    pub count: u32,
    /// Of a machine that miscalculates: it does not verify.
    pub wrong: bool,
}

const CLAIM_BYTES: usize = 3 * 32 + 3 * 4 + 1;

impl Payload for Claim {
    fn encode(&self) -> Result<Vec<u8>, String> {
        let numbers = [self.first, self.last, self.count].map(u32::to_be_bytes).concat();
        let claim = [&self.program[..], &self.input, &self.journal, &numbers, &[u8::from(self.wrong)]].concat();
        Ok([&claim[..], &Sha256::digest(&claim)].concat())
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (claim, sum) = bytes.split_at_checked(CLAIM_BYTES).ok_or("too short")?;
        if Sha256::digest(claim)[..] != *sum {
            return Err("its checksum is another".to_owned());
        }
        let digest = |at: usize| <[u8; 32]>::try_from(&claim[32 * at..][..32]).unwrap();
        let number = |at: usize| u32::from_be_bytes(claim[96 + 4 * at..][..4].try_into().unwrap());
        Ok(Self {
            program: digest(0),
            input: digest(1),
            journal: digest(2),
            first: number(0),
            last: number(1),
            count: number(2),
            wrong: claim[CLAIM_BYTES - 1] != 0,
        })
    }
}

#[derive(Clone, Default)]
pub(super) struct Native {
    pub program: [u8; 32],
    /// Whether it is a machine that miscalculates.
    pub miscalculates: bool,
    /// Whether the guest's journal is lost on the way.
    pub loses_journal: bool,
}

impl Native {
    fn verdict(claim: &Claim) -> Result<(), String> {
        if claim.wrong { Err("a wrong claim".to_owned()) } else { Ok(()) }
    }

    fn made(&self, claim: Claim) -> Result<Claim, Failure> {
        Ok(Claim { wrong: self.miscalculates, ..claim })
    }
}

impl Zkvm for Native {
    type Segment = Claim;
    type SegmentReceipt = Claim;
    type Receipt = Claim;

    const SEGMENT_PO2: RangeInclusive<u32> = 4..=20;
    const DEFAULT_SEGMENT_PO2: u32 = 20;

    fn hello(&self) -> Hello {
        hello("native", "0").program("guest", &"0".repeat(64))
    }

    /// A byte of input takes a cycle.
    fn execute(&self, input: &[u8], po2: u32) -> Result<Execution<Claim>, Failure> {
        let (exit_code, mut journal) = run(input);
        if self.loses_journal {
            journal.clear();
        }
        let exit_code = exit_code.ok_or_else(|| Failure::permanent("the guest crashed"))?;
        let count = (input.len() as u32).div_ceil(1 << po2);
        let claim = Claim {
            program: self.program,
            input: Sha256::digest(input).into(),
            journal: Sha256::digest(&journal).into(),
            first: 0,
            last: 0,
            count,
            wrong: false,
        };
        let segments = (0..count).map(|at| Claim { first: at, last: at, ..claim.clone() }).collect();
        Ok(Execution { exit_code: exit_code as u32, segments, journal, user_cycles: input.len() as u64 })
    }

    fn prove(&mut self, segment: &Claim) -> Result<Claim, Failure> {
        self.made(segment.clone())
    }

    fn lift(&mut self, receipt: &Claim) -> Result<Claim, Failure> {
        self.made(receipt.clone())
    }

    fn join(&mut self, left: &Claim, right: &Claim) -> Result<Claim, Failure> {
        self.made(Claim { last: right.last, ..left.clone() })
    }

    fn meet(&self, left: &Claim, right: &Claim) -> bool {
        let run = |claim: &Claim| (claim.program, claim.input, claim.count);
        run(left) == run(right) && left.last + 1 == right.first
    }

    fn verify_segment(&self, receipt: &Claim) -> Result<(), String> {
        Self::verdict(receipt)
    }

    fn verify(&self, receipt: &Claim) -> Result<(), String> {
        Self::verdict(receipt)
    }

    fn is_whole_run(&self, receipt: &Claim, journal: &[u8]) -> bool {
        let is_program = receipt.program == self.program && receipt.journal[..] == Sha256::digest(journal)[..];
        is_program && receipt.first == 0 && receipt.last + 1 == receipt.count
    }
}
