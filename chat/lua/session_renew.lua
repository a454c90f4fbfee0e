-- Hold on to a lock that is still one's own; take it again if it ran out and nobody else did.
-- KEYS: lock   ARGV: token, lock in ms   Answers 1 while it is held.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
