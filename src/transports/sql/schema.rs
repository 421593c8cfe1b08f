//! Kombu's tables, and every statement that runs on them.

use rusqlite::Connection;

/// The statements for one pair of table names.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) queue_table: String,
    pub(super) message_table: String,
    create: String,
    /// `name` -> `id`
    pub(super) find_queue: String,
    pub(super) insert_queue: String,
    pub(super) delete_queue: String,
    /// `payload, queue id`
    pub(super) insert_message: String,
    /// `queue` -> a row when something is ready
    pub(super) any_ready: String,
    /// `queue, limit` -> `id, payload`, the next ones first
    pub(super) select_ready: String,
    /// `owner, id`
    pub(super) claim: String,
    /// `id`: a message taken with `no_ack`
    pub(super) take: String,
    /// `id`: a message that cannot be read is set aside
    pub(super) set_aside: String,
    /// `id, owner`
    pub(super) settle: String,
    /// `id, owner` -> `payload`
    pub(super) claimed_payload: String,
    /// `id, owner`
    pub(super) unclaim: String,
    /// `id, owner, payload`
    pub(super) unclaim_changed: String,
    /// `id, owner, payload`: a copy at the end of the queue
    pub(super) append_changed: String,
    /// -> `owner`
    pub(super) owners: String,
    /// `owner, limit` -> `id, payload`
    pub(super) claimed_by: String,
    /// `new owner, old owner`
    pub(super) rename_owner: String,
    /// `queue`
    pub(super) count_ready: String,
    /// `queue`: ready ones, and what stock Kombu took and left behind
    pub(super) purge: String,
    /// `queue id`
    pub(super) drop_messages: String,
}

/// A quoted SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Schema {
    /// The statements for these tables.
    pub(super) fn new(queue_table: &str, message_table: &str) -> Self {
        let queues = quoted(queue_table);
        let messages = quoted(message_table);
        let index = |suffix: &str| quoted(&format!("ix_{message_table}_{suffix}"));
        let queue_id = format!("(SELECT id FROM {queues} WHERE name = ?1)");
        Self {
            create: format!(
                // Tables, and the index on (timestamp, id), as stock Kombu makes them. Its indexes
                // on `timestamp` and `visible` alone serve no query better than these and would
                // double the pages that a message dirties. The last two are ours, so that neither
                // ready messages of other queues nor what stock Kombu leaves behind is ever
                // scanned; stock Kombu keeps them up, and `visible != 0` is how it asks, too.
                "CREATE TABLE IF NOT EXISTS {queues} (
                    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
                    name VARCHAR(200),
                    UNIQUE (name)
                );
                CREATE TABLE IF NOT EXISTS {messages} (
                    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
                    visible BOOLEAN,
                    timestamp DATETIME,
                    payload TEXT NOT NULL,
                    version SMALLINT NOT NULL,
                    queue_id INTEGER,
                    CONSTRAINT \"FK_kombu_message_queue\"
                        FOREIGN KEY(queue_id) REFERENCES {queues} (id)
                );
                CREATE INDEX IF NOT EXISTS ix_kombu_message_timestamp_id
                    ON {messages} (timestamp, id);
                CREATE INDEX IF NOT EXISTS {ready}
                    ON {messages} (queue_id, timestamp, id) WHERE visible != 0;
                CREATE INDEX IF NOT EXISTS {claimed} ON {messages} (version) WHERE version < 0;",
                ready = index("ready"),
                claimed = index("claimed"),
            ),
            find_queue: format!("SELECT id FROM {queues} WHERE name = ?1"),
            insert_queue: format!("INSERT OR IGNORE INTO {queues} (name) VALUES (?1)"),
            delete_queue: format!("DELETE FROM {queues} WHERE id = ?1"),
            insert_message: format!(
                "INSERT INTO {messages} (visible, timestamp, payload, version, queue_id)
                 VALUES (1, NULL, ?1, 1, ?2)"
            ),
            any_ready: format!(
                "SELECT 1 FROM {messages} WHERE queue_id = {queue_id} AND visible != 0 LIMIT 1"
            ),
            select_ready: format!(
                "SELECT id, payload FROM {messages} WHERE queue_id = {queue_id} AND visible != 0
                 ORDER BY timestamp, id LIMIT ?2"
            ),
            claim: format!("UPDATE {messages} SET visible = 0, version = -?1 WHERE id = ?2"),
            take: format!("DELETE FROM {messages} WHERE id = ?1"),
            set_aside: format!("UPDATE {messages} SET visible = 0, version = 0 WHERE id = ?1"),
            settle: format!("DELETE FROM {messages} WHERE id = ?1 AND version = -?2"),
            claimed_payload: format!(
                "SELECT payload FROM {messages} WHERE id = ?1 AND version = -?2"
            ),
            unclaim: format!(
                "UPDATE {messages} SET visible = 1, version = 1 WHERE id = ?1 AND version = -?2"
            ),
            unclaim_changed: format!(
                "UPDATE {messages} SET visible = 1, version = 1, payload = ?3
                 WHERE id = ?1 AND version = -?2"
            ),
            append_changed: format!(
                "INSERT INTO {messages} (visible, timestamp, payload, version, queue_id)
                 SELECT 1, NULL, ?3, 1, queue_id FROM {messages} WHERE id = ?1 AND version = -?2"
            ),
            owners: format!("SELECT DISTINCT -version FROM {messages} WHERE version < 0"),
            claimed_by: format!(
                "SELECT id, payload FROM {messages} WHERE version < 0 AND version = -?1
                 ORDER BY id LIMIT ?2"
            ),
            rename_owner: format!(
                "UPDATE {messages} SET version = -?1 WHERE version < 0 AND version = -?2"
            ),
            count_ready: format!(
                "SELECT count(*) FROM {messages} WHERE queue_id = {queue_id} AND visible != 0"
            ),
            purge: format!("DELETE FROM {messages} WHERE queue_id = {queue_id} AND visible != 0"),
            drop_messages: format!("DELETE FROM {messages} WHERE queue_id = ?1"),
            queue_table: queue_table.to_owned(),
            message_table: message_table.to_owned(),
        }
    }

    /// Whether both are about the same tables.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.queue_table == other.queue_table && self.message_table == other.message_table
    }

    /// Makes what is missing of the tables and indexes.
    pub(super) fn create(&self, connection: &Connection) -> rusqlite::Result<()> {
        if self.exists(connection)? {
            return Ok(());
        }
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {} COMMIT;", self.create)).inspect_err(
            |_| {
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
            },
        )
    }

    /// Whether our last index is there; it is made in one transaction with all the rest.
    fn exists(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let mut found = connection.prepare(
            "SELECT count(*) FROM sqlite_master
             WHERE (type = 'table' AND name IN (?1, ?2)) OR (type = 'index' AND name = ?3)",
        )?;
        let claimed = format!("ix_{}_claimed", self.message_table);
        found
            .query_row((&self.queue_table, &self.message_table, claimed), |row| {
                row.get::<_, i64>(0)
            })
            .map(|count| count == 3)
    }
}
