-- An operator accepts that records of a source are gone. ARGV: prefix, source, the next offset to count.
-- Returns the records skipped in this shard (0: it had counted further already).
local prefix, source, next_offset = ARGV[1], ARGV[2], tonumber(ARGV[3])
local stored = tonumber(redis.call('HGET', prefix .. 'offsets', source) or 0)
if stored >= next_offset then return 0 end
redis.call('HSET', prefix .. 'offsets', source, next_offset)
redis.call('HINCRBY', prefix .. 'offsets', 'sum', next_offset - stored)
return next_offset - stored
