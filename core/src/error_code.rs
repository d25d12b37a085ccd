//! The error catalogue: everything that can go wrong and that a person can act on has a code, and a page in `docs/errors/`.
//!
//! A code is written `P0-012`. Texts that are stored or travel (the reason a block failed, a task's failure) carry it in front, so that
//! whoever shows them can name it: [`ErrorCode::says`] puts it there, [`ErrorCode::find`] finds it. Logs carry it as the field `code`.
//!
//! [`GROUPS`] says which numbers are for what. A number is never used for another thing. Codes, pages and their index are held together by
//! a test of the command line (`cli/src/explain/tests.rs`).

use std::fmt;
use std::ops::RangeInclusive;

/// Numbers and what they are about.
pub const GROUPS: [(RangeInclusive<u16>, &str); 7] = [
    (1..=99, "blocks, chains, proofs"),
    (101..=199, "provers and workers"),
    (201..=299, "what is given to push0: files, flags, configuration, the data directory"),
    (301..=399, "reaching a running push0, and what it lets in"),
    (401..=499, "storage"),
    (501..=599, "AWS"),
    (901..=999, "defects of push0"),
];

macro_rules! catalogue {
    ($($name:ident = $number:literal, $title:literal;)+) => {
        /// See the module.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $(#[doc = $title] $name = $number,)+
        }

        impl ErrorCode {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What it is, in a few words: the title of its page.
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$name => $title,)+
                }
            }
        }
    };
}

catalogue! {
    AttemptsUsedUp = 1, "a task failed as often as its stage allows";
    BadBlock = 2, "the block cannot be proven";
    HashDiffers = 3, "the witness holds another block than was submitted";
    ParentDiffers = 4, "the header names another parent than the submission";
    BadProof = 5, "the proof does not show what the header says";
    PermanentFailure = 6, "provers say that no prover could do this task";
    WitnessDamaged = 7, "the stored witness is not the one that was admitted";
    SplitDamaged = 8, "what split stored is damaged";
    ArtifactDamaged = 9, "a stored artifact is not the one that was accepted";
    ArtifactAccused = 10, "a prover says that its input is bad";
    FalseReport = 11, "a worker reported what is not so";
    ParentMismatch = 12, "the chain has halted: a block names another parent";
    OrphanParent = 13, "the chain has halted: a block is built on a skipped branch";
    Contender = 14, "another block has this number";
    NotVerified = 15, "a finalized proof does not verify";
    NotChecked = 16, "a finalized proof could not be checked";
    OutOfReach = 17, "the block number is out of the chain's reach";
    AlreadyFinal = 18, "what is final stays final";
    NotFailed = 19, "only a failed block can be retried";
    SegmentCount = 20, "the block has more segments than its pipeline takes";
    NobodyTakesTasks = 21, "nobody takes the tasks of a pool";
    UnknownChain = 22, "there is no such chain";
    UnknownBlock = 23, "nothing was submitted under this number";
    UnknownBlob = 24, "there is no such blob";
    BrokenStream = 25, "the finalized stream does not fit together";
    UnknownTask = 26, "there is no such task";
    SplitDiffers = 27, "two runs of split made different segments";
    AlreadySo = 28, "the block is so already";
    DerivedChain = 29, "nobody submits to a batch chain";
    BatchHole = 30, "a batch has a hole";
    WorkersLost = 31, "a task took its workers with it, as often as its stage allows";
    NobodyMayTake = 32, "nobody is left to take a task that its workers were lost with";
    Disagreement = 35, "the chain has halted: provers say different things of a block";
    QuorumLost = 36, "too few of the chain's pipelines can prove the block";
    DeadlineMissed = 37, "the block was left out because its deadline had passed";
    ParentAway = 38, "a block waits for its parent";
    Overtaken = 39, "a later fork or an operator has overtaken this block";

    ProverMissing = 101, "the prover's program is not there";
    ProverCrashed = 102, "the prover ended without an answer";
    ProverBrokeProtocol = 103, "the prover said what is not in the protocol";
    ProverTooSlow = 104, "the prover exceeded a limit of its stage";
    OutputMissing = 105, "the prover said done without its output";
    ProgramDiffers = 106, "the prover has another program than the pipeline pins";
    StageNotOffered = 107, "the worker has no prover for this stage";
    OutputEscapes = 108, "the prover's output is not a plain file in its own directory";
    OutputTooLarge = 109, "the prover's output is too large";
    InputMissing = 110, "an input is not stored any more";
    ProverNotReady = 111, "the prover did not get ready in time";
    ScratchUnusable = 112, "the worker cannot use its scratch directory";
    WorkerNameTaken = 113, "another worker has this name";
    Poison = 114, "a message that can never be handled";
    WorkerEnded = 115, "a local worker ended and is started again";
    ProverReportedFailure = 116, "the prover reported a failure";
    LostTask = 117, "a task's workers ended without a word";
    SelfTestFailed = 118, "a prover failed its self-test, and the worker takes no tasks";
    MetadataUnreadable = 119, "the metadata of the EC2 instance cannot be read";
    HookNotCompleted = 120, "the Auto Scaling group cannot be answered";
    ProverOutOfMemory = 121, "the prover ran out of memory";
    DeviceFailed = 122, "a worker's GPU failed";
    GpuMissing = 123, "the worker finds no GPU";

    BadConfiguration = 201, "the configuration has mistakes";
    BadSubmission = 202, "the submission file is not as it should be";
    BadWitness = 203, "the witness cannot be submitted";
    DataInUse = 204, "the data directory is in use";
    DataUnusable = 205, "the data directory cannot be used";
    SocketPath = 206, "the socket's path is too long";
    CannotListen = 207, "push0 cannot listen on this address";
    FileExists = 208, "the file is there already";
    NewerData = 209, "the data directory was written by a newer push0";
    BadBackup = 210, "the backup cannot be used";
    ProverNotConformant = 211, "the prover does not keep to the protocol";
    BadUsage = 212, "the command line is not as it should be";
    FileUnusable = 213, "a file cannot be read or written";
    HelperFailed = 214, "a program that push0 started did not work";
    UploadKey = 215, "an upload's key names no block";
    UploadDigest = 216, "an uploaded witness came without its digest";

    Unreachable = 301, "no push0 answers";
    TokenRefused = 302, "the token is missing or unknown";
    RoleForbids = 303, "the token's role may not do this";
    OtherVersion = 304, "the push0 there is of another version";
    NotInTime = 305, "the effect was not seen in time";
    BadRequest = 306, "the request is not as it should be";
    TooManyConnections = 307, "too many connections";

    DiskFull = 401, "the disk is full";
    BlobDamaged = 402, "stored bytes are not what was stored";
    DatabaseDamaged = 403, "the database is damaged";
    StorageTrouble = 404, "the storage fails";

    AwsNotConfigured = 501, "no credentials or no region that AWS accepts";
    AwsForbids = 502, "AWS does not allow this";
    NotDeployed = 503, "a queue, table or bucket is not there";
    AwsSessionExpired = 504, "the session with AWS has expired";
    ClockWrong = 505, "AWS says that this machine's clock is wrong";
    AwsDoesNotAnswer = 506, "AWS does not answer";
    AwsThrottles = 507, "AWS says that this is too much at once";
    DeploymentDiffers = 508, "what is in AWS is not what the topology says";

    InvariantBroken = 901, "push0 broke one of its own rules";
}

impl ErrorCode {
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The text with the code in front: `P0-012: text`. A text that begins with a code stays as it is: the first to name it knew best.
    pub fn says(self, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        if Self::at_start(text).is_some() { text.to_owned() } else { format!("{self}: {text}") }
    }

    /// The first code a text names: what the whole of it is about.
    pub fn find(text: &str) -> Option<Self> {
        Self::named_in(text).next()
    }

    /// Every code a text names, in its order.
    pub fn named_in(text: &str) -> impl Iterator<Item = Self> {
        text.match_indices("P0-").filter_map(|(at, _)| Self::at_start(&text[at..]))
    }

    /// A text without the code in front of it, and that code.
    pub fn split(text: &str) -> (Option<Self>, &str) {
        match Self::at_start(text) {
            Some(code) => (Some(code), text["P0-000".len()..].trim_start_matches(':').trim_start()),
            None => (None, text),
        }
    }

    /// The code with this number.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }

    fn at_start(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("P0-")?.get(..3)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?.and_then(Self::of)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P0-{:03}", self.number())
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::str::FromStr for ErrorCode {
    type Err = crate::InvalidId;

    /// `P0-012`, `p0-012`, `012` or `12`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim().trim_start_matches(['P', 'p']).trim_start_matches("0-");
        let found = digits.parse().ok().and_then(Self::of);
        found.ok_or_else(|| crate::InvalidId {
            given: text.chars().take(100).collect(),
            wanted: "an error code: P0-NNN",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_put_in_front_once_and_found_again() {
        let text = ErrorCode::BadProof.says("it does not fit");
        assert_eq!(text, "P0-005: it does not fit");
        assert_eq!(ErrorCode::AttemptsUsedUp.says(&text), text);
        assert_eq!(ErrorCode::find("stage prove: P0-9, P0-999 and P0-102: crashed"), Some(ErrorCode::ProverCrashed));
        assert_eq!(ErrorCode::find("P0-00é"), None);
        assert_eq!(ErrorCode::split(&text), (Some(ErrorCode::BadProof), "it does not fit"));
        assert_eq!(ErrorCode::split("P0-999: no code"), (None, "P0-999: no code"));
        let both = ErrorCode::AttemptsUsedUp.says("prove 1.0.0: P0-102: crashed");
        let named: Vec<_> = ErrorCode::named_in(&both).collect();
        assert_eq!(named, [ErrorCode::AttemptsUsedUp, ErrorCode::ProverCrashed]);
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        for text in ["P0-012", "p0-012", "012", "12"] {
            assert_eq!(text.parse(), Ok(ErrorCode::ParentMismatch), "{text}");
        }
        assert!("P0-999".parse::<ErrorCode>().unwrap_err().to_string().contains("P0-NNN"));
    }

    #[test]
    fn numbers_rise_within_their_groups_and_titles_differ() {
        let is_grouped = |code: &ErrorCode| GROUPS.iter().any(|(numbers, _)| numbers.contains(&code.number()));
        assert!(ErrorCode::ALL.iter().all(is_grouped));
        assert!(ErrorCode::ALL.is_sorted_by(|a, b| a.number() < b.number()));
        let titles: std::collections::BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.title()).collect();
        assert_eq!(titles.len(), ErrorCode::ALL.len());
    }
}
