"""The abilities of kernel and installation: NFQUEUE and nftables, XDP."""

from collections.abc import Callable, Iterator
from pathlib import Path

from kdht.cli.doctor.findings import Check, Finding, State, Subject
from kdht.datapath.ebpf import program, xdp_links
from kdht.datapath.host import ruleset
from kdht.datapath.nfqueue import datapath as nfqueue
from kdht.errors import DatapathError

BTF = Path("/sys/kernel/btf/vmlinux")
JIT = Path("/proc/sys/net/core/bpf_jit_enable")
AS_ROOT = "sudo kdhtctl doctor"


def queueing(subject: Subject) -> Iterator[Finding]:
    """The needs of the nfqueue datapath."""
    # A node that only ever uses its socket needs none of it.
    if subject.kind == "socket":
        return
    bad = subject.unless_needed("nfqueue")
    if ruleset.find_nft() is None:
        yield Finding("nft", bad, "there is no nft program", "apt-get install nftables")
        return
    yield Finding("nft", "ok", "the nft program is there")
    yield _ask("NetfilterQueue", nfqueue.need_package, "the package is there", bad,
               "apt-get install libnetfilter-queue-dev gcc && pip install 'kdht[nfqueue]'")  # fmt: skip
    if not subject.is_root:
        yield Finding("NFQUEUE", "warning", "only root may ask the kernel", AS_ROOT)
        return
    try:
        kind = ruleset.probe_queue()
    except DatapathError as error:
        yield Finding("NFQUEUE", bad, str(error), 'give CAP_NET_ADMIN, or choose datapath.kind = "socket"')
        return
    if kind is None:
        yield Finding("NFQUEUE", bad, "this kernel has no NFQUEUE for nftables",
                      'modprobe nft_queue, or choose datapath.kind = "socket"')  # fmt: skip
    else:
        yield Finding("NFQUEUE", "ok", f"packets can be queued ({kind})")


def xdp(subject: Subject) -> Iterator[Finding]:
    """The needs of the ebpf datapath."""
    bad = subject.unless_needed("ebpf")
    built = _ask("XDP", program.need_program, "built with eBPF", bad,
                 "apt-get install clang libbpf-dev, and install kdht again")  # fmt: skip
    yield built
    kernel = _ask(
        "XDP", program.need_kernel, "the kernel is new enough", bad, "a newer kernel, or another datapath"
    )
    yield kernel
    if subject.is_root and built.state == kernel.state == "ok":
        yield _ask("XDP", program.try_load, "the kernel takes the program", bad, "another kernel or datapath")
    if BTF.exists():
        yield Finding("BTF", "ok", "the kernel's type information is there")
    else:
        yield Finding("BTF", "warning", f"no {BTF}", "a kernel with CONFIG_DEBUG_INFO_BTF")
    if _text(JIT) == "0":
        yield Finding("XDP", "warning", "BPF programs are interpreted", "sysctl -w net.core.bpf_jit_enable=1")
    if not xdp_links.is_bpffs(xdp_links.BPFFS, _text(Path("/proc/self/mounts"))):
        yield Finding("XDP", "warning", f"no BPF file system at {xdp_links.BPFFS}; a daemon with root mounts it",
                      f"mount -t bpf bpf {xdp_links.BPFFS}")  # fmt: skip


def _ask(check: str, ask: Callable[[], object], good: str, bad: State, mend: str) -> Finding:
    try:
        ask()
    except DatapathError as error:
        return Finding(check, bad, str(error), mend)
    return Finding(check, "ok", good)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        # This kernel has no such option.
        return ""


CHECKS: tuple[Check, ...] = (queueing, xdp)
