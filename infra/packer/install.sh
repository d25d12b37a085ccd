# Run by Packer, as root, on the instance that becomes the image.

useradd --system --home-dir /var/lib/push0 --shell /usr/sbin/nologin push0
install -d -m 755 /etc/push0
install -m 644 /tmp/push0/push0-worker.service /etc/systemd/system/
rm /tmp/push0/push0-worker.service
install -m 755 /tmp/push0/* /usr/local/bin/
rm -r /tmp/push0

# Started by an instance's user data, when it knows which pool it is of: not here, and not by itself.
systemctl daemon-reload
systemctl disable push0-worker.service

if [ "$GPU" = true ]; then
    # Without it each new process waits seconds for the driver.
    systemctl enable nvidia-persistenced
    nvidia-smi
fi
# Here, and not at the first block: a program that was built on a newer system.
if { ldd /usr/local/bin/* 2>&1 || true; } | grep 'GLIBC_.*not found'; then
    echo "the programs named above want a newer glibc than the image has: infra/packer/README.md says how to build them" >&2
    exit 1
fi
/usr/local/bin/push0 --version
