#!/bin/sh
# make parity: tests/parity/parity.py with PYTHON, or else in an environment of its own, outside the tree.
folder=${XDG_CACHE_HOME:-$HOME/.cache}/agrad/venv
if [ -z "$PYTHON" ]; then
    PYTHON=$folder/bin/python
    if ! "$PYTHON" -c 'import torch, timm, safetensors' 2>/dev/null; then
        echo "making $folder with torch, timm and safetensors" >&2
        python3 -m venv "$folder" || exit 1
        "$folder/bin/pip" install -q torch torchvision timm safetensors numpy || exit 1
    fi
fi
exec "$PYTHON" tests/parity/parity.py "$@"
