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
    /// Lists claims that were not renewed for too long; with a lock, if it is free.
    Expired,
    /// Frees that lock.
    EndTurn,
    /// Moves expired claims, if nobody has touched them since they were listed.
    Restore,
    /// Moves dead letters back to their queues.
    Replay,
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
    pub(super) const ALL: [Self; 11] = [
        Self::Receive,
        Self::Unseen,
        Self::Requeue,
        Self::Expired,
        Self::EndTurn,
        Self::Restore,
        Self::Replay,
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
            Self::EndTurn => END_TURN,
            Self::Restore => RESTORE,
            Self::Replay => REPLAY,
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
/// Equally urgent lists share what is taken, one message of each in turn. What is no list is an error
/// only when nothing was taken: that is claimed, and would be lost with an error.
const RECEIVE: &str = r"
local call, left, tags, width = redis.call, tonumber(ARGV[1]), ARGV[3], tonumber(ARGV[4])
local out, records, scores, n, claims, now, refusal = {}, {}, {}, 0, 0, nil, nil
local function flush()
  if claims == 0 then return end
  call('HSET', KEYS[1], unpack(records, 1, claims))
  call('ZADD', KEYS[2], unpack(scores, 1, claims))
  claims = 0
end
local function hand_out(i, message)
  n = n + 1
  out[n * 2 - 1], out[n * 2] = i - 2, message
  local tail = ARGV[i + 2]
  if tail == '' then return end
  if not now then
    local t = call('TIME')
    now = t[1] .. '.' .. string.format('%06d', t[2])
  end
  local tag = tags .. n
  records[claims + 1], records[claims + 2] = tag, '[' .. message .. tail
  scores[claims + 1], scores[claims + 2] = now, tag
  claims = claims + 2
  if claims >= 1000 then flush() end
end
local function pop(i, wanted)
  local popped = redis.pcall('RPOP', KEYS[i], wanted)
  if popped and popped.err then
    refusal, popped = popped, nil
  end
  popped = popped or {}
  left = left - #popped
  return popped
end
local function share(first, last)
  local open, got = {}, {}
  for i = first, last do
    open[#open + 1] = i
    got[i] = {}
  end
  while left > 0 and #open > 0 do
    local each, more = math.max(1, math.floor(left / #open)), {}
    for _, i in ipairs(open) do
      local wanted = math.min(each, left)
      local popped = wanted > 0 and pop(i, wanted) or {}
      for j = 1, #popped do got[i][#got[i] + 1] = popped[j] end
      if wanted > 0 and #popped == wanted then more[#more + 1] = i end
    end
    open = more
  end
  local j, any = 0, true
  while any do
    j, any = j + 1, false
    for i = first, last do
      if got[i][j] then
        hand_out(i, got[i][j])
        any = true
      end
    end
  end
end
for first = 3, #KEYS, width do
  if left <= 0 then break end
  if width == 1 then
    local popped = pop(first, left)
    for j = 1, #popped do hand_out(first, popped[j]) end
  else
    share(first, first + width - 1)
  end
end
flush()
if n == 0 and refusal then return refusal end
if n == 0 and ARGV[2] == '1' then
  for i = 3, #KEYS do call('LLEN', KEYS[i]) end
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

/// KEYS: unacked, unacked_index, the list of each claim. ARGV: tag, how and new message, repeating.
/// How: RPUSH to the head of the list, LPUSH to its end, DEAD to the end of a list of dead letters.
/// Returns how many went back and how many are dead letters now.
const REQUEUE: &str = r"
local n, dead = 0, 0
for i = 3, #KEYS do
  local at = i * 3 - 8
  if redis.call('HDEL', KEYS[1], ARGV[at]) == 1 then
    redis.call('ZREM', KEYS[2], ARGV[at])
    if ARGV[at + 1] == 'DEAD' then
      redis.call('LPUSH', KEYS[i], ARGV[at + 2])
      dead = dead + 1
    else
      redis.call(ARGV[at + 1], KEYS[i], ARGV[at + 2])
      n = n + 1
    end
  end
end
return {n, dead}";

/// KEYS: unacked, unacked_index and, to do it only when nobody else does, unacked_mutex. ARGV:
/// visibility timeout in seconds, how many, whose turn it would be, for how many milliseconds, and so
/// many a stock worker's lock has left that is still believed in.
/// Returns tags and scores, alternating, the youngest first, and the records, false if missing. Nothing
/// when it is somebody else's turn. (A script may take memory when that is full once it has run a
/// command that frees some.)
const EXPIRED: &str = r"
local t = redis.call('TIME')
local limit = tonumber(t[1]) + tonumber(t[2]) / 1000000 - tonumber(ARGV[1])
local found = redis.call('ZREVRANGEBYSCORE', KEYS[2], string.format('%.6f', limit), '-inf',
  'WITHSCORES', 'LIMIT', 0, ARGV[2])
if #found == 0 then return {} end
if KEYS[3] then
  local holder = redis.call('GET', KEYS[3])
  if holder and holder ~= ARGV[3] and (string.find(holder, '^kombu%-rs%-')
      or redis.call('PTTL', KEYS[3]) > tonumber(ARGV[5])) then return {} end
  redis.call('ZREM', KEYS[2], '')
  redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
end
local tags = {}
for i = 1, #found, 2 do tags[#tags + 1] = found[i] end
return {found, redis.call('HMGET', KEYS[1], unpack(tags))}";

/// KEYS: unacked_mutex. ARGV: whose turn it is.
const END_TURN: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// KEYS: unacked, unacked_index, the lists of all claims one after the other. ARGV: number of claims;
/// their tags; their scores as listed; how many lists each goes to; for each list how (as in REQUEUE)
/// and message. A claim without lists stays for another visibility timeout. Returns how many went back
/// and how many are dead letters now.
const RESTORE: &str = r"
local claims = tonumber(ARGV[1])
local scores = redis.call('ZMSCORE', KEYS[2], unpack(ARGV, 2, claims + 1))
local n, dead, list, at, gone = 0, 0, 3, claims * 3 + 2, {}
local into, push, messages
local function flush()
  if messages then redis.call(push, into, unpack(messages)) end
  messages = nil
end
for claim = 1, claims do
  local tag, lists = ARGV[claim + 1], tonumber(ARGV[claims * 2 + claim + 1])
  local ours = scores[claim] == ARGV[claims + claim + 1]
  if ours and lists == 0 and redis.call('HEXISTS', KEYS[1], tag) == 1 then
    redis.call('ZADD', KEYS[2], redis.call('TIME')[1], tag)
  elseif ours then
    gone[#gone + 1] = tag
    if redis.call('HDEL', KEYS[1], tag) == 1 then
      local died = false
      for i = 0, lists - 1 do
        local how = ARGV[at + i * 2]
        if how == 'DEAD' then how, died = 'LPUSH', true end
        if how ~= push or KEYS[list + i] ~= into then flush() end
        into, push, messages = KEYS[list + i], how, messages or {}
        messages[#messages + 1] = ARGV[at + i * 2 + 1]
      end
      if died then dead = dead + 1 else n = n + 1 end
    end
  end
  list, at = list + lists, at + lists * 2
end
flush()
if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
return {n, dead}";

/// KEYS: a list of dead letters, the list that each goes to. ARGV: dead letter and what becomes of
/// it, alternating. Returns how many were moved.
const REPLAY: &str = r"
local n = 0
for i = 2, #KEYS do
  if redis.call('LREM', KEYS[1], -1, ARGV[i * 2 - 3]) == 1 then
    redis.call('LPUSH', KEYS[i], ARGV[i * 2 - 2])
    n = n + 1
  end
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
