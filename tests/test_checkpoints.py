"""A stranger's checkpoint: whatever it says is read, or refused in one line that names what is wrong."""
import copy
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import differences, load, refused

import networks
import utils
from lrcn import checkpoints
from lrcn.base.cli import UserError
from lrcn.features.features import softmax
from lrcn.runs import RunFolder
from lrcn.training.loop import Learner, Progress


def laughs(depth=30):
    """Lists in lists that would print as two to the power of `depth` words."""
    value = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.fixture(scope="module")
def state(two_runs):
    return load(two_runs / "rgb", "best")


@pytest.fixture
def copied(two_runs, tmp_path):
    return shutil.copytree(two_runs / "rgb", tmp_path / "run")


def put(value, path, new):
    """A copy of nested dicts and lists with `new` at a path."""
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value


MUTATIONS = int(os.environ.get("MUTATIONS", 60))
NAN = torch.tensor(float("nan"))
ODD = [
    ("format", laughs(), "format"), ("format", 99, "format 99, and this program reads 1"),
    ("classes", ["x" * 5_000_000, *"abcde"], "classes"), ("classes", [*"aabcde"], "classes"),
    ("classes", [*"ab"], "2 class names"),
    ("head_spec.lstm_layers", 100_000, "lstm_layers"), ("head_spec.hidden_size", 10**6, "head"),
    ("head_spec.hidden_size", 10**12, "head_spec: hidden_size: expected a whole number"),
    ("head_spec.dropout", float("nan"), "dropout"), ("head_spec.readout", ["last"], "readout"),
    ("encoder_spec.resize", -5, "resize"), ("encoder_spec.crop", 10**9, "crop"),
    ("encoder_spec.modality", "depth", "modality"), ("encoder_spec.std", (0.0, 1.0, 1.0), "std"),
    ("encoder_spec.interpolation", [1], "interpolation"), ("settings", None, "settings"),
    *(("settings.num_frames_video", value, "num_frames_video") for value in (0, 10**9, "5", None)),
    ("settings.FPS", float("nan"), "FPS"), ("settings.FPS", 1e-300, "FPS"),
    ("settings.engines", laughs(), "settings: engines: .* are not backend"),
    ("encoder_spec.name", "shufflenet_v2_x0_5", "512 features and its encoder .* gives 1024"),
    ("head", None, "no weights in it"),
    ("head", {"foreign.weight": NAN}, "missing .* and .* more; not of this network foreign.weight"),
    ("head.classifier.1.bias", {}, "classifier.1.bias"),
    ("head.classifier.1.bias", torch.zeros(6).to_sparse(), "sparse"),
    ("head.classifier.1.bias", torch.zeros(6, dtype=torch.complex64), "complex"),
    ("head.classifier.1.bias", NAN.repeat(6), "not finite"),
    ("head.classifier.1.bias", torch.zeros(6, dtype=torch.bool), "kind of number"),
    ("encoder", None, "encoder.pth.tar is missing"), ("encoder_digest", None, "not the one"),
]


@pytest.mark.parametrize("path, value, says", ODD, ids=[f"{path} {i}" for i, (path, *_) in enumerate(ODD)])
def test_a_value_that_cannot_be_is_one_line_that_names_it(state, copied, path, value, says):
    inside = RunFolder(copied).checkpoints
    (inside / "encoder.pth.tar").unlink()
    part, _, rest = path.partition(".")     # names of weights have dots of their own
    keys = (part, rest) if part == "head" and rest else path.split(".")
    torch.save(put(state, keys, value), inside / "best.pth.tar")
    with pytest.raises(UserError, match=says) as error:
        utils.load_trained(copied)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


def leaves(value, path=()):
    """The paths of all plain values in nested dicts and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [leaf for key, part in inner for leaf in leaves(part, (*path, key))]
    return found + ([path] if path and not isinstance(value, torch.Tensor) else [])


WORDS = st.sampled_from(["", "foo", "last", "rgb", "none", "resnet18", "\udcff", "x" * 20_000, "\x1b[31m"])
NUMBERS = st.sampled_from([0, 1, -1, -5, 2, 6, 32, 10**9, 2**70, 0.0, 0.5, -1.0, 1e-300, 1e300,
                           float("nan"), float("inf")])
VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.just([]), st.just({}), st.just(laughs()),
                   st.lists(st.integers(-2, 2), max_size=4), st.sampled_from([NAN, torch.zeros(3)]))


def use(state):
    """Everything that the scripts do with a checkpoint: build, ask, and go on training."""
    model, classes, _, recipe = networks.build(state, "x", "model_dir")
    frames = torch.zeros(1, 2, *model.encoder.transform.shape, dtype=torch.uint8).movedim(-1, -3)
    with torch.inference_mode():
        shares = softmax(model.eval()(frames))
    assert torch.isfinite(shares).all() and shares.shape == (1, len(classes))
    Progress.of(state["progress"], "x")
    feed = SimpleNamespace(labels=torch.zeros(10), lengths=None)
    learner = Learner(model.head, [{"params": list(model.head.parameters()), "lr": recipe.lr}], recipe, feed,
                      torch.device("cpu"))
    learner.restore(state["learner"], "x")
    learner._set_rates()


def test_any_mutation_is_read_or_refused_in_one_line(state):
    plain = {k: v for k, v in state.items() if k not in ("encoder", "head", "encoder_digest")}
    where = leaves(plain)
    refused = []

    @settings(max_examples=MUTATIONS, deadline=20_000, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(path=st.sampled_from(where), value=VALUES)
    def mutate(path, value):
        random = torch.get_rng_state()
        try:
            use(put(state, path, value))
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000, error
            refused.append(path)
        finally:
            torch.set_rng_state(random)

    mutate()
    assert len(refused) > 0.3 * MUTATIONS


def test_a_model_whose_answer_is_no_number_says_so(state, copied):
    head = {key: value * 1e30 for key, value in state["head"].items()}
    torch.save({**state, "head": head}, RunFolder(copied).checkpoint("best"))
    refused("test.py", "--model_dir", copied, "--num_videos", 0, says="not finite")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make, words", [
    (lambda: torch.zeros(6).to(torch.float8_e4m3fn), "float8"),
    (lambda: torch.quantize_per_tensor(torch.zeros(6), 1.0, 0, torch.qint8), "qint8"),
    (lambda: torch.zeros(6, device="meta"), "meta"),
    (lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "nested"),
    (lambda: torch.zeros(1).expand(10**12), "of which the file holds fewer")],
    ids=["float8", "quantised", "meta", "nested", "expanded"])
def test_a_tensor_of_another_kind_is_refused_before_its_values_are_read(tmp_path, make, words):
    for state in ({"head": {"bias": make()}}, {"learner": [{"moments": (make(),)}]}):
        torch.save(state, tmp_path / "odd.pth.tar")
        with pytest.raises(UserError, match=words) as error:
            checkpoints.load_file(tmp_path / "odd.pth.tar", "model_name")
        assert "\n" not in str(error.value) and ("bias" in str(error.value) or "moments" in str(error.value))


def test_a_bit_that_flips_is_seen_or_changes_nothing(copied, tmp_path):
    whole, path = RunFolder(copied).checkpoint("last"), tmp_path / "last.pth.tar"
    raw, state, random, refused = whole.read_bytes(), load(copied), np.random.default_rng(0), 0
    for place in random.integers(0, len(raw), 200):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << int(random.integers(8))]) + raw[place + 1:])
        try:
            assert not differences(checkpoints.load_file(path, "model_name"), state)
        except UserError:
            refused += 1
    assert refused > 150, "of 200; the rest lie between the members"
