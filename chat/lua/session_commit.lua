-- Write a turn into its session and let go of the lock, all or nothing.
-- KEYS: head, messages, lock, index, unarchived, deleted
-- ARGV: token, revision the turn began with, keep, head, TTL in ms, updated ms, session id, turn id,
--       record for the archive, uid, messages ...
-- Answers 'ok'; 'deleted' if the session was deleted meanwhile; 'lost' if another turn has taken over; 'gone' if what
-- the turn began with is no longer there (expired, flushed): the caller then writes the whole conversation.
local LOOK_BACK = 20
local holder = redis.call('GET', KEYS[3])
local is_ours = holder == ARGV[1]
if redis.call('SISMEMBER', KEYS[6], ARGV[10]) == 1 or redis.call('SISMEMBER', KEYS[6], ARGV[1]) == 1 then
  if is_ours then redis.call('DEL', KEYS[3]) end
  return 'deleted'
end
local stored = redis.call('GET', KEYS[1])
local head = stored and cjson.decode(stored)
local expected = tonumber(ARGV[2])
-- An earlier try may have come through though its answer did not; then the turn is among the last messages.
if head and head.uid == ARGV[10] and head.revision > expected then
  for _, message in ipairs(redis.call('LRANGE', KEYS[2], -LOOK_BACK, -1)) do
    if string.find(message, '"t":"' .. ARGV[8] .. '"', 1, true) then
      if is_ours then redis.call('DEL', KEYS[3]) end
      return 'ok'
    end
  end
end
if holder and not is_ours then return 'lost' end
if head then
  if head.uid ~= ARGV[10] or head.revision ~= expected then return 'lost' end
elseif expected > 0 then
  return 'gone'
end
local keep = tonumber(ARGV[3])
if keep == 0 then
  redis.call('DEL', KEYS[2])
elseif keep < redis.call('LLEN', KEYS[2]) then
  redis.call('LTRIM', KEYS[2], 0, keep - 1)
end
for first = 11, #ARGV, 1000 do
  redis.call('RPUSH', KEYS[2], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('ZADD', KEYS[4], ARGV[6], ARGV[7])
-- Those that expired leave the index a few at a time, or it would grow for ever.
local base = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[7] - #':head')
for _, id in ipairs(redis.call('ZRANGE', KEYS[4], 0, 1)) do
  if redis.call('EXISTS', base .. id .. ':head') == 0 then redis.call('ZREM', KEYS[4], id) end
end
-- How many sessions live, of all owners. No turn is lost for a count.
redis.pcall('ZADD', 'hub:sessions_live', ARGV[6] + ARGV[5], KEYS[1])
redis.pcall('ZREMRANGEBYSCORE', 'hub:sessions_live', '-inf', ARGV[6])
redis.call('HSET', KEYS[5], ARGV[8], ARGV[9])
redis.call('DEL', KEYS[3])
-- News for whoever listens (chat/changes.py). A Redis that forbids it costs no turn its place.
redis.pcall('PUBLISH', 'hub:changes', KEYS[4] .. (head and ' changed ' or ' new ') .. ARGV[7])
return 'ok'
