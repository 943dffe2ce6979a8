"""Every text that a user may read, in one list: --help, messages, titles of pictures and pages.

    python tests/texts.py [FOLDER] > texts.txt      of the project in FOLDER (default: this one)
"""
import ast
import re
import sys
from pathlib import Path

JAVASCRIPT = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`')
HTML = re.compile(r'>([^<>]+)(?=<)|(?:title|aria-label|placeholder)="([^"]+)"')
TWO_WORDS = re.compile(r"[A-Za-z]+\W* \W*[a-z]+")


def words(node):
    """A string of the source with what it holds in braces, or None for other nodes."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(words(part) or f"{{{ast.unparse(part.value)}}}" for part in node.values)
    return None


def of_program(path, script):
    """The strings of two words or more, in order; of docstrings a script's own, which is its --help."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside, doc = set(), ast.get_docstring(tree, clean=False)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            inside.add(body[0].value)
        if isinstance(node, ast.JoinedStr):
            inside |= set(node.values)
    found = [(node.lineno, words(node)) for node in ast.walk(tree) if node not in inside and words(node)]
    return [doc] * script + [text for _, text in sorted(found) if TWO_WORDS.search(text)]


def of_page(path):
    """The strings of two words or more in a page, without Jinja's and the style's."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        text = re.sub(r"(?s){%.*?%}|<(style|script).*?</\1>", "", text)
    found = ("".join(match) for match in (JAVASCRIPT if path.suffix == ".js" else HTML).findall(text))
    return [text for text in found if TWO_WORDS.search(text)]


def main(root):
    for path in sorted([*root.glob("*.py"), *root.glob("lrcn/**/*.py"), *root.glob("lrcn/**/*.html"),
                        *root.glob("lrcn/**/*.js")]):
        script = path.parent == root and "__main__" in path.read_text(encoding="utf-8")
        for text in of_program(path, script) if path.suffix == ".py" else of_page(path):
            print(f"{path.relative_to(root)}: {' '.join(text.split())}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]))
