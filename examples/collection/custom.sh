#!/bin/sh
# A stage in the middle that names the next tasks itself: `split` of a batch chain with batch = 1. It is given the manifest, the block's
# proof and its header. Here the proof is echo's, which says how many segments it covers: two of them make one task of what comes next.
# It proves nothing; ../sh/exec.sh explains the frame.
set -eu

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

# The value of a field of a line of JSON: hex digits or a number.
field() {
    sed -n "s/.*[{,]\"$2\":\"\{0,1\}\([0-9a-f]*\).*/\1/p" "$1"
}

case $stage in
    split) # the manifest, the proof, the header
        hash=$(field "$3" hash)
        parent=$(field "$3" parent_hash)
        if [ "$(field "$2" block)" != "$hash" ] || ! grep -q "\"hash\":\"$hash\"" "$1"; then
            echo "the proof is of another block" >&2
            exit 2
        fi
        last=$(field "$2" last)
        mkdir -p "$output/segments"
        echo "$hash" > "$output/header"
        number=0
        while [ $((number * 2)) -le "$last" ]; do
            segment=$output/segments/$(printf %06d "$number")
            echo "after $((number * 2)) of $(digest "$2")" > "$segment"
            digest "$segment" >> "$output/header"
            number=$((number + 1))
        done
        result "{\"segments\": $number, \"hash\": \"$hash\", \"parent_hash\": \"$parent\"}"
        ;;
    next)
        digest "$1" > "$output"
        ;;
    join)
        cat "$@" > "$output"
        ;;
    verify) # the root, then the header; the block's hash is in the task's file
        hash=$(sed 's/.*"hash":"\([0-9a-f]\{64\}\)".*/\1/' "$PUSH0_TASK")
        if [ "$(head -n 1 "$2")" != "$hash" ]; then
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
