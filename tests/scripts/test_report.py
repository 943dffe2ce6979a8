"""report.py: its page in a real browser, clicked through; hostile names; what it says of absent things."""
import functools
import json
import os
import re
import shutil

import numpy as np
import pytest
from browsers import dark, requested, resize, until
from commands import call
from runs import answered_run, read_json, refused, table
from videos import join

from lrcn.base.cli import UserError
from lrcn.data import splits
from lrcn.data.manifest import SampledVideo
from lrcn.evaluation import intervals
from lrcn.pages.reading import read_run
from lrcn.runs import RunFolder

HOSTILE = ["<script>alert(1)</script>", "a \"quoted\" & 'b'", "танец 😀", "$x^2$ %{y} {{ 7*7 }}",
           "<b>bold</b>"]
READY = "return document.documentElement.dataset.ready === '1'"
report = functools.partial(call, "report.py")


@pytest.fixture(scope="module")
def two(tested, two_runs, demo, tmp_path_factory):
    """Two runs tested on the same 42 videos, with their pages; a study and a film of the first."""
    folder = tmp_path_factory.mktemp("two")
    one, other = (RunFolder(shutil.copytree(path, folder / name))
                  for name, path in (("one", tested), ("other", two_runs / "rgb")))
    words = ("--model_dir", one.path, "--device", "cpu", "--encoder_backend", "torch")
    join(folder / "holiday.mp4", sorted((demo / "UCF-101").rglob("*_g01_c01.avi")))
    call("test_on_video.py", *words, "--video_path", folder / "holiday.mp4", "--min_probability", 0)
    call("test_continues_movie.py", *words, "--num_workers", 0, "--num_movies", 4, "--movie_clips", 5,
         "--no-pictures")
    said = report(one, other)
    assert said.out.splitlines()[-1] == str(one.report), said
    return one, other


@pytest.fixture(scope="module")
def hostile(two, tmp_path_factory):
    """A run whose classes, videos and film have such names; of every class one video for every answer."""
    shares = np.full((5, 5), 0.1) + 0.5 * np.eye(5)
    said = {f"v_{i:04d} \"q\" 'p' 😀 <img src=x onerror=alert(1)>": (HOSTILE[i % 5], shares[i // 5].tolist())
            for i in range(25)}
    made = RunFolder(answered_run(tmp_path_factory.mktemp("hostile") / "run", said, HOSTILE))
    made.settings.write_text('{"sampled_data_path": "nowhere"}')
    made.metrics.write_text("epoch,lr,train_loss,val_loss\n1,0.1,2,1\n2,0.01,1,1\n")
    videos = [SampledVideo(f"v_{i}", cls, f"g{i}") for cls in HOSTILE for i in range(3)]
    splits.write_splits(made.splits, splits.make_samples({"train": videos}, HOSTILE))
    name = "\"ünser\" 'film' 😀 <img src=x onerror=alert(1)>"
    shutil.copytree(two[0].film("holiday").path, made.films / name)
    report(made)
    return made


def test_it_compares_runs_as_scores_does_and_gives_each_a_page(two):
    one, other = (read_run(found.path).tested for found in two)
    value, ends, p = intervals.paired(one.right[None], other.right[None], one.groups)
    text = two[1].report.read_text("utf-8")
    assert f"{100 * value:+.1f} points" in text and f"{ends[0]:+.1%} to {ends[1]:+.1%}" in text
    assert f"{p:.2g}" in text and "<code>hidden_size 8</code>" in text
    page = two[0].report.read_text("utf-8")
    found = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["compared"]
    right = [a == b for a, (_, b) in zip(found["answers"][1], found["videos"], strict=True)]
    assert right == other.right.tolist()


def test_the_same_run_gives_the_same_page_and_what_is_absent_is_left_out(two, tmp_path):
    before = two[0].report.read_bytes()
    report(*two)
    assert two[0].report.read_bytes() == before
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "settings.json").write_text("{}")
    (bare / "metrics.csv").write_text("epoch,lr,train_loss,val_loss\n1,0.1,2,1\n")
    report(bare)
    assert "training loss holds" not in (bare / "report.html").read_text("utf-8")
    (bare / "settings.json").write_text('{"label_smoothing": 0.1, "mixup": 0.4}')
    report(bare)
    assert "The training loss holds label smoothing (0.1) and mixup (0.4); the validation loss does not." in (
        bare / "report.html").read_text("utf-8")
    assert "Not tested yet" in (bare / "report.html").read_text("utf-8")
    assert not (bare / "report_clips").exists()


def test_a_figure_that_is_absent_is_a_dash_and_a_films_name_may_be_no_utf8(two, tmp_path):
    copy = shutil.copytree(two[0].path, tmp_path / "run")
    figures = read_json(copy / "test" / "metrics.json")
    (copy / "test" / "metrics.json").write_text(json.dumps({"split": "1", "top1": "0.5", "ci95": "wide"}))
    assert {"top5", "encoder"} <= figures.keys()
    film = next((copy / "test_on_video").iterdir())
    os.rename(film, os.path.join(os.fsencode(film.parent), b"caf\xe9"))
    report(copy)
    text = (copy / "report.html").read_text("utf-8")
    assert "test_on_video/caf%E9/labelled.mp4" in text and "caf\ufffd" in text
    assert "None" not in re.search('<section id="headline">.*?</section>', text, re.DOTALL)[0]
    assert "..." not in "".join(re.findall("<pre tabindex.*?</pre>", text)), "a command that cannot be run"


def test_epochs_that_are_not_as_they_were_trained_are_refused(trained, tmp_path):
    mine = shutil.copytree(trained, tmp_path / "mine", ignore=shutil.ignore_patterns("figures", "events*"))
    found = RunFolder(mine)
    lines = found.metrics.read_text().splitlines(keepends=True)
    assert len(read_run(mine).history) == len(lines) - 1 == 20
    found.metrics.write_text("".join([*lines, lines[-1].replace("20", "21", 1)]))
    assert len(read_run(mine).history) == 21
    changed = [*lines[:3], lines[3].replace("3", "4", 2), *lines[4:]]
    for damaged in (lines[:1], lines[:8], lines[:-1], changed):
        found.metrics.write_text("".join(damaged))
        with pytest.raises(UserError, match=r"metrics\.csv: epoch \d+ differs from the training"):
            read_run(mine)
    os.truncate(found.checkpoint("last"), 999)      # then nothing is known to compare it with
    assert len(read_run(mine).history) == 20


def test_what_is_no_run_is_refused_in_one_line(two, tmp_path):
    refused("report.py", tmp_path / "nowhere", says=("--runs", "does not exist"))
    refused("report.py", tmp_path, says="no run folder")
    refused("report.py", two[0], two[0], says="the same run twice")
    broken = shutil.copytree(two[0].path, tmp_path / "broken")
    for name, text, says in (("test/predictions.csv", "video,class,label\n", "predictions.csv"),
                             ("test/metrics.json", "[]", "metrics.json"),
                             ("test_continues_movie/metrics.json", '{"switching": {"hard": 3}}', "no"),
                             ("test_on_video/holiday/segments.csv",
                              "start,end,label,probability\nx,1,a,1\n", "segments.csv")):
        kept = (broken / name).read_bytes()
        (broken / name).write_text(text)
        refused("report.py", broken, says=says)
        (broken / name).write_bytes(kept)


def test_the_page_asks_no_server_and_lets_its_own_programs_run_alone(hostile):
    text = hostile.report.read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "http" not in policy and policy.count("'sha256-") == 2
    head, _, _ = text.partition("<script>/**")
    for name in (*HOSTILE, "<img src=x"):
        assert name not in head or not re.search("[<>&\"]", name), name
    assert not re.search(r'(src|href)="(https?:)?//', head)


def opened(browser, page, wide=1300, high=1000):
    resize(browser, wide, high)
    browser.get(page.as_uri())
    until(browser, READY)


def shown(browser, chart):
    element = browser.find_element("css selector", f'[data-chart="{chart}"]')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    until(browser, "return arguments[0].dataset.ready === '1'", 30, element)
    return element


def click_at(browser, chart, x, y):
    """Click into a chart's plot, at shares of its width and height."""
    from selenium.webdriver import ActionChains
    area = shown(browser, chart).find_element("css selector", ".nsewdrag")
    size = area.size
    place = round((x - 0.5) * size["width"]), round((y - 0.5) * size["height"])
    ActionChains(browser).move_to_element_with_offset(area, *place).pause(0.3).click().perform()


def test_a_cell_of_the_matrix_plays_its_clips(browser, two):
    opened(browser, two[0].report)
    tested = read_run(two[0].path).tested
    matrix = tested.matrix()
    row, column = np.unravel_index((matrix - np.diag(np.diag(matrix))).argmax(), matrix.shape)
    click_at(browser, "confusion", (column + 0.5) / 6, (row + 0.5) / 6)
    words = until(browser, "return document.querySelector('#cell h3')?.textContent")
    assert words.startswith(f"{matrix[row, column]} video") and tested.classes[row] in words
    until(browser, "return [...document.querySelectorAll('#cell video')].every((v) => v.currentTime > 0.2)")
    assert len(browser.find_elements("css selector", "#cell video")) == min(3, matrix[row, column])
    browser.execute_script("const s = document.querySelector('#cell-predicted'); s.value = arguments[0]; "
                           "s.dispatchEvent(new Event('change'))", int(row))      # by keyboard: the menus
    until(browser, "return document.querySelector('#cell h3').textContent.startsWith(arguments[0])", 30,
          f"{matrix[row, row]} video")


def test_filters_sorting_and_themes(browser, two):
    opened(browser, two[0].report, 400, 800)
    tested = read_run(two[0].path).tested
    cls = int(np.bincount(tested.labels[~tested.right]).argmax())
    browser.execute_script("for (const [id, value] of [['by-class', arguments[0]], ['by-answer', 0], "
                           "['by-low', 0.2]]) document.getElementById(id).value = value; filter()", cls)
    want = (tested.labels == cls) & ~tested.right & (tested.probabilities.max(1) >= 0.2)
    assert want.any() and browser.find_element("id", "count").text == f"{want.sum()} of 42 videos, 0 right"
    assert len(browser.find_elements("css selector", "#rows li")) == want.sum()
    browser.execute_script("document.querySelector('[data-sort=accuracy]').click()")
    column = browser.execute_script("return [...document.querySelectorAll('#class-table tbody tr')]"
                                    ".map((row) => parseFloat(row.cells[1].textContent))")
    assert column == sorted(column) and column[0] < column[-1]
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    paper = "return getComputedStyle(document.body).backgroundColor"
    dark(browser, False)
    light = browser.execute_script(paper)
    dark(browser)
    assert browser.execute_script(paper) != light
    browser.execute_script("const t = document.getElementById('theme'); t.value = 'light'; "
                           "t.dispatchEvent(new Event('change'))")
    assert browser.execute_script(paper) == light
    dark(browser, False)
    files = requested(browser)
    assert all(name.startswith("file:") for name in files), files


def test_the_timeline_of_a_film_seeks(browser, two):
    opened(browser, two[0].report)
    click_at(browser, "film0", 0.5, 0.4)
    at = until(browser, "return document.querySelector('.film video').currentTime")
    segments = table(two[0].film("holiday").segments)
    assert at == pytest.approx(float(segments[-1]["end"]) / 2, abs=0.3) and len(segments) > 1
    browser.execute_script("[...document.querySelectorAll('.segments button')].at(-1).click()")
    until(browser, "return Math.abs(document.querySelector('.film video').currentTime - arguments[0]) < 0.01",
          30, float(segments[-1]["start"]))


def test_names_of_the_data_stay_text(browser, hostile):
    opened(browser, hostile.report)
    for chart in ("loss", "confusion", "training", "film0"):
        shown(browser, chart)
    for k in range(len(HOSTILE)):
        browser.execute_script("showCell(arguments[0], 0)", k)
    text = browser.execute_script("return document.body.innerText")
    assert all(name in text for name in HOSTILE) and "<img src=x onerror=alert(1)>" in text
    ticks = browser.execute_script("return [...document.querySelectorAll('.ytick text')]"
                                   ".map((one) => one.textContent)")
    assert set(HOSTILE) <= set(ticks), ticks
    made = "img, b:not(.bar b), .chart:not([data-chart=lr]) tspan"      # 10 to the power of is plotly's own
    assert not browser.execute_script("return document.querySelectorAll(arguments[0]).length", made)
    assert not [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
