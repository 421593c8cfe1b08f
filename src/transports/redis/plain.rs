//! What the scripts do, without scripts: where they are refused, each function here does the work of
//! the script of the same name, out of the same keys and arguments, with the same reply.
//!
//! Single commands cannot do all of it. A message is popped and then claimed, as in stock Kombu: when
//! the process is killed in between the message is lost, so they are taken one by one. (When only the
//! link is lost, or memory is full, the message goes back later: [`super::unsure`].) Nothing waits in
//! a blocking pop. What must not race with others (restoring, replaying, sweeping) watches keys on a link of its
//! own, gives up after some tries, and is done another time; so nobody is held up by a busy broker.
//! What the caller has read a moment ago (requeueing) is moved without looking again: a claim that
//! somebody else restores in that moment comes twice.

use super::error::unexpected;
use super::hand::Hand;
use super::scripts::Script;
use super::session::{ScriptCall, Session};
use super::shared::random_share;
use crate::error::{Error, Result};
use crate::io::task::sleep;
use crate::protocol::resp::{Command, Pipeline, Value};
use bytes::Bytes;
use std::time::Duration;

/// Claims that are restored in one step: few, so that nobody else changes one meanwhile.
const BATCH: usize = 20;
/// How often a step is tried that others get in the way of.
const TRIES: u32 = 10;
/// The pause before the next try is a random part of this.
const PAUSE: Duration = Duration::from_millis(20);

/// Does the work of a script.
///
/// # Errors
/// As [`Session::call`].
pub(super) async fn run(session: &Session, what: &str, call: &ScriptCall) -> Result<Value> {
    let plain = Plain { session, what, keys: &call.keys, args: &call.args };
    match call.script {
        Script::Receive => plain.receive().await,
        Script::Unseen => plain.unseen().await,
        Script::Requeue => plain.requeue().await,
        Script::Expired => plain.expired().await,
        Script::EndTurn => plain.end_turn().await,
        Script::Restore => plain.restore().await,
        Script::Replay => plain.replay().await,
        Script::Renew => plain.renew().await,
        Script::BindExpiring => plain.bind_expiring().await,
        Script::Overdue => plain.overdue().await,
        Script::Sweep => plain.sweep().await,
    }
}

struct Plain<'a> {
    session: &'a Session,
    what: &'a str,
    keys: &'a [String],
    args: &'a [Bytes],
}

/// A claim to be restored, as the arguments of the script tell it.
struct Restored<'a> {
    tag: &'a [u8],
    score: Option<f64>,
    /// List, how and message.
    returns: Vec<(&'a String, &'a [u8], &'a [u8])>,
}

/// The command for a message that goes back, and whether it is a dead letter.
fn push(list: &String, how: &[u8], message: &[u8]) -> Result<(Command, bool)> {
    let dead = how == b"DEAD";
    let command = match how {
        b"RPUSH" => "RPUSH",
        b"LPUSH" | b"DEAD" => "LPUSH",
        _ => return Err(malformed()),
    };
    Ok((Command::new(command).arg(list).arg(message), dead))
}

fn counts(returned: i64, dead: i64) -> Value {
    Value::Array(vec![Value::Int(returned), Value::Int(dead)])
}

impl Plain<'_> {
    async fn receive(&self) -> Result<Value> {
        if let Some(shared) = self.session.shared() {
            shared.put_back(self.session).await?;
        }
        let (max, width): (usize, usize) = (self.number(0)?, self.number(3)?);
        let tags = self.text(2)?;
        let (lists, tails) = (&self.keys[2..], &self.args[4..]);
        let lengths = self.lengths(lists).await?;
        let mut empty = vec![false; lists.len()];
        let mut out = Vec::new();
        for at in turns(&lengths, width, max) {
            if empty[at] {
                continue;
            }
            let tag = format!("{tags}{}", out.len() / 2 + 1);
            match self.take(&lists[at], &tag, &tails[at]).await {
                Ok(Some(message)) => {
                    out.extend([Value::Int(at as i64 + 1), Value::Bulk(message)]);
                }
                Ok(None) => empty[at] = true,
                Err(error) if out.is_empty() => return Err(error),
                // What is here is not to be lost: the next call tells of the error.
                Err(_) => break,
            }
        }
        Ok(Value::Array(out))
    }

    async fn lengths(&self, lists: &[String]) -> Result<Vec<usize>> {
        let mut pipeline = Pipeline::new();
        for list in lists {
            pipeline.push(&Command::new("LLEN").arg(list));
        }
        let replies = self.session.call_all(self.what, pipeline).await?;
        Ok(replies.iter().map(|n| n.as_int().map_or(0, |n| n.max(0) as usize)).collect())
    }

    /// Pops a message and claims it.
    async fn take(&self, list: &str, tag: &str, tail: &[u8]) -> Result<Option<Bytes>> {
        let (hand, popped) = Hand::open(self.session, list, tag);
        let command = Command::new("RPOP").arg(list).pack();
        let patience = self.session.config().reply_timeout;
        self.session.link().tell(&command, 1, patience, popped).await?;
        // Answered after the pop.
        let now = self.now().await?;
        let Some(message) = hand.message(self.what)? else { return Ok(None) };
        if !tail.is_empty() {
            let record = [b"[", &message[..], tail].concat();
            let claim = [
                Command::new("HSET").arg(&self.keys[0]).arg(tag).arg(record),
                Command::new("ZADD").arg(&self.keys[1]).arg(now.text()).arg(tag),
            ];
            self.session.transaction(self.what, &claim).await?;
        }
        hand.keep();
        Ok(Some(message))
    }

    async fn unseen(&self) -> Result<Value> {
        let lists = &self.keys[2..];
        let tags: Vec<&[u8]> = self.args.chunks_exact(2).map(|pair| &pair[0][..]).collect();
        let command = Command::new("HMGET").arg(&self.keys[0]).args(&tags);
        let reply = self.session.call(self.what, &command).await?;
        let kind = unexpected("HMGET", &reply);
        let records = reply.into_items().ok_or(kind)?;
        let mut commands = Vec::new();
        for (at, record) in records.iter().enumerate().take(lists.len()) {
            let Some(record) = record.as_bytes() else { continue };
            let tail: usize = self.number(at * 2 + 1)?;
            let Some(raw) = record.len().checked_sub(tail).and_then(|end| record.get(1..end))
            else {
                continue;
            };
            commands.extend(self.end(tags[at]));
            commands.push(Command::new("RPUSH").arg(&lists[at]).arg(raw));
        }
        self.moved(&commands).await
    }

    async fn requeue(&self) -> Result<Value> {
        let mut commands = Vec::new();
        let (mut returned, mut died) = (0, 0);
        for (claim, list) in self.args.chunks_exact(3).zip(&self.keys[2..]) {
            let (push, dead) = push(list, &claim[1], &claim[2])?;
            *(if dead { &mut died } else { &mut returned }) += 1;
            commands.extend(self.end(&claim[0]));
            commands.push(push);
        }
        self.moved(&commands).await?;
        Ok(counts(returned, died))
    }

    async fn expired(&self) -> Result<Value> {
        let timeout: f64 = self.number(0)?;
        let limit = self.now().await?.seconds() - timeout;
        let command = Command::new("ZREVRANGEBYSCORE")
            .arg(&self.keys[1])
            .arg(format!("{limit:.6}"))
            .args(["-inf", "WITHSCORES", "LIMIT", "0"])
            .arg(&self.args[1]);
        let found = scored(self.session.call(self.what, &command).await?)?;
        if found.is_empty() || !self.is_our_turn().await? {
            return Ok(Value::Array(Vec::new()));
        }
        let tags = found.iter().map(|(tag, _)| tag);
        let command = Command::new("HMGET").arg(&self.keys[0]).args(tags);
        let reply = self.session.call(self.what, &command).await?;
        let kind = unexpected("HMGET", &reply);
        let records = reply.into_items().ok_or(kind)?;
        let scores = found
            .into_iter()
            .flat_map(|(tag, score)| [Value::Bulk(tag), Value::Bulk(score.to_string().into())]);
        Ok(Value::Array(vec![Value::Array(scores.collect()), Value::Array(records)]))
    }

    /// Takes the lock, if there is to be one; whether that worked.
    async fn is_our_turn(&self) -> Result<bool> {
        let Some(mutex) = self.keys.get(2) else { return Ok(true) };
        let (token, expires, believed): (_, _, i64) =
            (self.text(2)?, self.text(3)?, self.number(4)?);
        let take = Command::new("SET").arg(mutex).arg(token).args(["PX", expires]);
        if self.session.call(self.what, &take.clone().arg("NX")).await? != Value::Null {
            return Ok(true);
        }
        let mut look = Pipeline::new();
        look.push(&Command::new("GET").arg(mutex)).push(&Command::new("PTTL").arg(mutex));
        let replies = self.session.call_all(self.what, look).await?;
        let is_free = match replies[0].as_bytes() {
            None => true,
            Some(holder) if holder == token => true,
            Some(holder) if holder.starts_with(b"kombu-rs-") => false,
            Some(_) => replies[1].as_int().is_none_or(|left| left <= believed),
        };
        if is_free {
            self.session.call(self.what, &take).await?;
        }
        Ok(is_free)
    }

    async fn end_turn(&self) -> Result<Value> {
        let (mutex, token) = (&self.keys[0], self.text(0)?);
        let aside = self.session.aside().await?;
        let released = self.release(&aside, mutex, token).await;
        aside.close().await;
        if let Err(error) = released {
            tracing::debug!("'{mutex}' is left to run out: {error}");
        }
        Ok(Value::Int(0))
    }

    async fn restore(&self) -> Result<Value> {
        let aside = self.session.aside().await?;
        let restored = self.restore_all(&aside).await;
        aside.close().await;
        restored.map(|(returned, dead)| counts(returned, dead))
    }

    async fn release(&self, aside: &Session, mutex: &str, token: &str) -> Result<()> {
        let mut pipeline = Pipeline::new();
        pipeline.push(&Command::new("WATCH").arg(mutex)).push(&Command::new("GET").arg(mutex));
        let replies = aside.call_all(self.what, pipeline).await?;
        if replies.get(1).and_then(Value::as_bytes).is_some_and(|owner| owner == token) {
            aside.transaction(self.what, &[Command::new("DEL").arg(mutex)]).await?;
        }
        Ok(())
    }

    async fn restore_all(&self, aside: &Session) -> Result<(i64, i64)> {
        let (mut restored, mut died) = (0, 0);
        for batch in self.claims()?.chunks(BATCH) {
            let mut tries = 0;
            let (returned, dead) = loop {
                if let Some(counts) = self.restore_batch(aside, batch).await? {
                    break counts;
                }
                tries += 1;
                if tries == TRIES {
                    tracing::debug!("others change claims too fast: the rest is restored later");
                    return Ok((restored, died));
                }
                sleep(PAUSE.mul_f64(random_share())).await;
            };
            restored += returned;
            died += dead;
        }
        Ok((restored, died))
    }

    fn claims(&self) -> Result<Vec<Restored<'_>>> {
        let count: usize = self.number(0)?;
        let mut returns = self.keys[2..]
            .iter()
            .zip(self.args.get(count * 3 + 1..).ok_or_else(malformed)?.chunks_exact(2));
        (1..=count)
            .map(|at| {
                let lists: usize = self.number(at + count * 2)?;
                let own = returns.by_ref().take(lists);
                Ok(Restored {
                    tag: &self.args[at],
                    score: read(&self.args[at + count]),
                    returns: own.map(|(list, pair)| (list, &pair[0][..], &pair[1][..])).collect(),
                })
            })
            .collect()
    }

    /// Moves claims that nobody has touched since they were listed; `None` when somebody has
    /// touched any claim meanwhile.
    async fn restore_batch(
        &self,
        aside: &Session,
        batch: &[Restored<'_>],
    ) -> Result<Option<(i64, i64)>> {
        let mut look = Pipeline::new();
        look.push(&Command::new("WATCH").arg(&self.keys[1])).push(&Command::new("TIME"));
        for claim in batch {
            look.push(&Command::new("ZSCORE").arg(&self.keys[1]).arg(claim.tag));
            look.push(&Command::new("HEXISTS").arg(&self.keys[0]).arg(claim.tag));
        }
        let replies = aside.call_all(self.what, look).await?;
        let now = Now::from_reply(&replies[1])?;
        let mut commands = Vec::new();
        let (mut returned, mut died) = (0, 0);
        for (claim, reply) in batch.iter().zip(replies[2..].chunks_exact(2)) {
            if score(&reply[0]).is_none() || score(&reply[0]) != claim.score {
                continue;
            }
            let exists = reply[1].as_int() == Some(1);
            if exists && claim.returns.is_empty() {
                let later = Command::new("ZADD").arg(&self.keys[1]);
                commands.push(later.arg(now.text()).arg(claim.tag));
                continue;
            }
            commands.extend(self.end(claim.tag));
            if exists {
                let mut is_dead = false;
                for (list, how, message) in &claim.returns {
                    let (push, dead) = push(list, how, message)?;
                    commands.push(push);
                    is_dead |= dead;
                }
                *(if is_dead { &mut died } else { &mut returned }) += 1;
            }
        }
        // Also when there is nothing to do: it ends the watch.
        Ok(aside.transaction(self.what, &commands).await?.map(|_| (returned, died)))
    }

    /// What is not moved because others change the list all the time is left there.
    async fn replay(&self) -> Result<Value> {
        let (list, targets) = self.keys.split_first().ok_or_else(malformed)?;
        let aside = self.session.aside().await?;
        let mut moved = 0;
        for _ in 0..TRIES {
            let mut look = Pipeline::new();
            look.push(&Command::new("WATCH").arg(list));
            for pair in self.args.chunks_exact(2) {
                look.push(&Command::new("LPOS").arg(list).arg(&pair[0]).args(["RANK", "-1"]));
            }
            let replies = aside.call_all(self.what, look).await?;
            let mut commands = Vec::new();
            for ((pair, target), place) in self.args.chunks_exact(2).zip(targets).zip(&replies[1..])
            {
                if *place != Value::Null {
                    commands.push(Command::new("LREM").arg(list).int(-1).arg(&pair[0]));
                    commands.push(Command::new("LPUSH").arg(target).arg(&pair[1]));
                }
            }
            if aside.transaction(self.what, &commands).await?.is_some() {
                moved = commands.len() as i64 / 2;
                break;
            }
            sleep(PAUSE.mul_f64(random_share())).await;
        }
        aside.close().await;
        Ok(Value::Int(moved))
    }

    async fn renew(&self) -> Result<Value> {
        let now = self.now().await?.text();
        let mut command = Command::new("ZADD").arg(&self.keys[0]).arg("XX");
        for tag in self.args {
            command = command.arg(&now).arg(tag);
        }
        self.session.call(self.what, &command).await?;
        Ok(Value::Int(self.args.len() as i64))
    }

    async fn bind_expiring(&self) -> Result<Value> {
        let life: i64 = self.number(2)?;
        let deadline = self.now().await?.milliseconds() + life;
        let commands = [
            Command::new("SADD").arg(&self.keys[0]).arg(&self.args[0]),
            Command::new("ZADD").arg(&self.keys[1]).arg("GT").int(deadline).arg(&self.args[1]),
        ];
        self.session.transaction(self.what, &commands).await?;
        Ok(Value::Int(1))
    }

    async fn overdue(&self) -> Result<Value> {
        let now = self.now().await?.milliseconds();
        let command = Command::new("ZRANGEBYSCORE")
            .arg(&self.keys[0])
            .arg("-inf")
            .int(now)
            .args(["LIMIT", "0"])
            .arg(&self.args[0]);
        self.session.call(self.what, &command).await
    }

    async fn sweep(&self) -> Result<Value> {
        let deadlines = &self.keys[0];
        let now = self.now().await?.milliseconds();
        let aside = self.session.aside().await?;
        for (keys, name) in self.keys[1..].chunks_exact(2).zip(self.args) {
            let (set, permanent) = (&keys[0], &keys[1]);
            let mut look = Pipeline::new();
            look.push(&Command::new("WATCH").arg(deadlines).arg(permanent));
            look.push(&Command::new("EXISTS").arg(permanent));
            look.push(&Command::new("ZSCORE").arg(deadlines).arg(name));
            let replies = aside.call_all(self.what, look).await?;
            let mut commands = Vec::new();
            if score(&replies[2]).is_some_and(|deadline| deadline <= now as f64) {
                if replies[1].as_int() == Some(0) {
                    commands.push(Command::new("DEL").arg(set));
                }
                commands.push(Command::new("ZREM").arg(deadlines).arg(name));
            }
            aside.transaction(self.what, &commands).await?;
        }
        aside.close().await;
        Ok(Value::Int(self.args.len() as i64))
    }

    /// The commands that end a claim.
    fn end(&self, tag: &[u8]) -> [Command; 2] {
        [
            Command::new("HDEL").arg(&self.keys[0]).arg(tag),
            Command::new("ZREM").arg(&self.keys[1]).arg(tag),
        ]
    }

    /// Moves claims, three commands for each; how many.
    async fn moved(&self, commands: &[Command]) -> Result<Value> {
        if !commands.is_empty() {
            self.session.transaction(self.what, commands).await?;
        }
        Ok(Value::Int(commands.len() as i64 / 3))
    }

    async fn now(&self) -> Result<Now> {
        Now::from_reply(&self.session.call(self.what, &Command::new("TIME")).await?)
    }

    fn text(&self, at: usize) -> Result<&str> {
        let text = self.args.get(at).and_then(|text| std::str::from_utf8(text).ok());
        text.ok_or_else(malformed)
    }

    fn number<T: std::str::FromStr>(&self, at: usize) -> Result<T> {
        self.text(at)?.parse().map_err(|_| malformed())
    }
}

/// The server's clock.
#[derive(Clone, Copy)]
struct Now {
    seconds: i64,
    microseconds: i64,
}

impl Now {
    fn from_reply(reply: &Value) -> Result<Self> {
        let part = |at: usize| match reply {
            Value::Array(parts) => parts.get(at)?.as_bytes().and_then(|text| read(text)),
            _ => None,
        };
        match (part(0), part(1)) {
            (Some(seconds), Some(microseconds)) => Ok(Self { seconds, microseconds }),
            _ => Err(unexpected("TIME", reply)),
        }
    }

    /// As the score of a claim.
    fn text(self) -> String {
        format!("{}.{:06}", self.seconds, self.microseconds)
    }

    fn seconds(self) -> f64 {
        self.seconds as f64 + self.microseconds as f64 / 1e6
    }

    fn milliseconds(self) -> i64 {
        self.seconds * 1000 + self.microseconds / 1000
    }
}

fn malformed() -> Error {
    Error::internal("the arguments of a script are not what its plain form expects")
}

fn read<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A score: a number in RESP3, a text in RESP2.
fn score(reply: &Value) -> Option<f64> {
    match reply {
        Value::Double(score) => Some(*score),
        Value::Int(score) => Some(*score as f64),
        reply => read(reply.as_bytes()?),
    }
}

/// Members with scores: pairs in RESP3, one after the other in RESP2.
fn scored(reply: Value) -> Result<Vec<(Bytes, f64)>> {
    let kind = unexpected("ZREVRANGEBYSCORE", &reply);
    let mut flat = Vec::new();
    for item in reply.into_items().ok_or(kind)? {
        match item {
            Value::Array(pair) => flat.extend(pair),
            item => flat.push(item),
        }
    }
    let pairs = flat.chunks_exact(2);
    Ok(pairs.filter_map(|pair| Some((pair[0].as_bytes()?.clone(), score(&pair[1])?))).collect())
}

/// From which list each of the next messages is taken: `width` lists in a row are equally urgent and
/// take turns, those before them come first.
fn turns(lengths: &[usize], width: usize, max: usize) -> Vec<usize> {
    let mut turns = Vec::new();
    for (group, lengths) in lengths.chunks(width.max(1)).enumerate() {
        let longest = lengths.iter().copied().max().unwrap_or(0).min(max);
        for round in 0..longest {
            for (place, length) in lengths.iter().enumerate() {
                if turns.len() == max {
                    return turns;
                }
                if *length > round {
                    turns.push(group * width.max(1) + place);
                }
            }
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equally_urgent_lists_take_turns() {
        assert_eq!(turns(&[3, 1, 0, 5], 2, 5), [0, 1, 0, 0, 3]);
        assert_eq!(turns(&[3, 1, 0, 5], 1, 5), [0, 0, 0, 1, 3]);
        assert_eq!(turns(&[0, 0], 2, 5), Vec::<usize>::new());
    }

    #[test]
    fn scores_are_read_in_both_protocols() {
        let bulk = |text: &'static str| Value::Bulk(text.into());
        let old = Value::Array(vec![bulk("a"), bulk("1.5"), bulk("b"), bulk("2")]);
        let pair = |tag, score| Value::Array(vec![bulk(tag), Value::Double(score)]);
        let new = Value::Array(vec![pair("a", 1.5), pair("b", 2.0)]);
        let expected = [("a".into(), 1.5), ("b".into(), 2.0)];
        assert_eq!(scored(old).unwrap(), expected);
        assert_eq!(scored(new).unwrap(), expected);
    }
}
