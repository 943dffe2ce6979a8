"""The plan of the code, read from it: imports run scripts -> modules -> lrcn, and never round."""
import ast
import collections
import re
from graphlib import TopologicalSorter

from commands import ROOT

FOUNDATION = {"base", "video", "data", "features", "drawing", "runs", "checkpoints", "evaluation"}
LRCN = {"base": set(), "video": {"base"}, "data": {"base", "video"}, "features": {"base", "video", "data"},
        "drawing": {"base", "video"}, "runs": {"base", "data"},
        "checkpoints": {"base", "video", "data", "features", "runs"},
        "evaluation": FOUNDATION, "training": FOUNDATION, "watching": FOUNDATION, "study": FOUNDATION,
        "pages": FOUNDATION, "teaching": {*FOUNDATION, "training", "watching"}}
MODULES = {"models": {*LRCN}, "networks": {*LRCN, "models"},
           "dataset": {*LRCN, "models"}, "utils": {*LRCN, "models", "networks", "dataset"}}
MAY_IMPORT = {**LRCN, **MODULES, "script": {*LRCN, *MODULES}}

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
    """Where it stands: a topic of lrcn, a module that scripts share, or "script"."""
    head, _, rest = module.partition(".")
    return rest.partition(".")[0] if head == "lrcn" else head if head in MODULES else "script"


def test_imports_run_one_way():
    broken = [f"{one} -> {other}" for one in FILES for other in imported(one)
              if place(other) not in MAY_IMPORT.get(place(one), set())
              and not (place(one) == place(other) != "script")]
    assert not broken, "imports that the plan does not know: " + ", ".join(broken)


def test_imports_go_in_no_circle():
    TopologicalSorter({module: imported(module) for module in FILES}).prepare()


def test_the_map_names_every_module():
    named = set(re.findall(r"\w+", ast.get_docstring(TREES["lrcn"])))
    modules = [module for module in FILES if module.startswith("lrcn.")]
    assert not [module for module in modules if not {*module.split(".")[1:]} <= named]


def test_no_function_is_over_60_lines_but_a_table_of_flags():
    long = [f"{module}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
            for module, tree in TREES.items() for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name != "make_parser"
            and node.end_lineno - node.lineno >= 60]
    assert not long, ", ".join(long)


def takes(function, call):
    """Whether a function would take what a call gives: so many values, and these names."""
    plain = [a.arg for a in function.args.posonlyargs + function.args.args]
    plain = plain[1:] if plain[:1] in (["self"], ["cls"]) else plain
    names = {*plain, *(a.arg for a in function.args.kwonlyargs)}
    given = len(call.args) + len(call.keywords)
    return (function.args.vararg or len(call.args) <= len(plain)) and \
        given >= len(plain) - len(function.args.defaults) and \
        (function.args.kwarg or {keyword.arg for keyword in call.keywords} <= names)


def test_the_calls_in_a_modules_docstring_are_calls_that_its_functions_take():
    broken = []
    for module, tree in TREES.items():
        known = collections.defaultdict(list)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                known[node.name].append(node)
            if isinstance(node, ast.ClassDef):
                known[node.name] += [n for n in node.body if getattr(n, "name", "") == "__init__"]
        lines = re.findall(r"^    ([^#\n]*[^#\s:])", ast.get_docstring(tree, clean=False) or "", re.MULTILINE)
        for piece in (part.strip() for line in lines for part in line.split(";")):
            try:
                parsed = ast.parse(re.sub(r"^(with|if not|if|return) | as .*$", "", piece))
            except SyntaxError:
                continue        # prose, or a command
            for call in (node for node in ast.walk(parsed) if isinstance(node, ast.Call)):
                name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", None)
                loose = any(isinstance(a, ast.Starred) or getattr(a, "value", 0) is ... for a in call.args)
                if known.get(name) and not loose and not any(takes(one, call) for one in known[name]):
                    broken.append(f"{module}: {piece}")
    assert not broken, "; ".join(broken)
