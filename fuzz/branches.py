"""Coverage of Python code for libFuzzer: every block of statements reports that it was entered.

After `install(hit)` every imported module of kdht is compiled with a call of `hit(number)` at the start of each
block: functions, branches, loops, handlers, and the paths past an `if` or out of a loop. The numbers are the
same in every process.
"""

import ast
import builtins
import sys
import zlib
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

HIT = "_kdht_hit"
PACKAGE = "kdht"


class Marker(ast.NodeTransformer):
    """Puts a mark into each block of one module."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._count = 0

    def _mark(self) -> ast.stmt:
        self._count += 1
        number = ast.Constant(zlib.crc32(f"{self._module} {self._count}".encode()))
        return ast.Expr(ast.Call(ast.Name(HIT, ast.Load()), [number], []))

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef):
            return node
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and (block or isinstance(node, ast.If | ast.For | ast.While)):
                block.insert(0, self._mark())
        return node


class Loader(SourceFileLoader):
    """Loads a module from its marked source. It neither reads nor writes bytecode caches."""

    def get_code(self, fullname: str) -> CodeType:
        tree = Marker(fullname).visit(ast.parse(self.get_data(self.path), self.path))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class Finder(MetaPathFinder):
    """Finds modules of these packages as Python does, and loads them with marks."""

    def __init__(self, packages: frozenset[str]) -> None:
        self._packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._packages:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(fullname, spec.loader.path)
        return spec


def install(hit: Callable[[int], object], library: str | None = None) -> None:
    """Mark every module of kdht, and of this other package, that is imported from now on."""
    setattr(builtins, HIT, hit)
    sys.meta_path.insert(0, Finder(frozenset({PACKAGE, library or PACKAGE})))
