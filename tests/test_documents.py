"""What README.md and docs/ print is what the scripts take: every command line, flag, file and link."""
import re
import shlex

import pytest
from commands import ROOT, call, run

DOCUMENTS = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py")
                 if path.stem not in ("models", "networks", "dataset", "utils", "hubconf", "demo"))
FOREIGN = {"--help", "--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--logdir"}


def printed_commands():
    """Every `X.py ...` of a code block or of a code span, on one line, without its comment."""
    lines = [line for _, block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", TEXT)
    found = {match[1].strip() for line in lines
             if (match := re.search(r"(?:^|python |[/\d] )(\w+\.py\b[^#]*)", line)) and " -" in line}
    # demo_data.py needs nothing: it would draw its videos
    return sorted(line for line in found if line.split()[0] in SCRIPTS and "demo_data" not in line)


@pytest.mark.parametrize("line", printed_commands())
def test_a_printed_command_line_is_understood(line):
    words = [word for word in shlex.split(line) if word not in ("...", "FILES")]
    result = call(*words, ok=False)
    assert result.code in (0, 2) and "Traceback" not in result.err, result
    assert not re.search("unrecognized|invalid|expected|ambiguous", result.err), result


def test_every_flag_that_is_named_belongs_to_a_script():
    def flags_in(text):
        found = re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", text)
        return {name.replace("-", "_").removeprefix("no_") for name in found}

    helps = [call(script, "--help").out for script in ("lrcn/features/inventory.py", *SCRIPTS)]
    known = flags_in(" ".join([*FOREIGN, *helps]))
    unknown = flags_in(TEXT) - known
    assert not unknown


# A process that has imported torch, and nothing of this project, which is not on its path
ELSEWHERE = """
import sys
for name in [*sys.modules]:
    if name.partition(".")[0] in ("lrcn", "utils", "networks", "models", "dataset"):
        del sys.modules[name]
"""


def test_the_readmes_notebook_runs_on_a_trained_run(trained, demo, tmp_path):
    [cell] = [block for language, block in BLOCKS if language == "python" and "torch.hub" in block]
    film = next((demo / "UCF-101").rglob("*.avi"))
    for said, here in (("path/to/this/clone", ROOT), ("20261121-110128", trained), ("holiday.mp4", film)):
        assert f'"{said}"' in cell
        cell = cell.replace(f'"{said}"', repr(str(here)))
    (tmp_path / "cell.py").write_text(ELSEWHERE + cell)
    said = run(tmp_path / "cell.py").out.splitlines()
    assert said[0].count("'") == 2 * 6 and said[1].startswith("0.0 to "), said    # the demo has six classes


def test_the_features_that_go_out_are_those_of_the_documents_classifier(trained, sampled, tmp_path):
    key, *_ = (path.parent.name for path in sampled.glob("features/*/key.json")
               if "resnet18" in path.read_text())
    call("lrcn/features/inventory.py", sampled, "--export", tmp_path / "features.npz", "--key", key)
    [cell] = [block for language, block in BLOCKS if language == "python" and "features.npz" in block]
    (tmp_path / "cell.py").write_text(cell)
    said = call(tmp_path / "cell.py", cwd=tmp_path).out
    assert len(said.split()) == 5 and all(0 <= float(x.strip("[]")) <= 1 for x in said.split()), said


def slugs(path):
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_file_and_heading_that_is_linked_is_there():
    for path in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                page = path.parent / target if target else path
                assert page.exists(), f"{path.name}: {target}"
                assert not anchor or anchor in slugs(page), f"{path.name}: {target}#{anchor}"
