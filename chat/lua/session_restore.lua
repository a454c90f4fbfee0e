-- Put back what was lost, unless it was deleted meanwhile.
-- KEYS: head, messages, index, deleted (set)
-- ARGV: uid, head, time left in ms, updated ms, session id, messages ...   Answers 1 if it was put back.
if redis.call('SISMEMBER', KEYS[4], ARGV[1]) == 1 then return 0 end
redis.call('DEL', KEYS[2])
for first = 6, #ARGV, 1000 do
  redis.call('RPUSH', KEYS[2], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[5])
local clock = redis.call('TIME')
redis.pcall('ZADD', 'hub:sessions_live', clock[1] * 1000 + ARGV[3], KEYS[1])
return 1
