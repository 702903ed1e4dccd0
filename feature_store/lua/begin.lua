-- The owner begins to close steps through `step`: from now on, what comes for these is counted as late, whether the model still sees it or not.
-- ARGV: prefix, owner token, step. Returns 1; 0 when the token is not the owner's.
local prefix, token, step = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('GET', prefix .. 'owner') ~= token then return 0 end
if tonumber(redis.call('HGET', prefix .. 'closed', 'closing') or -math.huge) < step then redis.call('HSET', prefix .. 'closed', 'closing', step) end
return 1
