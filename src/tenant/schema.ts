/**
 * The ledger's tables, as numbered migrations. Each runs once, in order, in one transaction, and is never edited.
 * STORAGE.md says who writes each table and what losing it costs.
 *
 * `staged` is clustered by import, and `examples` by dataset, so listing, export and training read one range. Times are
 * Unix seconds. `due.run_at`, `deliveries.due_at`, `delivery_attempts.started_at` and times in JSON are in milliseconds.
 */
export const migrations: readonly string[] = [
  `
  CREATE TABLE api_keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL, expires_at INTEGER, revoked_at INTEGER
  );
  CREATE TABLE datasets (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, task TEXT NOT NULL, modality TEXT NOT NULL,
    dimensions INTEGER, out_of_scope_label TEXT, revision INTEGER NOT NULL, next_position INTEGER NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
  );
  CREATE TABLE examples (
    dataset INTEGER NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL, input_hash BLOB NOT NULL,
    group_hash BLOB NOT NULL, content_hash BLOB NOT NULL, input NOT NULL, target TEXT NOT NULL, created_at INTEGER NOT NULL,
    PRIMARY KEY (dataset, position)
  ) WITHOUT ROWID;
  CREATE UNIQUE INDEX examples_id ON examples (dataset, id);
  CREATE INDEX examples_content ON examples (dataset, content_hash);
  CREATE INDEX examples_target ON examples (dataset, target);
  CREATE TABLE imports (id TEXT PRIMARY KEY, dataset INTEGER NOT NULL, created_at INTEGER NOT NULL);
  CREATE TABLE staged (
    import TEXT NOT NULL, line INTEGER NOT NULL, id TEXT, input_hash BLOB NOT NULL, group_hash BLOB NOT NULL,
    content_hash BLOB NOT NULL, input NOT NULL, target TEXT NOT NULL, PRIMARY KEY (import, line)
  ) WITHOUT ROWID;
  CREATE TABLE blocks (
    dataset INTEGER NOT NULL, backbone TEXT NOT NULL, block INTEGER NOT NULL, key TEXT NOT NULL,
    PRIMARY KEY (dataset, backbone, block)
  ) WITHOUT ROWID;
  CREATE TABLE heads (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, active_version INTEGER, last_version INTEGER NOT NULL
  );
  CREATE TABLE head_versions (
    head INTEGER NOT NULL, version INTEGER NOT NULL, record TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (head, version)
  ) WITHOUT ROWID;
  CREATE INDEX head_versions_sha256 ON head_versions (sha256);
  CREATE TABLE due (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, ref TEXT NOT NULL, run_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, UNIQUE (kind, ref)
  );
  CREATE INDEX due_run_at ON due (run_at);
  CREATE TABLE idempotency (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER, body TEXT, started_at INTEGER NOT NULL
  );
  `,
  "CREATE INDEX blocks_key ON blocks (key)",
  "ALTER TABLE idempotency ADD COLUMN claim TEXT; CREATE INDEX idempotency_claim ON idempotency (claim)",
  `
  CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, filename TEXT NOT NULL, bytes INTEGER NOT NULL,
    task TEXT NOT NULL, modality TEXT NOT NULL, dimensions INTEGER, examples INTEGER NOT NULL, labels INTEGER NOT NULL,
    created_at INTEGER NOT NULL
  )
  `,
  `
  CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, spec TEXT NOT NULL,
    state TEXT NOT NULL, created_at INTEGER NOT NULL
  );
  CREATE INDEX jobs_status ON jobs (status, number);
  CREATE TABLE job_events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT, record TEXT NOT NULL,
    created_at INTEGER NOT NULL, UNIQUE (job, kind, key)
  );
  CREATE INDEX job_events_job ON job_events (job, kind, number);
  CREATE TABLE batch_messages (id TEXT PRIMARY KEY, received_at INTEGER NOT NULL);
  CREATE INDEX batch_messages_received_at ON batch_messages (received_at);
  `,
  `
  CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, data TEXT NOT NULL,
    created_at INTEGER NOT NULL
  );
  CREATE INDEX events_created_at ON events (created_at);
  `,
  `
  CREATE TABLE webhook_endpoints (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, url TEXT NOT NULL, events TEXT NOT NULL,
    description TEXT, enabled INTEGER NOT NULL, disabled_reason TEXT, secret TEXT NOT NULL, previous_secret TEXT,
    previous_until INTEGER NOT NULL DEFAULT 0, health TEXT NOT NULL, created_at INTEGER NOT NULL
  );
  CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, event INTEGER NOT NULL, endpoint INTEGER NOT NULL,
    status TEXT NOT NULL, attempt INTEGER NOT NULL, before INTEGER NOT NULL, live INTEGER NOT NULL, due_at INTEGER,
    UNIQUE (event, endpoint)
  );
  CREATE INDEX deliveries_endpoint ON deliveries (endpoint, number);
  CREATE INDEX deliveries_pending ON deliveries (endpoint, due_at) WHERE status = 'pending';
  CREATE INDEX deliveries_failed ON deliveries (endpoint, number) WHERE status = 'failed';
  CREATE TABLE delivery_attempts (
    delivery INTEGER NOT NULL, attempt INTEGER NOT NULL, started_at INTEGER NOT NULL, milliseconds INTEGER,
    status INTEGER, answer TEXT, error TEXT, PRIMARY KEY (delivery, attempt)
  ) WITHOUT ROWID;
  `,
  `
  ALTER TABLE examples ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
  CREATE INDEX examples_revision ON examples (dataset, revision);
  CREATE INDEX examples_input ON examples (dataset, input_hash);
  ALTER TABLE head_versions ADD COLUMN dataset INTEGER;
  UPDATE head_versions SET dataset = (
    SELECT id FROM datasets WHERE name = json_extract(record, '$.dataset.name') AND created_at <= json_extract(record, '$.created_at')
  );
  CREATE INDEX head_versions_dataset ON head_versions (dataset);
  CREATE TABLE inbound_hooks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, token_hash TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL, secret TEXT, created_at INTEGER NOT NULL
  );
  CREATE TABLE inbound_messages (
    hook INTEGER NOT NULL, message TEXT NOT NULL, answer TEXT NOT NULL, expires_at INTEGER NOT NULL,
    PRIMARY KEY (hook, message)
  ) WITHOUT ROWID;
  CREATE INDEX inbound_messages_expires_at ON inbound_messages (expires_at);
  CREATE TABLE head_learning (head INTEGER PRIMARY KEY, policy TEXT, state TEXT NOT NULL);
  CREATE TABLE judged_examples (
    number INTEGER PRIMARY KEY AUTOINCREMENT, head INTEGER NOT NULL, version INTEGER NOT NULL, hit INTEGER NOT NULL
  );
  CREATE INDEX judged_examples_head ON judged_examples (head, number);
  `,
  `
  CREATE TABLE backbones (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, revision TEXT NOT NULL, base TEXT NOT NULL,
    base_revision TEXT NOT NULL, job TEXT NOT NULL, sha256 TEXT, bytes INTEGER NOT NULL, parameters INTEGER NOT NULL,
    dimensions INTEGER NOT NULL, created_at INTEGER NOT NULL, UNIQUE (id, revision)
  );
  CREATE INDEX backbones_id ON backbones (id, number);
  CREATE INDEX backbones_sha256 ON backbones (sha256);
  CREATE INDEX head_versions_backbone ON head_versions (json_extract(record, '$.backbone.id'), json_extract(record, '$.backbone.revision'));
  INSERT OR REPLACE INTO backbones (id, revision, base, base_revision, job, bytes, parameters, dimensions, created_at)
  SELECT
    'ft:' || json_extract(spec, '$.backbone.id') || ':' || coalesce(json_extract(spec, '$.suffix'), id), json_extract(spec, '$.backbone.revision'),
    json_extract(spec, '$.backbone.id'), json_extract(spec, '$.backbone.revision'), id, 0, 0, json_extract(spec, '$.dimensions'),
    json_extract(state, '$.finishedAt') / 1000
  FROM jobs WHERE status = 'succeeded' AND json_extract(spec, '$.backbone.id') IS NOT NULL ORDER BY number
  `,
  "ALTER TABLE ledger ADD COLUMN secrets_key TEXT",
  "ALTER TABLE events ADD COLUMN hops INTEGER NOT NULL DEFAULT 0",
  `
  CREATE TABLE deleted_positions (
    list TEXT NOT NULL, id TEXT NOT NULL, position INTEGER NOT NULL, deleted_at INTEGER NOT NULL, PRIMARY KEY (list, id)
  ) WITHOUT ROWID;
  CREATE INDEX deleted_positions_deleted_at ON deleted_positions (deleted_at);
  CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('api_keys', OLD.id, OLD.rowid, unixepoch());
  END;
  CREATE TRIGGER datasets_deleted AFTER DELETE ON datasets BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('datasets', OLD.name, OLD.id, unixepoch());
  END;
  CREATE TRIGGER heads_deleted AFTER DELETE ON heads BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('heads', OLD.name, OLD.id, unixepoch());
  END;
  CREATE TRIGGER files_deleted AFTER DELETE ON files BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('files', OLD.id, OLD.number, unixepoch());
  END;
  CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('jobs', OLD.id, OLD.number, unixepoch());
  END;
  CREATE TRIGGER webhook_endpoints_deleted AFTER DELETE ON webhook_endpoints BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('webhook_endpoints', OLD.id, OLD.number, unixepoch());
  END;
  CREATE TRIGGER deliveries_deleted AFTER DELETE ON deliveries BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('deliveries', OLD.id, OLD.number, unixepoch());
  END;
  CREATE TRIGGER inbound_hooks_deleted AFTER DELETE ON inbound_hooks BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('inbound_hooks', OLD.id, OLD.number, unixepoch());
  END;
  `,
  "ALTER TABLE api_keys ADD COLUMN origins TEXT",
  // Imports that were under way have lost their connection. `datasets.examples` is null until they are counted.
  `
  DROP TABLE staged;
  DROP TABLE imports;
  CREATE TABLE imports (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, dataset INTEGER NOT NULL, created_at INTEGER NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0, rows_with_id INTEGER NOT NULL DEFAULT 0, new_rows INTEGER NOT NULL DEFAULT 0,
    new_labels INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0, superseded INTEGER NOT NULL DEFAULT 0,
    added INTEGER NOT NULL DEFAULT 0, updated INTEGER NOT NULL DEFAULT 0, revision INTEGER, pass INTEGER NOT NULL DEFAULT 1, line INTEGER NOT NULL DEFAULT 0
  );
  CREATE INDEX imports_dataset ON imports (dataset);
  CREATE TABLE staged (
    import INTEGER NOT NULL, line INTEGER NOT NULL, id TEXT, input_hash BLOB NOT NULL, group_hash BLOB NOT NULL,
    content_hash BLOB NOT NULL, input NOT NULL, target TEXT NOT NULL, PRIMARY KEY (import, line)
  ) WITHOUT ROWID;
  CREATE TABLE staged_labels (import INTEGER NOT NULL, label TEXT NOT NULL, PRIMARY KEY (import, label)) WITHOUT ROWID;
  DROP INDEX examples_content;
  DROP INDEX examples_input;
  CREATE INDEX examples_hashes ON examples (dataset, input_hash, content_hash);
  ALTER TABLE datasets ADD COLUMN examples INTEGER;
  ALTER TABLE datasets ADD COLUMN pending_revision INTEGER;
  ALTER TABLE datasets ADD COLUMN history_bytes INTEGER NOT NULL DEFAULT 0;
  CREATE TABLE label_counts (
    dataset INTEGER NOT NULL, label TEXT NOT NULL, examples INTEGER NOT NULL, pending INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (dataset, label)
  ) WITHOUT ROWID;
  CREATE TABLE revisions (
    dataset INTEGER NOT NULL, revision INTEGER NOT NULL, examples INTEGER, created_at INTEGER NOT NULL,
    PRIMARY KEY (dataset, revision)
  ) WITHOUT ROWID;
  INSERT INTO revisions SELECT id, revision, NULL, updated_at FROM datasets;
  CREATE TABLE past_examples (
    dataset INTEGER NOT NULL, position INTEGER NOT NULL, removed INTEGER NOT NULL, revision INTEGER NOT NULL,
    id TEXT NOT NULL, input_hash BLOB, group_hash BLOB, content_hash BLOB, created_at INTEGER NOT NULL, target TEXT, input,
    PRIMARY KEY (dataset, position, removed)
  ) WITHOUT ROWID;
  CREATE INDEX past_examples_removed ON past_examples (dataset, removed);
  CREATE INDEX past_examples_id ON past_examples (dataset, id);
  ALTER TABLE head_versions ADD COLUMN revision INTEGER;
  CREATE INDEX head_versions_revision ON head_versions (dataset, revision);
  CREATE INDEX jobs_dataset ON jobs (json_extract(spec, '$.source.id'), json_extract(spec, '$.source.revision'));
  `,
  `
  CREATE TABLE edits (
    dataset INTEGER PRIMARY KEY, edit TEXT NOT NULL, claim TEXT, below INTEGER NOT NULL,
    updated INTEGER NOT NULL DEFAULT 0, deleted INTEGER NOT NULL DEFAULT 0
  )
  `,
  "ALTER TABLE idempotency ADD COLUMN reference TEXT",
  // data/blocks.ts says what `embedded` is: a digit for each of the 1,024 positions of a block.
  `
  ALTER TABLE blocks ADD COLUMN embedded TEXT;
  ALTER TABLE blocks ADD COLUMN expires_at INTEGER;
  CREATE INDEX blocks_block ON blocks (dataset, block);
  CREATE TRIGGER examples_input_replaced AFTER UPDATE OF input_hash ON examples WHEN OLD.input_hash <> NEW.input_hash BEGIN
    UPDATE blocks SET embedded = substr(embedded, 1, OLD.position % 1024) || '0' || substr(embedded, OLD.position % 1024 + 2)
    WHERE dataset = OLD.dataset AND block = OLD.position / 1024;
  END;
  CREATE TRIGGER examples_deleted AFTER DELETE ON examples BEGIN
    UPDATE blocks SET embedded = substr(embedded, 1, OLD.position % 1024) || '0' || substr(embedded, OLD.position % 1024 + 2)
    WHERE dataset = OLD.dataset AND block = OLD.position / 1024;
  END;
  `,
  "CREATE INDEX revisions_created_at ON revisions (created_at)",
  `
  CREATE TABLE evaluations (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, head INTEGER NOT NULL, version INTEGER NOT NULL,
    other_version INTEGER, dataset INTEGER NOT NULL, revision INTEGER NOT NULL, record TEXT NOT NULL,
    bytes INTEGER NOT NULL, created_at INTEGER NOT NULL
  );
  CREATE INDEX evaluations_head ON evaluations (head, number);
  CREATE INDEX evaluations_dataset ON evaluations (dataset, revision);
  CREATE TABLE evaluation_errors (
    run INTEGER NOT NULL, first_position INTEGER NOT NULL, errors TEXT NOT NULL, PRIMARY KEY (run, first_position)
  );
  CREATE TRIGGER evaluations_deleted AFTER DELETE ON evaluations BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('evaluations', OLD.id, OLD.number, unixepoch());
  END;
  `,
  `
  CREATE TABLE head_traffic (head INTEGER PRIMARY KEY, split TEXT NOT NULL);
  CREATE TABLE traffic_counts (
    head INTEGER NOT NULL, version INTEGER NOT NULL, day INTEGER NOT NULL, counts TEXT NOT NULL,
    PRIMARY KEY (head, version, day)
  ) WITHOUT ROWID;
  CREATE INDEX traffic_counts_day ON traffic_counts (day);
  CREATE TABLE input_shifts (
    head INTEGER NOT NULL, version INTEGER NOT NULL, state TEXT NOT NULL, PRIMARY KEY (head, version)
  ) WITHOUT ROWID;
  CREATE TABLE count_writers (writer TEXT PRIMARY KEY, batch INTEGER NOT NULL, written_at INTEGER NOT NULL) WITHOUT ROWID;
  CREATE INDEX count_writers_written_at ON count_writers (written_at);
  `,
  `
  CREATE TABLE recommendations (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, dataset INTEGER NOT NULL, record TEXT NOT NULL,
    bytes INTEGER NOT NULL
  );
  CREATE INDEX recommendations_dataset ON recommendations (dataset, number);
  CREATE TRIGGER recommendations_deleted AFTER DELETE ON recommendations BEGIN
    INSERT OR REPLACE INTO deleted_positions VALUES ('recommendations', OLD.id, OLD.number, unixepoch());
  END;
  `,
  `
  CREATE TABLE head_capture (head INTEGER PRIMARY KEY, setting TEXT NOT NULL);
  CREATE TABLE captured_inputs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, head INTEGER NOT NULL, version INTEGER NOT NULL, group_hash BLOB NOT NULL,
    input NOT NULL, prediction TEXT NOT NULL, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    UNIQUE (head, group_hash)
  );
  CREATE INDEX captured_inputs_head ON captured_inputs (head, number, bytes);
  CREATE INDEX captured_inputs_expires_at ON captured_inputs (expires_at);
  `,
  `
  CREATE TABLE issue_lists (
    dataset INTEGER PRIMARY KEY, revision INTEGER NOT NULL, backbone TEXT NOT NULL, noise REAL NOT NULL, created_at INTEGER NOT NULL
  );
  CREATE TABLE issues (
    dataset INTEGER NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, position INTEGER NOT NULL,
    related INTEGER, target TEXT, score REAL NOT NULL, PRIMARY KEY (dataset, number)
  ) WITHOUT ROWID;
  CREATE UNIQUE INDEX issues_id ON issues (dataset, id);
  CREATE TABLE resolved_issues (
    dataset INTEGER NOT NULL, id TEXT NOT NULL, position INTEGER NOT NULL, action TEXT NOT NULL, resolved_at INTEGER NOT NULL,
    PRIMARY KEY (dataset, id)
  ) WITHOUT ROWID;
  CREATE INDEX resolved_issues_position ON resolved_issues (dataset, position);
  CREATE TRIGGER examples_deleted_with_issues AFTER DELETE ON examples BEGIN
    DELETE FROM resolved_issues WHERE dataset = OLD.dataset AND position = OLD.position;
  END;
  `,
  `
  CREATE TABLE version_vectors (
    number INTEGER PRIMARY KEY AUTOINCREMENT, dataset INTEGER NOT NULL, head INTEGER NOT NULL, version INTEGER NOT NULL,
    positions BLOB NOT NULL
  );
  CREATE INDEX version_vectors_dataset ON version_vectors (dataset, number);
  CREATE INDEX version_vectors_head ON version_vectors (head);
  `,
];

export interface Identity extends Record<string, SqlStorageValue> {
  tenant: string;
  name: string | null;
  status: "active" | "suspended" | "deleting";
  version: number;
}

/** Whose ledger this is; null if none was created, or all was deleted. Reading creates nothing. */
export function readIdentity(sql: SqlStorage): Identity | null {
  const exists = sql.exec("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'ledger'").toArray().length > 0;
  if (!exists) return null;
  return sql.exec<Identity>("SELECT tenant, name, status, version FROM ledger").toArray()[0] ?? null;
}

/** Creates the ledger of a tenant. Run again, it only changes the name. */
export function createLedger(storage: DurableObjectStorage, tenant: string, name: string | null): void {
  storage.transactionSync(() => {
    storage.sql.exec(
      "CREATE TABLE IF NOT EXISTS ledger (one INTEGER PRIMARY KEY CHECK (one = 1), tenant TEXT NOT NULL, name TEXT, status TEXT NOT NULL, version INTEGER NOT NULL)",
    );
    storage.sql.exec(
      "INSERT INTO ledger (one, tenant, name, status, version) VALUES (1, ?, ?, 'active', 0) ON CONFLICT (one) DO UPDATE SET name = excluded.name",
      tenant,
      name,
    );
  });
  migrate(storage);
}

/** Brings a ledger's tables to the newest version. A ledger of a newer Worker is left as it is. */
export function migrate(storage: DurableObjectStorage, steps: readonly string[] = migrations): void {
  const version = readIdentity(storage.sql)?.version ?? 0;
  steps.slice(version).forEach((statements, index) => {
    storage.transactionSync(() => {
      storage.sql.exec(statements);
      storage.sql.exec("UPDATE ledger SET version = ?", version + index + 1);
    });
  });
}
