-- Set the day's and month's counters from the database, where Redis has lost or never had them.
-- KEYS: prefix of the counters
-- ARGV: day, month, tokens of the day, micro-dollars of the day, of the month, is Redis known to be behind (1/0)
local prefix = KEYS[1]
if ARGV[6] == '1' then redis.call('DEL', prefix .. 'filled:' .. ARGV[1]) end
if redis.call('SET', prefix .. 'filled:' .. ARGV[1], 1, 'NX', 'EX', 2 * 86400) then
  -- Redis may have heard of turns that are still on their way to the database.
  local function raise(name, amount, keep_s)
    local known = tonumber(redis.call('GET', prefix .. name) or 0)
    redis.call('SET', prefix .. name, math.max(known, tonumber(amount)), 'EX', keep_s)
  end
  raise('tokens:' .. ARGV[1], ARGV[3], 2 * 86400)
  raise('cost:' .. ARGV[1], ARGV[4], 2 * 86400)
  raise('cost:' .. ARGV[2], ARGV[5], 32 * 86400)
end
return 1
