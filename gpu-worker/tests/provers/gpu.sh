#!/bin/sh
# An exec prover for tests of GPUs: gpu.sh DIR …; the stage's name says what to do, its output is the device that it was given.
set -e
dir=$1
shift
while [ $# -gt 0 ]; do
    case "$1" in
        --stage) stage=$2 ;;
        --output-path) output=$2 ;;
    esac
    shift 2
done
touch "$dir/$stage-on-$CUDA_VISIBLE_DEVICES"
case "$stage" in
    # Done once it runs on as many devices at a time.
    meet-2 | meet-3) until [ "$(ls "$dir" | grep -c "^$stage-on-")" -ge "${stage#meet-}" ]; do sleep 0.01; done ;;
    # A self-test: fails until the device is said to be sound.
    sound) echo >> "$dir/tests-on-$CUDA_VISIBLE_DEVICES"; [ -e "$dir/is-sound" ] ;;
    hang) sleep 600 ;;
    fall)
        until [ -e "$dir/let-it-fall" ]; do sleep 0.01; done
        echo "CUDA error: an illegal memory access was encountered" >&2
        exit 1 ;;
    say) echo '{"type":"failed","id":"","kind":"permanent","message":"P0-122: no kernel image","children":[]}' > "$(dirname "$output")/result.json"; exit 1 ;;
esac
printf %s "$CUDA_VISIBLE_DEVICES" > "$output"
