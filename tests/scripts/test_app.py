"""app.py, driven by a browser as by a visitor: a film in, labels, table and files out; bad films; a queue."""
import os
import signal
import time
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import urlopen

import pytest
from browsers import address_of, requested, until
from commands import start
from videos import numbered, write_video

import app as app_script


@pytest.fixture(scope="module")
def app(trained, tmp_path_factory):
    """(address, folder for what visitors bring) of an app that takes 12 seconds and 30 MB at most."""
    folder = tmp_path_factory.mktemp("visitors")
    pytest.importorskip("gradio", reason="no gradio here: pip install -r requirements-app.txt")
    process = start("app.py", "--model_dir", trained, "--port", 0, "--max_seconds", 12, "--max_megabytes", 30,
                    "--device", "cpu", "--encoder_backend", "torch", env={"TMPDIR": folder})
    yield address_of(process), folder
    assert any(folder.glob("lrcn-app-*"))
    # As when the terminal is closed; what runs under nohup, as these tests may, stays deaf to that
    process.kill(signal.SIGHUP if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else signal.SIGTERM)
    process.wait(60)
    assert not any(folder.glob("lrcn-app-*"))


def film(path, seconds=2):
    return write_video(path.parent / "film.mp4", [numbered(i // 5, 128, 96) for i in range(25 * seconds)]
                       ).rename(path)


def visit(browser, address, path):
    browser.get(address)
    until(browser, "return document.querySelector('#film input[type=file]') !== null", 60)
    browser.find_element("css selector", "#film input[type=file]").send_keys(str(path))


def label(browser, seconds=60):
    until(browser, "return document.querySelector('#film video') !== null", seconds)
    browser.find_element("css selector", "#label").click()


def done(browser, seconds=90):
    return until(browser, "return document.querySelector('#said textarea, #said input')?.value", seconds)


def test_a_text_named_mp4_and_a_huge_and_a_long_film_are_refused_in_words(browser, app, tmp_path):
    address, _ = app
    (tmp_path / "text.mp4").write_text("no film\n" * 100)
    visit(browser, address, tmp_path / "text.mp4")
    label(browser)
    assert done(browser).startswith("Cannot read this film (")
    assert not browser.find_elements("css selector", "#labelled"), "an empty box for a film that is refused"
    huge = film(tmp_path / "huge.mp4", 1)
    os.truncate(huge, 3 * 2**30)
    visit(browser, address, huge)
    until(browser, "return [...document.querySelectorAll('.toast-body, [data-testid=toast-body]')]"
                   ".some((one) => one.innerText.toLowerCase().includes('maximum allowed size of 30'))", 60)
    visit(browser, address, film(tmp_path / "...mp4", 13))
    label(browser)
    assert done(browser) == "The film is longer than 12 s."


def test_two_visitors_with_films_of_one_name_each_get_their_own_with_table_and_files(browser, app, tmp_path):
    (address, folder), films, tabs = app, {"a": 5, "b": 2}, {}
    for part, seconds in films.items():
        (tmp_path / part).mkdir()
        if tabs:
            browser.switch_to.new_window("tab")
        tabs[browser.current_window_handle] = seconds
        visit(browser, address, film(tmp_path / part / "ünser <b>film</b> 😀.MP4", seconds))
    for tab in tabs:
        browser.switch_to.window(tab)
        label(browser)
    for tab, seconds in tabs.items():
        browser.switch_to.window(tab)
        assert f"segments in {seconds}.0 s" in done(browser, 120)
        length = until(browser, "return document.querySelector('#labelled video')?.duration")
        assert length == pytest.approx(seconds, abs=0.1)
        toasts = browser.find_elements("css selector", ".toast-body, [data-testid=toast-body]")
        assert not any(one.is_displayed() for one in toasts)
    labelled = browser.execute_script("return document.querySelector('#labelled video').src")
    assert until(browser, "return document.querySelector('#labelled video').videoWidth") == 128
    until(browser, "return document.querySelector('#timeline img') !== null")
    cells = until(browser, "const t = document.querySelector('#segments'); return t && t.innerText")
    assert "from (s)" in cells and "probability" in cells and "0" in cells
    links = browser.execute_script("return [...document.querySelectorAll('#files a')].map((a) => a.href)")
    (table,) = {link for link in links if unquote(link).endswith("segments.csv")}
    assert urlopen(table).read().decode().startswith("start,end,label,probability\n0.000,")
    assert any(link.endswith(".srt") for link in links) and urlopen(labelled).read(8)[4:] == b"ftyp"
    asked = requested(browser)
    assert all(name.startswith((address, "blob:", "data:")) for name in asked), asked
    browser.close()
    browser.switch_to.window(next(iter(tabs)))
    written = [path for path in folder.rglob("labelled.mp4") if "written" in path.parts]
    assert len({path.parent.parent for path in written}) == len(written) >= 2
    served = next(path for path in folder.rglob("served"))
    for guess in (*written, f"{served}/../written", "https://127.0.0.1/", served / "film" / "labelled.mp4",
                  f"{served}/%2e%2e/written/{written[0].parent.parent.name}/film/labelled.mp4"):
        with pytest.raises(HTTPError):
            urlopen(f"{address}gradio_api/file={guess}")


def test_what_is_old_is_deleted_and_what_is_new_stays(tmp_path):
    desk = app_script.Desk(None, None, tmp_path)
    for name, age in (("old", app_script.KEPT + 60), ("new", 60)):
        (tmp_path / name / "film").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    desk.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
