-- Every product of the shard has consumed `step`. ARGV: prefix, owner token, step, sequence that is known, first hour whose event ids are still remembered,
-- sets an hour, then outbox id, message, … Returns {1}; {2} when more hours wait to be forgotten (call again: at most 48 hours a call, so that Redis is not held up); {0} when the token
-- is not the owner's; {-1, sequence} when that is less than known.
local prefix, token, step, known, seen_from, sets = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if redis.call('GET', prefix .. 'owner') ~= token then return {0} end
local sequence = tonumber(redis.call('HGET', prefix .. 'offsets', 'sum') or 0)
if sequence < known then return {-1, sequence} end
local closed = prefix .. 'closed'
if tonumber(redis.call('HGET', closed, 'step') or -math.huge) < step then redis.call('HSET', closed, 'step', step) end
local first = tonumber(redis.call('HGET', closed, 'seen_from') or seen_from)
local last = math.min(seen_from, first + 48)
for hour = first, last - 1 do
  for set = 0, sets - 1 do redis.call('UNLINK', prefix .. 'seen:' .. hour .. ':' .. set) end
end
if last > first then redis.call('HSET', closed, 'seen_from', last) end
for i = 7, #ARGV, 2 do redis.call('HSET', prefix .. 'outbox', ARGV[i], ARGV[i + 1]) end
return {last < seen_from and 2 or 1}
