"""The page of teach.py in a real browser, with real keys: a session through a kill to its run; a review."""
import csv
import json
import re
import time
from collections import Counter

import pytest
from browsers import requested, resize, until
from commands import start
from runs import ONE_THREAD, read_json
from videos import numbered, write_video

from lrcn.teaching.labels import Labels

READY = "return document.documentElement.dataset.ready === '1'"
# The number that the picture on the screen shows (videos.numbered), null while there is none
NUMBER = """const video = document.querySelector('#stage video.on'), canvas = new OffscreenCanvas(4, 3);
if (!video) return null;
const pen = canvas.getContext('2d', {willReadFrequently: true});
pen.drawImage(video, 0, 0, 4, 3);
const {data} = pen.getImageData(0, 0, 4, 3), bits = [...Array(12).keys()].map((i) => data[4 * i] > 127);
return bits.reduce((sum, bit, i) => sum + bit * 2 ** i, 0)"""
FILMS, MOMENTS = 4, 10


def teach(*words):
    """(process, address of its page)"""
    pytest.importorskip("uvicorn", reason="no uvicorn here: pip install -r requirements-app.txt")
    process = start("teach.py", "--no-open", "--device", "cpu", *words, env=ONE_THREAD)
    end = time.monotonic() + 120
    while not (found := re.search(r"open (http\S+)", process.out)):
        assert process.poll() is None and time.monotonic() < end, process.wait()
        time.sleep(0.05)
    return process, found[1]


class Person:
    """Presses keys, and knows the rows that they must have left: (film, start, end, label) by moment."""

    def __init__(self, browser, address):
        from selenium.webdriver import ActionChains, Keys
        self.browser, self.keys, self.chain = browser, Keys, ActionChains
        self.rows = {}
        self.visit(address)

    def visit(self, address):
        self.browser.get(address)
        until(self.browser, READY)

    def press(self, *keys):
        """Keys one after another; with shift after a "+"."""
        chain = self.chain(self.browser)
        for key in keys:
            if key[0] == "+":
                chain.key_down(self.keys.SHIFT).send_keys(key[1:]).key_up(self.keys.SHIFT)
            else:
                chain.send_keys(key)
        chain.perform()

    def text(self, place):
        return self.browser.find_element("css selector", place).text

    def moment(self):
        """(film, start, end) of the moment on the screen, once its own picture is there."""
        until(self.browser, "return !document.getElementById('caption').hidden")
        film, times = self.text("#caption strong"), re.findall(r"(\d+):(\d+\.\d)", self.text("#caption span"))
        begin, end = (60 * int(minutes) + float(seconds) for minutes, seconds in times)
        number = 100 * int(film[-5]) + int(begin // 2)
        until(self.browser, f"{NUMBER} === arguments[0]", 30, number)
        return film, begin, end

    def answer(self, label, *keys, moved=(0, 0)):
        """Press the keys that give the moment on the screen this label, and wait until the page says so."""
        film, begin, end = self.moment()
        self.rows[film, begin] = film, begin + moved[0], end + moved[1], label
        self.press(*keys)
        begin, end = begin + moved[0], end + moved[1]
        self.told("said", f"{label or 'none of these'}: {film}, 0:{begin:04.1f} to 0:{end:04.1f}.")

    def told(self, place, words, seconds=30):
        """Wait until the page says so there."""
        script = "return document.getElementById(arguments[0]).textContent.startsWith(arguments[1])"
        until(self.browser, script, seconds, place, words)


def test_thirty_keys_a_kill_and_the_finish_leave_what_the_keys_said(browser, tmp_path):
    for i in range(FILMS):
        frames = [numbered(100 * i + k, 96, 72) for k in range(MOMENTS) for _ in range(20)]
        write_video(tmp_path / "films" / f"<b>film {i}.mp4", frames, fps=10)
    out = tmp_path / "labels"
    words = ("--video_path", tmp_path / "films", "--output_dir", out, "--encoder", "squeezenet1_1",
             "--encoder_weights", "none", "--encoder_backend", "torch")
    process, address = teach(*words)
    resize(browser, 1600, 1000)
    person = Person(browser, address)
    enter = person.keys.ENTER
    person.answer("<b>jump", "n", "<b>jump", enter)     # new classes
    person.answer("wave", "n", "wave", enter)
    person.answer("<b>jump", "1")
    *_, last = person.rows
    person.answer(None, "0")
    film, begin, _ = person.moment()        # taken back, and labelled anew
    person.press("u")
    person.told("said", "Undone.")
    undone = [*person.rows][-1]
    assert person.moment()[:2] == undone != last
    person.answer("wave", "2")
    keys = person.keys                      # moved: its start later by two steps, its end by one
    person.answer("wave", keys.ARROW_RIGHT, keys.ARROW_RIGHT, "+" + keys.ARROW_RIGHT, "2", moved=(0.4, 0.2))
    while len(person.rows) < 14:
        label = ["<b>jump", "wave"][len(person.rows) % 2]
        person.answer(label, str(1 + len(person.rows) % 2))
    person.visit(address)                   # reloaded
    counts = "return [...document.querySelectorAll('#classes .count')].map((one) => Number(one.textContent))"
    said = Counter(row[3] for row in person.rows.values())
    assert browser.execute_script(counts) == [said["<b>jump"], said["wave"]]
    person.moment()
    process.kill()                          # kill -9
    process.wait()
    person.press("1")                       # is not saved, and does not count
    person.told("said", "Not saved")
    person.told("gone", "teach.py does not answer")
    process, again = teach(*words)          # the page that is open goes on
    until(browser, "return document.getElementById('gone').textContent === ''", 60)
    assert again == address
    while len(person.rows) < 30:
        label = ["<b>jump", "wave", None][len(person.rows) % 3]
        person.answer(label, "120"[len(person.rows) % 3])
    browser.find_element("id", "finish").click()
    until(browser, "return document.querySelector('#finishing p').textContent", 240)
    assert (run := person.text("#finishing p")).startswith("Run folder: "), person.text("#finishing")
    assert not browser.execute_script("return document.querySelectorAll('main b:not(.of-film b)').length")
    assert all(name.startswith(address.rsplit("/", 2)[0]) for name in requested(browser))
    process.kill()
    process.wait()

    left = Labels(out).now.values()
    assert {(row.film, row.start, row.end, row.label or None) for row in left} == {*person.rows.values()}
    assert len(left) == 30
    assert json.loads((out / "classes.json").read_text())["classes"] == ["<b>jump", "wave"]
    with open(f"{run.removeprefix('Run folder: ')}/splits.csv", newline="") as f:
        videos = list(csv.DictReader(f))
    said = Counter((row[0][:-4], row[3]) for row in person.rows.values() if row[3])
    assert len(videos) == sum(said.values())
    assert read_json(f"{run.removeprefix('Run folder: ')}/test/metrics.json")["videos"]
