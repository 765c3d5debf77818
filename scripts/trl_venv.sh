#!/usr/bin/env bash
# trl_venv.sh DIR: a virtual environment DIR with TRL for CPUs, against which `python -m bench.sft` measures.
#
# An environment of its own: the peer and its trainer stack (accelerate, datasets) are not needed by open4ov. torch and
# transformers have the versions that open4ov itself is measured with. pip's own index configuration is used as it is;
# that index must have the CPU build of torch.
# Call it again at any time: a finished environment is left alone, an unfinished one is started afresh.
# PYTHON names the interpreter (Python 3.11), default python3.11.
set -euo pipefail

VERSION=1.16.0
TORCH=2.13.0
TRANSFORMERS=5.23.0
TORCHVISION=0.28.0
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
DIR=$1
DONE=$DIR/open4ov-trl-$VERSION-torch-$TORCH-transformers-$TRANSFORMERS

if [ -e "$DONE" ]; then
  exit 0
fi
if [ -e "$DIR" ] && [ ! -e "$DIR/pyvenv.cfg" ]; then
  echo "$DIR exists and is not a virtual environment: remove it, or name another folder" >&2
  exit 2
fi

# 1. An empty environment (--clear: a run that was cut off may have left half of it).
"${PYTHON:-python3.11}" -m venv --clear "$DIR"
pip() { "$DIR/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

# 2. TRL with torch's CPU build. torchvision comes without what it pins: its registry build asks for a CUDA torch.
pip install "torch==$TORCH+cpu" "transformers==$TRANSFORMERS" "trl==$VERSION" pillow numpy safetensors
pip install --no-deps "torchvision==$TORCHVISION"

# 3. torchvision is needed (the processor of Qwen3-VL imports its transforms), but the C++ operators of its registry build
#    do not load beside a CPU torch, and its import dies with "operator torchvision::nms does not exist", because it
#    registers fake kernels for them. Declaring the two operators first lets it in; nothing calls them. The hook runs
#    when torchvision is first imported, so that other processes do not pay for importing torch.
SITE=$("$DIR/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$(dirname "$0")/declare_torchvision_operators.py" "$SITE/"
echo "import declare_torchvision_operators" > "$SITE/declare_torchvision_operators.pth"

# 4. The parts that have been seen to fail, imported once; only then is the environment marked as finished.
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$DIR/bin/python" - <<'PY'
import torchvision.transforms.v2
from transformers import Qwen3VLProcessor
from trl import SFTConfig, SFTTrainer
PY
touch "$DONE"
