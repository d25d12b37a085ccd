#!/bin/sh
# A scripted exec prover for tests: the stage's name says what to do.
set -e
inputs=
while [ $# -gt 0 ]; do
    case "$1" in
        --stage) stage=$2 ;;
        --input-path) inputs="$inputs $2" ;;
        --output-path) output=$2 ;;
    esac
    shift 2
done
beside=$(dirname "$output")
grep -q '"type":"task"' "$PUSH0_TASK"
case "$stage" in
    split)
        mkdir -p "$output/segments"
        printf one > "$output/segments/000000"
        printf two > "$output/segments/000001"
        printf head > "$output/header"
        echo '{"segments":2,"hash":"3333333333333333333333333333333333333333333333333333333333333333"}' > "$beside/result.json" ;;
    verify) echo '{"verdict":"bad_proof","message":"no"}' > "$beside/result.json" ;;
    retry) echo "busy" >&2; exit 75 ;;
    refuse) echo "never" >&2; exit 2 ;;
    signal) kill -KILL $$ ;;
    large) echo "needs 96 GiB" >&2; exit 79 ;;
    # Under a limit of its own or the worker's: what the interpreter says when it gets no more.
    greedy)
        ulimit -v 1048576
        exec python3 -c "print('proving', flush=True); x = bytearray(4 << 30)" ;;
    # What a kill by the kernel looks like where it does not say why.
    shell) sh -c 'kill -KILL $$'; exit $? ;;
    accuse)
        echo '{"type":"failed","id":"x","kind":"bad_input","message":"rotten","children":[1,7]}' > "$beside/result.json"
        exit 1 ;;
    hang) sleep 600 ;;
    *) cat $inputs > "$output" ;;
esac
