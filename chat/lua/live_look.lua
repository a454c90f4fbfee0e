-- What a hub asks about a turn that it runs: is it to stop, does another hub watch it? And it says that it lives.
-- KEYS: log, alive, stop, watched, the session's turns   ARGV: keep in ms, alive in ms
-- Answers {stop (1/0), watched (1/0)}.
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[5], ARGV[1])
return {redis.call('EXISTS', KEYS[3]), redis.call('EXISTS', KEYS[4])}
