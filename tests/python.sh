#!/bin/sh
# python.sh MODULE SCRIPT [ARGUMENT...]: run a script with a Python that has the module; SKIP where none has
module=$1
shift
for python in python3 /usr/bin/python3; do
    if $python -c "import $module" 2>/dev/null; then exec $python "$@"; fi
done
echo "SKIP: $1 (no python3 with $module here)"
