#!/bin/sh
# Make .venv with the given Python and install the project with what its tests and checks need.
set -eu
python=$1
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; $("$python" --version) is here. Try: make PYTHON=python3.12" >&2
    exit 69
fi
# Debian ships Python without ensurepip; the venv module is there but cannot put pip into what it makes.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=python3-venv
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $package, which $python lacks: apt-get install $package" >&2
        apt-get update </dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $package </dev/null
    else
        echo "$python has no venv module: install $package" >&2
        exit 69
    fi
fi
[ -x .venv/bin/pip ] || "$python" -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
