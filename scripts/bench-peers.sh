#!/bin/sh
# Install what the benchmarks compare with, into .venv-peers: onnxruntime-genai and what its model
# builder needs, OpenVINO GenAI, ik_llama.cpp, and llama.cpp: its own programs and its library,
# compiled for this machine from the source package of llama-cpp-python, whose declarations of that
# library are taken, too. Minutes once; every part that is there already is left alone.
set -eu

cd "$(dirname "$0")/.."
VENV=.venv-peers
LLAMA_CPP=llama-cpp-python==0.3.36
PROGRAMS="llama-bench llama-batched-bench llama-perplexity llama-quantize"
STAMP=$VENV/.installed

if ! cmp -s benchmarks/peers.txt "$STAMP"; then
    test -x "$VENV/bin/python" || "${PYTHON:-python3}" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --requirement benchmarks/peers.txt
    cp benchmarks/peers.txt "$STAMP"
fi

# The version and what was built of it: an older build lacks some.
BUILT="$LLAMA_CPP $PROGRAMS libllama"
if [ "$(cat "$VENV/llama.cpp/version" 2>/dev/null)" != "$BUILT" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$VENV/bin/python" -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$work" "$LLAMA_CPP"
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
    PATH="$PWD/$VENV/bin:$PATH"
    export PATH
    # Nothing is fetched, neither by the build nor by the programs. The programs find the libraries beside them.
    cmake -G Ninja -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$work/build" \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON -DGGML_NATIVE=ON \
        -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    # shellcheck disable=SC2086 - a list
    cmake --build "$work/build" --target $PROGRAMS
    rm -rf "$VENV/llama.cpp"
    mkdir -p "$VENV/llama.cpp"
    for program in $PROGRAMS; do
        cp "$work/build/bin/$program" "$VENV/llama.cpp/"
    done
    cp -a "$work"/build/bin/*.so* "$VENV/llama.cpp/"
    cp -R "$work"/llama_cpp_python-*/llama_cpp "$VENV/llama.cpp/"
    # The server embeds a web page that the source package may lack; the benchmarks do without it.
    if cmake --build "$work/build" --target llama-server; then
        cp -a "$work"/build/bin/llama-server "$work"/build/bin/*.so* "$VENV/llama.cpp/"
    else
        echo "bench-peers: llama-server cannot be built from this source package; benchmarks.server goes without" >&2
    fi
    echo "$BUILT" >"$VENV/llama.cpp/version"
fi
