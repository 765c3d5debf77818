#!/usr/bin/env bash
# vlmeval_venv.sh DIR: a virtual environment DIR with VLMEvalKit, which `open4ov eval --harness vlmevalkit` runs.
#
# An environment of its own: the kit asks for torch, transformers, datasets, OpenCV and seventy more packages, 5 GB of
# which asking an endpoint and scoring by rules never calls. Here it comes without them, with the dozen that it does
# call; vlmevalkit_worker.py puts an empty stand-in for each of the others, which raises when it is called. The kit is
# ModelScope's repackaging of OpenCompass' source, which itself is on no index.
# pip's own index configuration is used as it is. 250 MB.
# Call it again at any time: a finished environment is left alone, an unfinished one is started afresh.
# PYTHON names the interpreter (Python 3.11), default python3.11.
set -euo pipefail

VERSION=0.0.20
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
DIR=$1
DONE=$DIR/open4ov-vlmeval-$VERSION

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

# 2. What the kit calls when it asks an endpoint and scores by rules; then the kit as it is on the index.
pip install "numpy==2.4.6" "pandas==3.1.1" "pillow==13.0.0" "requests==2.34.2" "tqdm==4.70.1" "rich==15.0.0" \
  "tabulate==0.10.0" "python-dotenv==1.2.4" "portalocker==4.4.2" "filelock==4.3.1" "validators==0.36.0" \
  "json_repair==0.64.6" "termcolor==3.3.0" "num2words==0.5.14"
pip install --no-deps "ms-vlmeval==$VERSION"

# 3. The parts that have been seen to fail, imported once behind the stand-ins; only then is the environment marked as
#    finished.
"$DIR/bin/python" -P "$(dirname "$0")/../src/open4ov/evaluate/vlmevalkit_worker.py" --try
touch "$DONE"
