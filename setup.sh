#!/usr/bin/env bash
# Make .venv with what the scripts need (demo), or with that and what the tests need (tests); `make demo`
# and `make test` call it once each.
#
#     bash setup.sh demo|tests [python3.12]
#
# Whatever fails ends in one line that says what to do. An interrupted set-up goes on when called
# again. .venv/ready-for-demo or .venv/ready-for-tests is written last; .venv/setup.log has pip's output.
set -euo pipefail
cd "$(dirname "$0")"
purpose=${1:-demo}
python=${2:-python3}

fail() {
    echo "setup: $*" >&2
    exit 1
}

check_python() {
    command -v "$python" >/dev/null ||
        fail "there is no $python here; install Python 3.10 or newer, or name yours: make demo PYTHON=/path/to/python3"
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
        fail "$python does not run; name another one: make demo PYTHON=/path/to/python3"
    case $version in
        2.*|3.[0-9]) fail "$python is Python $version, and 3.10 or newer is needed; name another one: make demo PYTHON=python3.12" ;;
    esac
}

# PyTorch for Linux comes with CUDA's libraries.
check_space() {
    local needed=2 free
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] && needed=7
    free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1000000)}')
    [ "$free" -ge "$needed" ] ||
        fail "the packages need $needed GB, and $free GB are free in $PWD; free some space, or clone the project to another disk"
}

make_environment() {
    .venv/bin/python -c '' 2>/dev/null && .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    echo "setup: making .venv with $("$python" --version 2>&1)"
    rm -rf .venv
    if ! "$python" -m venv .venv; then
        rm -rf .venv
        fail "$python cannot make a virtual environment; on Debian or Ubuntu: sudo apt install python3-venv; then run make again"
    fi
}

install() {
    .venv/bin/python -m pip install --disable-pip-version-check "$@" 2>&1 | tee .venv/setup.log && return
    # Without a network pip also says that it found no version: look for the cause first.
    if grep -qiE 'no space left|errno 28' .venv/setup.log; then
        fail "the disk is full; free 7 GB here and in ${TMPDIR:-/tmp}, and run make again"
    elif grep -qiE 'connection|resol|timed out|proxy|certificate|unreachable' .venv/setup.log; then
        fail "pip cannot reach the package index; check the network or the proxy (pip config list), and run make again"
    elif grep -qi 'no matching distribution' .venv/setup.log; then
        fail "a package has no version for $(.venv/bin/python --version); name another Python: rm -rf .venv && make demo PYTHON=python3.12"
    fi
    fail "pip failed; its words are above and in .venv/setup.log; mend that and run make again"
}

# opencv-python draws windows, and for that it wants libGL and libxcb from the system, which a bare
# server or container lacks. All but the live window works with the build that has no windows.
check_opencv() {
    local error
    error=$(.venv/bin/python -c 'import cv2' 2>&1) && return
    case $error in
        *"cannot open shared object file"*) ;;
        *) fail "opencv-python does not work here: $(echo "$error" | tail -n 1)" ;;
    esac
    echo "setup: opencv-python lacks a system library here ($(echo "$error" | tail -n 1));" \
         "installing opencv-python-headless in its place: everything works but the live window"
    .venv/bin/python -m pip uninstall -y -q opencv-python
    install --force-reinstall --no-deps opencv-python-headless
    error=$(.venv/bin/python -c 'import cv2' 2>&1) ||
        fail "opencv-python-headless does not work here either: $(echo "$error" | tail -n 1)"
}

# What makes encoding on a CPU faster where it is to be had; all works without it.
install_if_there_is() {
    .venv/bin/python -m pip install --disable-pip-version-check -q --only-binary :all: "$@" >>.venv/setup.log 2>&1 ||
        echo "setup: ${*: -1} is not available for this Python here; encoding on a CPU is slower without it"
}

case $purpose in
    demo) requirements=requirements.txt ;;
    tests) requirements=requirements-dev.txt ;;
    *) fail "$purpose: say demo or tests, and then which Python: bash setup.sh demo python3.12" ;;
esac
check_python
.venv/bin/python -c 'import torch' 2>/dev/null || check_space
make_environment
install -r "$requirements"
check_opencv
install_if_there_is onnxruntime
install_if_there_is --no-deps openvino      # not openvino-telemetry, which reports every import of it to its makers
.venv/bin/python -c 'import torch, torchvision' ||
    fail "PyTorch was installed and cannot be imported; make it anew: rm -rf .venv && make demo"
touch .venv/ready-for-demo ".venv/ready-for-$purpose"
echo "setup: .venv is ready"
