//! Claiming what is ready, in turn from several queues.

use super::schema::Schema;
use crate::transport::QueueRef;
use bytes::Bytes;
use rusqlite::Connection;
use std::collections::VecDeque;

/// A row as it was taken.
pub(super) struct Taken {
    pub(super) id: i64,
    pub(super) payload: Bytes,
    /// Which of the queues that were asked for it came from.
    pub(super) queue: usize,
}

/// Claims up to `max` ready messages, one of each queue in turn: none waits for a whole batch of
/// another.
pub(super) fn take_in_turn(
    connection: &Connection,
    schema: &Schema,
    owner: i64,
    queues: &[QueueRef],
    max: usize,
) -> rusqlite::Result<Vec<Taken>> {
    let mut rows: Vec<VecDeque<Taken>> = queues.iter().map(|_| VecDeque::new()).collect();
    let mut open: Vec<usize> = (0..queues.len()).collect();
    let mut left = max;
    // Equal shares; what some queues do not use up is shared out again among the others.
    while left > 0 && !open.is_empty() {
        let share = (left / open.len()).max(1);
        let mut more = Vec::with_capacity(open.len());
        for number in open {
            let wanted = share.min(left);
            if wanted == 0 {
                break;
            }
            let before = rows[number].len();
            take(connection, schema, owner, &queues[number], wanted, |id, payload| {
                rows[number].push_back(Taken { id, payload, queue: number });
            })?;
            let taken = rows[number].len() - before;
            left -= taken;
            if taken == wanted {
                more.push(number);
            }
        }
        open = more;
    }
    let mut mixed = Vec::with_capacity(max - left);
    loop {
        let before = mixed.len();
        mixed.extend(rows.iter_mut().filter_map(VecDeque::pop_front));
        if mixed.len() == before {
            return Ok(mixed);
        }
    }
}

fn take(
    connection: &Connection,
    schema: &Schema,
    owner: i64,
    queue: &QueueRef,
    max: usize,
    mut found: impl FnMut(i64, Bytes),
) -> rusqlite::Result<()> {
    let mut ids = Vec::new();
    let mut select = connection.prepare_cached(&schema.select_ready)?;
    let mut rows = select.query((&*queue.name, max as i64))?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let payload = row.get_ref(1)?.as_bytes().unwrap_or_default();
        found(id, Bytes::copy_from_slice(payload));
        ids.push(id);
    }
    drop(rows);
    if queue.no_ack {
        let mut take = connection.prepare_cached(&schema.take)?;
        for id in ids {
            take.execute([id])?;
        }
    } else {
        let mut claim = connection.prepare_cached(&schema.claim)?;
        for id in ids {
            claim.execute([owner, id])?;
        }
    }
    Ok(())
}
