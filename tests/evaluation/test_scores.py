"""The figures and intervals of lrcn/evaluation against libraries that know them, and on planted data."""
import numpy as np
import pytest
import simulations
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from simulations import near
from sklearn.calibration import calibration_curve
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

import dataset
from lrcn.data import split_lists
from lrcn.data.manifest import SampledVideo
from lrcn.evaluation import intervals, scores
from lrcn.evaluation.intervals import Units, compare

Z = stats.norm.ppf(0.975)


def answers(seed, n, classes, factor):
    """(logits (n, classes) that are `factor` times as sure as they are right, labels)."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, classes)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return logits * factor, np.array([random.choice(classes, p=p) for p in shares])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 9), st.floats(0.2, 8))
def test_the_temperature_is_that_of_the_least_loss_and_changes_no_label(seed, n, classes, factor):
    logits, labels = map(torch.from_numpy, answers(seed, n, classes, factor))
    found = scores.temperature(logits.numpy(), labels.numpy())
    inverse = torch.tensor(1 / found, dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits * inverse, labels, label_smoothing=1 / (n + 1))
    [slope] = torch.autograd.grad(loss, inverse)
    at_the_end = found < scores.COLDEST * 1.001 or found > 0.999 / scores.COLDEST
    assert abs(slope) < 1e-6 or at_the_end and slope * (found - 1) > 0
    assert torch.equal((logits / found).argmax(1), logits.argmax(1))


def test_many_clips_tell_how_many_times_too_sure_the_logits_are_and_no_wrong_one_is_no_certainty():
    assert scores.temperature(*answers(0, 9000, 6, 2.5)) == pytest.approx(2.5, rel=0.05)
    sure = np.eye(4)[np.arange(20) % 4]
    assert 0.1 < scores.temperature(sure, np.arange(20) % 4) < 1


def test_reliability_is_scikit_learns_and_its_error_by_hand():
    logits, labels = answers(1, 300, 5, 1.7)
    p = torch.from_numpy(logits).softmax(1).numpy()
    confidence, right, n = scores.reliability(p, labels)
    share, mean = calibration_curve(p.argmax(1) == labels, p.max(1), n_bins=scores.BINS)
    assert n.sum() == 300 and np.isnan(right[n == 0]).all()
    np.testing.assert_allclose((right[n > 0], confidence[n > 0]), (share, mean))
    assert scores.expected_error((confidence, right, n)) == pytest.approx(
        (abs(share - mean) * n[n > 0]).sum() / 300)
    assert scores.summarise(p, labels, labels)["ece"] == scores.expected_error((confidence, right, n))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(5, 10), st.booleans()), min_size=1, max_size=40))
def test_nine_of_ten_is_the_lowest_threshold_that_keeps_so_many_right(told):
    confidence, right = np.array([c / 10 for c, _ in told]), np.array([ok for _, ok in told])
    p = np.stack([confidence, 1 - confidence], 1)
    enough = [t for t in sorted(set(confidence)) if right[confidence >= t].mean() >= 0.9]
    assert scores.nine_of_ten(p, np.where(right, 0, 1)) == (enough[0] if enough else None)


def test_the_background_is_counted_apart():
    labels, said = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 2, 1, 0, 2, 1, 0])
    got = scores.apart(said, labels, np.arange(7), 2)
    assert got == {"classes_videos": 4, "called_background": 1, "background_videos": 3, "called_a_class": 2,
                   "top1": 0.5, "ci95": intervals.share_of([1, 0, 1, 0], np.arange(4)).ci95}
    assert scores.apart(said[4:], labels[4:], np.arange(3), 2)["top1"] is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 9))
def test_an_interval_holds_its_estimate_and_is_never_a_point(right, size):
    low, high = intervals.share_of(np.array(right), np.arange(len(right)) // size).ci95
    assert 0 <= low <= np.mean(right) <= high <= 1 and high - low > 1 / (len(right) + 3)


@pytest.mark.parametrize("right, n, apart", [(371, 700, 3e-3), (666, 700, 3e-3), (699, 700, 3e-3),
                                             (84, 84, 1e-4)])
def test_groups_of_one_clip_have_wilsons_interval_and_fewer_groups_a_wider_one(right, n, apart):
    found = intervals.share_of(np.arange(n) < right, np.arange(n)).ci95
    assert found == pytest.approx(proportion_confint(right, n, method="wilson"), abs=apart)
    wider = intervals.share_of(np.arange(n) < right, np.arange(n) // 4).ci95[0] < found[0]
    assert wider or right == 699        # whose one wrong clip is alone in its group


def test_only_the_groups_that_a_figure_was_counted_over_count():
    right, groups, key = np.ones(200, bool), np.arange(200) // 2, np.where(np.arange(200) < 12, 0, 1)
    few, _ = Units.of(groups).means(right, key, 2, share=True)
    assert few.ci95 == pytest.approx(intervals.share_of(right[:12], groups[:12]).ci95)


def test_the_variance_over_pairs_of_groups_is_that_of_two_way_clustering():
    random, pairs = np.random.default_rng(0), np.array([(i, 50 + j) for i in range(50) for j in range(50)])
    errors = random.normal(size=50)[pairs[:, 0]] + random.normal(size=50)[pairs[:, 1] - 50]
    errors = (errors + random.normal(size=len(pairs))) / len(pairs)
    one, other = (np.bincount(groups, errors) for groups in pairs.T)    # Cameron, Gelbach and Miller 2011
    expected = (one ** 2).sum() + (other ** 2).sum() - (errors ** 2).sum()
    units = Units(pairs)
    found = units.variance(np.bincount(units.unit, errors), np.full(2500, True))[0]
    assert found == pytest.approx(expected * 100 * 99 / (98 * 97), rel=1e-6)     # for means of the data's own


def test_a_pool_of_seeds_is_as_sure_as_one_run_where_they_agree_and_less_where_they_do_not():
    random = np.random.default_rng(0)
    right, groups = random.random(300) < 0.7, np.arange(300) // 3
    alone = intervals.share_of(right, groups).ci95
    assert intervals.share_of([right] * 3, groups).ci95 == pytest.approx(alone)
    apart = intervals.share_of([right, random.random(300) < 0.4, random.random(300) < 0.95], groups)
    assert np.diff(apart.ci95) > 2 * np.diff(alone)
    chance = intervals.share_of([random.random(300) < 0.7 for _ in range(8)], groups)
    assert np.diff(chance.ci95) < np.diff(alone)


def test_a_paired_interval_has_width_where_no_clip_changed():
    right = np.ones((1, 84), bool)
    value, (low, high), p = intervals.paired(right, right, np.arange(84))
    assert value == 0 and p == 1 and -0.06 < low < -0.03 and 0.03 < high < 0.06


def test_mcnemars_p_is_statsmodels_with_half_of_what_was_seen():
    random = np.random.default_rng(0)
    one, other = random.random((1, 90)) < 0.6, random.random((1, 90)) < 0.75
    won, lost = (~one & other).sum(), (one & ~other).sum()
    table = [[(one & other).sum(), lost], [won, (~one & ~other).sum()]]
    value, (low, high), p = intervals.paired(one, other, np.arange(90))
    assert p == pytest.approx(mcnemar(table, exact=True).pvalue - stats.binom.pmf(won, won + lost, 0.5))
    assert value == pytest.approx(other.mean() - one.mean()) and low < value < high
    assert (low > 0) == (p < 0.05)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 300))
def test_tangos_interval_ends_where_a_score_test_begins_to_refuse(won, lost, more):
    n = won + lost + more
    low, high = intervals.tango(won, lost, n, Z)
    assert -1 <= low <= (won - lost) / n <= high <= 1
    assert intervals.tango(lost, won, n, Z) == pytest.approx([-high, -low])
    for d in {low, high} - {-1, 1}:
        def fault(share, d=d):      # of the likelihood of `lost` pairs, given the difference d
            return -(won * np.log(share + d) + lost * np.log(share) + more * np.log(1 - d - 2 * share))
        ends = max(0, -d), (1 - d) / 2
        share = optimize.minimize_scalar(fault, ends, bounds=ends, method="bounded",
                                         options={"xatol": 1e-12}).x
        assert abs(won - lost - n * d) == pytest.approx(Z * np.sqrt(n * (2 * share + d - d * d)), rel=1e-3)
    if won + lost and abs((won - lost) ** 2 / (won + lost) - Z * Z) > 1e-6:
        p = mcnemar([[more, lost], [won, 0]], exact=False, correction=False).pvalue
        assert (low > 0 or high < 0) == (p < 0.05)


def check_coverage(covered, high, replicates):
    """Each cell within chance, and all together as strictly as one cell of all their replicates."""
    assert all(near(share, 0.94, high, replicates) for share in covered), covered
    assert near(np.mean(covered), 0.94, high, replicates * len(covered)), covered


def test_the_interval_of_an_accuracy_covers_as_often_as_it_says():
    cells = (10, 0.5), (10, 0.9), (40, 0.9), (40, 0.99), (700, 0.5), (700, 0.99)
    check_coverage([simulations.accuracy(*cell, 0.3, 100) for cell in cells], 0.97, 100)


def test_the_paired_interval_covers_as_often_as_it_says():
    cells = (10, 4, 1, 0), (100, 4, 1, 0), (400, 1, 1, 0), (28, 4, 3, 0), (111, 1, 3, 0.02)
    check_coverage([simulations.difference(groups, size, 0.5, 0.6, 0.5, 0.3, 80, *seeds)
                    for groups, size, *seeds in cells], 0.975, 80)


def test_26_of_101_classes_are_under_represented_on_the_official_split_1(ucf101):
    train, _ = split_lists.official_lists(ucf101 / "ucfTrainTestlist", 1)
    counts = np.unique([video.cls for video in train], return_counts=True)[1]
    assert len(counts) == 101 and scores.under_represented(counts).sum() == 26
    assert scores.under_represented(np.array([10, 10, 9, 8, 13])).tolist() == [0, 0, 1, 1, 0]


def test_the_rank_correlation_is_none_where_nothing_varies():
    a = np.arange(9)
    assert "-1.00 (p" in scores.correlation_words(a, -2.0 * a)
    for few in ((np.full(9, 5), a), (a[:7], a[:7])):
        assert "no rank correlation" in scores.correlation_words(*few)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.permutations("abcdef"))
def test_answers_keep_together_what_is_of_one_video_in_any_order(order, classes):
    rng = np.random.default_rng(0)
    videos = [SampledVideo(f"v{i}", "abcdef"[i], f"g{i // 2}", 5) for i in range(6)]
    data = dataset.TestData(videos, np.arange(6), list("abcdef"), None, rng.dirichlet(np.ones(6), 6),
                            rng.random(6) < 0.5, train_counts=np.arange(6))
    other = data.of([data.names[i] for i in order])
    assert other.names == data[order].names and other.groups == [videos[i].group for i in order]
    assert other.right.tolist() == data.right[order].tolist()
    assert other.train_counts is data.train_counts, "they are of classes, not of videos"
    turned = other.with_classes(classes)
    assert [turned.classes[i] for i in turned.labels] == [other.classes[i] for i in other.labels]
    assert [turned.classes[i] for i in turned.predicted] == [other.classes[i] for i in other.predicted]
    with pytest.raises(ValueError):
        data.of(data.names[1:])


def test_a_comparison_is_of_the_mean_run_and_paired_as_scores_pairs():
    rng = np.random.default_rng(0)
    first, other, groups = rng.random((1, 40)) < 0.5, rng.random((3, 40)) < 0.7, np.arange(40) // 2
    figures = compare(other, groups, first[0])
    assert (figures.minus, figures.minus_ci95, figures.p) == intervals.paired(first, other, groups)
    assert figures.top1 == other.mean() and figures.sd == np.std(other.mean(1), ddof=1)
    assert str(figures) == f"{figures.top1:.3f} [{figures.ci95[0]:.3f}, {figures.ci95[1]:.3f}]"
    alone = compare(first, groups)
    assert alone.sd is alone.minus is alone.p is None and alone.difference == ""
