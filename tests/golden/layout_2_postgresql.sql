-- A database of layout 2 as bench made it on PostgreSQL, with one run; do not edit.
CREATE TABLE bench_layout (
  version INTEGER NOT NULL
);
CREATE TABLE locks (
  suite VARCHAR(80) NOT NULL,
  token VARCHAR(32) NOT NULL,
  host VARCHAR(255) NOT NULL,
  pid INTEGER NOT NULL,
  process_started FLOAT NOT NULL,
  since VARCHAR(40) NOT NULL,
  PRIMARY KEY (suite)
);
CREATE TABLE prediction_ids (
  ids_digest VARCHAR(64) NOT NULL,
  ids BYTEA NOT NULL,
  PRIMARY KEY (ids_digest)
);
CREATE TABLE runs (
  id SERIAL NOT NULL,
  scope VARCHAR(32) NOT NULL,
  suite VARCHAR(80) NOT NULL,
  note TEXT NOT NULL,
  started_at VARCHAR(40) NOT NULL,
  PRIMARY KEY (id),
  UNIQUE (scope)
);
CREATE INDEX ix_runs_suite ON runs (suite);
CREATE TABLE memos (
  run_id INTEGER NOT NULL,
  device_class VARCHAR(200) NOT NULL,
  request_key VARCHAR(128) NOT NULL,
  key VARCHAR(128) NOT NULL,
  PRIMARY KEY (run_id, device_class, request_key),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE records (
  id SERIAL NOT NULL,
  run_id INTEGER NOT NULL,
  cell_digest VARCHAR(64) NOT NULL,
  key VARCHAR(128),
  request_key VARCHAR(128) NOT NULL,
  device_class VARCHAR(200) NOT NULL,
  status VARCHAR(16) NOT NULL,
  started_at VARCHAR(40) NOT NULL,
  version INTEGER NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE INDEX records_by_key ON records (key);
CREATE INDEX records_by_request_key ON records (request_key);
CREATE INDEX records_of_cell ON records (run_id, cell_digest);
CREATE TABLE predictions (
  record_id INTEGER NOT NULL,
  split VARCHAR(8) NOT NULL,
  num_examples INTEGER NOT NULL,
  ids_digest VARCHAR(64) NOT NULL,
  labels BYTEA NOT NULL,
  predicted BYTEA NOT NULL,
  true_probability BYTEA NOT NULL,
  top5 BYTEA NOT NULL,
  PRIMARY KEY (record_id, split),
  FOREIGN KEY(record_id) REFERENCES records (id),
  FOREIGN KEY(ids_digest) REFERENCES prediction_ids (ids_digest)
);
CREATE TABLE summaries (
  record_id INTEGER NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (record_id),
  FOREIGN KEY(record_id) REFERENCES records (id)
);
INSERT INTO bench_layout (version) VALUES (2);
INSERT INTO runs (scope, suite, note, started_at)
VALUES ('00112233445566778899aabbccddeeff', 'vision', '', '2026-01-02T03:04:05+00:00');
