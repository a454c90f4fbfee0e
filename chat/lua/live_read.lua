-- The events of a turn after a number, for a hub that does not run it; whose watching may be noted with it.
-- KEYS: log, alive, watched   ARGV: after, count at most, watched for so many ms (0: nobody watches)
-- Answers {does its hub live (1/0), number, event, number, event ...}; {} if nothing is kept of it.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
if tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[3], '1', 'PX', ARGV[3]) end
local answer = {redis.call('EXISTS', KEYS[2])}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
  answer[#answer + 1] = string.match(entry[1], '^(%d+)')
  answer[#answer + 1] = entry[2][2]
end
return answer
