"""What a client may do, by its address: a face's own reading of the lists in [access]. No I/O and no clock."""

from collections.abc import Sequence

from kdht.wire._shared import MAY_READ, MAY_WRITE


class SenderRights:
    """`prefixes`: 16 bytes of address, bits, rights, as Core.configure takes them; None: everybody may do everything."""

    def __init__(self, prefixes: Sequence[tuple[bytes, int, int]] | None) -> None:
        self._is_open = prefixes is None
        by_bits: dict[int, dict[int, int]] = {}
        for ip, bits, rights in prefixes or ():
            by_bits.setdefault(bits, {})[_first(ip, bits)] = rights
        self._longest_first = sorted(by_bits.items(), reverse=True)

    def of(self, ip: bytes) -> int:
        """MAY_READ and MAY_WRITE of 16 bytes of address (Address.ip): those of its longest prefix."""
        if self._is_open:
            return MAY_READ | MAY_WRITE
        found = (prefixes.get(_first(ip, bits)) for bits, prefixes in self._longest_first)
        return next((rights for rights in found if rights is not None), 0)

    def may_read(self, ip: bytes) -> bool:
        return bool(self.of(ip) & MAY_READ)

    def may_write(self, ip: bytes) -> bool:
        return bool(self.of(ip) & MAY_WRITE)


def _first(ip: bytes, bits: int) -> int:
    return int.from_bytes(ip, "big") >> (8 * len(ip) - bits)
