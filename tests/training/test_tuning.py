"""What --set may say, which settings come of it, and which folds."""
import json
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcn.base.cli import UserError
from lrcn.clips.splits import folds
from lrcn.training.folds import Journal, Setting
from lrcn.training.recipe import Recipe, parse
from lrcn.training.tuning import Range, Values, best, dimension, grid, one_by_one, words

BASE = Setting(Recipe())


@pytest.mark.parametrize("text, wanted", [
    ("lr=1e-4,5e-4", Values("lr", (1e-4, 5e-4))),
    ("--learning-rate=1e-4", Values("lr", (1e-4,))),        # an alias, and dashes as on the command line
    ("readout=Final,none", Values("readout", ("final", "none"))),
    ("bidirectional=True,no", Values("bidirectional", (True, False))),
    ("classifier_hidden=none,64", Values("classifier_hidden", (None, 64))),
    ("train_encoder=none,last:2", Values("train_encoder", ("none", "last:2"))),
    ("test_windows=1,all", Values("test_windows", (1, "all"))),
    ("lr=1e-5..1e-3", Range("lr", 1e-5, 1e-3, False)),
    ("hidden_size=16..512", Range("hidden_size", 16, 512, True)),
])
def test_values_are_those_of_their_flag(text, wanted):
    assert dimension(text) == wanted


@pytest.mark.parametrize("text, says", [
    ("learnrate=1", "did you mean learning_rate?"), ("readuot=mean", "did you mean readout?"),
    ("zzz=1", "train.py has no flag zzz"), ("lr", "lr=A,B"), ("lr=", "lr=A,B"),
    ("lr=fast", "not fast"), ("lr=-1", "> 0"), ("lr=nan", "not nan"), ("epochs=1.5", "not 1.5"),
    ("readout=middle", "one of last, final"), ("bidirectional=perhaps", "True or False"),
    ("train_encoder=some", "last:K"), ("lr=1e-4,0.0001", "twice"), ("lr=1..0.1", "smaller"),
    ("readout=a..b", "no number"), ("seed=1,2", "--seeds N"), ("split=1,2", "--split itself"),
    ("local_dir=a,b", "--local_dir itself"), ("encoder_precision=float32", "--encoder_precision itself"),
    ("test_windows=0", ">= 1"),
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
    assert [words(s, alone[0]) for s in alone] == \
        ["lr 0.0001, readout final, flip False", "lr 0.0005", "readout mean", "readout none", "flip True"]
    assert [(s.recipe.lr, s.recipe.readout, s.flip) for s in alone[1:3]] == \
        [(5e-4, "final", False), (1e-4, "mean", False)]
    assert grid(BASE, []) == [BASE.with_({})] and words(BASE, BASE) == "as given"


@pytest.mark.parametrize("recipe", [
    Recipe(), Recipe(lr=3e-4, bidirectional=False, readout="attention", classifier_hidden=64),
    Recipe(sampled_data_path="a b", chosen_classes=["x", "y z"], train_encoder="last:2", split_size=0),
])
def test_the_words_of_a_recipe_are_understood_as_that_recipe(recipe):
    assert parse("", recipe.words()) == (recipe, None)


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


def test_a_line_that_a_kill_cut_off_is_passed_over_and_swallows_no_other(tmp_path):
    path = tmp_path / "trainings.jsonl"
    Journal(path).add("a", {"right": "01", "loss": 1.0})
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        before = Journal(path).done
        Journal(path).add("b", {"right": "1", "loss": 2.0})
        assert Journal(path).done == {**before, "b": {"key": "b", "right": "1", "loss": 2.0}}
    for wrong in ('{"key": "c", "right": "2", "loss": 1}', '{"key": "c", "right": "1", "loss": NaN}',
                  '{"key": "c", "right": 3, "loss": 1}', "[]", "7"):
        path.write_text(wrong)
        assert Journal(path).done == {}
