# cnnviz in a container. CPU:
#   docker build -t cnnviz .
# CUDA, with the wheel index that pytorch.org names for your driver, and --gpus all when it runs:
#   docker build -t cnnviz --build-arg TORCH_INDEX=URL .
FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
# torch first and by itself: this layer is the large one, and stays when cnnviz changes.
RUN python -m venv /opt/cnnviz && /opt/cnnviz/bin/pip install --no-cache-dir \
    ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.13,<2.14" "torchvision>=0.28,<0.29"
WORKDIR /src
COPY pyproject.toml README.md LICENSE app.py ./
COPY .streamlit/config.toml .streamlit/config.toml
COPY pages pages
COPY cnnviz_core cnnviz_core
RUN /opt/cnnviz/bin/pip install --no-cache-dir ".[auth,lite]"

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home cnnviz && install -d -o cnnviz -g cnnviz /data
COPY --from=build /opt/cnnviz /opt/cnnviz
USER 10001
# Weights that people download are kept in the volume, too. Streamlit would ask an outside host for this machine's
# address unless it is given one.
ENV PATH=/opt/cnnviz/bin:$PATH \
    CNNVIZ_DATA_DIR=/data \
    CNNVIZ_LOG=json \
    HF_HOME=/data/weights/huggingface \
    TORCH_HOME=/data/weights/torch \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STREAMLIT_SERVER_PORT=8501 \
    STREAMLIT_SERVER_HEADLESS=true \
    STREAMLIT_BROWSER_SERVER_ADDRESS=localhost
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["cnnviz-health"]
CMD ["cnnviz"]
