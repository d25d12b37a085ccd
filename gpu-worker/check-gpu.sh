#!/usr/bin/env bash
# Tries push0's GPU worker on a machine that has GPUs, and prints what it saw (docs/gpu.md): devices and slots, provers on each device at
# a time, figures, a prover and a worker killed in the middle. What it could not try it says at the end.
#
#   gpu-worker/check-gpu.sh [BLOCKS]        10 blocks of 5 segments unless said otherwise
#
# PUSH0: the program (default: built here). PUSH0_GPU_LIBRARY: NVML, where it is not in the usual place. Needs Python 3; nvcc for work on
# the device. Exit code 0: all that was tried is as it should be; 1: something is not; 2: there is no GPU.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
blocks=${1:-10}
skipped=()
skip() { skipped+=("$1"); }
say() { printf '%-12s %s\n' "$1" "$2"; }
wrong() { say FAILED "$1"; exit 1; }

if [ -z "${PUSH0:-}" ]; then
    (cd "$root" && cargo build --quiet --workspace --bins)
    PUSH0=${CARGO_TARGET_DIR:-$root/target}/debug/push0
fi
PUSH0=$(realpath "$PUSH0")
work=$(mktemp -d)
jobs=()
finish() {
    local code=$?
    for job in ${jobs[@]+"${jobs[@]}"}; do kill "$job" 2>/dev/null || true; done
    wait
    for what in ${skipped[@]+"${skipped[@]}"}; do say "not tried" "$what"; done
    if [ $code -eq 0 ]; then rm -rf "$work"; else say logs "$work"; fi
}
trap finish EXIT
cd "$work"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=uuid,name,driver_version,memory.total,mig.mode.current --format=csv,noheader | sed 's/^/nvidia-smi   /'
else
    skip "what nvidia-smi says: it is not here"
fi

# The template's prover, whose `prove` keeps the device busy first.
"$PUSH0" prover new p --form exec >/dev/null 2>&1
cd p
if command -v nvcc >/dev/null; then
    cat >busy.cu <<'END'
// Keeps every multiprocessor multiplying for about so many milliseconds, in so many MiB of the device's memory, and checks the result.
#include <cstdio>
#include <cstdlib>
#define MUST(call) do { cudaError_t e = (call); if (e != cudaSuccess) { fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(e)); exit(75); } } while (0)
__global__ void work(unsigned *words, size_t count, int rounds) {
    for (size_t at = blockIdx.x * (size_t)blockDim.x + threadIdx.x; at < count; at += gridDim.x * (size_t)blockDim.x) {
        unsigned word = (unsigned)at;
        for (int round = 0; round < rounds; round++) word = word * 1664525u + 1013904223u;
        words[at] = word;
    }
}
int main(int, char **arguments) {
    int wanted = atoi(arguments[1]), devices, rounds = 1000;
    size_t count = (size_t)atoi(arguments[2]) << 18;
    MUST(cudaGetDeviceCount(&devices));
    unsigned *words, last, expected = (unsigned)(count - 1);
    MUST(cudaMalloc(&words, count * sizeof *words));
    cudaEvent_t begin, end;
    MUST(cudaEventCreate(&begin));
    MUST(cudaEventCreate(&end));
    float ms = 0;
    for (float one = 0; ms < wanted; ms += one) {
        MUST(cudaEventRecord(begin));
        work<<<1024, 256>>>(words, count, rounds);
        MUST(cudaEventRecord(end));
        MUST(cudaEventSynchronize(end));
        MUST(cudaEventElapsedTime(&one, begin, end));
    }
    MUST(cudaMemcpy(&last, words + count - 1, sizeof last, cudaMemcpyDeviceToHost));
    for (int round = 0; round < rounds; round++) expected = expected * 1664525u + 1013904223u;
    printf("devices %d ms %.0f\n", devices, ms);
    return devices == 1 && last == expected ? 0 : 75;
}
END
    nvcc -O2 -o busy busy.cu
    busy='./busy 300 512'
else
    skip "work on a device: nvcc is not here, so that provers only wait"
    busy='sleep 0.3'
fi
cat >gpu-prover.sh <<END
#!/bin/sh
cd '$PWD'
case " \$* " in
    *" --stage prove "*)
        echo "begin \$CUDA_VISIBLE_DEVICES \$\$ \$(date +%s.%N)" >>ran.log
        $busy >>busy.log
        echo "end \$CUDA_VISIBLE_DEVICES \$\$ \$(date +%s.%N)" >>ran.log ;;
esac
exec ./prover.py "\$@"
END
chmod +x gpu-prover.sh
sed -i 's|^command = .*|command = ["./gpu-prover.sh"]|' pipeline.toml
cat >>pipeline.toml <<'END'
[policy.prove]
pool = "gpu"
END
sed -i 's|^only_local.*|pools = ["cpu"]|' push0.toml
python3 blocks.py --blocks "$blocks" >/dev/null

worker() {
    PUSH0_GPU_LOG_S=1 NO_COLOR=1 "$PUSH0" worker --pool gpu --gpu on --id "$1" --config push0.toml --scratch "$work/scratch" 2>>worker.log &
    jobs+=($!)
    worker=$!
}
until_log() {
    for _ in $(seq 200); do grep -q "$2" "$1" 2>/dev/null && return; sleep 0.05; done
    tail -3 "$1"
    return 1
}
NO_COLOR=1 "$PUSH0" up 2>up.log &
jobs+=($!)
until_log up.log 'push0 is up' || wrong "push0 up did not start"
worker first
if ! until_log worker.log 'worker is up'; then
    skip "everything else: no GPU can be used"
    exit 2
fi
slots=$(grep -o 'slots=[0-9]*' worker.log | head -1 | cut -d= -f2)
grep 'GPU found' worker.log | sed 's/.*GPU found/device      /'
say slots "$slots"
[ "$slots" -gt 1 ] || skip "several devices at a time, and that the others go on when one fails: there is one"
grep -q 'MIG-' worker.log || skip "MIG devices: no GPU is cut into any"

"$PUSH0" submit blocks/*.json >/dev/null
until [ -s ran.log ] && [ "$(wc -l <ran.log)" -ge 3 ]; do sleep 0.05; done
victim=$(tail -1 ran.log | cut -d' ' -f3)
kill -9 -- "-$victim" 2>/dev/null && say killed "a prover, with its process group" || skip "killing a prover: it had ended"
sleep 1
disown "$worker"
kill -9 "$worker"
say killed "the worker"
sleep 1
pgrep -f "$work/p/gpu-prover.sh" >/dev/null && wrong "a prover outlived its worker"
worker second
begun=$(date +%s%N)
timeout 300 "$PUSH0" watch --until "$blocks" demo >/dev/null 2>&1 || wrong "block $blocks is not final after 300 s"
say final "$blocks blocks, the last $((($(date +%s%N) - begun) / 1000000)) ms after the second worker was started"
"$PUSH0" verify demo 2>&1 | tail -1 | sed 's/^/verified     /'

python3 - "$slots" <<'END' || wrong "not every device was used"
import collections, sys
runs, open_on, at_once = collections.Counter(), collections.defaultdict(dict), 0
for line in open("ran.log"):
    what, device, process, at = line.split()
    if what == "begin":
        open_on[device][process] = float(at)
        runs[device] += 1
    else:
        open_on[device].pop(process, None)
    # One that was killed never says that it ended.
    at_once = max(at_once, sum(any(float(at) - since < 1 for since in on.values()) for on in open_on.values()))
for device, count in sorted(runs.items()):
    print(f"{'proven on':<12} {device}: {count} tasks")
print(f"{'at a time':<12} {at_once} devices")
sys.exit(len(runs) != int(sys.argv[1]))
END
grep ' GPU device=' worker.log | awk -F'GPU device=' '{ line = $2; split(line, word, " "); last[word[1]] = line } END { for (device in last) print "figures      " last[device] }'
grep -q ' GPU device=' worker.log || wrong "the worker's log has no figures"
if grep -q 'device failed' worker.log; then grep 'device failed' worker.log | sed 's/^/seen         /'; fi

# RISC Zero, where it has been built for CUDA (docs/risc0.md): a block with its state, on all devices.
risc0=${CARGO_TARGET_DIR:-$root/provers/risc0/target}/release/push0-prover-risc0
if [ -x "$risc0" ]; then
    for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
    mkdir "$work/r" && cd "$work/r"
    sed "s|^command = .*|command = [\"$risc0\", \"prover\"]|" "$root/examples/risc0/risc0-state.toml" >pipeline.toml
    printf 'data = "data"\n[[chain]]\nid = "demo"\npipeline = "pipeline.toml"\n[workers]\npools = []\n' >push0.toml
    "$(dirname "$PUSH0")/push0-rollup" random --seed 1 --blocks 1 --transfers 16 --out blocks >/dev/null
    NO_COLOR=1 "$PUSH0" up 2>up.log &
    jobs+=($!)
    until_log up.log 'push0 is up' || wrong "push0 up did not start for RISC Zero"
    worker risc0
    begun=$(date +%s%N)
    "$PUSH0" submit blocks/*.json >/dev/null
    timeout 1800 "$PUSH0" watch --until 1 demo >/dev/null 2>&1 || wrong "RISC Zero's block is not final after half an hour: push0 why demo 1"
    grep -q 'prover=risc0.*device="cuda"' worker.log || skip "RISC Zero on a device: it was built without CUDA"
    say "risc zero" "a block of 16 transfers with its state after $((($(date +%s%N) - begun) / 1000000)) ms"
    "$PUSH0" verify demo 2>&1 | tail -1 | sed 's/^/verified     /'
else
    skip "RISC Zero on a device: just risc0 --profile release --features cuda builds it"
fi
skip "a device that fails (XID, ECC, lost), and its coming back: nothing here can break a GPU"
