# What scripts/kernels runs as root in a machine: one node by each fast path, with a client in a namespace of its own.
#
# client 10.9.0.2 --- v0 10.9.0.1 the node, eth0 10.0.2.15 (virtio-net)
export PATH=$CHECKOUT/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export PYTHONPATH=$CHECKOUT TERM=dumb
cd "$CHECKOUT" || exit
say() { echo "RESULT $(uname -r): $*"; }

network() {
    ip link set lo up
    ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0
    ip netns add client
    ip link add v0 type veth peer name v1 netns client
    ip addr add 10.9.0.1/24 dev v0 && ip link set v0 up
    ip -n client addr add 10.9.0.2/24 dev v1 && ip -n client link set v1 up
}

configuration() {
    mkdir -p /etc/kdht /run/kdht
    (umask 077 && echo "a secret for this machine only, never anywhere else" >/etc/kdht/secret)
    cat >/etc/kdht/kdhtd.toml <<X
[node]
listen = ["10.9.0.1", "10.0.2.15"]
data_dir = "/tmp/data"
[[key]]
file = "/etc/kdht/secret"
[access]
writes = "open"
X
}

values() {
    ip netns exec client python - <<'X'
from kdht import Client
with Client(["10.9.0.1"], timeout=20) as client:
    for i in range(20): client.put(f"k{i}", b"v" * 50 * i)
    print("values right:", sum(client.get(f"k{i}") == b"v" * 50 * i for i in range(20)), "of 20")
X
}

found_now() { nft list tables; cat /proc/sys/net/ipv4/conf/{v0,eth0}/forwarding /proc/sys/net/ipv6/conf/all/forwarding; ls /sys/fs/bpf; }

# kdhtctl takes many seconds to start in a machine without KVM, and the daemon needs the processor.
status() { # the daemon's answer, JSON
    python -S -I - <<'X' 2>/dev/null
import socket
with socket.socket(socket.AF_UNIX) as daemon:
    daemon.connect("/run/kdht/kdhtd.sock")
    daemon.sendall(b'{"method": "status"}\n')
    print(daemon.makefile().readline())
X
}

node() { # DATAPATH
    local daemon before after
    before=$(found_now)
    say "$1: check: $(kdhtd --check --datapath "$1" 2>&1 | grep -E "problem|XDP|queue" | tail -1)"
    kdhtd --datapath "$1" >/tmp/log 2>&1 &
    daemon=$!
    for _ in {1..200}; do
        kill -0 $daemon 2>/dev/null || break
        status | grep -q '"ready": *true' && break
        sleep 2
    done
    say "$1: $(values 2>&1 | tail -1)"
    say "$1: $(status | grep -o '"name": *"'"$1"'".*' | grep -oE '"(state|why|mode)": *"[^"]*"' | tr '\n' ' ')"
    [[ $1 = nfqueue ]] && say "$1: rule: $(nft list chain inet kdht to_queue 2>&1 | grep queue | tail -1 | tr -s '\t ' ' ')"
    say "$1: doctor: $(kdhtctl doctor 2>&1 | grep -iE "xdp|nfqueue|failure" | tr -s ' \n' ' ' | cut -c1-300)"
    kill $daemon
    wait $daemon
    say "$1: ended with $?; $(tail -1 /tmp/log | cut -c1-200)"
    after=$(found_now)
    [[ $before = "$after" ]] && say "$1: rules and sysctls as before" || say "$1: left behind: $(diff <(echo "$before") <(echo "$after") | grep '^[<>]' | tr '\n' ' ')"
}

network
configuration
node nfqueue
node ebpf
