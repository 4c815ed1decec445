"""A second process on a core's shared mapping: `python table_writer.py FD WHAT`.

`buckets` and `configurations` publish one whole state after the other until killed;
`answer` gives a verdict on each packet (hex) that it reads, on lane 9, and prints the outcome.
"""

import itertools
import random
import sys
from dataclasses import asdict

from builders import NOW, random_contact, usual_settings

from kdht._routing import Core
from kdht.replay.oracle import OracleSettings
from kdht.wire import Address, Contact
from kdht.wire import _shared as shared

KEY = b"\xff" * shared.ID_LEN
HOME = Address.of("10.0.0.1", shared.PORT)
LANE = 9


def bucket_states() -> dict[int, list[Contact]]:
    """Contents of bucket 0; every contact of a state has the state's number as its port."""
    rng = random.Random(1)
    return {
        number: [
            random_contact(rng, b"\x80" + rng.randbytes(shared.ID_LEN - 1), (4,))._replace(port=number)
            for _ in range(rng.randint(1, shared.K))
        ]
        for number in range(1, 65)
    }


def configuration_states() -> dict[int, OracleSettings]:
    """Settings in which everything that a verdict uses differs, by port."""
    return {
        number: usual_settings(
            port=number,
            source4=Address.of(f"10.0.0.{number}", 0).ip,
            keys=[(number, bytes([number]) * shared.TAG_KEY_LEN)],
            hop_limit=number,
        )
        for number in range(2, 66)
    }


def publish_buckets(core: Core) -> None:
    for contacts in itertools.cycle(bucket_states().values()):
        core.set_bucket(0, contacts)


def publish_configurations(core: Core) -> None:
    arguments = [asdict(settings) for settings in configuration_states().values()]
    for settings in itertools.cycle(arguments):
        core.configure(**settings)


def answer(core: Core) -> None:
    for line in sys.stdin:
        packet = bytearray.fromhex(line)
        outcome = core.decide_packet(packet, NOW, LANE)
        print(outcome.reason.name, outcome.target, packet.hex(), flush=True)


ROLES = {"buckets": publish_buckets, "configurations": publish_configurations, "answer": answer}

if __name__ == "__main__":
    ROLES[sys.argv[2]](Core(int(sys.argv[1])))
