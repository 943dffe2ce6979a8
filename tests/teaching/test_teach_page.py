"""The page of teach.py in a real browser, with real keys: a session through a kill to its run; a review."""
import re
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Queue

import pytest
from browsers import address_of, requested, resize, until
from commands import call, start
from runs import read_json, table
from videos import numbered, write_video

from lrcn.data.review import read_review
from lrcn.teaching import review, server
from lrcn.teaching.labels import Labels

# The number that the picture on the screen shows (videos.numbered), null while there is none
NUMBER = """const video = document.querySelector('#stage video.on'), canvas = new OffscreenCanvas(4, 3);
if (!video) return null;
const pen = canvas.getContext('2d', {willReadFrequently: true});
pen.drawImage(video, 0, 0, 4, 3);
const {data} = pen.getImageData(0, 0, 4, 3), bits = [...Array(12).keys()].map((i) => data[4 * i] > 127);
return bits.reduce((sum, bit, i) => sum + bit * 2 ** i, 0)"""
ANSWERS = ("<b>jump", "1"), ("wave", "2"), (None, "0")


def teach(*words):
    """(process, address of its page)"""
    pytest.importorskip("uvicorn", reason="no uvicorn here: pip install -r requirements-app.txt")
    process = start("teach.py", "--no-open", "--device", "cpu", *words)
    return process, address_of(process)


class Person:
    """Presses keys, and knows the rows that they must leave: {moment: (film, start, end, label)}."""

    def __init__(self, browser, address):
        from selenium.webdriver import ActionChains, Keys
        self.browser, self.keys, self.chain, self.rows = browser, Keys, ActionChains, {}
        self.visit(address)

    def visit(self, address):
        self.browser.get(address)
        until(self.browser, "return document.documentElement.dataset.ready === '1'")

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

    def told(self, place, words):
        """Wait until the page says so there."""
        script = "return document.getElementById(arguments[0]).textContent.startsWith(arguments[1])"
        until(self.browser, script, 60, place, words)

    def moment(self):
        """(film, start, end) of the moment on the screen, once its own picture is there."""
        until(self.browser, "return !document.getElementById('caption').hidden")
        end_of_wait = time.monotonic() + 60
        while True:     # a restart may bring another moment than was there
            film, times = self.text("#caption strong"), re.findall(r"0:(\d+\.\d)", self.text("#caption span"))
            begin, end = map(float, times)
            if self.browser.execute_script(f"{NUMBER} === arguments[0]",
                                           100 * int(film[-5]) + int(begin // 2)):
                break
            assert time.monotonic() < end_of_wait, f"not the picture of {film}, {begin} s"
        return film, begin, end

    def answer(self, label, *keys, moved=(0, 0)):
        """Press the keys that give the moment on the screen this label, and wait until the page says so."""
        film, begin, end = key = self.moment()
        begin, end = begin + moved[0], min(end + moved[1], 20)      # where the film ends
        self.rows[key[:2]] = film, begin, end, label
        self.press(*keys)
        self.told("said", f"{label or 'none of these'}: {film}, 0:{begin:04.1f} to 0:{end:04.1f}.")


def test_twenty_keys_a_kill_and_the_finish_leave_what_the_keys_said(browser, tmp_path):
    for i in range(4):
        frames = [numbered(100 * i + k, 96, 72) for k in range(10) for _ in range(20)]
        write_video(tmp_path / "films" / f"<b>film {i}.mp4", frames, fps=10)
    out = tmp_path / "labels"
    words = ("--video_path", tmp_path / "films", "--output_dir", out, "--encoder", "squeezenet1_1",
             "--encoder_weights", "none", "--encoder_backend", "torch")
    process, address = teach(*words)
    resize(browser, 1600, 1000)
    person = Person(browser, address)
    keys = person.keys
    for name in ("<b>jump", "wave"):
        person.answer(name, "n", name, keys.ENTER)      # a new class
    person.answer(None, "0")
    person.moment()
    person.press("u")                   # taken back, and labelled anew
    person.told("said", "Undone.")
    assert person.moment()[:2] == [*person.rows][-1]
    person.answer("wave", "2")
    person.answer("wave", keys.ARROW_RIGHT, keys.ARROW_RIGHT, "+" + keys.ARROW_RIGHT, "2", moved=(0.4, 0.2))
    while len(person.rows) < 14:
        film = person.moment()[0]           # every class in every film: train.py holds out whole films
        person.answer(*ANSWERS[sum(known == film for known, _ in person.rows) % 2])
    person.visit(address)               # reloaded
    said = Counter(row[3] for row in person.rows.values())
    counts = browser.find_elements("css selector", "#classes .count")
    assert [int(one.text) for one in counts] == [said["<b>jump"], said["wave"]]
    person.moment()
    process.kill()                      # kill -9
    process.wait()
    person.press("1")                   # is not saved, and does not count
    person.told("said", "Not saved")
    person.told("gone", "teach.py does not answer")
    process, again = teach(*words)      # the page that is open goes on
    until(browser, "return document.getElementById('gone').textContent === ''", 60)
    assert again == address
    while len(person.rows) < 20:
        person.answer(*ANSWERS[len(person.rows) % 3])
    browser.find_element("id", "finish").click()
    until(browser, "return document.querySelector('#finishing p').textContent", 240)
    assert (run := person.text("#finishing p")).startswith("Run folder: "), person.text("#finishing")
    assert not browser.find_elements("css selector", "main b:not(.of-film b)")
    assert all(name.startswith(address) for name in requested(browser))
    process.kill()
    process.wait()

    left = Labels(out).now.values()
    assert {(row.film, row.start, row.end, row.label or None) for row in left} == {*person.rows.values()}
    assert len(left) == 20 and read_json(out / "classes.json")["classes"] == ["<b>jump", "wave"]
    run = Path(run.removeprefix("Run folder: "))
    labelled = [(row[3], Path(row[0]).stem) for row in person.rows.values() if row[3]]
    assert Counter((row["class"], row["group"]) for row in table(run / "splits.csv")) == Counter(labelled)
    assert read_json(run / "test/metrics.json")["videos"]


def test_a_review_is_the_table_that_keys_mouse_and_filters_said(browser, sampled, tmp_path):
    film = write_video(tmp_path / "films" / "holiday.mp4", 250)
    (tmp_path / "all.csv").write_text("film,class,start,end,probability\nholiday,Jump,4,6,0.5\n"
                                      "holiday,Jump,1,3,0.9\nholiday,Run,7,9,0.8\n")
    out, clips = tmp_path / "candidates", tmp_path / "clips"
    call("find_clips.py", "--from", tmp_path / "all.csv", "--video_path", film.parent, "--output_dir", out)
    shutil.copytree(sampled, clips, ignore=shutil.ignore_patterns("features"))
    addresses = []
    for made in (review.of_candidates(out / "candidates.csv", {film.name: film}), review.of_clips(clips)):
        told = Queue()
        threading.Thread(target=server.serve, args=(made, 0, told.put), daemon=True).start()
        addresses.append(told.get(timeout=30))
    resize(browser, 400, 900)
    person = Person(browser, addresses[0])      # the least sure candidate stands first, and is chosen
    cards = browser.find_elements("css selector", ".card")
    numbers = [int(card.get_attribute("data-number")) for card in cards]
    knob = browser.find_element("css selector", ".card.on .end[aria-label=end]")
    second = round(browser.execute_script("return arguments[0].parentElement.clientWidth", knob) / 6)
    person.chain(browser).drag_and_drop_by_offset(knob, second, 0).perform()
    person.told("said", f"#{numbers[0]}: keep, Jump, 0:04.0 to 0:07.0.")
    for key, words in (("2", f"#{numbers[0]}: keep, Run"), ("d", f"#{numbers[1]}: drop, Run"),
                       ("d", f"#{numbers[2]}: drop, Jump"), ("u", f"#{numbers[2]}: keep, Jump")):
        person.press(key)
        person.told("said", words)
    rows = {row.number: row for row in read_review(out)}
    assert [(rows[n].cls, rows[n].start, round(rows[n].end), rows[n].action) for n in numbers] == [
        ("Run", 4, 7, "keep"), ("Run", 7, 9, "drop"), ("Jump", 1, 3, "keep")]

    person.visit(addresses[1])
    before = read_review(clips)
    person.press("/", "v_Grow_g02", person.keys.ENTER)
    person.told("count", "1 of 66 shown")
    until(browser, "return document.querySelector('.card video').currentTime > 0")
    person.press("n", "Swell", person.keys.ENTER)
    until(browser, "return document.querySelector('.card .changed')?.textContent === 'was Grow'")
    assert [(new.cls, Path(new.source).stem) for new, old in zip(read_review(clips), before, strict=True)
            if new != old] == [("Swell", "v_Grow_g02_c01")]
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
