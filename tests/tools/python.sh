#!/bin/sh
# python.sh MODULES SCRIPT [ARGUMENT...]: run a script with a Python that has the modules (a,b); SKIP where none has
modules=$1
shift
for python in python3 /usr/bin/python3; do
    if $python -c "import $modules" 2>/dev/null; then exec $python "$@"; fi
done
echo "SKIP: $1 (no python3 with $modules here)"
