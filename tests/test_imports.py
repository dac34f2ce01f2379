"""The house's rule: imports run one way, and wandb, Ray and faiss stay in their rooms."""

import ast
from pathlib import Path

import rag_exp

ROOT = Path(rag_exp.__file__).parent
# A room may import those of its own level only by itself, and everything of the levels after it.
LEVELS = [
    {"cli"},
    {"plan", "suggest"},
    {"stages", "candidates"},
    {"dry", "show", "diff", "housekeeping", "preflight"},
    {"run", "study"},
    {"measuring"},
    {"calibration"},
    {"steps"},
    {"retrieval_steps", "problems"},
    {"settings", "versions"},
    {"builders", "config"},
    {"training", "evaluation", "analysis"},
    {"models", "laws"},
    {"planning"},
    {"retrieval"},
    {"data"},
    {"core"},
]
RANK = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
ALLOWED = {  # beside the rule, each with its reason
    ("diff", "show"),  # finds runs as `show` does
    ("study", "run"),  # a study runs runs
    ("evaluation", "training"),  # evaluation reads passages as training does, on the same machine options
}
ONLY_IN = {
    "faiss": {"retrieval"},
    "ray": {"retrieval"},
    "hydra": {"config"},
    "omegaconf": {"config"},
    "wandb": {"training"},
}


def imports(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "rag_exp":
                yield from (f"rag_exp.{a.name}" for a in node.names)


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def type_only(file: Path) -> set[str]:
    """Modules imported for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                if isinstance(inner, ast.ImportFrom) and inner.module:
                    found.add(inner.module)
    return found


def files():
    return [f for f in ROOT.rglob("*.py") if room_of(f) != "__init__" and "configs" not in f.parts]


def test_imports_run_one_way():
    wrong = []
    for file in files():
        room, types = room_of(file), type_only(file)
        for module in imports(file):
            parts = module.split(".")
            if parts[0] != "rag_exp" or len(parts) < 2 or module in types:
                continue
            other = parts[1]
            if other == room or (room, other) in ALLOWED or other not in RANK:
                continue
            if RANK[other] <= RANK[room]:
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not wrong, wrong


def test_every_room_has_a_level():
    rooms = {room_of(f) for f in files()} - {"__main__"}
    assert rooms <= set(RANK), rooms - set(RANK)


def test_libraries_stay_in_their_rooms():
    wrong = []
    for file in files():
        for module in imports(file):
            rooms = ONLY_IN.get(module.split(".")[0])
            if rooms is not None and room_of(file) not in rooms:
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not wrong, wrong


def test_nothing_is_pickled():
    assert not [f for f in files() if "pickle" in {m.split(".")[0] for m in imports(f)}]
