"""The Lua scripts: each write of the store is one of them, atomic and safe to run twice."""

from hashlib import sha1


class Script:
    """A Lua script and the digest that EVALSHA calls it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


# The session is a hash: `version`, `event` (id of the newest reply event), `writer`, one field per kind of fence and
# `state`. Its newest reply events are a list beside it.
#
# The fence is checked first, so that a writer that lost its right is told so even when it is behind as well. Being
# behind is no error when the newest event is the caller's own: its first attempt succeeded and the response was lost.
COMMIT_TURN = Script("""
local session, events = KEYS[1], KEYS[2]
local expected, kind, token, event = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local version, state, reply = ARGV[5], ARGV[6], ARGV[7]
local ttl_ms, keep, first = ARGV[8], tonumber(ARGV[9]), ARGV[10] == '1'
local stored = redis.call('HMGET', session, 'version', 'event', kind)
if stored[3] and tonumber(stored[3]) > tonumber(token) then
  return {'FENCED', stored[3]}
end
if (stored[1] or '0') ~= expected then
  if stored[2] == event then
    return {'ALREADY', redis.call('LINDEX', events, -1)}
  end
  return {'STALE', stored[1] or '0'}
end
redis.call('HSET', session, 'version', version, 'event', event, 'writer', kind, kind, token, 'state', state)
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

SAVE_PROGRESS = Script("""
for i = 1, #ARGV, 2 do
  local stored = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if tonumber(ARGV[i + 1]) > stored then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 'OK'
""")

ALL_SCRIPTS = (COMMIT_TURN, NEXT_FENCE, SAVE_PROGRESS)
