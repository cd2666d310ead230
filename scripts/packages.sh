#!/usr/bin/env bash
# scripts/packages.sh GROUP...: installs the Debian packages of the groups that are missing here, saying which.
#   build   compiler, CMake and the libraries of the program
#   fetch   what downloads the default model from PyPI
#   test    what ./test.sh needs besides
#   halo    what sala-halo needs besides: libtorch, and a fast BLAS for it
#   all     what ./test.sh --all needs besides: clang 19 with its sanitizers, clang-format, haproxy
set -euo pipefail

packages=()
for group in "$@"; do
  case "$group" in
    build) packages+=(g++ cmake ninja-build libfmt-dev nlohmann-json3-dev libcli11-dev libhwy-dev libpcre2-dev
                      libutf8proc-dev libedit-dev libxxhash-dev libboost1.81-dev pkg-config) ;;
    fetch) packages+=(python3 python3-venv ca-certificates) ;;
    test) packages+=(libgtest-dev libboost-context1.81-dev python3 python3-numpy python3-venv git) ;;
    halo) packages+=(libtorch-dev libopenblas0-pthread) ;;
    all) packages+=(clang-19 libclang-rt-19-dev clang-format-19 haproxy) ;;
    *) echo "packages.sh: unknown group \"$group\"" >&2; exit 2 ;;
  esac
done

missing=()
if command -v dpkg-query > /dev/null; then
  architecture=$(dpkg --print-architecture)
  for package in "${packages[@]}"; do
    # A line for each architecture that has it: another machine's does not help.
    states=$(dpkg-query -W -f='${Architecture} ${db:Status-Status}\n' "$package" 2> /dev/null || true)
    grep -qxE "(all|$architecture) installed" <<< "$states" || missing+=("$package")
  done
else
  echo "This is not Debian: make sure that you have what these Debian 12 packages contain: ${packages[*]}" >&2
  exit 0
fi
((${#missing[@]})) || exit 0

echo "Installing Debian packages: ${missing[*]}" >&2
sudo=()
if [[ $(id -u) != 0 ]]; then
  if ! command -v sudo > /dev/null; then
    echo "They need root and there is no sudo here. As root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}
# The package lists of a fresh machine are empty or old: fetch them first, and go on with what there is if that fails.
"${sudo[@]}" apt-get update > "$log" 2>&1 || true
if ! install >> "$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "apt-get could not install them; the lines above say why. By hand: apt-get install ${missing[*]}" >&2
  exit 1
fi
