#!/bin/bash
# What the tests of tests/loaders need besides Node.js, npm, a C compiler and apt-get; what is there is left alone.
#     set_up.sh PYTHON FOLDER
set -euo pipefail
python=$1 folder=$2
mkdir -p "$folder"
folder=$(realpath "$folder")

test -e "$folder/node_modules/@huggingface/transformers/package.json" ||
  npm install --ignore-scripts --no-audit --no-fund --loglevel=error --prefix "$folder" @huggingface/transformers@4.3.1

for version in 1.17.3 1.18.1 1.21.0 1.21.1 1.22.1 1.23.2 1.24.1; do
  test -e "$folder/onnxruntime-$version/onnxruntime/__init__.py" ||
    "$python" -m pip install --quiet --no-deps --target "$folder/onnxruntime-$version" "onnxruntime==$version"
done
# The oldest of them were built for numpy 1.
test -e "$folder/numpy/numpy/__init__.py" ||
  "$python" -m pip install --quiet --no-deps --target "$folder/numpy" 'numpy<2'

# optimum-intel has needs of its own: what works together is what the benchmark's peers are made with.
if ! test -e "$folder/openvino/.complete"; then
  "$python" -m venv "$folder/openvino"
  "$folder/openvino/bin/python" -m pip install --quiet --constraint bench/peers/requirements.txt \
    optimum-intel sentence-transformers openvino
  touch "$folder/openvino/.complete"
fi

# The newest of what loads packages where transformers is 5, and a server.
if ! test -e "$folder/newest/.complete"; then
  "$python" -m venv "$folder/newest"
  "$folder/newest/bin/python" -m pip install --quiet sentence-transformers==6.2.0 optimum-intel==2.2.0 fastembed==0.9.1 \
    transformers==5.5.4 openvino==2026.4.1 onnxruntime==1.32.0 torch==2.13.0 fastapi==0.165.0 uvicorn==0.54.0
  # optimum-intel asks for it, and what the index has of it is for a torch with CUDA; texts do without.
  "$folder/newest/bin/python" -m pip uninstall --quiet --yes torchvision
  touch "$folder/newest/.complete"
fi

# onnxruntime's header: its wheel has none, and Debian's package of it is newer than this Debian may be.
if ! test -e "$folder/header/usr/include/onnxruntime/onnxruntime_c_api.h"; then
  apt=$folder/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/*$' | head -1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/sources.list"
  own=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get --quiet=2 "${own[@]}" update
  (cd "$apt" && apt-get --quiet=2 "${own[@]}" download libonnxruntime-dev)
  dpkg -x "$apt"/libonnxruntime-dev_*.deb "$folder/header"
  rm -r "$apt"
fi
