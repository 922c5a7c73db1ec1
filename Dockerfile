# A model behind one port, on the CPU. Build it in a clone that has a champion:
#
#   make wheel
#   docker build -t petseg .
#   docker run --rm -p 8000:8000 petseg                  # the demo page on http://localhost:8000
#
# PETSEG_SERVE=model serves MLflow's scoring protocol instead: POST /invocations.

FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
WORKDIR /srv
COPY requirements.lock dist/petseg-*.whl ./
RUN python -m pip install --require-hashes -r requirements.lock \
    && python -m pip install --no-deps petseg-*.whl \
    && rm petseg-*.whl requirements.lock \
    && useradd --create-home --shell /usr/sbin/nologin petseg
USER petseg
WORKDIR /home/petseg
EXPOSE 8000
CMD ["petseg", "demo", "--host", "0.0.0.0", "--port", "8000", "--no-open"]
