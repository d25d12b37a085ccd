# The recipes for daily work: `just --list`.

default:
    @just --list

# Everything a newcomer needs: builds, then proves three blocks.
demo *args:
    scripts/demo {{args}}

# What CI runs: format, lints, all tests.
test:
    scripts/test

# What must be green before a change is handed in: CI's run and the licences.
check: test (deny "--if-possible")

# Licences, sources and advisories of all dependencies (needs `cargo install --locked cargo-deny`); with --if-possible what can be checked here.
deny *args:
    scripts/deny {{args}}

# The simulator over many seeds: `just sim --seeds 1000`, `just sim --large --blocks 100000`.
sim *args:
    cargo run --quiet --profile sim -p push0-tests --bin push0-sim -- {{args}}

# Which states met which events in CI's simulations and the model checker's small bounds: the tables of docs/transitions.md, in minutes.
transitions:
    cargo run --quiet --profile sim -p push0-tests --bin push0-sim -- --transitions

# What the embedded engine keeps after a crash at any call that changes the disk; see docs/durability.md. CI looks at some of the calls.
durability:
    PUSH0_CRASH_POINTS=all cargo test --workspace --all-features --test durability -- --nocapture

# One seed of the simulator, with everything that happened.
replay seed:
    cargo run --quiet --profile sim -p push0-tests --bin push0-sim -- --seed {{seed}} --trace

# The model checker within its large bounds: every order in which things can happen; see docs/model-checking.md.
model *args="--large":
    cargo run --quiet --profile sim -p push0-tests --bin push0-model -- {{args}}

# An emulator of AWS on 127.0.0.1:4566 with push0's queues, table, buckets and functions in it, until ctrl-c. Needs no Docker.
emulator *args:
    scripts/emulator {{args}}

# What each role calls of AWS in the tests on an emulator: infra/check/recorded.toml, anew.
record-calls:
    scripts/record-calls

# Fuzzes a target of tests/hostile, or all, for so many seconds each (needs `cargo install cargo-fuzz`).
fuzz target="all" seconds="60":
    scripts/fuzz {{target}} {{seconds}}

# What the orchestration costs on this machine, in a minute or two; with the JetStream baseline if there is a nats-server.
bench *args:
    scripts/bench {{args}}

# All sizes and repetitions, as tables for docs/performance.md: a quarter of an hour or more.
bench-full:
    scripts/bench all --full --markdown

# The Lambda functions' zips for x86_64 and arm64, with size and SHA-256; `just package arm64` for one of them.
package *args:
    scripts/package {{args}}

# Real processes killed, frozen, cut off and left without room, on disk and on an emulator: `just chaos --minutes 60`; see docs/chaos.md.
chaos *args:
    scripts/chaos {{args}}

# From starting a packaged function to its first request for an event, on this machine.
cold-start zip="target/package/x86_64/dispatcher.zip" runs="20":
    scripts/cold-start {{zip}} {{runs}}

# The RISC Zero prover for CPUs, some ten minutes of two cores from nothing; `just risc0 --profile release --features cuda` on a machine with nvcc.
risc0 *args="--profile quick":
    cargo build --manifest-path provers/risc0/Cargo.toml --locked {{args}}

# The RISC Zero prover's tests (no proofs), and a block with it and the rollup's circuits under `push0 up`: quarter of an hour; docs/risc0.md.
risc0-check:
    scripts/risc0-check

# The long checks, one after another, for a schedule: RISC Zero, large simulations and models, fuzzing, durability, chaos; some hours.
nightly *checks:
    scripts/nightly {{checks}}

# Formats everything.
fmt:
    cargo fmt --all
