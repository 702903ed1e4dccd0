-- The owner begins to close steps through `step`: from now on, what comes for these is counted as late, whether the model still sees it or not.
-- ARGV: prefix, owner token, step, sequence that is known. Returns {1}; {0} when the token is not the owner's; {-1, sequence} when that is less than known.
local prefix, token, step, known = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('GET', prefix .. 'owner') ~= token then return {0} end
local sequence = tonumber(redis.call('HGET', prefix .. 'offsets', 'sum') or 0)
if sequence < known then return {-1, sequence} end
if tonumber(redis.call('HGET', prefix .. 'closed', 'closing') or -math.huge) < step then redis.call('HSET', prefix .. 'closed', 'closing', step) end
return {1}
