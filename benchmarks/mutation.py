"""Mutation of the method: one changed sign, count, comparison, constant or mask at a time must fail a test.

A seeded sample of all mutants of ``lclsc/``. Each runs in a fork of this process, which has imported torch once:
a copy of the package with one change, and the tests that name something of the changed module, its own first.
Results are kept line by line in ``.mutation/``, so that a run goes on where the last one stopped; a change of
the module or of its tests makes them void. A mutant that runs out of time is not called killed.
"""

import argparse
import ast
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import ROOT, Options, Report, at_least, figure

STATE = ROOT / ".mutation" / "state.jsonl"
EQUIVALENT = ROOT / "benchmarks" / "mutation_equivalent.json"
TIMEOUT_SECONDS = 240
TOO_SLOW = {"test_learning.py"}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
METHODS = {"sum": "mean", "mean": "sum", "max": "min", "min": "max", "amax": "amin", "amin": "amax"}
METHODS |= {"clamp_min": "clamp_max", "clamp_max": "clamp_min", "floor": "ceil", "ceil": "floor", "any": "all"}
METHODS |= {"all": "any", "cos": "sin", "sin": "cos", "argmax": "argmin", "zeros_like": "ones_like"}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change: the module's path, the line, the statement, what stood in it and what stands there now."""

    module: str
    line: int
    statement: str
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        """The same wherever the line moves to: how ``mutation_equivalent.json`` calls it."""
        return f"{self.module}: {self.statement}: {self.before} -> {self.after}"


def places_of(path: Path) -> list[tuple[Path, int]]:
    """Every node of a module that can be changed, by its place in the walk of the tree."""
    tree = ast.parse(path.read_text())
    spared = _spared(tree)
    nodes = enumerate(ast.walk(tree))
    return [(path, place) for place, node in nodes if _alternative(node) is not None and id(node) not in spared]


def mutant_at(path: Path, place: int) -> Mutant:
    changed = ast.parse(path.read_text())
    node = list(ast.walk(changed))[place]
    before, statement = ast.unparse(node), _statement(changed, node)
    change = _alternative(node)
    assert change is not None
    change(node)
    return Mutant(
        module=path.relative_to(ROOT).as_posix(),
        line=node.lineno,
        statement=statement,
        before=before,
        after=ast.unparse(node),
        source=ast.unparse(ast.fix_missing_locations(changed)),
    )


def _statement(tree: ast.Module, node: ast.AST) -> str:
    """The first line of the innermost statement around a node."""
    around = [
        statement
        for statement in ast.walk(tree)
        if isinstance(statement, ast.stmt) and any(child is node for child in ast.walk(statement))
    ]
    return ast.unparse(around[-1]).partition("\n")[0]


def _spared(tree: ast.Module) -> set[int]:
    """Nodes whose change is no change of the method: annotations, decorators, messages, module switches."""
    roots: list[ast.AST] = []
    for node in ast.walk(tree):
        roots += [getattr(node, name) for name in ("annotation", "returns") if getattr(node, name, None)]
        roots += getattr(node, "decorator_list", [])
        roots += [node] if isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert) else []
    return {id(child) for root in roots for child in ast.walk(root)}


def _alternative(node: ast.AST):
    """What changes this node in place, or None."""
    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in OPERATORS:
            return lambda n: setattr(n, "op", OPERATORS[type(n.op)]())
        case ast.Compare() if type(node.ops[0]) in OPERATORS:
            return lambda n: n.ops.__setitem__(0, OPERATORS[type(n.ops[0])]())
        case ast.UnaryOp(op=ast.USub() | ast.Invert()):
            return lambda n: setattr(n, "op", ast.UAdd() if isinstance(n.op, ast.USub) else ast.USub())
        case ast.UnaryOp(op=ast.Not()):
            return lambda n: setattr(n, "operand", ast.UnaryOp(op=ast.Not(), operand=n.operand))
        case ast.Constant(value=bool()):
            return lambda n: setattr(n, "value", not n.value)
        case ast.Constant(value=int()):
            return lambda n: setattr(n, "value", n.value + 1)
        case ast.Constant(value=float()):
            return lambda n: setattr(n, "value", 2 * n.value + (n.value == 0.0))
        case ast.Attribute() if node.attr in METHODS:
            return lambda n: setattr(n, "attr", METHODS[n.attr])
    return None


def tests_of(module: str) -> list[str]:
    """Test files that name something which the module defines: its own first, many processes last."""
    path = ROOT / module
    body = ast.parse(path.read_text()).body
    public = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    word = re.compile(r"\b(" + "|".join([*public, path.stem]) + r")\b")
    files = [*sorted((ROOT / "tests/lclsc").glob("test_*.py")), *sorted((ROOT / "tests/distributed").glob("test_*.py"))]
    named = [file for file in files if file.name not in TOO_SLOW and word.search(file.read_text())]
    hits = {file: len(word.findall(file.read_text())) for file in named}
    named.sort(key=lambda file: (file.parent.name == "distributed", file.stem != f"test_{path.stem}", -hits[file]))
    return [str(file.relative_to(ROOT)) for file in named]


def run(mutant: Mutant, tests: list[str]) -> str:
    """killed, survived or timeout."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "lclsc", Path(folder) / "lclsc", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / mutant.module).write_text(mutant.source)
        child = os.fork()
        if child == 0:
            _run_tests(folder, tests)
        return _outcome(child)


def _run_tests(folder: str, tests: list[str]) -> None:
    """In the fork: the changed package comes first on the path, here and in processes that tests start."""
    import pytest

    os.setsid()
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ["PYTHONPATH"] = folder
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    code = 3
    try:
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *tests]))
    finally:
        os._exit(code)


def _outcome(child: int) -> str:
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "killed"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _key(mutant: Mutant, tests: list[str]) -> str:
    parts = [mutant.source, *((ROOT / test).read_text() for test in tests)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def results(sample: list[Mutant], deadline: float) -> Iterator[tuple[Mutant, str]]:
    """Outcomes, known ones first read from the state and new ones added to it."""
    STATE.parent.mkdir(exist_ok=True)
    lines = STATE.read_text().splitlines() if STATE.exists() else []
    known = {entry["key"]: entry["outcome"] for entry in map(json.loads, lines)}
    for number, mutant in enumerate(sample):
        tests = tests_of(mutant.module)
        key = _key(mutant, tests)
        if key not in known and time.monotonic() < deadline:
            known[key] = run(mutant, tests) if tests else "survived"
            with STATE.open("a") as file:
                file.write(json.dumps({"key": key, "outcome": known[key], "mutant": mutant.name}) + "\n")
            print(f"{number + 1}/{len(sample)} {known[key]:9} line {mutant.line} of {mutant.name}", flush=True)
        if key in known:
            yield mutant, known[key]


def warm_up() -> None:
    """Import once what every fork needs, but nothing of ours; start no thread."""
    import hypothesis  # noqa: F401
    import monai.networks.nets  # noqa: F401
    import pytest  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch

    torch.set_num_threads(1)
    assert not any(name.split(".")[0] == "lclsc" for name in sys.modules)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=150, help="how many mutants of all; 0: every one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--quick", action="store_true", help="six mutants")
    given = parser.parse_args()
    every = [place for path in sorted((ROOT / "lclsc").rglob("*.py")) for place in places_of(path)]
    order = random.Random(given.seed).sample(every, len(every))
    sample = [mutant_at(*place) for place in order[: 6 if given.quick else given.sample or None]]
    warm_up()
    found = list(results(sample, time.monotonic() + 60 * given.minutes))
    finish(found, given.quick, total=len(every), wanted=len(sample))


def finish(found: list[tuple[Mutant, str]], quick: bool, *, total: int, wanted: int) -> None:
    """The table and the file: per module, the share with its interval, and every survivor by name."""
    equivalent = json.loads(EQUIVALENT.read_text())
    report = Report("mutation", Options(quick=quick))
    judged = [(m, outcome) for m, outcome in found if m.name not in equivalent]
    killed = sum(outcome == "killed" for _, outcome in judged)
    for module in sorted({mutant.module for mutant, _ in found}):
        outcomes = Counter(outcome for mutant, outcome in judged if mutant.module == module)
        report.add({"module": module, **outcomes})
    for mutant, outcome in found:
        if outcome != "killed":
            entry = {key: value for key, value in asdict(mutant).items() if key != "source"}
            report.add(entry | {"outcome": outcome, "equivalent": equivalent.get(mutant.name)})
    share = killed / len(judged) if judged else None
    report.claim(at_least("mutants of lclsc/ killed", share, 0.85, "of those run"))
    report.claim(figure("95 % lower bound for all mutants", _lower_bound(killed, len(judged)), "of all"))
    report.claim(figure("mutants run", len(found), f"of {wanted} drawn from {total}"))
    report.claim(figure("left out as equivalent, listed with reasons", len(found) - len(judged), ""))
    report.finish()


def _lower_bound(hits: int, count: int) -> float | None:
    """Wilson's, 95 %."""
    if not count:
        return None
    z, p = 1.96, hits / count
    return (p + z * z / 2 / count - z * math.sqrt(p * (1 - p) / count + z * z / 4 / count**2)) / (1 + z * z / count)


if __name__ == "__main__":
    main()
