#!/bin/sh
# Installs what the end-to-end tests need, and only what is missing.
#
#   install-packages.sh [all|demo]
#
#   demo  one Dovecot, one Prometheus and the tools the demonstration calls
#   all   every server and tool the tests use, and two root directories: Debian
#         13, whose Dovecot is of the 2.4 generation (Debian 12 has 2.3), and
#         Debian 12 with a systemd that boots, to install packages in
#
# Run it as root, on Debian 12 or later. Costs nothing if all is there.
set -eu

demo_packages="dovecot-imapd prometheus python3 openssl curl"
all_packages="$demo_packages dovecot-pop3d dovecot-lmtpd dovecot-submissiond
    dovecot-managesieved prometheus-process-exporter mtail logrotate rsyslog
    systemd acl bindfs debootstrap iproute2 procps gcc g++ libc6-dev
    prometheus-alertmanager chromium fonts-dejavu-core pngquant
    python3-jsonschema python3-venv tmux libmonitoring-plugin-perl
    apache2-utils buildah podman runc uidmap binutils
    systemd-container rpm lintian busybox"
# Often there is a newer one that is not Debian's, whose npm is no package.
command -v node >/dev/null || all_packages="$all_packages nodejs"
command -v npm >/dev/null || all_packages="$all_packages npm"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/dovecot-capacity-exporter"
trixie_packages="dovecot-imapd,dovecot-pop3d,dovecot-submissiond"
trixie_packages="$trixie_packages,dovecot-managesieved,dovecot-lmtpd"
bookworm_packages="systemd,systemd-sysv,dbus,curl,procps,rpm,man-db,dovecot-imapd"

export DEBIAN_FRONTEND=noninteractive

require_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "$0: must be root to install: $1" >&2
        exit 1
    fi
}

# Prints those of its arguments that are not installed.
missing() {
    # One query for all: it fails if any name is unknown, yet lists the others.
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" \
        2>/dev/null || true)
    for package in "$@"; do
        printf '%s\n' "$installed" | grep -qx "installed $package" ||
            printf '%s ' "$package"
    done
}

install_missing() {
    wanted=$(missing "$@")
    [ -n "$wanted" ] || return 0
    require_root "$wanted"
    apt-get update -o DPkg::Lock::Timeout=300
    # Unquoted on purpose: a list of names.
    # shellcheck disable=SC2086
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 $wanted
}

# make_root SUITE PACKAGES
make_root() {
    root=$cache/$1
    [ ! -e "$root" ] || return 0
    require_root "$root"
    mkdir -p "${root%/*}"
    # Only a finished root gets the name that the tests look for.
    unfinished=$(mktemp -d "$root.XXXXXX")
    trap 'rm -rf "$unfinished"' EXIT
    trap 'exit 1' HUP INT TERM
    debootstrap --variant=minbase --include="$2" "$1" "$unfinished"
    chmod 755 "$unfinished"
    # Another run may have been faster; -T keeps mv from moving into its root.
    mv -T "$unfinished" "$root" || [ -d "$root" ]
}

case "${1:-all}" in
demo)
    # shellcheck disable=SC2086
    install_missing $demo_packages
    ;;
all)
    # shellcheck disable=SC2086
    install_missing $all_packages
    make_root trixie "$trixie_packages"
    make_root bookworm "$bookworm_packages"
    ;;
*)
    echo "usage: $0 [all|demo]" >&2
    exit 2
    ;;
esac
