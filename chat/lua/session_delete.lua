-- Remove a session at once; a turn that is under way then finds it deleted.
-- KEYS: head, messages, lock, index, deleted   ARGV: session id, tombstone in ms, uid if known otherwise
local stored = redis.call('GET', KEYS[1])
local uid = ARGV[3]
if stored then uid = cjson.decode(stored).uid end
if uid ~= '' then redis.call('SET', KEYS[5], uid, 'PX', ARGV[2]) end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
return uid
