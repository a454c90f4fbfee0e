-- Add numbered events to a turn's log, and say that its hub lives.
-- KEYS: log (stream), alive, the session's turns (sorted set)
-- ARGV: keep in ms, alive in ms, turn, began in ms, session ('' while it is not known), owner (quoted),
--       does the session's name go out as news (1/0), then number and event, number and event ...
-- An earlier try may have come through though its answer did not: what is there already is left out.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last = newest and tonumber(string.match(newest[1], '^(%d+)')) or 0
for place = 8, #ARGV, 2 do
  if tonumber(ARGV[place]) > last then
    redis.call('XADD', KEYS[1], ARGV[place] .. '-0', 'e', ARGV[place + 1])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
if ARGV[5] ~= '' then
  redis.call('ZADD', KEYS[3], ARGV[4], ARGV[3])
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -101)
  redis.call('PEXPIRE', KEYS[3], ARGV[1])
  -- A Redis that forbids news costs no turn its place.
  if ARGV[7] == '1' then redis.pcall('PUBLISH', 'hub:live', ARGV[6] .. ' ' .. ARGV[5] .. ' ' .. ARGV[3]) end
end
return 1
