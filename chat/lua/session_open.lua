-- Take the session's lock and read what is stored.
-- KEYS: head, messages, lock   ARGV: token, lock in ms
-- Answers {0, ms the lock still holds} or {1, head or nil, messages}.
-- A lock of the same token was taken by this very request: it is sent again when its first answer does not come.
if not redis.call('SET', KEYS[3], ARGV[1], 'NX', 'PX', ARGV[2]) and redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return {0, redis.call('PTTL', KEYS[3])}
end
return {1, redis.call('GET', KEYS[1]), redis.call('LRANGE', KEYS[2], 0, -1)}
