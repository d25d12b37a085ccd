#!/bin/sh
# Builds the guest with Debian's RISC-V gcc (apt-get install gcc-riscv64-unknown-elf) and says its SHA-256. guest.elf is committed: only who
# changes the guest needs this. The program's identity is the ELF, so another compiler makes another program, to be pinned anew.
set -eu
cd "$(dirname "$0")"
command -v riscv64-unknown-elf-gcc >/dev/null || { echo "build.sh: no riscv64-unknown-elf-gcc: apt-get install gcc-riscv64-unknown-elf" >&2; exit 1; }
riscv64-unknown-elf-gcc -march=rv32im -mabi=ilp32 -O2 -funroll-loops -Wall -Wextra -Werror -std=c11 \
  -ffreestanding -nostdlib -nostartfiles -fno-builtin -fno-tree-loop-distribute-patterns -mcmodel=medany \
  -Wl,-Ttext=0x00200800 -Wl,--no-relax -Wl,-e,_start -Wl,--build-id=none -Wl,--no-warn-rwx-segments -s \
  -o "${1:-guest.elf}" platform.c main.c poseidon.c state.c
sha256sum "${1:-guest.elf}"
