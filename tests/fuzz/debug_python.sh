#!/bin/sh
# Unpack Debian's debug build of its CPython into FOLDER/unpacked, and what the tests import into FOLDER/site, by pip of PYTHON.
set -eu
folder=$1 python=$2
mkdir -p "$folder/packages" "$folder/unpacked"
version=$(apt-cache depends python3-dbg | sed -n 's/.*Depends: \(python3\.[0-9]*\)-dbg$/\1/p')
[ -n "$version" ] || { echo "no debug build: needs Debian's or Ubuntu's package lists (apt-get update)" >&2; exit 1; }
(
    cd "$folder/packages"
    rm -f ./*.deb
    apt-get download --quiet "$version-dbg" "$version-minimal" "lib$version-dbg" "lib$version-dev" "lib$version-minimal" \
        "lib$version-stdlib"
    for package in *.deb; do dpkg-deb --extract "$package" ../unpacked; done
)
# Wheels of release builds work in it.
"$python" -m pip --python "$folder/unpacked/usr/bin/${version}d" install --quiet --target "$folder/site" setuptools \
    'numpy>=1.26' 'orjson>=3.9' 'httptools>=0.6' 'trustme>=1.1' --requirement tests/fuzz/requirements.txt
