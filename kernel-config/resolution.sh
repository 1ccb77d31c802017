# Shared by `build`, `check` and `check-test`: pins, source tree, and the way from fragments to a kernel's .config.
# shellcheck shell=bash

# The tools that are asked for their version are the ones that build.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'kernel-config: %s\n' "$*" >&2; }
die() { local status=$1; shift; say "error: $*"; exit "$status"; }

# pin KEY: value of KEY in source.toml (its keys are unique across sections).
pin() { sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" "$here/source.toml"; }

tool_version() {
    case $1 in
        compiler) gcc --version | head -n 1 ;;
        linker) ld --version | head -n 1 ;;
        compressor) zstd --version ;;
    esac
}

need_tools() {
    local tool missing=()
    for tool in bc bison flex gcc ld make perl xz zstd; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] ||
        die 2 "not installed: ${missing[*]}; run: apt-get install $(grep -v '^#' "$here/packages.txt" | tr '\n' ' ')"
}

# verify_source TARBALL ALLOW_OTHER: sets source_sha256, source_version and source_pinned (yes/no).
# Status 3 when the tarball is not the pinned one and ALLOW_OTHER is not "yes".
verify_source() {
    local tarball=$1 allow_other=$2 package version
    package=$(pin package) version=$(pin version)
    [ -f "$tarball" ] || die 2 "no kernel source at $tarball; run: apt-get install $package=$version"
    source_sha256=$(sha256sum <"$tarball" | cut -d ' ' -f 1)
    source_version=$version source_pinned=yes
    [ "$source_sha256" != "$(pin sha256)" ] || return 0
    source_pinned=no
    source_version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null) || source_version=unknown
    say "$tarball is not the pinned source: got sha256 $source_sha256 (installed version $source_version)," \
        "expected $(pin sha256) (version $version)"
    say "the pinned source: apt-get install $package=$version, or the package ${package}_${version}_all.deb" \
        "from $(pin archive)"
    [ "$allow_other" = yes ] || exit 3
    say "warning: building from another source; the kernel's measurement will be another one"
}

# compare_tools: sets tools_pinned (yes/no) and warns about every difference.
compare_tools() {
    local tool
    tools_pinned=yes
    for tool in compiler linker compressor; do
        [ "$(tool_version "$tool")" != "$(pin "$tool")" ] || continue
        tools_pinned=no
        say "warning: $tool is \"$(tool_version "$tool")\", expected \"$(pin "$tool")\": the kernel's bits will differ"
    done
}

# unpack_source TARBALL DIR: the source tree's top becomes DIR.
unpack_source() {
    say "unpacking $1"
    mkdir -p "$2"
    tar -x --strip-components=1 --no-same-owner -C "$2" -f "$1"
}

# kernel_make TREE ARGUMENT...: make with nothing of the caller's environment in it. The build happens inside the
# source tree, so that every path the compiler sees is relative. Tools whose mere presence shows up in .config are
# hidden.
kernel_make() {
    local tree=$1
    shift
    env -i LC_ALL=C TZ=UTC PATH="$PATH" HOME=/nonexistent \
        KBUILD_BUILD_USER=anchorhold KBUILD_BUILD_HOST=anchorhold KBUILD_BUILD_VERSION=1 \
        KBUILD_BUILD_TIMESTAMP='1970-01-01 00:00:00 UTC' \
        make -C "$tree" ARCH=x86_64 LOCALVERSION= PAHOLE=false RUSTC=false BINDGEN=false "$@"
}

# option_lines FILE...: the options of fragments, without reasons.
option_lines() { sed -n 's/^\(CONFIG_[A-Z0-9_]*=\("[^"]*"\|[^" ]*\)\)  *#.*$/\1/p' "$@"; }

# resolve TREE FRAGMENT...: writes TREE/.config. Everything a fragment does not ask for is off (allnoconfig);
# later fragments win.
resolve() {
    local tree=$1
    shift
    option_lines "$@" >"$tree/requested.config"
    kernel_make "$tree" -s KCONFIG_ALLCONFIG=requested.config allnoconfig >&2
}
