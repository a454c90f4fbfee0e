-- Let go of a lock that is still one's own.   KEYS: lock   ARGV: token
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
