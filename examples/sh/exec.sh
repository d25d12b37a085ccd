#!/bin/sh
# An exec-form prover in sh: a frame around programs of your own. What each stage runs here proves nothing (../python/session.py says why),
# but every output is bound to its inputs.
set -eu

# push0 calls: exec.sh --stage STAGE --input-path P [--input-path P …] --output-path P
left=$#
while [ "$left" -gt 0 ]; do
    case $1 in
        --stage) stage=$2 ;;
        --output-path) output=$2 ;;
        --input-path) set -- "$@" "$2" ;;
        *) echo "unknown argument $1" >&2 && exit 2 ;;
    esac
    shift 2
    left=$((left - 2))
done
# From here on "$1", "$2", … are the inputs.

digest() {
    sha256sum < "$1" | cut -d ' ' -f 1
}

result() {
    echo "$1" > "$(dirname "$output")/result.json"
}

case $stage in
    split) # the witness: the parent's hash, then one segment a line; the header: the parent's hash, then each segment's digest
        mkdir -p "$output/segments"
        head -n 1 "$1" > "$output/header"
        number=0
        tail -n +2 "$1" | while IFS= read -r line; do
            segment=$output/segments/$(printf %06d "$number")
            printf %s "$line" > "$segment"
            digest "$segment" >> "$output/header"
            number=$((number + 1))
        done
        count=$(find "$output/segments" -type f | wc -l)
        result "{\"segments\": $count, \"hash\": \"$(digest "$output/header")\", \"parent_hash\": \"$(head -n 1 "$1")\"}"
        ;;
    prove) # my-zkvm prove --segment "$1" --out "$output"
        digest "$1" > "$output"
        ;;
    join) # my-zkvm join "$@" --out "$output"
        cat "$@" > "$output"
        ;;
    wrap)
        cat "$1" > "$output"
        ;;
    verify) # the root, then the header; the block's hash is in the task's file
        hash=$(sed 's/.*"hash":"\([0-9a-f]\{64\}\)".*/\1/' "$PUSH0_TASK")
        if [ "$(digest "$2")" != "$hash" ]; then
            result '{"verdict": "bad_block"}'
        elif tail -n +2 "$2" | cmp -s - "$1"; then
            result '{"verdict": "ok"}'
        else
            result '{"verdict": "bad_proof"}'
        fi
        ;;
    *)
        echo "there is no stage $stage here" >&2
        exit 2 # permanent; 75 asks for another try
        ;;
esac
