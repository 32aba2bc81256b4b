"""The Lua scripts: each write of the store is one of them, atomic and safe to run twice."""

from hashlib import sha1


class Script:
    """A Lua script and the digest that EVALSHA calls it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


# The session is a hash: `version`, `epoch`, `event` (id of the newest reply event), `writer`, one field per kind of
# fence, `key` (ids of the encryption keys that sealed any of it, with blanks between; empty: none) and `state`. Its
# newest reply events are a list beside it. They stay as they were sealed while turns go on under another key, so `key`
# keeps the earlier ids until a rotation.
#
# A session that expired and began anew has the versions of its earlier life, so what continues a life names it.
#
# The fence is checked first, so that a writer that lost its right is told so even when it is behind as well. Being
# behind is no error when the newest event is the caller's own: its first attempt succeeded and the response was lost.
# That answer touches the session, so that a WAIT for replicas after it covers the first attempt's write.
#
# Inbound ids that left the session's own list are in a sorted set by the time of that. An id in it was answered, and is
# not answered again.
COMMIT_TURN = Script("""
local session, events, ids = KEYS[1], KEYS[2], KEYS[3]
local expected, kind, token, event = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local version, state, reply = ARGV[5], ARGV[6], ARGV[7]
local ttl_ms, keep, first, key = ARGV[8], tonumber(ARGV[9]), ARGV[10] == '1', ARGV[11]
local epoch, continues = ARGV[12], ARGV[13] == '1'
local answered, now_ms, keep_ids_ms = ARGV[14], ARGV[15], ARGV[16]
local stored = redis.call('HMGET', session, 'version', 'event', kind, 'key', 'epoch')
if stored[3] and tonumber(stored[3]) > tonumber(token) then
  return {'FENCED', stored[3]}
end
if (stored[1] or '0') ~= expected or (continues and (stored[5] or epoch) ~= epoch) then
  if stored[2] == event then
    redis.call('PEXPIRE', session, ttl_ms)
    return {'ALREADY', redis.call('LINDEX', events, -1)}
  end
  return {'STALE', stored[1] or '0'}
end
if first then
  redis.call('DEL', ids)
elseif answered ~= '' and redis.call('ZSCORE', ids, answered) then
  return {'ANSWERED'}
end
if #ARGV > 16 then
  for i = 17, #ARGV do
    redis.call('ZADD', ids, now_ms, ARGV[i])
  end
  redis.call('ZREMRANGEBYSCORE', ids, '-inf', string.format('(%.0f', tonumber(now_ms) - tonumber(keep_ids_ms)))
  redis.call('PEXPIRE', ids, keep_ids_ms)
end
local sealed_by = stored[4] or ''
if stored[1] and not first and sealed_by ~= key then
  local known = string.find(' ' .. sealed_by .. ' ', ' ' .. key .. ' ', 1, true)
  key = known and sealed_by or sealed_by .. ' ' .. key
end
redis.call('HSET', session, 'version', version, 'epoch', epoch, 'event', event, 'writer', kind, kind, token,
  'key', key, 'state', state)
if first then
  redis.call('DEL', events)
end
if redis.call('RPUSH', events, reply) > keep then
  redis.call('LTRIM', events, -keep, -1)
end
redis.call('PEXPIRE', session, ttl_ms)
redis.call('PEXPIRE', events, ttl_ms)
return {'APPLIED'}
""")

RESTORE = Script("""
local session, events, ids = KEYS[1], KEYS[2], KEYS[3]
local version, kind, token, event, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ttl_ms, key, epoch, keep_ids_ms, id_args = ARGV[6], ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local stored = redis.call('HMGET', session, 'version', kind, 'epoch')
if stored[2] and tonumber(stored[2]) > tonumber(token) then
  return {'FENCED', stored[2]}
end
if stored[1] and tonumber(stored[1]) >= tonumber(version) then
  return {'STALE', stored[1]}
end
if stored[3] and stored[3] ~= epoch then
  redis.call('DEL', ids)
end
for i = 11, 10 + id_args, 2 do
  redis.call('ZADD', ids, ARGV[i], ARGV[i + 1])
end
if id_args > 0 then
  redis.call('PEXPIRE', ids, keep_ids_ms)
end
redis.call('HSET', session, 'version', version, 'epoch', epoch, 'event', event, 'writer', kind, kind, token,
  'key', key, 'state', state)
redis.call('DEL', events)
for i = 11 + id_args, #ARGV do
  redis.call('RPUSH', events, ARGV[i])
end
redis.call('PEXPIRE', session, ttl_ms)
redis.call('PEXPIRE', events, ttl_ms)
return {'APPLIED'}
""")

# All of a session as one moment had it.
READ_SEALED = Script("""
return {
  redis.call('HMGET', KEYS[1], 'version', 'event', 'key', 'state'),
  redis.call('LRANGE', KEYS[2], 0, -1),
}
""")

# Writes what was sealed anew only over what it was made from; a turn that came in between wins. A session that expired
# and began anew may have the same version, but not the same event.
RESEAL = Script("""
local session, events = KEYS[1], KEYS[2]
local version, event, key, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local stored = redis.call('HMGET', session, 'version', 'event')
if stored[1] ~= version or (stored[2] or '') ~= event or redis.call('LLEN', events) ~= #ARGV - 4 then
  return 0
end
redis.call('HSET', session, 'key', key, 'state', state)
for i = 5, #ARGV do
  redis.call('LSET', events, i - 5, ARGV[i])
end
return 1
""")

# Tokens are the server's clock in µs, pushed up where it stands still or goes back, so they keep growing even when a
# failover or a flush forgot the last one.
NEXT_FENCE = Script("""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local token = string.format('%.0f', math.max(now, last + 1))
redis.call('SET', KEYS[1], token)
return token
""")

# A store that was flushed has no incarnation any more, and must not be told that anything is done.
SAVE_PROGRESS = Script("""
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'incarnation') ~= ARGV[1] then
  return 'REPLACED'
end
for i = 2, #ARGV, 2 do
  local stored = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if tonumber(ARGV[i + 1]) > stored then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 'OK'
""")

# A working copy's session: `at` (epoch:seq), `event`, `key`, `state`, `events` (how many), and its events as a list
# beside it. Written only over what it was folded from, so that it doesn't matter who folds it, or how often.
#
# The events don't pass through the script, which would take twice the time that Redis needs for them. They are pushed
# right before it, with a mark at their end that nobody else makes, and count when the script finds them to be all that
# came. What was pushed for nothing goes: by somebody else at the same time, by a writer that was killed right then, or
# once more by a command that was repeated.
FOLD_IN = Script("""
local session, events = KEYS[1], KEYS[2]
local expected, at, event, state, key = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local ttl_ms, keep, anew = ARGV[6], tonumber(ARGV[7]), ARGV[8] == '1'
local pushed, mark = tonumber(ARGV[9]), ARGV[10]
local stored = redis.call('HMGET', session, 'at', 'events')
local count = tonumber(stored[2] or '0')
if (stored[1] or '') ~= expected or redis.call('LLEN', events) ~= count + pushed + 1
  or redis.call('LINDEX', events, -1) ~= mark then
  if count > 0 then
    redis.call('LTRIM', events, 0, count - 1)
  else
    redis.call('DEL', events)
  end
  return 0
end
redis.call('RPOP', events)
local kept = math.min(anew and pushed or count + pushed, keep)
if kept < count + pushed then
  redis.call('LTRIM', events, -kept, -1)
end
redis.call('HSET', session, 'at', at, 'event', event, 'state', state, 'key', key, 'events', kept)
redis.call('PEXPIRE', session, ttl_ms)
redis.call('PEXPIRE', events, ttl_ms)
return 1
""")

# A session from its snapshot; folding goes on from there.
SEED = Script("""
local session, events = KEYS[1], KEYS[2]
local at, event, state, key, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
redis.call('HSET', session, 'at', at, 'event', event, 'state', state, 'key', key, 'events', #ARGV - 5, 'seeded', at)
redis.call('DEL', events)
redis.call('PEXPIRE', session, ttl_ms)
if #ARGV > 5 then
  redis.call('RPUSH', events, unpack(ARGV, 6))
  redis.call('PEXPIRE', events, ttl_ms)
end
return 1
""")

# What was rebuilt takes the place of what is live, its fences stay. Not over a later life, nor over a later version of
# the same: a turn that was committed meanwhile wins. The copy remembers that it was done, and may be asked again.
SWITCH = Script("""
local rebuilt, rebuilt_events, session, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local rebuilt_ids, ids = KEYS[5], KEYS[6]
local version, epoch, ttl_ms, keep_ids_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local made = redis.call('HMGET', rebuilt, 'event', 'state', 'key', 'switched')
if made[4] then
  return 1
end
local stored = redis.call('HMGET', session, 'version', 'epoch')
if not made[2] then
  return 0
end
if stored[1] then
  local stored_epoch = tonumber(stored[2] or '0')
  if stored_epoch > tonumber(epoch)
    or (stored_epoch == tonumber(epoch) and tonumber(stored[1]) > tonumber(version)) then
    return 0
  end
end
redis.call('HSET', session, 'version', version, 'epoch', epoch, 'event', made[1], 'writer', 'partition',
  'key', made[3], 'state', made[2])
redis.call('RENAME', rebuilt_events, events)
if stored[2] and stored[2] ~= epoch then
  redis.call('DEL', ids)
end
if redis.call('EXISTS', rebuilt_ids) == 1 then
  redis.call('ZUNIONSTORE', ids, 2, ids, rebuilt_ids, 'AGGREGATE', 'MAX')
  redis.call('DEL', rebuilt_ids)
  redis.call('PEXPIRE', ids, keep_ids_ms)
end
redis.call('HSET', rebuilt, 'switched', 1, 'events', 0)
redis.call('PEXPIRE', session, ttl_ms)
redis.call('PEXPIRE', events, ttl_ms)
return 1
""")

# Only what nobody wrote since it was looked at.
REMOVE = Script("""
local stored = redis.call('HMGET', KEYS[1], 'version', 'epoch')
if stored[1] ~= ARGV[1] or (stored[2] or '0') ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1
""")

# The keys of a session (`store.session_keys`) are a hash: `current`, the id of the one that seals; per id the key as
# the master key wrapped it; and per id with an `@` behind it the offset of its record in the keys topic. Beside it, for
# some days, the ids of destroyed ones: who reads the topic from before that must not bring them back.
CURRENT_KEY = Script("""
local current = redis.call('HGET', KEYS[1], 'current')
if not current then
  return false
end
return {current, redis.call('HMGET', KEYS[1], current, current .. '@')}
""")

OFFER_KEY = Script("""
local keys, destroyed = KEYS[1], KEYS[2]
local id, offset, wrapped = ARGV[1], ARGV[2], ARGV[3]
if redis.call('SISMEMBER', destroyed, id) == 1 then
  return false
end
local known = redis.call('HGET', keys, id .. '@')
if not known or tonumber(known) < tonumber(offset) then
  redis.call('HSET', keys, id, wrapped, id .. '@', offset)
end
redis.call('HSETNX', keys, 'current', id)
local current = redis.call('HGET', keys, 'current')
return {current, redis.call('HMGET', keys, current, current .. '@')}
""")

FIND_KEY = Script("""
local known = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[1] .. '@')
if known[1] then
  return known
end
return redis.call('SISMEMBER', KEYS[2], ARGV[1])
""")

DESTROY_KEYS = Script("""
local keys, destroyed = KEYS[1], KEYS[2]
for i = 2, #ARGV do
  redis.call('HDEL', keys, ARGV[i], ARGV[i] .. '@')
  redis.call('SADD', destroyed, ARGV[i])
  if redis.call('HGET', keys, 'current') == ARGV[i] then
    redis.call('HDEL', keys, 'current')
  end
end
redis.call('EXPIRE', destroyed, ARGV[1])
return 1
""")

# Not over what somebody else made of it, nor where a flush took it away: then the index lacks what is below it.
SAVE_KEYS_MARK = Script("""
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
""")

ALL_SCRIPTS = (
    COMMIT_TURN,
    RESTORE,
    READ_SEALED,
    RESEAL,
    NEXT_FENCE,
    SAVE_PROGRESS,
    FOLD_IN,
    SEED,
    SWITCH,
    REMOVE,
    CURRENT_KEY,
    OFFER_KEY,
    FIND_KEY,
    DESTROY_KEYS,
    SAVE_KEYS_MARK,
)
