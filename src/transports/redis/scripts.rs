//! The scripts: every change of a claim is one atomic step.
//!
//! None of them reads JSON. A claim's record is `[<message as it was in the list>, "", "<queue>"]`,
//! which stock Kombu restores straight to that queue. Times are the server's, so that the clocks of
//! workers do not matter.

/// One script of this transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Pops and claims; looks at the lists when there is nothing, which arms the tracking.
    Receive,
    /// Puts claimed messages back as they were.
    Unseen,
    /// Ends claims that are still held and puts changed messages back.
    Requeue,
    /// Lists claims that were not renewed for too long.
    Expired,
    /// Moves expired claims, if nobody has touched them since they were listed.
    Restore,
    /// Renews held claims.
    Renew,
    /// Adds a binding of a queue that expires.
    BindExpiring,
    /// Lists exchanges with bindings that nobody has renewed.
    Overdue,
    /// Drops those bindings.
    Sweep,
}

impl Script {
    /// All, in the order of their numbers.
    pub(super) const ALL: [Self; 9] = [
        Self::Receive,
        Self::Unseen,
        Self::Requeue,
        Self::Expired,
        Self::Restore,
        Self::Renew,
        Self::BindExpiring,
        Self::Overdue,
        Self::Sweep,
    ];

    /// Its place in [`Script::ALL`].
    pub(super) fn number(self) -> usize {
        self as usize
    }

    /// Its text.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Receive => RECEIVE,
            Self::Unseen => UNSEEN,
            Self::Requeue => REQUEUE,
            Self::Expired => EXPIRED,
            Self::Restore => RESTORE,
            Self::Renew => RENEW,
            Self::BindExpiring => BIND_EXPIRING,
            Self::Overdue => OVERDUE,
            Self::Sweep => SWEEP,
        }
    }
}

/// KEYS: unacked, unacked_index, lists in the order to take from.
/// ARGV: how many, 1 to arm, first part of the tags, how many lists in a row are equally urgent; for
/// each list the record's end (empty: no claim).
/// Returns list numbers (from 1) and messages, alternating; the n-th message's tag ends in n.
/// Equally urgent lists share what is taken, one message of each in turn.
const RECEIVE: &str = r"
local left, tags, width = tonumber(ARGV[1]), ARGV[3], tonumber(ARGV[4])
local out, records, scores, n, now = {}, {}, {}, 0, nil
local function flush()
  if #records == 0 then return end
  redis.call('HSET', KEYS[1], unpack(records))
  redis.call('ZADD', KEYS[2], unpack(scores))
  records, scores = {}, {}
end
local function hand_out(i, message)
  n = n + 1
  out[#out + 1] = i - 2
  out[#out + 1] = message
  local tail = ARGV[i + 2]
  if tail == '' then return end
  if not now then
    local t = redis.call('TIME')
    now = t[1] .. '.' .. string.format('%06d', t[2])
  end
  local tag = tags .. n
  records[#records + 1] = tag
  records[#records + 1] = '[' .. message .. tail
  scores[#scores + 1] = now
  scores[#scores + 1] = tag
  if #records >= 1000 then flush() end
end
for first = 3, #KEYS, width do
  if left <= 0 then break end
  local open, got = {}, {}
  for i = first, first + width - 1 do
    open[#open + 1] = i
    got[i] = {}
  end
  while left > 0 and #open > 0 do
    local share, more = math.max(1, math.floor(left / #open)), {}
    for _, i in ipairs(open) do
      local wanted = math.min(share, left)
      local popped = wanted > 0 and redis.call('RPOP', KEYS[i], wanted)
      if popped then
        for j = 1, #popped do got[i][#got[i] + 1] = popped[j] end
        left = left - #popped
        if #popped == wanted then more[#more + 1] = i end
      end
    end
    open = more
  end
  local j, any = 0, true
  while any do
    j, any = j + 1, false
    for i = first, first + width - 1 do
      if got[i][j] then
        hand_out(i, got[i][j])
        any = true
      end
    end
  end
end
flush()
if n == 0 and ARGV[2] == '1' then
  for i = 3, #KEYS do redis.call('LLEN', KEYS[i]) end
end
return out";

/// KEYS: unacked, unacked_index, the list of each claim. ARGV: tag and length of the record's end,
/// alternating. Returns how many went back.
const UNSEEN: &str = r"
local n = 0
for i = 3, #KEYS do
  local tag, tail = ARGV[i * 2 - 5], tonumber(ARGV[i * 2 - 4])
  local record = redis.call('HGET', KEYS[1], tag)
  if record then
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('RPUSH', KEYS[i], string.sub(record, 2, -(tail + 1)))
    n = n + 1
  end
end
return n";

/// KEYS: unacked, unacked_index, the list of each claim. ARGV: RPUSH to the head or LPUSH to the end,
/// then tag and new message, alternating. Returns how many went back.
const REQUEUE: &str = r"
local n = 0
for i = 3, #KEYS do
  local tag = ARGV[i * 2 - 4]
  if redis.call('HDEL', KEYS[1], tag) == 1 then
    redis.call('ZREM', KEYS[2], tag)
    redis.call(ARGV[1], KEYS[i], ARGV[i * 2 - 3])
    n = n + 1
  end
end
return n";

/// KEYS: unacked, unacked_index. ARGV: visibility timeout in seconds, how many.
/// Returns tag, score and record, repeating, the youngest first; the record is false if missing.
const EXPIRED: &str = r"
local t = redis.call('TIME')
local limit = tonumber(t[1]) + tonumber(t[2]) / 1000000 - tonumber(ARGV[1])
local found = redis.call('ZREVRANGEBYSCORE', KEYS[2], string.format('%.6f', limit), '-inf',
  'WITHSCORES', 'LIMIT', 0, ARGV[2])
local out = {}
for i = 1, #found, 2 do
  out[#out + 1] = found[i]
  out[#out + 1] = found[i + 1]
  out[#out + 1] = redis.call('HGET', KEYS[1], found[i])
end
return out";

/// KEYS: unacked, unacked_index, the lists of all claims one after the other. ARGV: tag, score as
/// listed, message and number of lists, repeating; a claim without lists stays for another
/// visibility timeout. Returns how many went back.
const RESTORE: &str = r"
local n, list = 0, 3
for at = 1, #ARGV, 4 do
  local tag, lists = ARGV[at], tonumber(ARGV[at + 3])
  if redis.call('ZSCORE', KEYS[2], tag) == ARGV[at + 1] then
    if lists == 0 and redis.call('HEXISTS', KEYS[1], tag) == 1 then
      redis.call('ZADD', KEYS[2], redis.call('TIME')[1], tag)
    else
      redis.call('ZREM', KEYS[2], tag)
      if redis.call('HDEL', KEYS[1], tag) == 1 then
        for i = list, list + lists - 1 do redis.call('RPUSH', KEYS[i], ARGV[at + 2]) end
        n = n + 1
      end
    end
  end
  list = list + lists
end
return n";

/// KEYS: unacked_index. ARGV: tags. Only those that are still there. A script may go on when memory
/// is full once it has run a command that frees some; `ZADD XX` takes none.
const RENEW: &str = r"
redis.call('ZREM', KEYS[1], '')
local t = redis.call('TIME')
local now = t[1] .. '.' .. string.format('%06d', t[2])
for i = 1, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now, ARGV[i]) end
return #ARGV";

/// KEYS: binding set, deadlines. ARGV: member, exchange, milliseconds to live.
const BIND_EXPIRING: &str = r"
redis.call('SADD', KEYS[1], ARGV[1])
local t = redis.call('TIME')
local deadline = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[3])
redis.call('ZADD', KEYS[2], 'GT', string.format('%d', deadline), ARGV[2])
return 1";

/// KEYS: deadlines. ARGV: how many. Returns exchanges whose deadline has passed.
const OVERDUE: &str = r"
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now), 'LIMIT', 0, ARGV[1])";

/// KEYS: deadlines, then the bindings and the permanent bindings of each exchange. ARGV: the
/// exchanges. Those whose deadline was put off meanwhile stay.
const SWEEP: &str = r"
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
for i, exchange in ipairs(ARGV) do
  local deadline = redis.call('ZSCORE', KEYS[1], exchange)
  if deadline and tonumber(deadline) <= now then
    if redis.call('EXISTS', KEYS[i * 2 + 1]) == 0 then redis.call('DEL', KEYS[i * 2]) end
    redis.call('ZREM', KEYS[1], exchange)
  end
end
return #ARGV";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        for (place, script) in Script::ALL.into_iter().enumerate() {
            assert_eq!(script.number(), place);
        }
    }
}
