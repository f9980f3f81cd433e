#!/bin/sh
# Puts a Chromium where the browser tests find it; without one they are skipped and say so.
set -u
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null && exit 0
if command -v apt-get >/dev/null; then
    as_root=""
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    if $as_root true 2>/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        $as_root apt-get update -qq && $as_root apt-get install -y -qq chromium fonts-noto-core fonts-noto-cjk >/dev/null && exit 0
    fi
fi
.venv/bin/playwright install chromium && exit 0
echo "moescope: no Chromium could be installed; the browser tests will be skipped" >&2
