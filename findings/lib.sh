# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# What the findings share: a temporary folder that goes at the end, pinned packages in it, and what was seen there.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
trap 'exit 130' INT TERM
chmod 755 "$here" # apt downloads as a user of its own

cannot() {
	echo "${0##*/}: cannot run: $1" >&2
	exit 2
}

# packages of the Python index, as name==version: in a virtual environment, whose programs are found first
python_packages() {
	python3 -m venv "$here/venv"
	"$here/venv/bin/pip" -q --disable-pip-version-check install "$@" 2>"$here/log" || cannot "$(grep -m 1 '^ERROR' "$here/log")"
	PATH=$here/venv/bin:$PATH
	cd "$here"
	echo "with $*"
}

# packages of Debian 12, as name=version: unpacked in $here, installed nowhere
debian_packages() {
	cd "$here"
	apt-get -qq download "$@" 2>"$here/log" || cannot "$(grep -m 1 '^E:' "$here/log"), of Debian 12"
	for package in *.deb; do
		dpkg -x "$package" "$here"
	done
	PATH=$here/usr/bin:$PATH
	echo "with $*"
}

# the exit status of a command, of which nothing is shown
status_of() {
	if "$@" >log 2>&1; then echo 0; else echo $?; fi
}

# what one would think, what was seen: `saw WHAT EXPECTED SEEN`, where anything but EXPECTED is a change
saw() {
	printf '%s: %s\n' "$1" "$3"
	if [ "$2" != "$3" ]; then
		printf '%s: it has changed, it was: %s\n' "${0##*/}" "$2" >&2
		exit 1
	fi
}

# what libtraceevent makes of `print fmt: $1` for an event with an unsigned int `state` of 2 and an int `error` of -12
printed_event() {
	if [ ! -x "$here/event" ]; then
		cat >"$here/event.c" <<-'END'
			#include <stdio.h>
			#include <string.h>
			#include <event-parse.h>
			#include <trace-seq.h>

			static const char fields[] = "name: e\nID: 5\nformat:\n"
				"\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
				"\tfield:unsigned int state;\toffset:4;\tsize:4;\tsigned:0;\n"
				"\tfield:int error;\toffset:8;\tsize:4;\tsigned:1;\n\nprint fmt: ";

			int main(int argc, char **argv)
			{
				struct { unsigned short type, pad; unsigned int state; int error; } raw = { 5, 0, 2, -12 };
				struct tep_record record = { .data = &raw, .size = sizeof(raw) };
				struct tep_handle *tep = tep_alloc();
				struct trace_seq seq;
				char text[1024];

				snprintf(text, sizeof(text), "%s%s\n", fields, argv[1]);
				if (tep_parse_event(tep, text, strlen(text), "s"))
					return 1;
				trace_seq_init(&seq);
				tep_print_event(tep, &seq, &record, "%s", TEP_PRINT_INFO);
				trace_seq_terminate(&seq);
				puts(seq.buffer);
				return 0;
			}
		END
		libs=$here/usr/lib/x86_64-linux-gnu
		cc -o "$here/event" "$here/event.c" -I"$here/usr/include/traceevent" -L"$libs" -ltraceevent -Wl,-rpath,"$libs" ||
			cannot "no cc, or not for x86-64"
	fi
	"$here/event" "$1"
}
