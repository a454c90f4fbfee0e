-- Book what a turn has used, and give its place among the concurrent turns back.
-- KEYS: turns (sorted set), prefix of the counters
-- ARGV: id, tokens, micro-dollars, day, month, are the day's and month's counters kept (1/0)
redis.call('ZREM', KEYS[1], ARGV[1])
local prefix = KEYS[2]
-- It is sent again when its first answer does not come, and counts once.
if not redis.call('SET', prefix .. 'booked:' .. ARGV[1], 1, 'NX', 'EX', 120) then return 1 end
local function add(name, amount, keep_s)
  redis.call('INCRBY', prefix .. name, amount)
  redis.call('EXPIRE', prefix .. name, keep_s)
end
if tonumber(ARGV[2]) > 0 then
  add('tokens:' .. math.floor(redis.call('TIME')[1] / 60), ARGV[2], 120)
end
if ARGV[6] == '1' then
  add('tokens:' .. ARGV[4], ARGV[2], 2 * 86400)
  add('cost:' .. ARGV[4], ARGV[3], 2 * 86400)
  add('cost:' .. ARGV[5], ARGV[3], 32 * 86400)
end
return 1
