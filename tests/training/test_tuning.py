"""What --set may say, which settings come of it, which folds, and which answers the journal has."""
import functools
import json
import os
from collections import Counter, defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import other_value

import networks
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data.manifest import SampledVideo, read_sampled
from lrcn.data.splits import folds
from lrcn.training import folds as validating
from lrcn.training.folds import CrossValidation, Plan, Setting, Trainer, depends
from lrcn.training.recipe import Recipe, parse
from lrcn.training.tuning import KINDS, KNOWN, Dimension, best, dimension, grid, one_by_one, title

BASE = Setting(Recipe())


@pytest.mark.parametrize("text, wanted", [
    ("lr=1e-4,5e-4", Dimension("lr", (1e-4, 5e-4))),
    ("--learning-rate=1e-4", Dimension("lr", (1e-4,))),        # an alias, and dashes as on the command line
    ("readout=Final,none", Dimension("readout", ("final", "none"))),
    ("bidirectional=True,no", Dimension("bidirectional", (True, False))),
    ("classifier_hidden=none,64", Dimension("classifier_hidden", (None, 64))),
    ("train_encoder=none,last:2", Dimension("train_encoder", ("none", "last:2"))),
    ("test_windows=1,all", Dimension("test_windows", (1, "all"))),
    ("lr=1e-5..1e-3", Dimension("lr", low=1e-5, high=1e-3)),
    ("hidden_size=16..512", Dimension("hidden_size", low=16, high=512)),
])
def test_values_are_those_of_their_flag(text, wanted):
    assert dimension(text) == wanted


@pytest.mark.parametrize("text, says", [
    ("learnrate=1", "did you mean learning_rate?"), ("readuot=mean", "did you mean readout?"),
    ("zzz=1", "train.py has no flag zzz"), ("lr", "lr=A,B"), ("lr=", "lr=A,B"),
    ("lr=fast", "not fast"), ("lr=-1", "> 0"), ("lr=nan", "not nan"), ("epochs=1.5", "not 1.5"),
    ("readout=middle", "one of last, final"), ("bidirectional=perhaps", "True or False"),
    ("train_encoder=some", "last:K"), ("lr=1e-4,0.0001", "twice"), ("lr=1..0.1", "smaller"),
    ("readout=a..b", "not a number"), ("seed=1,2", "--seeds N"), ("split=1,2", "--split itself"),
    ("local_dir=a,b", "--local_dir itself"), ("encoder_precision=float32", "--encoder_precision itself"),
    ("test_windows=0", ">= 1"), ("num_frames_video=2..all", "smaller"),
])
def test_a_wrong_name_or_value_is_refused_by_name(text, says):
    with pytest.raises(UserError, match="--set") as error:
        dimension(text)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_grid_is_every_combination_and_one_by_one_every_change():
    space = [dimension("lr=1e-4,5e-4"), dimension("readout=final,mean,none"), dimension("flip=no,yes")]
    every = grid(BASE, space)
    assert len({(s.recipe.lr, s.recipe.readout, s.flip) for s in every}) == len(every) == 12
    alone = one_by_one(BASE, space)
    assert [title(s, alone[0]) for s in alone] == \
        ["lr 0.0001, readout final, flip False", "lr 0.0005", "readout mean", "readout none", "flip True"]
    assert [(s.recipe.lr, s.recipe.readout, s.flip) for s in alone[1:3]] == \
        [(5e-4, "final", False), (1e-4, "mean", False)]
    assert grid(BASE, []) == [BASE.with_({})] and title(BASE, BASE) == "as given"


@pytest.mark.parametrize("recipe", [
    Recipe(), Recipe(lr=3e-4, bidirectional=False, readout="attention", classifier_hidden=64),
    Recipe(sampled_data_path="a b", chosen_classes=["x", "y z"], train_encoder="last:2", split_size=0)])
@pytest.mark.parametrize("always", [(), KINDS])
def test_the_words_of_a_recipe_are_understood_as_that_recipe(recipe, always):
    assert parse("", recipe.words(always)) == (recipe, None)


def test_fusions_of_other_seeds_are_compared_as_one_recipe(tmp_path):
    def fusion(seed, lr=0.1):
        folders = [tmp_path / f"{modality}{seed}{lr}" for modality in ("rgb", "rgbdiff")]
        for folder, modality in zip(folders, ("rgb", "rgbdiff"), strict=True):
            folder.mkdir()
            stream = Recipe(seed=seed, modality=modality, lr=lr)
            (folder / "settings.json").write_text(json.dumps(stream.as_settings()))
        return Recipe(seed=seed, streams=list(map(str, folders)))
    first, other, third = fusion(1), fusion(2), fusion(3, lr=0.2)
    assert first.choices() != other.choices() and first.compared() == other.compared() != third.compared()
    assert first.compared()["streams"] == "lr 0.1 | modality rgbdiff, lr 0.1"
    assert Recipe().compared() == Recipe().choices()


def test_the_best_row_is_the_first_of_equals_and_a_failed_one_never():
    rows = [SimpleNamespace(top1=t, fault="why") for t in (None, 0.5, 0.7, 0.7)]
    assert best(rows) is rows[2]
    with pytest.raises(UserError, match="why"):
        best(rows[:1])


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(1, 5), min_size=4, max_size=12),
                       min_size=1), st.integers(2, 4), st.integers(0, 5))
def test_folds_hold_whole_groups_and_every_class_evenly(classes, count, seed):
    videos = [SimpleNamespace(cls=cls, group=f"{cls}{g}") for cls, sizes in classes.items()
              for g, size in enumerate(sizes) for _ in range(size)]
    numbers = folds(videos, count, seed)
    assert np.array_equal(numbers, folds(videos, count, seed)) and set(numbers) == set(range(count))
    of_group, of_class = defaultdict(set), defaultdict(Counter)
    for v, k in zip(videos, numbers, strict=True):
        of_group[v.group].add(k)
        of_class[v.cls][k] += 1
    assert all(len(found) == 1 for found in of_group.values())
    for cls, found in of_class.items():     # no two folds differ by more than the largest group
        assert max(found.values()) - min(found[k] for k in range(count)) <= max(classes[cls])


def test_a_class_of_one_group_and_too_few_groups_are_refused():
    def clips(*groups):
        return [SimpleNamespace(cls=g[0], group=g) for g in groups]
    with pytest.raises(UserError, match="all clips of b"):
        folds(clips("a1", "a2", "b1", "b1"), 2, 0)
    with pytest.raises(UserError, match="there are 2 groups"):
        folds(clips("a1", "a2"), 3, 0)


TINY = Recipe(encoder="squeezenet1_1", encoder_weights="none", img_dim=32, device="cpu", num_workers=0,
              epochs=2, latent_dim=8, hidden_size=4, batch_size=4, views=2, encoder_backend="torch",
              split_size=0, num_frames_video=3, encoder_precision="float32")


def test_every_flag_that_makes_another_encoder_is_in_its_key():
    @functools.cache
    def made(recipe):
        encoder = networks.new_encoder(recipe, ["a"])
        return encoder.spec(), encoder.digest()
    assert depends(TINY, "encoder") != depends(replace(TINY, chunk_frames=8), "encoder")
    # a chunk's stride says which chunks there are, and not what is in one
    other_than = {"streams", "init_from", "encoder_weights", *networks.CHUNK_FLAGS}
    for name in KINDS.keys() & KNOWN.keys() - other_than:
        usual = replace(TINY, modality="flow") if name == "flow_length" else TINY
        other = replace(usual, **{name: other_value(name, usual)})
        assert depends(other, "encoder") != depends(usual, "encoder") or made(other) == made(usual), name


def plan_of(folder, videos):
    classes = sorted({v.cls for v in videos})
    return Plan(videos, np.array([classes.index(v.cls) for v in videos]), classes, folder, None, None,
                folds(videos, 2, 0), (42,), torch.device("cpu"))


def test_a_training_after_others_is_what_it_is_alone(sampled, tmp_path):
    plan = plan_of(sampled, read_sampled(sampled)[::2])
    several = [Setting(replace(TINY, sampled_data_path=str(sampled), **more)) for more in
               ({}, {"augment": "heavy", "clips_per_video": 2}, {"img_dim": 40, "modality": "rgbdiff"})]
    together = CrossValidation(Trainer(plan, networks.network_to_train), tmp_path / "together")
    assert len(list(together.train(several))) == 2 * len(several)
    losses = [together.loss(setting) for setting in several]
    assert len(set(losses)) == len(losses)
    for setting, loss in zip(several[1:], losses[1:], strict=True):
        validating._encoders.clear()
        alone = CrossValidation(Trainer(plan, networks.network_to_train), tmp_path / setting.recipe.modality)
        assert len(list(alone.train([setting]))) == 2 and alone.loss(setting) == loss


def put(path, raw):
    """Write a file at another time than it was written before, however coarse the clock is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else 10**18
    path.write_bytes(raw)
    os.utime(path, ns=(before + 10**9,) * 2)


def flow_settings(bound):
    return json.dumps({"backend": "dis", "length": 1, "bound": bound, "preset": "medium", "weights": None,
                       "digest": None}).encode()


def test_what_a_training_depends_on_is_in_its_key(tmp_path):
    videos = [SampledVideo(f"v{i}", "ab"[i % 2], f"g{i}", 5) for i in range(4)]
    weights, run, stream, flow = (tmp_path / name for name in ("weights", "run", "stream", "optical_flow"))
    for path in (weights, run, stream, *(folder / v.path for v in videos for folder in (tmp_path, flow))):
        put(path, path.name.encode())
    put(flow / "settings.json", flow_settings(20.0))
    of = {name: Setting(replace(TINY, **more)) for name, more in {
        "plain": {}, "rate": {"lr": 0.1}, "flow": {"modality": "flow"}, "begun": {"init_from": str(run)},
        "weights": {"encoder_weights": str(weights)}, "streams": {"streams": [str(stream)]}}.items()}

    def keys():
        validation = CrossValidation(Trainer(plan_of(tmp_path, videos), None), tmp_path / "journal")
        return {name: frozenset(t.key for t in validation.trainings(setting)) for name, setting in of.items()}
    seen = keys()
    assert len(set().union(*seen.values())) == 2 * len(of)
    for path, whose, *raw in ((weights, {"weights"}), (run, {"begun"}), (stream, {"streams"}),
                              (tmp_path / videos[0].path, of.keys()),
                              (flow / videos[1].path, {"flow", "streams"}),
                              (flow / "settings.json", {"flow", "streams"}, flow_settings(10.0))):
        put(path, *raw or [b"other"])
        before, seen = seen, keys()
        assert {name for name in of if seen[name] != before[name]} == whose


def test_an_answer_that_a_kill_cut_off_or_of_which_a_bit_flipped_is_trained_anew(tmp_path):
    path, entries = tmp_path / "trainings.jsonl", [{"key": k, "right": "01", "loss": 1.0} for k in "abc"]
    files.append_lines(path, entries)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for raw, least in ((whole[:at], 0), (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:], 1)):
            path.write_bytes(raw)
            done = CrossValidation(SimpleNamespace(plan=None), path).done
            assert least <= len(done) and all(entry in entries for entry in done.values())
