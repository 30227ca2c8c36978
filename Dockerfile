FROM python:3.12-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir . && rm -rf /src

RUN useradd --system --no-create-home --uid 10001 tidegate
USER tidegate

# A tidegate.yaml mounted here is found without a flag.
WORKDIR /etc/tidegate
EXPOSE 8080 9464

# The ops listener stays until the process ends, also while it drains and whatever TLS the main port has.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["python", "-c", "\
import http.client, sys; \
connection = http.client.HTTPConnection('127.0.0.1', 9464, timeout=2); \
connection.request('GET', '/health/live'); \
sys.exit(connection.getresponse().status != 200)"]

# Beyond loopback the gateway asks for keys: configure auth.keys, or add --allow-open.
ENTRYPOINT ["tidegate"]
CMD ["serve", "--host", "0.0.0.0"]
