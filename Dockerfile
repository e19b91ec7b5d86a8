# The batch endpoint as an image; docs/deployment.md says how to run it.
FROM node:24-slim
ENV NODE_ENV=production BATCH_HOST=0.0.0.0 WORK_DIR=/work
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts && npm cache clean --force
COPY models models
COPY src src
RUN install -d -o node -g node /work
USER node
EXPOSE 8788
# Node itself, so that SIGTERM reaches it: attempts then hand back what they have.
CMD ["node", "src/batch.ts"]
