#!/bin/sh
# Install what the benchmarks compare with, into .venv-peers: onnxruntime-genai and what its model
# builder needs, and llama.cpp's own benchmarks and server, compiled for this machine from the source
# package of llama-cpp-python. Minutes once; every part that is there already is left alone.
set -eu

cd "$(dirname "$0")/.."
VENV=.venv-peers
LLAMA_CPP=llama-cpp-python==0.3.36
STAMP=$VENV/.installed

if ! cmp -s benchmarks/peers.txt "$STAMP"; then
    test -x "$VENV/bin/python" || "${PYTHON:-python3}" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --requirement benchmarks/peers.txt
    cp benchmarks/peers.txt "$STAMP"
fi

if [ "$(cat "$VENV/llama.cpp/version" 2>/dev/null)" != "$LLAMA_CPP" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$VENV/bin/python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$work" "$LLAMA_CPP"
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
    PATH="$PWD/$VENV/bin:$PATH"
    export PATH
    # Nothing is fetched, neither by the build nor by the programs. Static: the programs are all we keep.
    cmake -G Ninja -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$work/build" \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON \
        -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    cmake --build "$work/build" --target llama-bench llama-batched-bench
    mkdir -p "$VENV/llama.cpp"
    cp "$work"/build/bin/llama-bench "$work"/build/bin/llama-batched-bench "$VENV/llama.cpp/"
    # The server embeds a web page that the source package may lack; the benchmarks do without it.
    if cmake --build "$work/build" --target llama-server; then
        cp "$work"/build/bin/llama-server "$VENV/llama.cpp/"
    else
        echo "bench-peers: llama-server cannot be built from this source package; benchmarks.server goes without" >&2
    fi
    echo "$LLAMA_CPP" >"$VENV/llama.cpp/version"
fi
