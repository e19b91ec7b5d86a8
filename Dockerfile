# Two images. The batch endpoint is the default, which a deployment builds (docs/deployment.md). The whole server is
# `docker build --target server -t graft .` (docs/self-hosting.md).
FROM node:24-slim AS base
ENV NODE_ENV=production
WORKDIR /app
COPY package.json package-lock.json ./

FROM base AS build
ENV WRANGLER_SEND_METRICS=false
RUN npm ci --omit=dev --ignore-scripts
COPY wrangler.toml ./
COPY docs/errors docs/errors
COPY models models
COPY src src
RUN npm run build

FROM base AS server
ENV HOST=0.0.0.0 STATE_DIR=/state BUNDLE_DIR=/app/dist
COPY --from=build /app ./
RUN install -d -o node -g node -m 700 /state
USER node
VOLUME /state
EXPOSE 8787
HEALTHCHECK --start-period=60s --timeout=5s CMD ["node", "src/server/health-check.ts"]
CMD ["node", "src/serve.ts"]

# Of the packages only what the endpoint uses: the optional ones are the runtime's and the bundler's programs.
FROM base AS batch-packages
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM base AS batch
ENV BATCH_HOST=0.0.0.0 WORK_DIR=/work
COPY --from=batch-packages /app/node_modules node_modules
COPY models models
COPY src src
RUN install -d -o node -g node /work
USER node
EXPOSE 8788
# Node itself, so that SIGTERM reaches it: attempts then hand back what they have.
CMD ["node", "src/batch.ts"]
