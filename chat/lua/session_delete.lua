-- Remove a session at once; whatever would bring it back finds its mark: a turn that is under way, a restore.
-- KEYS: head, messages, lock, index, deleted (set)   ARGV: session id, tombstone in ms, uids known otherwise ...
-- Answers what it was known by: its uid, for a session whose first turn still runs that turn's lock, '' for none.
local stored = redis.call('GET', KEYS[1])
local running = redis.call('GET', KEYS[3])
local known = stored and cjson.decode(stored).uid or running or ''
for place = 3, #ARGV do redis.call('SADD', KEYS[5], ARGV[place]) end
if known ~= '' then redis.call('SADD', KEYS[5], known) end
if running then redis.call('SADD', KEYS[5], running) end
redis.call('PEXPIRE', KEYS[5], ARGV[2])
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
-- What those who watch its turns could still read (chat/live_store.py).
local base = string.sub(KEYS[1], 1, #KEYS[1] - #':head')
local owner = string.match(base, '^hub:session:([^:]*):')
for _, turn in ipairs(redis.call('ZRANGE', base .. ':live', 0, -1)) do
  redis.call('DEL', 'hub:live:' .. owner .. ':' .. turn)
end
redis.call('DEL', base .. ':live')
redis.pcall('ZREM', 'hub:sessions_live', KEYS[1])
redis.pcall('PUBLISH', 'hub:changes', KEYS[4] .. ' deleted ' .. ARGV[1])
return known
