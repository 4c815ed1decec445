"""The layers, the core's surface, and that each number of the protocol stands in one place.

docs/design/README.md has the layers; its table is read here, so that a module without a row fails.
"""

import ast
import importlib
import inspect
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from ci import IN_CI
from paths import ROOT

from kdht import wire
from kdht._routing import LANES, Core
from kdht.wire import _shared as shared
from kdht.wire._shared import VERDICT_OF, Flag, Reason, Verdict

SOURCES = sorted(path for kind in ("py", "pyx", "pxd") for path in (ROOT / "kdht").rglob(f"*.{kind}"))
CLIENT = sorted(path for path in SOURCES if path.parent == ROOT / "kdht/client")
CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+(kdht[\w.]*)\s+(?:c?import)\s+([\w, (]*)|c?import\s+(kdht[\w.]*))")
WITHOUT_CLOCK = (0, 1, 2, 4)
"""The layers that `now` is passed to."""
CLOCKS = {"time", "datetime"}
INPUT_AND_OUTPUT = {"socket", "select", "selectors", "asyncio", "subprocess", "multiprocessing"}


def name_of(path: Path) -> str:
    """A test's ID."""
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layers() -> dict[str, int]:
    """Module or package to layer, from the table in docs/design/README.md; 0 for the client's package."""
    found = {"kdht": 0}
    for line in (ROOT / "docs/design/README.md").read_text().splitlines():
        if row := re.match(r"\| (\d) \w+ \| ([^|]+) \|", line):
            for name in re.findall(r"`([\w/]+)`", row[2]):
                found[f"kdht.{name.rstrip('/')}"] = int(row[1])
    return found


LAYERS = layers()


def layer_of(module: str) -> int | None:
    """The layer of the longest listed name that holds the module."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next(
        (LAYERS[name] for name in names if name in LAYERS), LAYERS["kdht"] if module == "kdht" else None
    )


# --- Imports -----------------------------------------------------------------------------


def python_imports(source: str) -> Iterator[str]:
    """Every module, or member of a module, that is imported anywhere in the file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cython_imports(source: str) -> Iterator[str]:
    for line in source.splitlines():
        if found := CYTHON_IMPORT.match(line):
            package, members, whole = found.groups()
            yield from [whole] if whole else [f"{package}.{name.strip(' (')}" for name in members.split(",")]
        elif found := re.match(r"^\s*(?:import|from)\s+([\w.]+)", line):
            yield found[1]


def imports_of(path: Path) -> set[str]:
    read = python_imports if path.suffix == ".py" else cython_imports
    return set(read(path.read_text()))


def kdht_imports(path: Path) -> set[str]:
    return {name for name in imports_of(path) if name.split(".")[0] == "kdht"}


def test_the_table_of_layers_is_read():
    assert {
        LAYERS[f"kdht.{name}"]
        for name in ("wire", "_routing", "storage", "datapath", "node", "config", "daemon", "cli")
    } == set(range(8))


def test_imports_are_found_in_python_and_in_cython():
    assert "kdht._routing.Core" in kdht_imports(ROOT / "kdht/datapath/memory/transport.py")
    assert {"kdht.core._message.apply_plan", "kdht.wire.Address"} <= kdht_imports(ROOT / "kdht/_routing.pyx")
    assert "kdht.core._layout.kdht_config" in kdht_imports(ROOT / "kdht/core/_tags.pxd")


@pytest.mark.parametrize("path", [path for path in SOURCES if path not in CLIENT], ids=name_of)
def test_a_module_imports_only_its_own_layer_and_those_below(path):
    layer = layer_of(module_of(path))
    assert layer is not None, f"{path} stands in no row of the table in docs/design/README.md"
    higher = {name for name in kdht_imports(path) if (layer_of(name) or 0) > layer}
    assert not higher


@pytest.mark.parametrize("path", CLIENT, ids=name_of)
def test_the_client_needs_layer_0_alone(path):
    others = {name for name in kdht_imports(path) if not name.startswith("kdht.client")}
    assert {name for name in others if layer_of(name) != 0} == set()


FACES = sorted((ROOT / "kdht/faces").rglob("*.py"))
FACES_NEED = ("client", "config", "errors", "faces", "program", "times", "wire", "__version__")


@pytest.mark.parametrize("path", FACES, ids=name_of)
def test_a_face_needs_no_part_of_the_node(path):
    assert {name for name in kdht_imports(path) if name.split(".")[1] not in FACES_NEED} == set()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_layers_with_a_time_argument_read_no_clock(path):
    roots = {name.split(".")[0] for name in imports_of(path)}
    layer = layer_of(module_of(path))
    if layer in WITHOUT_CLOCK:
        assert not roots & CLOCKS
    if layer in (1, 4):
        assert not roots & INPUT_AND_OUTPUT


# --- Circles -----------------------------------------------------------------------------

MODULES = {module_of(path) for path in SOURCES}


def imported_modules(path: Path) -> set[str]:
    """The modules of kdht that a file imports, each by its longest name; a package is its `__init__`."""
    found = set()
    for name in kdht_imports(path):
        parts = name.split(".")
        names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        found.add(next(each for each in names if each in MODULES))
    return found - {module_of(path)}


def reachable(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """For each module all that it imports, by whatever number of steps."""
    found: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        found[start] = seen
    return found


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    below = reachable(graph)
    return {
        frozenset(other for other in below[module] if module in below[other])
        for module in graph
        if module in below[module]
    }


def test_a_circle_of_imports_is_found():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set()}
    assert circles(graph) == {frozenset("abc")}


def test_modules_do_not_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for path in SOURCES:
        graph[module_of(path)] |= imported_modules(path)
    assert circles(graph) == set()


def test_cimports_name_what_they_take():
    assert [name_of(path) for path in SOURCES if "cimport *" in path.read_text()] == []


# --- Numbers -----------------------------------------------------------------------------

NUMBERS = {name: getattr(shared, name) for name in ("MAGIC", "PORT", "HEADER_LEN", "TAGGED_LEN", "MAX_BODY",
           "MAX_DATAGRAM", "MAX_VALUE")}  # fmt: skip


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every number and string; comments and docstrings are none that count."""
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        starts_line = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.NL)
        if token.type == tokenize.NUMBER or (token.type == tokenize.STRING and not starts_line):
            yield token.start[0], token.string
        if token.type != tokenize.COMMENT:
            before = token.type


def value_of(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):  # an f-string, or Cython's own suffixes
        return re.sub(r"[uUlL]+$", "", text)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_number_of_the_protocol_is_written_a_second_time(path):
    forbidden = {*NUMBERS.values(), shared.MAGIC.to_bytes(4, "big")}
    again = [(line, text) for line, text in literals(path) if value_of(text) in forbidden]
    assert not again


def test_the_ruleset_matches_the_headers_bytes():
    """nftables takes literals only: these are checked instead. Offsets are bits from the UDP header on."""
    rules = (ROOT / "nft/kdht.nft").read_text()
    udp_header = 8
    at = 8 * (udp_header + wire.OFFSET["flags"])
    assert set(re.findall(r"@th,(\d+,\d+) & (\w+)", rules)) == {(f"{at},8", f"{Flag.FORWARDED:#04x}")}
    assert set(re.findall(r"@th,(\d+,\d+) \$magic", rules)) == {
        f"{8 * (udp_header + wire.OFFSET['magic'])},32"
    }


def test_the_header_has_no_gaps_and_ends_with_the_tag():
    end = 0
    for name, offset, size in shared.LAYOUT:
        assert offset == end, name
        end = offset + size
    assert end == shared.HEADER_LEN == wire.HEADER.size
    assert wire.OFFSET["header_tag"] == shared.TAGGED_LEN
    assert shared.LAYOUT[-1][0] == "header_tag"
    assert shared.MAGIC.to_bytes(4, "big") == b"KDHT"


def test_a_datagram_fits_the_least_ipv6_packet():
    assert shared.MAX_DATAGRAM == shared.HEADER_LEN + shared.MAX_BODY == 1280 - 40 - 8
    assert shared.MAX_VALUE == shared.MAX_BODY - shared.RECORD_LEN
    assert shared.MAX_CONDITIONAL_VALUE == shared.MAX_VALUE - shared.CONDITION_LEN
    assert wire.EXTRA.size == shared.CONDITION_LEN
    assert wire.PROMISE.size == shared.RECORD_LEN
    assert shared.CONTACT_LEN == shared.ID_LEN + 16 + 2 == wire.CONTACT.size


# --- Reasons -----------------------------------------------------------------------------


def test_every_reason_has_a_counter_and_a_verdict():
    counters = Core().counters()
    assert list(counters) == [reason.name for reason in Reason]
    assert set(counters.values()) == {0}
    assert set(VERDICT_OF) == set(Reason)
    assert set(VERDICT_OF.values()) == set(Verdict)
    assert [reason.value for reason in Reason] == list(range(len(Reason)))


def test_every_lane_has_counters_of_its_own():
    core = Core()
    for lane in range(LANES):
        core.decide_packet(bytearray(1), 0, lane)
        assert core.counters(lane)["NOT_READY"] == 1
    assert core.counters()["NOT_READY"] == LANES


# --- Stubs -------------------------------------------------------------------------------

STUBS = sorted((ROOT / "kdht").rglob("*.pyi"))


def stub_signatures(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Dotted name and parameters of every function and method in a stub."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from stub_signatures(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not node.decorator_list and node.name != "__init__":
            arguments = node.args
            yield (
                f"{prefix}{node.name}",
                [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)],
            )


@pytest.mark.parametrize("path", STUBS, ids=name_of)
def test_a_stub_is_what_was_built(path):
    name = module_of(path)
    if name.endswith(("_ebpf", "_sodium")) and find_spec(name) is None:
        (pytest.fail if IN_CI else pytest.skip)("built without an optional library")
    built = importlib.import_module(name)
    declared = ast.parse(path.read_text()).body
    for node in declared:
        for target in [node.target] if isinstance(node, ast.AnnAssign) else []:
            assert target.id == "Buffer" or target.id == "TypeAlias" or hasattr(built, target.id), target.id
    for dotted, parameters in stub_signatures(declared):
        function = built
        for part in dotted.split("."):
            function = getattr(function, part)
        assert list(inspect.signature(function).parameters) == parameters, dotted


def test_the_cores_stub_leaves_nothing_out():
    stub = ast.parse((ROOT / "kdht/_routing.pyi").read_text()).body
    declared = {node.name for each in stub if isinstance(each, ast.ClassDef) and each.name == "Core"
                for node in each.body if isinstance(node, ast.FunctionDef)}  # fmt: skip
    public = {name for name in dir(Core) if not name.startswith("_")}
    assert public <= declared


# --- Wiring ------------------------------------------------------------------------------

WIRED = sorted(path for folder in ("daemon", "lab") for path in (ROOT / "kdht" / folder).rglob("*.py"))
WIRED.append(ROOT / "kdht/node/assembly.py")
SET_FROM_OUTSIDE = {
    "self.node.unix_offset": "the clock: data, not a part",
    "self._node.unix_offset": "the clock: data, not a part",
    "data[half].effective": "a kernel structure",
    "data[half].permitted": "a kernel structure",
    "logger.propagate": "the standard library's only way",
    "threading.excepthook": "Python's own places for these functions",
    "sys.unraisablehook": "Python's own places for these functions",
}
"""Attributes of other objects that are set after their making, each with the reason. Handlers of messages and events are
arguments: one that is set later can be forgotten, and nothing fails."""


def set_from_outside(source: str) -> Iterator[str]:
    """The attributes of other objects than `self` that are assigned."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Attribute) and ast.unparse(each.value) != "self":
                    yield ast.unparse(each)


def test_attributes_that_are_set_from_outside_are_found():
    source = "a.b = 1\nself.c = 2\nself.d.e += 3\n(f.g, h) = 4, 5\nx: int = 6\n"
    assert list(set_from_outside(source)) == ["a.b", "self.d.e", "f.g"]


@pytest.mark.parametrize("path", WIRED, ids=name_of)
def test_parts_get_what_they_need_as_arguments(path):
    found = {
        name for name in set_from_outside(path.read_text()) if not name.startswith("status.")
    }  # plain data
    assert found <= SET_FROM_OUTSIDE.keys()
    assert "setattr(" not in path.read_text()


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone, and takes the second for the first."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
