FROM python:3.11-slim

WORKDIR /app
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# First what changes seldom.
COPY requirements.txt .
RUN pip install --require-hashes -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY headwater headwater
COPY service service
COPY ingest ingest
RUN pip install --no-deps .

COPY feature_repo feature_repo
# Numba compiles loops when they are first used, and keeps them here: those that serve and fold, now.
ENV NUMBA_CACHE_DIR=/home/headwater/numba
RUN useradd --create-home headwater \
    && mkdir -p feature_repo/data && chown headwater feature_repo/data
USER headwater
RUN ["python", "-c", "from headwater.online import columns, sinks; from service import counting, single; \
     [part.warm() for part in (columns, sinks, counting, single)]"]

EXPOSE 6566 6580 9465
ENTRYPOINT ["headwater"]
CMD ["--help"]
