# The demo page, and its HTTP API, behind one port, on the CPU. Build it in a clone that has a champion:
#
#   make wheel
#   docker build -t petseg .
#   docker run --rm -p 127.0.0.1:8000:8000 petseg       # http://localhost:8000
#
# docs/python.md says how a program sends it photos. torch comes with CUDA from where pip looks by default; for a
# small image, give pip the place of torch's CPU wheels: --build-arg PIP_EXTRA_INDEX_URL=...

FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1

WORKDIR /srv/petseg
COPY requirements.lock dist/petseg-*.whl ./
# The versions of the lock, of those packages alone that the demo needs.
RUN sed -n 's/^\([a-z0-9.-]*==[^ ;]*\).*/\1/p' requirements.lock | sort -u -t= -k1,1 > versions.txt \
    && python -m pip install --constraint versions.txt "$(ls petseg-*.whl)[demo]"
RUN useradd --system --create-home --home-dir /home/petseg petseg

USER petseg
WORKDIR /home/petseg
EXPOSE 8000
CMD ["petseg", "demo", "--host", "0.0.0.0", "--port", "8000", "--no-open"]
