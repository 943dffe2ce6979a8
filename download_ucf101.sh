#!/usr/bin/env bash
# Fetch UCF-101 (6.5 GB) and its split lists into a folder, unpack them, and check that all is there.
#
#     bash download_ucf101.sh [FOLDER]        (default: the current one)
#
# leaves UCF-101/<Class>/*.avi and ucfTrainTestlist/ there. A broken download goes on where it was,
# and when all is there a second run does nothing. The archives are kept until you delete them.
#
# Variables: UCF101_URL    base address (default https://www.crcv.ucf.edu/data/UCF101)
#            UCF101_VIDEOS, UCF101_CLASSES    what to expect (default 13320 and 101)
set -euo pipefail

url=${UCF101_URL:-https://www.crcv.ucf.edu/data/UCF101}
videos=${UCF101_VIDEOS:-13320}
classes=${UCF101_CLASSES:-101}
folder=${1:-.}

fail() {
    echo "download_ucf101.sh: $*" >&2
    exit 1
}

# The size that the server gives for an address, or nothing.
size_of() {
    curl -sfIL "$1" | tr -d '\r' | awk 'tolower($1) == "content-length:" {size = $2} END {print size}'
}

fetch() {
    local name=$1 part=$1.part status=0 have=0 whole
    [ -f "$name" ] && return
    command -v curl >/dev/null || fail "curl is missing; install it (apt install curl, brew install curl)"
    whole=$(size_of "$url/$name" || true)
    [ -f "$part" ] && have=$(wc -c <"$part" | tr -d ' ')
    if [ "$have" -gt "${whole:-$have}" ]; then   # it is of some other archive
        rm "$part"
        have=0
    fi
    if [ "$have" = 0 ] || [ "$have" != "$whole" ]; then
        echo "fetching $url/$name"
        curl -fL --retry 3 -C - -o "$part" "$url/$name" || status=$?
    fi
    case $status in
        0) mv "$part" "$name" ;;
        6|7) fail "cannot reach $url; check the network, or set UCF101_URL to another address of the data set" ;;
        23) fail "cannot write $folder/$part; is the disk full?" ;;
        60) fail "the certificate of $url is not trusted; update this machine's certificates (apt install ca-certificates) or its clock, or set UCF101_URL to a mirror that you trust" ;;
        33) rm "$part"
            fetch "$name" ;;   # this server cannot go on in the middle
        22) fail "$url has no $name; set UCF101_URL to the address of the folder that has it" ;;
        *) fail "the download of $name broke off (curl's exit status $status); run this again to go on" ;;
    esac
}

# The first of these programs that is there.
unpacker() {
    local tool
    for tool in "$@"; do
        if command -v "$tool" >/dev/null; then
            echo "$tool"
            return
        fi
    done
    fail "nothing here unpacks $archive; install one of: $* (apt install unar, brew install unar)"
}

# One name a line, of every member of the archive.
members() {
    case $tool in
        unrar) unrar lb "$archive" ;;
        unar) lsar "$archive" | tail -n +2 ;;
        7z) 7z l -slt -ba "$archive" | sed -n 's/^Path = //p' ;;
        bsdtar) bsdtar -tf "$archive" ;;
        unzip) unzip -Z1 "$archive" ;;
    esac
}

extract() {
    case $tool in
        unrar) unrar x -idq -o+ "$archive" "$1/" ;;
        unar) unar -quiet -force-overwrite -no-directory -output-directory "$1" "$archive" ;;
        7z) 7z x -y -bso0 -bsp0 "-o$1" "$archive" ;;
        bsdtar) bsdtar -xf "$archive" -C "$1" ;;
        unzip) unzip -qo "$archive" -d "$1" ;;
    esac
}

# obtain ARCHIVE FOLDER PROGRAM...: FOLDER appears when the archive was unpacked to its end. What is
# missing for that is said before the download, not after it.
obtain() {
    archive=$1
    local target=$2
    shift 2
    [ -d "$target" ] && return
    tool=$(unpacker "$@")
    fetch "$archive"
    unpack "$target"
}

unpack() {
    local target=$1 names bad
    names=$(members) || fail "$tool cannot read $archive; delete it and run this again"
    bad=$(printf '%s\n' "$names" | tr '\134' / | grep -E '^/|^[A-Za-z]:|(^|/)\.\.(/|$)' | head -n 1 || true)
    [ -z "$bad" ] || fail "$archive was refused: its member '$bad' would be written outside of the folder"
    echo "unpacking $archive with $tool"
    rm -rf "$target.unpacking"
    mkdir "$target.unpacking"
    extract "$target.unpacking" || fail "$tool could not unpack $archive; delete it and run this again"
    bad=$(find "$target.unpacking" -type l | head -n 1)
    [ -z "$bad" ] || fail "$archive was refused: $bad is a link, and the data set has none; delete both and run this again"
    [ -d "$target.unpacking/$target" ] || fail "$archive has no folder $target; is it the right archive?"
    mv "$target.unpacking/$target" "$target"
    rm -rf "$target.unpacking"
}

verify() {
    local found kinds listed absent
    found=$(find UCF-101 -name '*.avi' -type f | wc -l | tr -d ' ')
    kinds=$(find UCF-101 -mindepth 1 -maxdepth 1 -type d | wc -l | tr -d ' ')
    [ "$found/$kinds" = "$videos/$classes" ] ||
        fail "UCF-101 holds $found videos of $kinds classes, and $videos of $classes were expected; delete $folder/UCF-101 and run this again"
    listed=$(cat ucfTrainTestlist/trainlist0[123].txt ucfTrainTestlist/testlist0[123].txt |
             tr -d '\r' | awk 'NF {print $1}' | sort -u)
    absent=$(printf '%s\n' "$listed" | while read -r name; do [ -f "UCF-101/$name" ] || echo "$name"; done)
    [ -z "$absent" ] ||
        fail "$(printf '%s\n' "$absent" | wc -l | tr -d ' ') listed videos are missing, such as $(printf '%s\n' "$absent" | head -n 1)"
    echo "$found videos of $kinds classes, every listed one present: $PWD"
}

mkdir -p "$folder" || fail "cannot make the folder $folder"
cd "$folder"
obtain UCF101TrainTestSplits-RecognitionTask.zip ucfTrainTestlist unzip unar 7z bsdtar
obtain UCF101.rar UCF-101 unrar unar 7z bsdtar
verify
