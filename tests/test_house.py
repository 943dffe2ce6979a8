"""The plan of the house, read from the code: imports run doors -> rooms -> lrcn, and never round."""
import ast
from graphlib import TopologicalSorter

from commands import ROOT

FOUNDATION = {"base", "video", "clips", "encoding", "drawing", "runs", "checkpoints", "scores"}
LRCN = {"base": set(), "video": {"base"}, "clips": {"base", "video"}, "encoding": {"base", "video", "clips"},
        "drawing": {"base", "video"}, "runs": {"base", "clips"}, "scores": {"base"},
        "checkpoints": {"base", "video", "clips", "encoding", "runs"},
        "training": FOUNDATION, "testing": FOUNDATION, "watching": FOUNDATION, "study": FOUNDATION,
        "pages": FOUNDATION | {"testing"}}
ROOMS = {"models": {*LRCN}, "dataset": {*LRCN, "models"}, "utils": {*LRCN, "models", "dataset"}}
MAY_IMPORT = {**LRCN, **ROOMS, "door": {*LRCN, *ROOMS}}

FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
         for path in sorted([*ROOT.glob("*.py"), *(ROOT / "lrcn").rglob("*.py")])}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def imported(module):
    """The project's own modules that a module imports, wherever in the file it does."""
    names = {f"{node.module}.{name.name}" if isinstance(node, ast.ImportFrom) else name.name
             for node in ast.walk(TREES[module]) if isinstance(node, ast.Import | ast.ImportFrom)
             for name in node.names}
    return {own for name in names if (own := name if name in FILES else name.rpartition(".")[0]) in FILES}


def place(module):
    """Where in the house it is: a topic of lrcn, a room, or "door"."""
    head, _, rest = module.partition(".")
    return rest.partition(".")[0] if head == "lrcn" else head if head in ROOMS else "door"


def test_imports_run_one_way():
    broken = [f"{one} -> {other}" for one in FILES for other in imported(one)
              if place(other) not in MAY_IMPORT.get(place(one), set())
              and not (place(one) == place(other) != "door")]
    assert not broken, "arrows that the house does not know: " + ", ".join(broken)


def test_imports_go_in_no_circle():
    TopologicalSorter({module: imported(module) for module in FILES}).prepare()


def test_no_name_is_given_twice_in_one_class():
    """The second would win without a word, as two folders of one name did."""
    twice = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            names = [] if not isinstance(node, ast.ClassDef) else [
                name.id for own in node.body if isinstance(own, ast.Assign)
                for target in own.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            twice += [f"{module}.{node.name}.{name}" for name in set(names) if names.count(name) > 1]
    assert not twice, ", ".join(twice)


def test_no_function_is_over_60_lines_but_a_table_of_flags():
    long = [f"{module}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
            for module, tree in TREES.items() for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name != "make_parser"
            and node.end_lineno - node.lineno >= 60]
    assert not long, ", ".join(long)
