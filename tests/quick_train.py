"""train.py without its pictures, which take more than half the time of a tiny run."""
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lrcn.training import run  # noqa: E402

run.Run.draw = lambda self: self.writer.close()
run.Run.picture = lambda self, *args, **options: None
sys.argv[0] = str(ROOT / "train.py")
runpy.run_path(sys.argv[0], run_name="__main__")
