#!/bin/sh
# Install the Debian programs that some tests drive: Prometheus with promtool, Chromium with ChromeDriver,
# the user-mode emulator of processors.
# Does nothing where all are there. Without root or apt-get it installs nothing and says what is skipped.
# Exits 0 whatever it found: a test that misses its program skips itself, or fails where CI=true.
set -eu

packages=""
skipped=""

need() { # program, Debian package, tests that drive it
    command -v "$1" >/dev/null 2>&1 && return 0
    packages="$packages $2"
    skipped="$skipped $1 ($3);"
}

need promtool prometheus "metrics, alert rules, a live scrape"
need chromium chromium "pages in a browser"
need chromedriver chromium-driver "pages in a browser"
need qemu-x86_64 qemu-user "other processors"
[ -n "$packages" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "test tools: tests will be skipped for want of$skipped install the Debian packages$packages" >&2
    exit 0
fi

# Debian starts a daemon on installing it, unless this policy file says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of package names
if { apt-get update && apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends $packages; } >"$log" 2>&1; then
    rm -f "$log"
    case "$packages" in *" prometheus"*) # nor after the next boot: the tests start their own
        if command -v systemctl >/dev/null 2>&1; then systemctl disable --quiet prometheus 2>/dev/null || true; fi ;;
    esac
else
    echo "test tools: apt-get could not install$packages; see $log; tests will be skipped for want of$skipped" >&2
fi
