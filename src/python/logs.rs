//! From the core's `tracing` events to Python's `logging`.
//!
//! Native threads never take the GIL to log: events go into a bounded buffer, which Python's own
//! threads empty whenever they come through the door ([`super::enter`]).

use crate::io::generation::PerProcess;
use crate::io::lock::Mutex;
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Events that are kept for Python; the oldest go first.
const KEPT: usize = 1000;

struct Record {
    level: u8,
    logger: String,
    text: String,
}

static PENDING: AtomicBool = AtomicBool::new(false);
/// A forked child starts with an empty one: a thread of its parent may have held the lock.
static RECORDS: PerProcess<Mutex<VecDeque<Record>>> = PerProcess::new();

fn records() -> MutexGuard<'static, VecDeque<Record>> {
    RECORDS.get_or(Mutex::default).lock()
}

/// Sends the core's events here. Called when the module is loaded; a second call changes nothing.
pub fn install() {
    let _ = tracing::subscriber::set_global_default(Buffer);
}

/// Python's number for a level.
fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        _ => 10,
    }
}

/// The logger: `kombu.transport.redis` for what `transports/redis` says, and so on.
fn logger(target: &str) -> String {
    let path = target.strip_prefix("kombu_rs::").unwrap_or(target);
    let mut parts = path.split("::");
    match (parts.next(), parts.next()) {
        (Some("transports"), Some(transport)) => format!("kombu.transport.{transport}"),
        (Some(kombu), _) if kombu.starts_with("kombu") => kombu.to_owned(),
        (Some(room), _) => format!("kombu.{room}"),
        (None, _) => "kombu".to_owned(),
    }
}

struct Buffer;

impl Subscriber for Buffer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1) // the core has no spans
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        let record = Record {
            level: number(*metadata.level()),
            logger: logger(metadata.target()),
            text: text.0,
        };
        let mut kept = records();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(record);
        drop(kept);
        PENDING.store(true, Ordering::Release);
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// The message, then the other fields as `name=value`.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

/// Hands what was logged to Python's `logging`.
///
/// # Errors
/// None in practice: what a broken logging set-up raises.
pub fn flush(py: Python<'_>) -> PyResult<()> {
    if !PENDING.swap(false, Ordering::AcqRel) {
        return Ok(());
    }
    let records = std::mem::take(&mut *records());
    let logging = py.import("logging")?;
    for Record { level, logger, text } in records {
        let logger = logging.call_method1("getLogger", (logger,))?;
        logger.call_method1("log", (level, "%s", text))?;
    }
    Ok(())
}
