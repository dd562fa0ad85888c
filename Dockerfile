# depers without an installation:
#
#   docker build -t depers .                      # for CPUs
#   docker build -t depers:gpu --build-arg GPU=1 .
#   docker run --rm --shm-size 2g -u "$(id -u)" -v "$PWD:/data" depers anonymize photos safe --weights best.pt
#   docker run --gpus all --rm --shm-size 2g -u "$(id -u)" -v "$PWD:/data" depers:gpu detect photos boxes --weights …
#
# The lock holds torch with the CUDA libraries it needs, so a GPU wants nothing but the host's driver and NVIDIA's
# container toolkit. For CPUs, uv takes torch from PyTorch's own builds instead, which come without CUDA: 3 GB less.

FROM python:3.11-slim-bookworm AS build
ARG GPU=0
ENV VIRTUAL_ENV=/opt/venv
WORKDIR /src
RUN pip install --no-cache-dir uv==0.13.9 && uv venv "$VIRTUAL_ENV"

# The lock is complete, so it is installed as it stands (see Makefile); this layer stays until the lock changes.
COPY requirements.lock ./
RUN if [ "$GPU" = 1 ]; then cp requirements.lock image.lock; \
    else export UV_TORCH_BACKEND=cpu; grep -Ev '^(cuda-|triton=|nvidia-[^m])' requirements.lock > image.lock; fi \
    && uv pip install --no-cache --no-deps --compile-bytecode -r image.lock

COPY pyproject.toml README.md LICENSE ./
COPY depers depers
RUN uv pip install --no-cache --no-deps --no-build-isolation --compile-bytecode .

FROM python:3.11-slim-bookworm
RUN useradd --uid 1000 --no-create-home depers
COPY --from=build /opt/venv /opt/venv
# Whoever `docker run --user` names may have no name and no home, but Ray and torch ask for both.
ENV PATH=/opt/venv/bin:$PATH USER=depers HOME=/tmp
USER 1000
WORKDIR /data
ENTRYPOINT ["depers"]
CMD ["--help"]
