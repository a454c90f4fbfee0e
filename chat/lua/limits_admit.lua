-- Decide whether a key may ask now, and count it if so.
-- KEYS: requests (sorted set), turns (sorted set), prefix of the counters
-- ARGV: id, is it a turn (1/0), lease in ms, day, month, ms left of the day, ms left of the month,
--       then the limits (-1 for none): requests per minute, concurrent turns, tokens per minute, tokens per day,
--       micro-dollars per day, micro-dollars per month
-- Answers {verdict, name, limit, remaining, reset in ms} of the limit that refused, or of the one nearest to its end.
-- Verdict: 1 admitted, 0 refused, 2 the day's and month's counters have to be filled from the database first.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local minute = math.floor(now / 60000)
local prefix, day, month = KEYS[3], ARGV[4], ARGV[5]
local requests, turns, tokens, day_tokens, day_cost, month_cost = unpack(ARGV, 8, 13)
local nearest = {1, '', 0, 0, 0}

-- The refusal, nil if there is room.
local function judge(name, limit, used, reset)
  limit, used = tonumber(limit), tonumber(used or 0)
  if limit < 0 then return nil end
  if used >= limit then return {0, name, limit, 0, reset} end
  local left = limit - used
  if nearest[2] == '' or left * nearest[3] < nearest[4] * limit then nearest = {1, name, limit, left, reset} end
  return nil
end

local function counted(name, limit, reset)
  return tonumber(limit) >= 0 and judge(name[1], limit, redis.call('GET', prefix .. name[2]), reset) or nil
end

-- Without this very request: it is sent again when its first answer does not come.
local function count(key)
  return redis.call('ZCARD', key) - (redis.call('ZSCORE', key, ARGV[1]) and 1 or 0)
end

local refused
if tonumber(requests) >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60000)
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
  local reset = oldest and tonumber(oldest) + 60000 - now or 60000
  refused = judge('requests per minute', requests, count(KEYS[1]), reset)
end
if ARGV[2] == '1' and not refused then
  local by_day = math.max(tonumber(day_tokens), tonumber(day_cost), tonumber(month_cost)) >= 0
  if by_day and redis.call('EXISTS', prefix .. 'filled:' .. day) == 0 then return {2, '', 0, 0, 0} end
  if tonumber(turns) >= 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
    refused = judge('concurrent turns', turns, count(KEYS[2]), 1000)
  end
  refused = refused
    or counted({'tokens per minute', 'tokens:' .. minute}, tokens, 60000 - now % 60000)
    or counted({'tokens per day', 'tokens:' .. day}, day_tokens, tonumber(ARGV[6]))
    or counted({'budget per day', 'cost:' .. day}, day_cost, tonumber(ARGV[6]))
    or counted({'budget per month', 'cost:' .. month}, month_cost, tonumber(ARGV[7]))
end
if refused then return refused end

if tonumber(requests) >= 0 then
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], 60000)
end
if ARGV[2] == '1' and tonumber(turns) >= 0 then
  redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], 2 * ARGV[3])
end
if nearest[2] == 'requests per minute' or nearest[2] == 'concurrent turns' then nearest[4] = nearest[4] - 1 end
return nearest
