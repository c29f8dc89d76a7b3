#!/bin/sh
# manpage.sh - the manual page llama(1), made of what the command says of itself.
#
#   manpage.sh LLAMA >llama.1
set -e
"$1" --version | awk '{ printf ".TH LLAMA 1 \"\" \"%s %s\" \"User Commands\"\n", $1, $2 }'
cat <<'END'
.SH NAME
llama \- run LLaMA models on a CPU, straight from their files
.SH SYNOPSIS
END
"$1" help all | awk '
    function plain(s) { gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); sub(/^[.\047]/, "\\\\\\&&", s); return s }
    function section(s) { if (filled == 0) print ".fi"; print ".SH " s; print ".nf"; filled = 0 }
    BEGIN { filled = 1 }
    /^usage: / && !synopsis { synopsis = 1; print ".nf"; filled = 0; print plain(substr($0, 8)); next }
    /^usage: / { section(toupper($3)); print plain(substr($0, 8)); next }
    /^MODEL is / { section("MODEL") }
    /^exit codes:/ { section("EXIT STATUS"); next }
    /^          / && filled { sub(/^ +/, "") } # the help of an option goes on
    /^  -/ {
        if (filled == 0) print ".fi"
        filled = 1
        names = substr($0, 3, 25); sub(/ +$/, "", names)
        print ".TP\n.B " plain(names) "\n" plain(substr($0, 29)); next
    }
    /^(example|exit): / { if (filled == 1) print ".PP\n.nf"; filled = 0 }
    { print plain($0) }
    END { if (filled == 0) print ".fi" }'
