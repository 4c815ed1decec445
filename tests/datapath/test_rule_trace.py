"""What nft's trace says about a dropped packet, in words."""

import os
from pathlib import Path

import pytest

from kdht.datapath.host.rule_trace import RuleTrace
from kdht.lab.wait import wait_until

ID = "trace id 5f1e0001"
POLICY = f"{ID} ip theirs f policy drop"
RULE = f"{ID} inet theirs p rule fib saddr . iif oif missing drop (verdict drop)"
OWN = f"{ID} inet kdht forward rule meta nfproto ipv4 iifname @guarded4 counter name unrouted drop (verdict drop)"
MARK = f"{ID} ip vpn m rule meta mark set ct mark (verdict continue)"
PASSED = f"{ID} ip theirs f rule udp dport 53 accept (verdict accept)"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([POLICY], "the policy of chain ip theirs f drops them"),
        ([RULE], "a rule of chain inet theirs p drops them: fib saddr . iif oif missing drop"),
        ([OWN], "another program takes their mark off, so our guard drops them"),
        (
            [MARK, OWN],
            "another program takes their mark off, so our guard drops them "
            "(a rule of chain ip vpn m: meta mark set ct mark)",
        ),
        ([MARK, PASSED, POLICY], "the policy of chain ip theirs f drops them"),
    ],
)
def test_the_rule_is_named(tmp_path: Path, lines: list[str], said: str) -> None:
    nft = tmp_path / "nft"
    nft.write_text("#!/bin/sh\ncat <<'X'\n" + "\n".join(lines) + "\nX\nexec sleep 60\n")
    os.chmod(nft, 0o755)
    trace = RuleTrace(str(nft), "kdht")
    try:
        assert wait_until(trace.look, "a reason") == said
    finally:
        trace.end()
